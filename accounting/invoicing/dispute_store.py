"""Keep disputes: every step is an appended event; the newest says where the dispute stands."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, case, func, insert, select

from accounting import tables
from accounting.errors import InvoiceRefused
from accounting.invoicing.credit_notes import Credit
from accounting.invoicing.disputes import DISPUTE_WITHIN, LIVE, Dispute, DisputeState, Side, Step, advance, answer_due
from accounting.invoicing.invoice import Document, DocumentKind
from accounting.invoicing.items import ITEMS
from accounting.invoicing.left import left
from accounting.invoicing.store import issue_credit_note, load, lock
from accounting.store.credited_runs import name_runs, named_by
from accounting.store.schema import CHARGES, ENTRIES, ORDER_PRICES, REVERSALS, core, lock_projects
from accounting.store.settled import DOCUMENTS

DISPUTES = core(tables.DisputeRow)
EVENTS = core(tables.DisputeEventRow)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Something that was shown, by its hash: the file itself stays with whoever showed it."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class DisputeEvent:
    """One step that was taken."""

    n: int
    step: Step
    state: DisputeState
    side: Side
    by: str
    text: str
    evidence: tuple[Evidence, ...]
    credit_note: str
    at: datetime


def raise_dispute(
    conn: Connection, *, dispute_id: str, invoice: str, line: int, reason: str, by: str,
    evidence: Sequence[Evidence] = (), charges: Sequence[int] = (), now: datetime,
) -> Dispute:  # fmt: skip
    """The payer disputes what is left of a line (of these runs on it, where charges are named); refused too late, twice
    at once, or of a line already given back."""
    document = _locked(conn, invoice)
    if document.kind is not DocumentKind.INVOICE:
        raise InvoiceRefused("only a line of an invoice is disputed")
    found = next((x for x in document.lines if x.number == line), None)
    if found is None:
        raise InvoiceRefused(f"{invoice} has no line {line}")
    if now > document.issued_at + DISPUTE_WITHIN:
        raise InvoiceRefused(f"{invoice} could be disputed for {DISPUTE_WITHIN.days} days after it was issued")
    if any(d.line == line and d.live for d in disputes(conn, invoice=invoice)):
        raise InvoiceRefused(f"line {line} of {invoice} is disputed already")
    rest = left(conn, document, line, charges)
    amount = rest.net_minor + rest.tax_minor
    if amount <= 0:
        raise InvoiceRefused(f"nothing is left to pay of line {line} of {invoice}")
    state = advance(None, Step.RAISE, Side.PAYER)
    conn.execute(insert(DISPUTES).values(
        id=dispute_id, document=invoice, line=line, site_id=found.site_id, amount_minor=amount,
        currency=document.currency, reason=reason, opened_at=now,
    ))  # fmt: skip
    name_runs(conn, dispute_id, charges, now=now)
    _append(conn, dispute_id, 1, Step.RAISE, state, Side.PAYER, by, reason, evidence, None, now)
    return _one(conn, dispute_id)


def take(
    conn: Connection, dispute_id: str, step: Step, *, side: Side, by: str, text: str = "",
    evidence: Sequence[Evidence] = (), credit_net_minor: int | None = None, charges: Sequence[int] = (), now: datetime,
) -> Dispute:  # fmt: skip
    """The next step; `credit` issues the credit note with it: of what is left of the line, or of `credit_net_minor`; of
    the runs that are named here, else of those that the dispute names, else of the line."""
    before = find(conn, dispute_id)
    if before is None:
        raise InvoiceRefused(f"there is no dispute {dispute_id}")
    document = _locked(conn, before.invoice)
    dispute = _one(conn, dispute_id)  # as it stands now that nobody else can change it
    state = advance(dispute.state, step, side)
    if step in (Step.REJECT, Step.CENTRE_ANSWER) and not text.strip():
        raise InvoiceRefused(f"{step.value!r} needs a reason")
    note = None
    if step is Step.CREDIT:
        lock_projects(conn, {document.project_id})
        about = tuple(charges) or dispute.charges
        net = left(conn, document, dispute.line, about).net_minor if credit_net_minor is None else credit_net_minor
        reason = text or f"dispute {dispute_id}: {dispute.reason}"
        note = issue_credit_note(
            conn, dispute.invoice, [Credit(dispute.line, net, about)], reason=reason, now=now
        ).number
    n = int(conn.scalar(select(func.max(EVENTS.c.n)).where(EVENTS.c.dispute_id == dispute_id)) or 0) + 1
    _append(conn, dispute_id, n, step, state, side, by, text, evidence, note, now)
    return _one(conn, dispute_id)


def find(conn: Connection, dispute_id: str) -> Dispute | None:
    return next(iter(_disputes(conn, [DISPUTES.c.id == dispute_id])), None)


def disputes(
    conn: Connection, *, invoice: str | None = None, project_id: str | None = None, site_id: str | None = None,
    state: DisputeState | None = None,
) -> list[Dispute]:  # fmt: skip
    """By age. With `state` with_centre and a site: what that centre must answer, as breaks of its statement."""
    wanted: list[Any] = []
    if invoice is not None:
        wanted.append(DISPUTES.c.document == invoice)
    if site_id is not None:
        wanted.append(DISPUTES.c.site_id == site_id)
    if project_id is not None:
        mine = select(DOCUMENTS.c.number).where(DOCUMENTS.c.project_id == project_id)
        wanted.append(DISPUTES.c.document.in_(mine))
    if state is not None:
        wanted.append(EVENTS.c.state == state.value)
    return _disputes(conn, wanted)


def disputed_minor(conn: Connection, *, as_of: datetime | None = None) -> dict[str, int]:
    """How much of each invoice is in a live dispute (or was, by what was said until `as_of`): out of dunning."""
    sums: dict[str, int] = {}
    for dispute in _disputes(conn, [EVENTS.c.state.in_([s.value for s in LIVE])], as_of):
        sums[dispute.invoice] = sums.get(dispute.invoice, 0) + dispute.amount_minor
    return sums


def entries_in_dispute(conn: Connection, site_ids: Collection[str]) -> dict[str, str]:
    """Keys of the entries that charged what payers dispute of these sites' work, and why: not to be settled yet."""
    found: dict[str, str] = {}
    for dispute in _disputes(conn, [EVENTS.c.state.in_([s.value for s in LIVE]), DISPUTES.c.site_id.in_(site_ids)]):
        document = load(conn, dispute.invoice)
        line = next(x for x in document.lines if x.number == dispute.line) if document is not None else None
        if line is None:
            continue
        on_line = (
            select(CHARGES.c.id, CHARGES.c.job_id)
            .join(ITEMS, ITEMS.c.charge_id == CHARGES.c.id)
            .where(ITEMS.c.document == dispute.invoice, ITEMS.c.site_id == line.site_id,
                   ITEMS.c.user_id == line.user_id, ITEMS.c.service_start == line.service_start)
        )  # fmt: skip
        if dispute.charges:
            on_line = on_line.where(CHARGES.c.id.in_(dispute.charges))
        if line.ordered is not None:
            priced = select(ORDER_PRICES.c.entry_id).where(ORDER_PRICES.c.allocation_id == line.ordered.allocation_id)
            keys = list(conn.scalars(select(ENTRIES.c.idem_key).where(ENTRIES.c.id.in_(priced))))
        else:
            keys = _entries_of_runs(conn, on_line)
        why = f"line {dispute.line} of {dispute.invoice} is disputed ({dispute.id})"
        found |= dict.fromkeys(keys, why)
    return found


