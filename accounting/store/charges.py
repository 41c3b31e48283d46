"""Charge readings: meter, price, divide, and post the difference to what was charged before."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from msgspec import structs
from sqlalchemy import Connection, bindparam, select

from accounting.agreement import Agreement
from accounting.charge import Charge, Listed, Segment
from accounting.ledger import CORE_SECONDS, NOTHING, Division, commodity_of, divide, parts_of
from accounting.meter import PAYER, MeteringPolicy, meter
from accounting.price import NoPrice, PriceBook, list_total, price, rate
from accounting.store.contracts import Contracts, Terms, contracts
from accounting.store.overlaps import charge_again
from accounting.store.posting import Draft, post
from accounting.store.prices import price_book
from accounting.store.readings import UNPRICED, Assigned, quarantine, record, record_of, rounds, uncharged
from accounting.store.replacing import Standing
from accounting.store.schema import TIER_COUNTS, among, insert_rows, lock, lock_projects
from accounting.tariff import Scope
from accounting.tier_counts import TierCounts
from accounting.usage import Meter, Unreadable

DEFAULT_POLICY = MeteringPolicy()


@dataclass(frozen=True, slots=True)
class Booked:
    """What one call did; readings known before are neither."""

    recorded: int
    charged: int
    quarantined: int


def record_and_book(
    conn: Connection, assigned: Sequence[Assigned], *, policy: MeteringPolicy = DEFAULT_POLICY, now: datetime
) -> Booked:
    """Keep readings that are new or changed, price them, and post the difference to what was charged before.

    The centre's reading replaces the gateway's of the same run (same job and task, overlapping in time): its charge is
    reversed and the new one posted in one entry. A gateway reading of a run that the centre has read is not charged.
    `policy` holds where no agreement does. Tens of thousands of readings may come in one call.
    """
    recorded = charged = quarantined = 0
    for part in rounds(assigned):
        fresh, again = record(conn, part, now=now)
        if fresh:
            drafts, unpriced = _draft(conn, fresh, again, policy, now)
            quarantined += quarantine(conn, unpriced, now=now)
            post(conn, drafts, now=now)
            charge_again(conn, drafts, now=now)
            recorded, charged = recorded + len(fresh), charged + len(drafts)
    return Booked(recorded, charged, quarantined)


def charge_pending(
    conn: Connection, currencies: Mapping[str, str], *, policy: MeteringPolicy = DEFAULT_POLICY, now: datetime
) -> int:
    """Charge readings that had no price when they came; `currencies` by project. Returns how many have one now."""
    lock(conn, {"pending"})
    found = {
        row.id: Assigned(
            record_of(row), row.job_id, row.project_id, row.user_id, currencies[row.project_id], row.ordered_grade or ""
        )
        for row in uncharged(conn)
        if row.project_id in currencies
    }
    if not found:
        return 0
    lock_projects(conn, {a.project_id for a in found.values()})
    drafts, _ = _draft(conn, found, {a.record.run_key for a in found.values()}, policy, now)
    post(conn, drafts, now=now)
    charge_again(conn, drafts, now=now)
    return len(drafts)


def _draft(
    conn: Connection, fresh: Mapping[int, Assigned], again: set[str], policy: MeteringPolicy, now: datetime
) -> tuple[list[Draft], list[Unreadable]]:
    """What each reading costs, and which charges it takes the place of; and those that have no price.

    `again`: the keys of runs that were read before.
    """
    book, agreed = price_book(conn), contracts(conn)
    standing = Standing(conn, fresh, again)
    counts = _Counts(conn, book)
    if book.has_tiers:
        lock(conn, {f"tiers:{a.project_id}" for a in fresh.values()})
        counts.preload({a.project_id for a in fresh.values()})
    drafts: list[Draft] = []
    unpriced: list[Unreadable] = []
    # Centres' readings first: where both meters' come at once, the gateway's is not charged at all.
    for record_id, item in sorted(fresh.items(), key=lambda pair: (pair[1].record.meter is Meter.GATEWAY, pair[0])):
        if item.record.meter is Meter.GATEWAY and standing.is_read(item):
            continue
        replaced = standing.replaced(item)
        try:
            draft = _priced(record_id, item, replaced, policy, book, agreed, counts, now)
        except NoPrice as exc:
            unpriced.append(Unreadable(item.record.site_id, UNPRICED, f"usage_record {record_id}", str(exc)))
            continue
        standing.take(replaced)
        drafts.append(draft)
    counts.save()
    return drafts, unpriced


def _priced(
    record_id: int, item: Assigned, replaced: Sequence[Any], policy: MeteringPolicy, book: PriceBook,
    agreed: Contracts, counts: _Counts, now: datetime,
) -> Draft:  # fmt: skip
    r = item.record
    agreement = agreed.agreement(r.site_id, r.end_time)
    terms = agreed.terms(item.project_id, r.end_time)
    rules = policy if agreement is None else agreement.metering
    where = agreed.where(agreement, terms, site_id=r.site_id, queue=r.queue, qos=r.qos, currency=item.currency,
                         grade=item.grade)  # fmt: skip
    charge = counts.priced(item, meter(r, rules), where, replaced, listed=agreement is not None)
    division = _divided(charge, agreement)
    before = _sum(replaced)
    division, reason = _capped(division, before, item, agreement, now)
    if not reason and charge.bears is not PAYER and charge.bears != PAYER:
        reason = f"liability:{r.state}"
    used = _used(charge, book)
    return Draft(
        record_id=record_id, item=item, charge=charge, division=division, replaced=tuple(replaced),
        delta=division.less(before) if replaced else division, used=_less(used, replaced, book), agreement=agreement,
        policy_version=rules.version, grade=where.grade, user_class=where.user_class, reason=reason,
        payers=_payers(division, terms), without_order=_without_order(charge, book, agreement),
    )  # fmt: skip


def _divided(charge: Charge, agreement: Agreement | None) -> Division:
    """What was given off the list price without the centre's word is the operator's cost: the centre has its share."""
    return divide(_gross(charge, agreement), charge.bears, agreement, charged=charge.amount_micro)


def _gross(charge: Charge, agreement: Agreement | None) -> int:
    given = charge.list_micro - charge.amount_micro
    if agreement is None or given <= 0:
        return charge.amount_micro
    return charge.amount_micro + agreement.borne_of_discount(given)


def _without_order(charge: Charge, book: PriceBook, agreement: Agreement | None) -> Division | None:
    """What a run had cost if no order paid for a part of it: what a centre that bills each run by its prices says."""
    paid = [s for s in charge.segments if s.is_paid and book.drawn(s.discount_id) is not None]
    if not paid:
        return None
    worth = sum(rate(s.quantity, s.price_micro, s.per) for s in paid)
    return divide(_gross(charge, agreement) + worth, charge.bears, agreement)


def _capped(
    division: Division, before: Division, item: Assigned, agreement: Agreement | None, now: datetime
) -> tuple[Division, str]:
    """No bill rises after N days: what a late correction adds is borne by the operator."""
    days = None if agreement is None else agreement.no_rise_after_days
    ended = item.record.end_time
    rise = division.amount - before.amount
    if days is None or ended is None or rise <= 0 or now - ended <= timedelta(days=days):
        return division, ""
    return structs.replace(division, amount=division.amount - rise, borne=division.borne + rise), "late_increase"


def _payers(division: Division, terms: Terms) -> dict[str, int] | None:
    return parts_of(division.amount, terms.payers) if terms.payers else None


def _sum(replaced: Sequence[Any]) -> Division:
    if not replaced:
        return NOTHING
    names = ("gross_micro", "amount_micro", "borne_micro", "centre_micro", "tax_micro")
    return Division(*(sum(int(getattr(c, name)) for c in replaced) for name in names))


def _used(charge: Charge, book: PriceBook) -> dict[str, int]:
    """What a charge takes of each commodity: of what an order was for, where that pays; never less than the
    core-seconds."""
    parts = [(s.resource, s.quantity, s.discount_id) for s in charge.segments]
    return _drawn(charge.core_seconds, parts, book)


def _less(used: dict[str, int], replaced: Sequence[Any], book: PriceBook) -> dict[str, int]:
    for c in replaced:
        parts = [(s["resource"], s["quantity"], s.get("discount")) for s in c.segments]
        for commodity, quantity in _drawn(int(c.core_seconds), parts, book).items():
            used[commodity] = used.get(commodity, 0) - quantity
    return used


def _drawn(core_seconds: int, parts: Sequence[tuple[str, int, int | None]], book: PriceBook) -> dict[str, int]:
    """By commodity; `parts`: resource, quantity and ratio of each segment."""
    used = {CORE_SECONDS: core_seconds}
    for resource, quantity, discount_id in parts:
        commodity, bought = commodity_of(resource), book.drawn(discount_id)
        if commodity is None:
            continue
        if commodity != CORE_SECONDS:
            used[bought or commodity] = used.get(bought or commodity, 0) + quantity
        elif bought is not None:
            used[CORE_SECONDS] -= quantity
            used[bought] = used.get(bought, 0) + quantity
    return used


# ---------------------------------------------------------------- tiered prices


class _Counts:
    """The tier counts that a call moves, kept in the database between calls."""

    def __init__(self, conn: Connection, book: PriceBook) -> None:
        self._conn, self._book = conn, book
        self._counts = TierCounts("", self._load)
        self._stored: dict[tuple[str, str], list[int]] = {}

    def priced(self, item: Assigned, metered: Any, where: Scope, replaced: Sequence[Any], *, listed: bool) -> Charge:
        """Price a reading with what it replaces taken back first."""
        if not self._book.has_tiers:
            return price(item.record, metered, self._book, where, listed=listed)
        self._counts.project_id = item.project_id
        kept = [s for c in replaced for s in c.segments if s.get("tier_key") or s.get("list", {}).get("tier_key")]
        before = self._counts.snapshot() if kept else None
        for s in kept:
            for of in (s, s.get("list", {})):
                if of.get("tier_key"):
                    self._counts.remove(of["tier_key"], s["quantity"], of["amount_micro"])
        try:
            charge = price(item.record, metered, self._book, where, counts=self._counts, listed=listed)
        except NoPrice:
            if before is not None:
                self._counts.restore(before)
            raise
        return self._settled(charge, kept, where, item.record.start_time, listed)

    def _settled(
        self, charge: Charge, kept: Sequence[Mapping[str, Any]], where: Scope, start: datetime | None, listed: bool
    ) -> Charge:
        """A count that a correction left without adding to it again is brought to what its total costs."""
        again = {key for s in charge.segments for key in (s.tier_key, s.listed.tier_key if s.listed else "")}
        extra = [found for s in _each_count(kept, again) if (found := self._brought(s)) is not None]
        if not extra:
            return charge
        segments = (*charge.segments, *extra)
        amount = charge.amount_micro + sum(s.amount_micro for s in extra)
        at_list = max(amount, list_total(self._book, where, start, segments)) if listed else amount
        return structs.replace(charge, amount_micro=amount, segments=segments, list_micro=at_list)

    def _brought(self, of: _Counted) -> Segment | None:
        """A segment of nothing that says by how much the month's price changed; None where it did not."""
        rise = self._counts.add(of.key, 0, self._book)
        if not rise:
            return None
        s, count = of.segment, self._counts.count(of.key)
        start, end = datetime.fromisoformat(s["start"]), datetime.fromisoformat(s["end"])
        plain = (start, end, s["resource"], 0, s["rule"], s["price_micro"], s["per"])
        at_list = None
        if listed := s.get("list"):
            more = (rise, of.key, count) if of.listed else (0,)
            at_list = Listed(listed["rule"], listed["price_micro"], listed["per"], *more)
        if of.listed:
            return Segment(*plain, 0, listed=at_list)
        return Segment(*plain, rise, tier_key=of.key, count_before=count, listed=at_list)

    def preload(self, project_ids: Collection[str]) -> None:
        """The counts of projects as they stand, held until this transaction ends."""
        query = select(TIER_COUNTS).where(among(self._conn, TIER_COUNTS.c.project_id, project_ids)).with_for_update()
        for row in self._conn.execute(query.order_by(TIER_COUNTS.c.project_id, TIER_COUNTS.c.tier_key)):
            self._stored[row.project_id, row.tier_key] = [int(row.quantity), int(row.amount_micro)]

    def _load(self, project_id: str, key: str) -> list[int]:
        return self._stored.get((project_id, key), [0, 0])

    def save(self) -> None:
        counts, touched = self._counts.counts, sorted(self._counts.touched)
        rows = [
            {"in_project": project_id, "in_key": key, "count": counts[project_id, key][0],
             "micro": counts[project_id, key][1]}
            for project_id, key in touched if (project_id, key) in self._stored
        ]  # fmt: skip
        new = [
            (project_id, key, *counts[project_id, key])
            for project_id, key in touched
            if (project_id, key) not in self._stored
        ]
        if rows:
            self._conn.execute(_SET_COUNT, rows)
        insert_rows(self._conn, TIER_COUNTS, ("project_id", "tier_key", "quantity", "amount_micro"), new)


@dataclass(frozen=True, slots=True)
class _Counted:
    """A segment that moved a count of a tiered price: its own, or that of the list price."""

    key: str
    segment: Mapping[str, Any]
    listed: bool


def _each_count(kept: Sequence[Mapping[str, Any]], again: Collection[str]) -> list[_Counted]:
    """Each count that these segments moved and that none moves `again`, once."""
    found: dict[str, _Counted] = {}
    for s in kept:
        for of, listed in ((s, False), (s.get("list", {}), True)):
            key = of.get("tier_key")
            if key and key not in again:
                found[key] = _Counted(key, s, listed)
    return list(found.values())


_SET_COUNT = (
    TIER_COUNTS.update()
    .where(TIER_COUNTS.c.project_id == bindparam("in_project"), TIER_COUNTS.c.tier_key == bindparam("in_key"))
    .values(quantity=bindparam("count"), amount_micro=bindparam("micro"))
)
