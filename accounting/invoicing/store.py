"""Issue invoices and credit notes: one transaction locks the issuer's counter, claims charges, books and keeps the
document. A number that is not kept with its document was never taken: there are no gaps. Nothing here commits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    String,
    and_,
    case,
    cast,
    false,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    true,
    update,
)

from accounting.calendar import Period, months
from accounting.errors import InvoiceRefused
from accounting.evidence.outbox import put
from accounting.invoicing import legal_entities
from accounting.invoicing.adjustment_lines import claim_adjustments, unbilled_adjustments
from accounting.invoicing.credit_notes import Credit, credit_note
from accounting.invoicing.credit_shares import share_credit
from accounting.invoicing.invoice import (
    CORRECTIONS,
    Document,
    DocumentKind,
    Item,
    LegalEntity,
    LineKind,
    Unbilled,
    document,
    from_snapshot,
)
from accounting.invoicing.items import ITEMS, items_of, items_sha256
from accounting.invoicing.left import beside, credited, left
from accounting.invoicing.legal_entities import NO_TAX, SERIES
from accounting.invoicing.order_lines import claim, unbilled_prices
from accounting.invoicing.postings import credit_postings, invoice_postings, settled_micro, settled_postings
from accounting.invoicing.tax import TaxKind, TaxRule
from accounting.invoicing.tax_booked import book_tax
from accounting.ledger import Entry, Posting
from accounting.minor_units import plain
from accounting.store import book
from accounting.store.credited_runs import name_runs
from accounting.store.holds import raise_limit
from accounting.store.periods import assert_may_bill
from accounting.store.schema import BALANCES, CHARGES, REVERSALS, USAGE, lock_projects
from accounting.store.settled import DOCUMENTS, settled_minor
from accounting.tables import UtcTime


@dataclass(frozen=True, slots=True)
class Wanted:
    """One invoice to be made: a project's usage at some sites (None: all but `not_sites`) up to the end of a month.

    `people`: user id → name shown on the lines. `whole`: this payer also pays what has no payers of its own, of the
    `times` (from, until; None: ever) in which it was the one who pays; those who share a charge get their parts each.
    """

    issuer_id: str
    payer_id: str
    project_id: str
    project: str
    currency: str
    month: Period
    sites: tuple[str, ...] | None
    people: Mapping[str, str]
    whole: bool = True
    not_sites: tuple[str, ...] = ()
    times: tuple[tuple[datetime | None, datetime | None], ...] = ((None, None),)

    def pays_whole(self, at: datetime) -> bool:
        """Whether this payer pays what was done then, where nobody shares it."""
        return self.whole and any((a is None or a <= at) and (b is None or at < b) for a, b in self.times)

    def sells(self, site_id: str) -> bool:
        """Whether what is of this site (empty: of none) is billed here."""
        return site_id not in self.not_sites if self.sites is None else site_id in self.sites


def issue_invoice(conn: Connection, wanted: Wanted, *, now: datetime) -> Document | None:
    """The invoice of everything that is not billed yet; None where there is nothing. Asking twice bills once.

    What the month's records corrected downwards below zero becomes a credit note. Late records of earlier months are
    lines of their own, with their service period. A document has one tax rule, that of the time of the work: where the
    rate has changed, what was done before is on a document of its own, and asking again makes the next.
    """
    issuer, rules = _issuer(conn, wanted.issuer_id, wanted.payer_id, wanted.month.end)
    payer = _known(conn, wanted.payer_id)
    if now < wanted.month.end:
        raise InvoiceRefused(f"{wanted.month.name} ends at {wanted.month.end.isoformat()}: it cannot be billed yet")
    lock(conn, issuer.id)
    assert_may_bill(conn, wanted.month.start, wanted.month.end)
    for tax in rules:
        until = min(tax.valid_to or wanted.month.end, wanted.month.end)
        if (made := _issue(conn, wanted, issuer, payer, tax, until, now)) is not None:
            return made
    return None


def _issue(
    conn: Connection, wanted: Wanted, issuer: LegalEntity, payer: LegalEntity, tax: TaxRule, until: datetime,
    now: datetime,
) -> Document | None:  # fmt: skip
    """The invoice of what was done before a moment."""
    charges, reversals = _billable(wanted, until)
    billable = charges.union_all(reversals).subquery("billable")
    first, total = conn.execute(select(
        func.min(billable.c.end_time, type_=UtcTime()), func.sum(billable.c.amount_micro, type_=BigInteger)
    )).one()  # fmt: skip
    prices = unbilled_prices(conn, wanted.project_id, wanted.currency, wanted.payer_id,
                             pays_whole=wanted.pays_whole, sold_here=wanted.sells, before=until)  # fmt: skip
    adjusted = unbilled_adjustments(conn, wanted.project_id, wanted.currency, wanted.payer_id,
                                    pays_whole=wanted.pays_whole, sold_here=wanted.sells, before=until,
                                    zone=issuer.zone)  # fmt: skip
    if first is None and not prices and not adjusted:
        return None
    if first is not None and first < tax.valid_from:
        raise InvoiceRefused(f"tax rule {tax.code!r} has no version that holds on {first.date().isoformat()}")
    beside = [*(price.item for price in prices), *(part.item for part in adjusted)]
    negative = int(total or 0) + sum(item.amount_micro for item in beside) < 0
    kind = DocumentKind.CREDIT_NOTE if negative else DocumentKind.INVOICE
    serial, number, at = _next(conn, issuer.id, kind, now)
    for period in months(first, until, issuer.zone) if first is not None else ():
        _claim(conn, number, billable, period)
    claim(conn, number, prices)
    claim_adjustments(conn, number, adjusted)
    # From what was claimed: charges may have come since they were counted.
    items = [*_claimed(conn, number), *beside]
    if not items or (sum(item.amount_micro for item in items) < 0) != negative:
        raise InvoiceRefused(f"the charges of {wanted.project} changed while they were billed: ask again")
    of = _corrected(conn, number)
    why = {part.adjustment_id: part.reason for part in adjusted}
    lines = [
        (_kind(item, wanted.month), item, wanted.people.get(item.user_id, item.user_id), why.get(item.adjusts, "")
         or ", ".join(of.get((item.service_start, item.site_id, item.user_id), ())))
        for item in items
    ]  # fmt: skip
    made = document(
        number=number, kind=kind, issuer=issuer, payer=payer, project_id=wanted.project_id, project=wanted.project,
        currency=wanted.currency, period=(wanted.month.start, wanted.month.end), issued_at=at,
        due_at=at if negative else at + timedelta(days=payer.payment_days), tax=tax,
        items=lines, reason=CORRECTIONS if negative else "",
        unbilled=_unbilled(conn, wanted),
    )  # fmt: skip
    _keep(conn, made, serial, invoice_postings(made), now)
    return made


def issue_credit_note(
    conn: Connection, invoice_number: str, credits: Sequence[Credit], *, reason: str, now: datetime
) -> Document:
    """Give back part of an invoice's lines; raises `InvoiceRefused` where a line has less left."""
    invoice = _to_be_credited(conn, invoice_number)
    serial, number, at = _next(conn, invoice.issuer.id, DocumentKind.CREDIT_NOTE, now)
    made = _credit_note(conn, invoice, credits, reason=reason, number=number, at=at)
    before = settled_minor(conn, invoice_number)
    again = settled_micro(invoice, before, before - made.gross_minor)
    _keep(conn, made, serial, [*credit_postings(made), *settled_postings(invoice, again)], now)
    for credit in credits:
        name_runs(conn, f"{number}:{credit.line}", credit.charges, now=now)
    entry_id = conn.scalar(select(DOCUMENTS.c.entry_id).where(DOCUMENTS.c.number == number))
    share_credit(conn, made, entry_id=int(entry_id or 0), now=now)
    may_spend_again(conn, invoice, again)
    return made