def _entries_of_runs(conn: Connection, on_line: Select[Any]) -> list[str]:
    """Keys of every entry that moved money for these charges' runs: each posted the difference to what it replaced.

    Where the gateway saw a run first, the money is in the entry of its provisional charge, and that of the centre's
    record, which is what was billed, may have added nothing.
    """
    jobs = on_line.with_only_columns(CHARGES.c.job_id)
    rows = conn.execute(
        select(CHARGES.c.id, CHARGES.c.entry_id, REVERSALS.c.entry_id.label("replaced_by"))
        .outerjoin(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id)
        .where(CHARGES.c.job_id.in_(jobs))
    ).all()
    near: dict[int, set[int]] = defaultdict(set)
    for row in rows:
        if row.replaced_by is not None:
            near[row.entry_id].add(row.replaced_by)
            near[row.replaced_by].add(row.entry_id)
    billed = set(conn.scalars(on_line.with_only_columns(CHARGES.c.id)))
    found: set[int] = set()
    waiting = {row.entry_id for row in rows if row.id in billed}
    while waiting:
        found |= waiting
        waiting = {entry for known in waiting for entry in near[known]} - found
    posted = select(CHARGES.c.entry_id).where(CHARGES.c.job_id.in_(jobs))
    is_overage = ENTRIES.c.kind == "overage"
    entries = conn.execute(
        select(ENTRIES.c.idem_key, case((is_overage, ENTRIES.c.linked_entry_id), else_=ENTRIES.c.id))
        .where(ENTRIES.c.id.in_(posted) | (is_overage & ENTRIES.c.linked_entry_id.in_(posted)))
    )  # fmt: skip
    return [key for key, entry in entries if entry in found]


