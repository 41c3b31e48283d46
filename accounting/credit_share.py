"""What of a credit counts as the centre's: of work that was given back and so never earned. Pure."""

from __future__ import annotations

from accounting.agreement import Agreement
from accounting.ledger import CREDITS, REVENUE, Posting, payable

KIND = "credit_share"


def postings_of(agreement: Agreement, net_micro: int, currency: str) -> tuple[Posting, ...]:
    """What the centre bears of a net amount given back; empty where that is nothing.

    With a minus: what it gets again of a credit that was taken back.
    """
    sign = -1 if net_micro < 0 else 1
    unearned = sign * borne_by_centre(agreement, abs(net_micro))
    if unearned == 0:
        return ()
    centre = sign * agreement.shares.split(abs(unearned)).get(agreement.centre_id, 0)
    lines = (Posting(payable(agreement.centre_id), currency, centre),
             Posting(REVENUE, currency, unearned - centre), Posting(CREDITS, currency, -unearned))  # fmt: skip
    return tuple(p for p in lines if p.amount)


def borne_by_centre(agreement: Agreement, net_micro: int) -> int:
    """What of a net amount given back counts as never earned, cut towards zero: the operator takes what is left."""
    weights = agreement.credits_borne
    return net_micro * weights.centre // (weights.centre + weights.operator)