def draft_credit_note(
    conn: Connection, invoice_number: str, credits: Sequence[Credit], *, reason: str, number: str, at: datetime
) -> Document:
    """The same as it would be issued, and nothing is kept."""
    return _credit_note(
        conn, _to_be_credited(conn, invoice_number), credits, reason=reason, number=number, at=at
    )  # fmt: skip


def _to_be_credited(conn: Connection, invoice_number: str) -> Document:
    """The invoice, while nobody else gives back of it."""
    query = select(DOCUMENTS.c.issuer_id, DOCUMENTS.c.project_id).where(DOCUMENTS.c.number == invoice_number)
    row = conn.execute(query).one_or_none()
    if row is None:
        raise InvoiceRefused(f"there is no document {invoice_number}")
    lock(conn, row.issuer_id)
    lock_projects(conn, {row.project_id})  # no record changes one of its runs between this look and the commit
    invoice = load(conn, invoice_number)
    assert invoice is not None
    return invoice


def _credit_note(
    conn: Connection, invoice: Document, credits: Sequence[Credit], *, reason: str, number: str, at: datetime
) -> Document:
    for credit in credits:
        _assert_left_of_runs(conn, invoice, credit)
    otherwise = beside(conn, invoice, {credit.line for credit in credits})
    return credit_note(invoice, credits, number=number, reason=reason, at=at, earlier=credited(conn, invoice.number),
                       beside=otherwise)  # fmt: skip