def events(conn: Connection, dispute_id: str) -> list[DisputeEvent]:
    rows = conn.execute(select(EVENTS).where(EVENTS.c.dispute_id == dispute_id).order_by(EVENTS.c.n))
    return [
        DisputeEvent(r.n, Step(r.step), DisputeState(r.state), Side(r.side), r.by, r.text,
                     tuple(Evidence(e["name"], e["sha256"]) for e in r.evidence), r.credit_note or "", r.recorded_at)
        for r in rows
    ]  # fmt: skip


def _locked(conn: Connection, invoice: str) -> Document:
    issuer = conn.scalar(select(DOCUMENTS.c.issuer_id).where(DOCUMENTS.c.number == invoice))
    if issuer is None:
        raise InvoiceRefused(f"there is no document {invoice}")
    lock(conn, issuer)
    document = load(conn, invoice)
    assert document is not None
    return document


def _append(
    conn: Connection, dispute_id: str, n: int, step: Step, state: DisputeState, side: Side, by: str, text: str,
    evidence: Sequence[Evidence], note: str | None, now: datetime,
) -> None:  # fmt: skip
    conn.execute(insert(EVENTS).values(
        dispute_id=dispute_id, n=n, step=step.value, state=state.value, side=side.value, by=by, text=text,
        evidence=[{"name": e.name, "sha256": e.sha256} for e in evidence], credit_note=note,
        due_at=answer_due(state, now), recorded_at=now,
    ))  # fmt: skip


def _one(conn: Connection, dispute_id: str) -> Dispute:
    found = find(conn, dispute_id)
    assert found is not None
    return found


def _disputes(conn: Connection, wanted: Sequence[Any], as_of: datetime | None = None) -> list[Dispute]:
    steps = select(EVENTS.c.dispute_id, func.max(EVENTS.c.n).label("n")).group_by(EVENTS.c.dispute_id)
    newest = (steps if as_of is None else steps.where(EVENTS.c.recorded_at <= as_of)).subquery()
    query = (
        select(DISPUTES, EVENTS.c.state, EVENTS.c.due_at)
        .join(newest, newest.c.dispute_id == DISPUTES.c.id)
        .join(EVENTS, (EVENTS.c.dispute_id == newest.c.dispute_id) & (EVENTS.c.n == newest.c.n))
        .where(*wanted).order_by(DISPUTES.c.opened_at, DISPUTES.c.id)
    )  # fmt: skip
    rows = conn.execute(query).all()
    about = named_by(conn, {r.id for r in rows})
    return [
        Dispute(r.id, r.document, r.line, r.amount_minor, r.currency, DisputeState(r.state), r.opened_at, r.due_at,
                r.site_id, r.reason, tuple(sorted(about.get(r.id, ()))))
        for r in rows
    ]  # fmt: skip
