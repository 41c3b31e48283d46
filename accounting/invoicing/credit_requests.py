"""Credit notes that a person asks for: of much, or of much in small pieces, a second person decides.

A credit note lowers what a payer owes and, as the agreement says, what a centre has earned. It is counted with what
the person has given up otherwise (`store/alone.py`), with or without a dispute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from accounting.errors import InvoiceRefused
from accounting.invoicing import dispute_store
from accounting.invoicing.credit_notes import Credit
from accounting.invoicing.dispute_store import Evidence
from accounting.invoicing.disputes import Side, Step
from accounting.invoicing.left import left
from accounting.invoicing.store import draft_credit_note, issue_credit_note, load
from accounting.minor_units import to_micro
from accounting.store.alone import CREDIT_NOTE, alone_micro
from accounting.store.consents import Consent, ask, decided, is_asked, waiting


@dataclass(frozen=True, slots=True)
class CreditWanted:
    """A person gives back part of an invoice; `dispute`: what it ends, with the words of the step."""

    id: str
    invoice: str
    credits: Sequence[Credit]
    reason: str
    requested_by: str
    dispute: str = ""
    text: str = ""  # of the dispute's step, with the name that it bears
    signed: str = ""
    evidence: Sequence[Evidence] = ()


def disputed_credit(
    conn: Connection, dispute_id: str, net_minor: int | None, charges: tuple[int, ...]
) -> tuple[str, Credit]:
    """(the invoice, what a dispute's credit gives back): all that is left of its line, unless it is less; of the runs
    that are named here, else of those that the dispute names, else of the line."""
    dispute = dispute_store.find(conn, dispute_id)
    document = None if dispute is None else load(conn, dispute.invoice)
    if dispute is None or document is None:
        raise InvoiceRefused(f"there is no dispute {dispute_id}")
    about = charges or dispute.charges
    net = left(conn, document, dispute.line, about).net_minor if net_minor is None else net_minor
    return dispute.invoice, Credit(dispute.line, net, about)


def request_credit(
    conn: Connection, wanted: CreditWanted, *, four_eyes_micro: int, now: datetime
) -> tuple[str, str]:  # fmt: skip
    """Ask for it: (`posted`, the credit note's number) at once up to the threshold, else (`waiting`, "").

    Raises `InvoiceRefused` for more than is left of a line, and where the same dispute's credit waits already.
    """
    document = draft_credit_note(conn, wanted.invoice, wanted.credits, reason=wanted.reason, number="", at=now)
    if wanted.dispute and (waits := is_asked(conn, CREDIT_NOTE, wanted.invoice, wanted.dispute)):
        raise InvoiceRefused(f"{waits} asks for this already, and waits for a second person")
    amount = to_micro(-document.gross_minor, document.currency)
    alone = alone_micro(conn, wanted.requested_by, project_id=document.project_id, currency=document.currency, now=now)
    four_eyes = alone + amount > four_eyes_micro
    what = {"about": wanted.dispute, "text": wanted.text, "signed": wanted.signed,
            "credits": [[c.line, c.net_minor, list(c.charges)] for c in wanted.credits],
            "evidence": [[e.name, e.sha256] for e in wanted.evidence]}  # fmt: skip
    asked = Consent(wanted.id, CREDIT_NOTE, wanted.invoice, document.currency, amount, what, wanted.reason,
                    wanted.requested_by)  # fmt: skip
    ask(conn, asked, four_eyes=four_eyes, now=now)
    if four_eyes:
        return "waiting", ""
    return "posted", _carry_out(conn, asked, wanted, by=wanted.requested_by, now=now)


def decide_credit(conn: Connection, asked: str, *, approve: bool, by: str, now: datetime) -> tuple[str, str]:
    """Issue or refuse what waits, as far as it still is left; never the person who asked for it."""
    consent = waiting(conn, asked, CREDIT_NOTE, by=by)
    if not approve:
        decided(conn, asked, "refused", by=by, now=now)
        return "refused", ""
    what = consent.what
    wanted = CreditWanted(
        consent.id, consent.subject, [Credit(line, net, tuple(charges)) for line, net, charges in what["credits"]],
        consent.reason, consent.requested_by, what["about"], what["text"], what["signed"],
        [Evidence(*each) for each in what["evidence"]],
    )  # fmt: skip
    return "posted", _carry_out(conn, consent, wanted, by=by, now=now)


def _carry_out(conn: Connection, consent: Consent, wanted: CreditWanted, *, by: str, now: datetime) -> str:
    if wanted.dispute:
        dispute_store.take(conn, wanted.dispute, Step.CREDIT, side=Side.OPERATOR, by=wanted.signed, text=wanted.text,
                           evidence=wanted.evidence, credit_net_minor=wanted.credits[0].net_minor,
                           charges=wanted.credits[0].charges, now=now)  # fmt: skip
        number = dispute_store.events(conn, wanted.dispute)[-1].credit_note
    else:
        number = issue_credit_note(conn, wanted.invoice, wanted.credits, reason=wanted.reason, now=now).number
    decided(conn, consent.id, "posted", by=by, made=number, now=now)
    return number