def _assert_left_of_runs(conn: Connection, invoice: Document, credit: Credit) -> None:
    if credit.charges and credit.net_minor > (rest := left(conn, invoice, credit.line, credit.charges).net_minor):
        has = f"{plain(rest, invoice.currency)} {invoice.currency}"
        raise InvoiceRefused(f"of these runs on line {credit.line} of {invoice.number} {has} are left to credit")


def may_spend_again(conn: Connection, invoice: Document, micro: int) -> None:
    """Raise the project's limit by what was settled, where it has one."""
    limited = select(BALANCES.c.limit_amount).where(
        BALANCES.c.project_id == invoice.project_id, BALANCES.c.commodity == invoice.currency
    )
    if micro and conn.scalar(limited) is not None:
        raise_limit(conn, project_id=invoice.project_id, commodity=invoice.currency, amount=micro)


def load(conn: Connection, number: str) -> Document | None:
    """The document as it was issued."""
    text = conn.scalar(select(DOCUMENTS.c.snapshot).where(DOCUMENTS.c.number == number))
    return None if text is None else from_snapshot(text)


def lock(conn: Connection, issuer_id: str) -> None:
    """Make everybody else who touches this issuer's documents wait for our commit (SQLite: its one writer does)."""
    query = select(SERIES.c.kind).where(SERIES.c.issuer_id == issuer_id).order_by(SERIES.c.kind).with_for_update()
    if not conn.execute(query).all():
        raise InvoiceRefused(f"{issuer_id!r} issues no invoices: it has no number prefix")


# ---------------------------------------------------------------- parts


def _issuer(conn: Connection, issuer_id: str, payer_id: str, before: datetime) -> tuple[LegalEntity, Sequence[TaxRule]]:
    """Who issues, and the versions of the tax rule that begin before a moment, oldest first."""
    issuer, code = legal_entities.entity(conn, issuer_id) or (None, "")
    if issuer is None:
        raise InvoiceRefused(f"there is no legal entity {issuer_id!r}")
    _, override = legal_entities.entity(conn, payer_id) or (None, "")
    code = override or code or NO_TAX
    rules = [rule for rule in legal_entities.tax_rules(conn, code) if rule.valid_from < before]
    if not rules and code == NO_TAX:
        epoch = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
        rules = [TaxRule(NO_TAX, TaxKind.EXEMPT, 0, epoch, name_en="No tax", name_zh="不计税")]
    if not rules:
        raise InvoiceRefused(f"tax rule {code!r} has no version that holds before {before.date().isoformat()}")
    return issuer, rules


def _known(conn: Connection, entity_id: str) -> LegalEntity:
    found = legal_entities.entity(conn, entity_id)
    if found is None:
        raise InvoiceRefused(f"there is no legal entity {entity_id!r}")
    return found[0]


def _next(conn: Connection, issuer_id: str, kind: DocumentKind, now: datetime) -> tuple[int, str, datetime]:
    """Take the next number, and when it is issued; it is only taken if this transaction commits.

    Numbers and dates have one order, also where clocks differ or go back: never before the number before it.
    """
    query = update(SERIES).where(SERIES.c.issuer_id == issuer_id, SERIES.c.kind == kind.value)
    row = conn.execute(
        query.values(next_number=SERIES.c.next_number + 1).returning(SERIES.c.prefix, SERIES.c.next_number)
    ).one()
    serial = int(row.next_number) - 1
    before = select(DOCUMENTS.c.issued_at).where(
        DOCUMENTS.c.issuer_id == issuer_id, DOCUMENTS.c.kind == kind.value, DOCUMENTS.c.serial == serial - 1
    )
    return serial, f"{row.prefix}-{serial:06d}", max(now, conn.scalar(before) or now)


