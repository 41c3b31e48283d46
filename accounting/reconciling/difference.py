"""Divide a difference of money between a centre's figure and ours as the charge that it corrects was divided. Pure.

  Dr operator:reconciliation the net difference      Cr centre:C:payable its share      Cr operator:revenue the rest

So a charge and its difference come to what a charge of the centre's figure would have come to, in the centre's share
and in what fees, tiers and tax withheld are taken of at settlement. No payer is billed it, so that nothing of it is put
aside for tax.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from accounting.agreement import Agreement
from accounting.ledger import DIFFERENCES, REVENUE, Posting, divide, payable
from accounting.meter import PAYER, Bears


@dataclass(frozen=True, slots=True)
class Difference:
    """What a centre's figure comes to beyond ours, in micro-units: `net` of tax, and the `centre`'s share of that."""

    net: int
    centre: int


def of_list_price(ours: int, theirs: int, agreement: Agreement, bears: Bears = PAYER) -> Difference:
    """Both figures are list prices, each divided as a charge is; `bears`: who bears the charge that is corrected."""
    apart = divide(theirs, bears, agreement).less(divide(ours, bears, agreement))
    return Difference(apart.amount + apart.borne - apart.tax, apart.centre)


def of_share(ours: int, theirs: int, agreement: Agreement) -> Difference:
    """Both are the centre's share: the net amount is the one that it is the share of, cut towards zero."""
    centre = theirs - ours
    numerator = sum(p.numerator for p in agreement.shares.parts if p.party_id == agreement.centre_id)
    if numerator == 0:
        return Difference(centre, centre)
    sign = -1 if centre < 0 else 1
    return Difference(sign * (abs(centre) * agreement.shares.denominator // numerator), centre)


def bears_of(charge: Any) -> Bears:
    """Who bears a charge, by what each has borne of it: the same price divided by it comes to the same."""
    parts = (charge.amount_micro, charge.gross_micro - charge.amount_micro - charge.borne_micro, charge.borne_micro)
    return Bears(*parts) if min(parts) >= 0 and sum(parts) else PAYER


def postings_of(
    apart: Difference, agreement: Agreement, currency: str, booked: Mapping[str, int]
) -> tuple[Posting, ...]:
    """What is to be booked of a difference beyond what is booked of it, by account; empty where that is nothing.

    The centre's account is always among it: the settlement takes what stands there.
    """
    centre = payable(agreement.centre_id)
    wanted = {DIFFERENCES: apart.net, centre: -apart.centre, REVENUE: apart.centre - apart.net}
    more = {account: wanted.get(account, 0) - booked.get(account, 0) for account in [*wanted, *booked]}
    if not any(more.values()):
        return ()
    return tuple(Posting(account, currency, amount) for account, amount in more.items() if amount or account == centre)