def _billable(wanted: Wanted, until: datetime) -> tuple[Any, Any]:
    """Charges and reversals of this project that no document has, as two selects of the same shape.

    Only what the centre's meter read is billed. A charge that was reversed before it was billed is never billed, and
    neither is its reversal; one that was billed is taken back from whom it was billed to.
    """
    scope = [CHARGES.c.project_id == wanted.project_id, CHARGES.c.currency == wanted.currency,
             CHARGES.c.meter == "centre", USAGE.c.end_time < until]  # fmt: skip
    scope.append(_sold_here(wanted))
    shared, mine = CHARGES.c.payers.is_not(null()), CHARGES.c.payers[wanted.payer_id].as_string()
    scope.append(or_(mine.is_not(None), ~shared & _within(wanted.times)) if wanted.whole else mine.is_not(None))
    part = case((shared, literal(wanted.payer_id, String)), else_=literal("", String))
    amount = case((shared, cast(mine, BigInteger)), else_=CHARGES.c.amount_micro)
    billed, undone = ITEMS.alias("billed"), ITEMS.alias("undone")
    on_charge = and_(billed.c.kind == "charge", billed.c.charge_id == CHARGES.c.id, billed.c.part == part)
    on_reversal = and_(undone.c.kind == "reversal", undone.c.charge_id == CHARGES.c.id, undone.c.part == part)
    base = CHARGES.join(USAGE, USAGE.c.id == CHARGES.c.usage_record_id)

    def columns(kind: str, sign: int) -> list[Any]:
        person = func.coalesce(USAGE.c.user_id, "", type_=String)
        return [literal(kind, String).label("kind"), CHARGES.c.id.label("charge_id"), part.label("part"),
                USAGE.c.site_id.label("site_id"), person.label("user_id"),
                (_share(amount, shared) * sign).label("core_seconds"), (amount * sign).label("amount_micro"),
                USAGE.c.end_time.label("end_time")]  # fmt: skip

    charges = (
        select(*columns("charge", 1))
        .select_from(base.outerjoin(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id).outerjoin(billed, on_charge))
        .where(REVERSALS.c.charge_id.is_(None), billed.c.charge_id.is_(None), *scope)
    )
    scope[-1] = DOCUMENTS.c.payer_id == wanted.payer_id
    reversals = (
        select(*columns("reversal", -1))
        .select_from(
            base.join(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id)
            .join(billed, on_charge).join(DOCUMENTS, DOCUMENTS.c.number == billed.c.document)
            .outerjoin(undone, on_reversal)
        )
        .where(undone.c.charge_id.is_(None), *scope)
    )  # fmt: skip
    return charges, reversals


def _within(times: Sequence[tuple[datetime | None, datetime | None]]) -> Any:
    """Usage that ended in one of these times."""
    ended, found = USAGE.c.end_time, []
    for since, until in times:
        found.append(and_(true(), *([ended >= since] if since else []), *([ended < until] if until else [])))
    return or_(false(), *found)


def _sold_here(wanted: Wanted) -> Any:
    """Usage of the sites that this issuer sells."""
    if wanted.sites is not None:
        return USAGE.c.site_id.in_(wanted.sites)
    return USAGE.c.site_id.not_in(wanted.not_sites)


def _share(amount: Any, shared: Any) -> Any:
    """Core-seconds of a part, by its share of the amount in millionths: shown beside it, never priced again."""
    total = func.nullif(CHARGES.c.amount_micro, 0, type_=BigInteger)
    by_share = CHARGES.c.core_seconds * (amount * 1_000_000 // total) // 1_000_000
    return case((shared, func.coalesce(by_share, 0, type_=BigInteger)), else_=CHARGES.c.core_seconds)


def _claim(conn: Connection, number: str, billable: Any, period: Period) -> None:
    """Put a month's charges on the document; the primary key refuses any that another document has."""
    chosen = select(
        billable.c.kind, billable.c.charge_id, billable.c.part, literal(number, String), billable.c.site_id,
        billable.c.user_id, literal(period.start, UtcTime()), literal(period.end, UtcTime()), billable.c.core_seconds,
        billable.c.amount_micro,
    ).where(billable.c.end_time >= period.start, billable.c.end_time < period.end)  # fmt: skip
    names = ["kind", "charge_id", "part", "document", "site_id", "user_id", "service_start", "service_end",
             "core_seconds", "amount_micro"]  # fmt: skip
    conn.execute(insert(ITEMS).from_select(names, chosen))


def _claimed(conn: Connection, number: str) -> list[Item]:
    """What is on the document, by month, site and person."""
    keys = (ITEMS.c.service_start, ITEMS.c.service_end, ITEMS.c.site_id, ITEMS.c.user_id)
    runs = func.sum(case((ITEMS.c.kind == "charge", 1), else_=0))
    query = (
        select(*keys, runs.label("runs"), func.sum(ITEMS.c.core_seconds).label("core_seconds"),
               func.sum(ITEMS.c.amount_micro).label("amount_micro"))
        .where(ITEMS.c.document == number).group_by(*keys)
        .order_by(ITEMS.c.service_start, ITEMS.c.site_id, ITEMS.c.user_id)
    )  # fmt: skip
    return [
        Item(r.site_id, r.user_id, r.service_start, r.service_end, int(r.runs), int(r.core_seconds),
             int(r.amount_micro))
        for r in conn.execute(query)
    ]  # fmt: skip


def _corrected(conn: Connection, number: str) -> dict[tuple[datetime, str, str], list[str]]:
    """The documents from which a new one takes something back, by month, site and person."""
    undone, billed = ITEMS.alias("undone"), ITEMS.alias("billed")
    query = (
        select(undone.c.service_start, undone.c.site_id, undone.c.user_id, billed.c.document).distinct()
        .join(billed, and_(billed.c.kind == "charge", billed.c.charge_id == undone.c.charge_id,
                           billed.c.part == undone.c.part))
        .where(undone.c.document == number, undone.c.kind == "reversal").order_by(billed.c.document)
    )  # fmt: skip
    found: dict[tuple[datetime, str, str], list[str]] = defaultdict(list)
    for row in conn.execute(query):
        found[row.service_start, row.site_id, row.user_id].append(row.document)
    return found


def _kind(item: Item, billed: Period) -> LineKind:
    if item.ordered is not None:
        return LineKind.ORDER
    if item.adjusts:
        return LineKind.ADJUSTMENT
    return LineKind.USAGE if item.service_start >= billed.start else LineKind.CORRECTION


def _unbilled(conn: Connection, wanted: Wanted) -> Unbilled:
    """Runs that only the gateway has metered so far."""
    query = (
        select(func.count(), func.coalesce(func.sum(CHARGES.c.amount_micro), 0, type_=BigInteger))
        .select_from(CHARGES.join(USAGE, USAGE.c.id == CHARGES.c.usage_record_id)
                     .outerjoin(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id))
        .where(CHARGES.c.project_id == wanted.project_id, CHARGES.c.currency == wanted.currency,
               CHARGES.c.meter == "gateway", CHARGES.c.amount_micro != 0, REVERSALS.c.charge_id.is_(null()),
               USAGE.c.end_time < wanted.month.end)
    )  # fmt: skip
    runs, amount = conn.execute(query.where(_sold_here(wanted))).one()
    return Unbilled(int(runs), int(amount))


def _keep(conn: Connection, made: Document, serial: int, postings: Sequence[Posting], now: datetime) -> None:
    """Book the document and keep it: the last statement of its transaction that may fail."""
    key = f"{made.kind.value}:{made.number}"
    entry = Entry(key, made.kind.value, made.issued_at, tuple(postings), made.number)
    entry_id = book(conn, [entry], now=now)[key]
    book_tax(conn, made, entry_id=entry_id)
    conn.execute(insert(DOCUMENTS).values(
        number=made.number, kind=made.kind.value, issuer_id=made.issuer.id, serial=serial, payer_id=made.payer.id,
        project_id=made.project_id, currency=made.currency, period_start=made.period_start,
        period_end=made.period_end, issued_at=made.issued_at, due_at=made.due_at, net_minor=made.net_minor,
        tax_minor=made.tax_minor, gross_minor=made.gross_minor, corrects=made.corrects or None, entry_id=entry_id,
        snapshot=made.snapshot, sha256=made.sha256, recorded_at=now,
    ))  # fmt: skip
    items = items_sha256(items_of(conn, made))
    put(conn, made.kind.value, made.number, made.snapshot.encode(), project=made.project_id, payer=made.payer.id,
        items_sha256=items)  # fmt: skip
