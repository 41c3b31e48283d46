"""Load and save the books: set-based SQL on the caller's connection. Nothing here commits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import BigInteger, Connection, Table, bindparam, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import DeclarativeBase

from accounting import tables
from accounting.errors import AccountingError, CreditExhausted, KeyReused, TariffOverlap
from accounting.ledger import CORE_SECONDS, Entry, grant_postings, receivable, usage_postings
from accounting.meter import MeteringPolicy, meter
from accounting.price import Charge, NoPrice, price, rate
from accounting.tariff import PriceRule, overlaps, rule_at
from accounting.usage import Meter, Unreadable, UsageRecord


def _table(row: type[DeclarativeBase]) -> Table:
    return cast(Table, row.__table__)


USAGE = _table(tables.UsageRecordRow)
QUARANTINE = _table(tables.QuarantineRow)
RULES = _table(tables.PriceRuleRow)
ENTRIES = _table(tables.JournalEntryRow)
POSTINGS = _table(tables.PostingRow)
CHARGES = _table(tables.ChargeRow)
REVERSALS = _table(tables.ChargeReversalRow)
BALANCES = _table(tables.BalanceRow)
HOLDS = _table(tables.HoldRow)


def _upsert(conn: Connection, table: Table) -> Any:
    return pg_insert(table) if conn.dialect.name == "postgresql" else sqlite_insert(table)


# ---------------------------------------------------------------- projects, credit, holds

# Built once: these run in every submission, and building a statement costs as much as running it.
_PLACED = (HOLDS.c.project_id, HOLDS.c.commodity, HOLDS.c.amount)
_INSERT_HOLD = {
    "postgresql": pg_insert(HOLDS).on_conflict_do_nothing().returning(*_PLACED),
    "sqlite": sqlite_insert(HOLDS).on_conflict_do_nothing().returning(*_PLACED),
}
_HOLD_ANYWAY = (
    update(BALANCES)
    .where(BALANCES.c.project_id == bindparam("project"), BALANCES.c.commodity == bindparam("in_commodity"))
    .values(held=BALANCES.c.held + bindparam("more", type_=BigInteger))
)
_HOLD_IF_ENOUGH = _HOLD_ANYWAY.where(
    BALANCES.c.limit_amount.is_(None)
    | (BALANCES.c.posted + BALANCES.c.held + bindparam("more", type_=BigInteger) <= BALANCES.c.limit_amount)
)
_COMMODITIES = select(BALANCES.c.commodity).where(BALANCES.c.project_id == bindparam("project"))
_RULES = select(RULES).order_by(RULES.c.id)


def open_project_accounts(conn: Connection, project_id: str, *, currency: str) -> None:
    """A project may spend nothing until it is granted credit; core-hours are not limited until they are granted."""
    rows = [
        {"project_id": project_id, "commodity": currency, "posted": 0, "held": 0, "limit_amount": 0},
        {"project_id": project_id, "commodity": CORE_SECONDS, "posted": 0, "held": 0, "limit_amount": None},
    ]
    conn.execute(_upsert(conn, BALANCES).on_conflict_do_nothing(), rows)


def grant_credit(
    conn: Connection, *, project_id: str, commodity: str, amount: int, idem_key: str, now: datetime, reason: str = ""
) -> bool:
    """Raise what a project may use by a balanced entry; False where this key was booked before."""
    if amount <= 0:
        raise AccountingError("a grant is more than nothing")
    postings = grant_postings(project_id, commodity=commodity, amount=amount)
    if not book(conn, [Entry(idem_key, "grant", now, postings, reason)], now=now):
        return False
    limit = func.coalesce(BALANCES.c.limit_amount, 0) + amount
    changed = conn.execute(_balance(project_id, commodity).values(limit_amount=limit))
    if changed.rowcount != 1:
        raise AccountingError(f"project {project_id} has no account in {commodity}")
    return True


@dataclass(frozen=True, slots=True)
class Hold:
    """Credit to set aside for a job, in each commodity."""

    project_id: str
    job_id: str
    amounts: Mapping[str, int]


def place_hold(
    conn: Connection, *, project_id: str, job_id: str, amounts: Mapping[str, int], now: datetime, check: bool = True
) -> None:
    """Set credit aside; raises `CreditExhausted` where posted + held would pass the limit.

    `check` False books it anyway: a job that is found running at a site is a fact.
    """
    place_holds(conn, [Hold(project_id, job_id, amounts)], now=now, check=check)


def place_holds(conn: Connection, holds: Sequence[Hold], *, now: datetime, check: bool = True) -> None:
    """Set credit aside for many jobs, or for none of them: each project's balance is moved once, by their sum."""
    rows = [
        {"job_id": hold.job_id, "commodity": commodity, "project_id": hold.project_id, "amount": amount,
         "state": "open", "phase": "committed", "placed_at": now}
        for hold in holds
        for commodity, amount in sorted(hold.amounts.items())
    ]  # fmt: skip
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for placed in conn.execute(_INSERT_HOLD[conn.dialect.name], rows) if rows else ():  # not what was placed before
        sums[placed.project_id, placed.commodity] += placed.amount
    for (project_id, commodity), amount in sorted(sums.items()):
        taken = {"project": project_id, "in_commodity": commodity, "more": amount}
        if conn.execute(_HOLD_IF_ENOUGH if check else _HOLD_ANYWAY, taken).rowcount != 1:
            raise CreditExhausted(commodity, amount, _available(conn, project_id, commodity) or 0)


def release_hold(conn: Connection, *, job_id: str, now: datetime) -> None:
    """Give back what is still set aside for a job; a second call finds nothing."""
    query = update(HOLDS).where(HOLDS.c.job_id == job_id, HOLDS.c.state == "open")
    released = conn.execute(
        query.values(state="released", released_at=now).returning(HOLDS.c.project_id, HOLDS.c.commodity, HOLDS.c.amount)
    ).all()
    for row in sorted(released):
        conn.execute(_balance(row.project_id, row.commodity).values(held=BALANCES.c.held - row.amount))


def mark_in_flight(conn: Connection, *, job_ids: Sequence[str]) -> None:
    """These jobs have started: their holds are no longer only committed."""
    conn.execute(update(HOLDS).where(HOLDS.c.job_id.in_(job_ids), HOLDS.c.state == "open").values(phase="in_flight"))


def commodities(conn: Connection, project_id: str) -> frozenset[str]:
    """What the project has an account in."""
    return frozenset(conn.scalars(_COMMODITIES, {"project": project_id}))


def hold_amounts(have: Collection[str], *, currency: str, micro: int, core_seconds: int) -> dict[str, int]:
    """What to set aside, in each commodity that the project has an account in."""
    wanted = {currency: micro, CORE_SECONDS: core_seconds}
    return {commodity: amount for commodity, amount in wanted.items() if commodity in have}


def shortfall(conn: Connection, project_id: str, amounts: Mapping[str, int]) -> dict[str, int]:
    """How much is missing in each commodity for a hold of `amounts`; empty where it would be placed now."""
    missing = {}
    for commodity, amount in amounts.items():
        available = _available(conn, project_id, commodity)
        if available is not None and amount > available:
            missing[commodity] = amount - available
    return missing


@dataclass(frozen=True, slots=True)
class Exposure:
    """A project's standing in one commodity: money in micro-units, or core-seconds. None: not limited."""

    commodity: str
    settled: int
    in_flight: int
    committed: int
    limit: int | None

    @property
    def available(self) -> int | None:
        return None if self.limit is None else self.limit - self.settled - self.in_flight - self.committed


def exposure(conn: Connection, project_id: str) -> list[Exposure]:
    """Settled + in flight + committed, for each commodity."""
    held: dict[tuple[str, str], int] = defaultdict(int)
    query = select(HOLDS.c.commodity, HOLDS.c.phase, func.sum(HOLDS.c.amount)).where(
        HOLDS.c.project_id == project_id, HOLDS.c.state == "open"
    )
    for commodity, phase, amount in conn.execute(query.group_by(HOLDS.c.commodity, HOLDS.c.phase)):
        held[commodity, phase] = int(amount)
    rows = conn.execute(select(BALANCES).where(BALANCES.c.project_id == project_id).order_by(BALANCES.c.commodity))
    return [
        Exposure(r.commodity, r.posted, held[r.commodity, "in_flight"], held[r.commodity, "committed"], r.limit_amount)
        for r in rows
    ]


def _balance(project_id: str, commodity: str) -> Any:
    return update(BALANCES).where(BALANCES.c.project_id == project_id, BALANCES.c.commodity == commodity)


def _available(conn: Connection, project_id: str, commodity: str) -> int | None:
    query = select(BALANCES.c.limit_amount - BALANCES.c.posted - BALANCES.c.held).where(
        BALANCES.c.project_id == project_id, BALANCES.c.commodity == commodity
    )
    value = conn.scalar(query)
    return None if value is None else int(value)


# ---------------------------------------------------------------- tariffs


def add_tariff(conn: Connection, rule: PriceRule, *, now: datetime) -> int:
    """Add a dated price; raises `TariffOverlap` where one of the same scope holds at the same time."""
    if rule.micro_per_core_hour < 0 or (rule.valid_to is not None and rule.valid_to <= rule.valid_from):
        raise AccountingError("a price is not negative, and a rule ends after it begins")
    for other in tariffs(conn):
        if overlaps(rule, other):
            raise TariffOverlap(f"rule {other.id} of the same scope holds from {other.valid_from.isoformat()}")
    query = insert(RULES).values(
        currency=rule.currency, micro_per_core_hour=rule.micro_per_core_hour, site_id=rule.site_id, queue=rule.queue,
        valid_from=rule.valid_from, valid_to=rule.valid_to, created_at=now,
    )  # fmt: skip
    return int(conn.execute(query.returning(RULES.c.id)).scalar_one())


def close_tariff(conn: Connection, rule_id: int, *, valid_to: datetime) -> bool:
    """End an open rule at a moment, once; what it priced before stays priced."""
    query = update(RULES).where(RULES.c.id == rule_id, RULES.c.valid_to.is_(None), RULES.c.valid_from < valid_to)
    return conn.execute(query.values(valid_to=valid_to)).rowcount == 1


def tariffs(conn: Connection) -> list[PriceRule]:
    """Every rule, also those that have ended: older usage is priced by them."""
    return [
        PriceRule(r.id, r.currency, r.micro_per_core_hour, r.valid_from, r.valid_to, r.site_id, r.queue)
        for r in conn.execute(_RULES)
    ]


def estimate(
    rules: Sequence[PriceRule], *, site_id: str, queue: str, currency: str, core_seconds: int, at: datetime
) -> int | None:
    """Micro-units for core-seconds at the price of this moment; None where there is no price."""
    scoped = [r for r in rules if r.applies(site_id=site_id, queue=queue, currency=currency)]
    rule = rule_at(scoped, at)
    return None if rule is None else rate(core_seconds, rule.micro_per_core_hour)


# ---------------------------------------------------------------- usage and charges


@dataclass(frozen=True, slots=True)
class Assigned:
    """A reading with who pays for it."""

    record: UsageRecord
    job_id: str
    project_id: str
    user_id: str
    currency: str


@dataclass(frozen=True, slots=True)
class Booked:
    """What one call did; readings known before are neither."""

    recorded: int
    charged: int
    quarantined: int


def quarantine(conn: Connection, unreadable: Sequence[Unreadable], *, now: datetime) -> int:
    """Keep what cannot be read, once; returns how many were new."""
    rows = [
        {"content_sha256": u.content_sha256, "site_id": u.site_id, "format": u.format, "raw": u.raw,
         "why": u.why[:500], "recorded_at": now}
        for u in unreadable
    ]  # fmt: skip
    query = _upsert(conn, QUARANTINE).on_conflict_do_nothing().returning(QUARANTINE.c.site_id)
    return len(conn.execute(query, rows).all()) if rows else 0


def record_and_book(conn: Connection, assigned: Sequence[Assigned], *, policy: MeteringPolicy, now: datetime) -> Booked:
    """Keep readings that are new or changed, price them, and post the difference to what was charged before.

    The centre's reading replaces the gateway's of the same run (same job and task, overlapping in time): its charge is
    reversed and the new one posted in one entry. A gateway reading of a run that the centre has read is not charged.
    """
    fresh = _record(conn, assigned, now)
    if not fresh:
        return Booked(0, 0, 0)
    rules = tariffs(conn)
    live = _live_charges(conn, {a.job_id for a in fresh.values()})
    drafts: list[_Draft] = []
    unpriced: list[Unreadable] = []
    for record_id, item in fresh.items():
        if item.record.meter is Meter.GATEWAY and any(c.meter == "centre" and _same_run(c, item) for c in live):
            continue
        try:
            charge = price(item.record, meter(item.record, policy), rules, currency=item.currency)
        except NoPrice as exc:
            raw = f"usage_record {record_id}"
            unpriced.append(Unreadable(item.record.site_id, "unpriced", raw, str(exc)))
            continue
        replaced = [c for c in live if c.id not in {r.id for d in drafts for r in d.replaced} and _replaces(item, c)]
        drafts.append(_Draft(record_id, item, charge, replaced))
    quarantined = quarantine(conn, unpriced, now=now)
    _post(conn, drafts, policy, now)
    return Booked(len(fresh), len(drafts), quarantined)


@dataclass(frozen=True, slots=True)
class _Draft:
    record_id: int
    item: Assigned
    charge: Charge
    replaced: Sequence[Any]

    @property
    def micro(self) -> int:
        """What this adds to the bill: negative where it corrects downwards."""
        return self.charge.amount_micro - sum(int(c.amount_micro) for c in self.replaced)

    @property
    def core_seconds(self) -> int:
        return self.charge.core_seconds - sum(int(c.core_seconds) for c in self.replaced)

    @property
    def idem_key(self) -> str:
        return f"charge:{self.record_id}"


def _record(conn: Connection, assigned: Sequence[Assigned], now: datetime) -> dict[int, Assigned]:
    """Insert readings that are new or changed; the unique key decides between two that try at once."""
    newest: dict[tuple[str, str, str], Any] = {}
    keys = sorted({a.record.run_key for a in assigned})
    query = select(USAGE.c.id, USAGE.c.site_id, USAGE.c.run_key, USAGE.c.meter, USAGE.c.revision,
                   USAGE.c.content_sha256).where(USAGE.c.run_key.in_(keys))  # fmt: skip
    for row in conn.execute(query.order_by(USAGE.c.revision)):
        newest[row.site_id, row.run_key, row.meter] = row
    rows, by_key = [], {}
    for item in assigned:
        record = item.record
        key = (record.site_id, record.run_key, record.meter.value)
        before = newest.get(key)
        if key in by_key or (before is not None and before.content_sha256 == record.content_sha256):
            continue
        by_key[key] = item
        rows.append(_usage_row(item, before, now))
    if not rows:
        return {}
    insertion = _upsert(conn, USAGE).on_conflict_do_nothing()
    stored = conn.execute(insertion.returning(USAGE.c.id, USAGE.c.site_id, USAGE.c.run_key, USAGE.c.meter), rows)
    return {row.id: by_key[row.site_id, row.run_key, row.meter] for row in stored}


def _usage_row(item: Assigned, before: Any, now: datetime) -> dict[str, Any]:
    record = item.record
    same = ("site_id", "run_key", "native_id", "task", "state", "username", "queue", "cores", "nodes", "elapsed_s",
            "suspended_s", "core_seconds", "node_seconds", "gpu_seconds", "memory_mib_seconds", "submit_time",
            "start_time", "end_time", "estimated", "content_sha256")  # fmt: skip
    return {name: getattr(record, name) for name in same} | {
        "meter": record.meter.value,
        "kind": record.kind.value,
        "revision": 1 if before is None else before.revision + 1,
        "supersedes": None if before is None else before.id,
        "job_id": item.job_id,
        "project_id": item.project_id,
        "user_id": item.user_id,
        "raw": dict(record.raw),
        "recorded_at": now,
    }


def _live_charges(conn: Connection, job_ids: set[str]) -> list[Any]:
    """Charges of these jobs that nothing has replaced, with the run they are for."""
    query = (
        select(CHARGES.c.id, CHARGES.c.job_id, CHARGES.c.meter, CHARGES.c.amount_micro, CHARGES.c.core_seconds,
               USAGE.c.site_id, USAGE.c.run_key, USAGE.c.task, USAGE.c.start_time, USAGE.c.end_time)
        .join(USAGE, USAGE.c.id == CHARGES.c.usage_record_id)
        .outerjoin(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id)
        .where(CHARGES.c.job_id.in_(sorted(job_ids)), REVERSALS.c.charge_id.is_(None))
    )  # fmt: skip
    return list(conn.execute(query))


def _replaces(item: Assigned, live: Any) -> bool:
    """Whether this reading takes the place of a live charge: its own older revision, or the gateway's of the run."""
    record = item.record
    if live.job_id != item.job_id or live.site_id != record.site_id:
        return False
    if live.meter == record.meter.value:
        return bool(live.run_key == record.run_key)
    return live.meter == "gateway" and _same_run(live, item)


def _same_run(live: Any, item: Assigned) -> bool:
    """The same task at the same time: runs of one task never overlap each other."""
    record = item.record
    if live.job_id != item.job_id or live.task != record.task:
        return False
    if None in (live.start_time, live.end_time, record.start_time, record.end_time):
        return False
    slack = timedelta(seconds=1)
    assert record.start_time is not None and record.end_time is not None
    return bool(live.start_time < record.end_time + slack and record.start_time < live.end_time + slack)


def _post(conn: Connection, drafts: Sequence[_Draft], policy: MeteringPolicy, now: datetime) -> None:
    entries = []
    for draft in drafts:
        item = draft.item
        postings = usage_postings(
            item.project_id, currency=item.currency, micro=draft.micro, core_seconds=draft.core_seconds
        )
        at = item.record.end_time or now
        kind = "correction" if draft.replaced else "charge"
        entries.append(Entry(draft.idem_key, kind, at, postings, f"{item.job_id} at {item.record.site_id}"))
    ids = book(conn, entries, now=now)
    held = _held(conn, {d.item.job_id for d in drafts})
    charges: list[dict[str, Any]] = []
    reversals: list[dict[str, Any]] = []
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for draft in drafts:
        entry_id, item = ids[draft.idem_key], draft.item
        charges.append(_charge_row(draft, entry_id, held, policy, now))
        reversals += [
            {"charge_id": c.id, "by_usage_record_id": draft.record_id, "entry_id": entry_id, "recorded_at": now}
            for c in draft.replaced
        ]
        sums[item.project_id, item.currency] += draft.micro
        sums[item.project_id, CORE_SECONDS] += draft.core_seconds
    if charges:
        conn.execute(insert(CHARGES), charges)
    if reversals:
        conn.execute(insert(REVERSALS), reversals)
    for (project_id, commodity), amount in sorted(sums.items()):
        conn.execute(_balance(project_id, commodity).values(posted=BALANCES.c.posted + amount))


def _held(conn: Connection, job_ids: set[str]) -> dict[tuple[str, str], int]:
    query = select(HOLDS.c.job_id, HOLDS.c.commodity, HOLDS.c.amount).where(HOLDS.c.job_id.in_(sorted(job_ids)))
    return {(r.job_id, r.commodity): r.amount for r in conn.execute(query)}


def _charge_row(
    draft: _Draft, entry_id: int, held: Mapping[tuple[str, str], int], policy: MeteringPolicy, now: datetime
) -> dict[str, Any]:
    item, charge = draft.item, draft.charge
    hold = held.get((item.job_id, item.currency))
    segments = [
        {"start": s.start.isoformat(), "end": s.end.isoformat(), "core_seconds": s.core_seconds, "rule": s.rule_id,
         "micro_per_core_hour": s.micro_per_core_hour, "amount_micro": s.amount_micro}
        for s in charge.segments
    ]  # fmt: skip
    return {
        "usage_record_id": draft.record_id, "entry_id": entry_id, "job_id": item.job_id,
        "project_id": item.project_id, "meter": item.record.meter.value, "currency": charge.currency,
        "amount_micro": charge.amount_micro, "core_seconds": charge.core_seconds, "policy_version": policy.version,
        "rule": charge.rule, "segments": segments, "overage": hold is not None and charge.amount_micro > hold,
        "recorded_at": now,
    }  # fmt: skip


def book(conn: Connection, entries: Sequence[Entry], *, now: datetime) -> dict[str, int]:
    """Book balanced entries; returns the ids of those that are new, by their key.

    A key that is booked already is left out; with other content it raises `KeyReused`.
    """
    if not entries:
        return {}
    rows = [
        {"idem_key": e.idem_key, "content_sha256": e.content_sha256, "kind": e.kind, "effective_at": e.effective_at,
         "memo": e.memo[:500], "recorded_at": now}
        for e in entries
    ]  # fmt: skip
    insertion = _upsert(conn, ENTRIES).on_conflict_do_nothing().returning(ENTRIES.c.id, ENTRIES.c.idem_key)
    ids = {row.idem_key: int(row.id) for row in conn.execute(insertion, rows)}
    old = {e.idem_key: e.content_sha256 for e in entries if e.idem_key not in ids}
    if old:
        query = select(ENTRIES.c.idem_key, ENTRIES.c.content_sha256).where(ENTRIES.c.idem_key.in_(sorted(old)))
        for row in conn.execute(query):
            if old[row.idem_key] != row.content_sha256:
                raise KeyReused(f"{row.idem_key} was booked with other content")
    postings = [
        {"entry_id": ids[e.idem_key], "line": line, "account": p.account, "commodity": p.commodity, "amount": p.amount}
        for e in entries
        if e.idem_key in ids
        for line, p in enumerate(e.postings)
    ]
    if postings:
        conn.execute(insert(POSTINGS), postings)
    return ids


# ---------------------------------------------------------------- reading the books


@dataclass(frozen=True, slots=True)
class ChargeLine:
    """One live charge of a job, with its reading and its arithmetic."""

    usage_record_id: int
    meter: str
    task: int | None
    start_time: datetime | None
    end_time: datetime | None
    cores: int
    core_seconds: int
    amount_micro: int
    currency: str
    rule: str
    segments: tuple[Mapping[str, Any], ...]
    overage: bool


def charges_of_job(conn: Connection, job_id: str) -> list[ChargeLine]:
    """What a job costs as the books stand now, run by run."""
    query = (
        select(CHARGES, USAGE.c.task, USAGE.c.start_time, USAGE.c.end_time, USAGE.c.cores)
        .join(USAGE, USAGE.c.id == CHARGES.c.usage_record_id)
        .outerjoin(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id)
        .where(CHARGES.c.job_id == job_id, REVERSALS.c.charge_id.is_(None))
        .order_by(USAGE.c.task, USAGE.c.start_time)
    )
    return [
        ChargeLine(r.usage_record_id, r.meter, r.task, r.start_time, r.end_time, r.cores, r.core_seconds,
                   r.amount_micro, r.currency, r.rule, tuple(r.segments), r.overage)
        for r in conn.execute(query)
    ]  # fmt: skip


def check_books(conn: Connection) -> list[str]:
    """Every invariant that the books break, in words; empty where they are sound."""
    found = []
    total = func.sum(POSTINGS.c.amount)
    grouped = select(POSTINGS.c.entry_id, POSTINGS.c.commodity, total).group_by(
        POSTINGS.c.entry_id, POSTINGS.c.commodity
    )
    for entry_id, commodity, amount in conn.execute(grouped.having(total != 0)):
        found.append(f"entry {entry_id}: {commodity} sums to {amount}")
    posted = {
        (r.account, r.commodity): int(r[2])
        for r in conn.execute(
            select(POSTINGS.c.account, POSTINGS.c.commodity, total).group_by(POSTINGS.c.account, POSTINGS.c.commodity)
        )
    }
    open_holds = select(HOLDS.c.project_id, HOLDS.c.commodity, func.sum(HOLDS.c.amount)).where(HOLDS.c.state == "open")
    held = {(r[0], r[1]): int(r[2]) for r in conn.execute(open_holds.group_by(HOLDS.c.project_id, HOLDS.c.commodity))}
    for row in conn.execute(select(BALANCES)):
        booked = posted.get((receivable(row.project_id), row.commodity), 0)
        if booked != row.posted:
            found.append(f"{row.project_id}/{row.commodity}: balance {row.posted}, postings {booked}")
        if held.get((row.project_id, row.commodity), 0) != row.held:
            found.append(f"{row.project_id}/{row.commodity}: held {row.held}, holds differ")
    found += _charges_off(conn, posted)
    return found


def _charges_off(conn: Connection, posted: Mapping[tuple[str, str], int]) -> list[str]:
    live = (
        select(CHARGES.c.project_id, CHARGES.c.currency, func.sum(CHARGES.c.amount_micro))
        .outerjoin(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id)
        .where(REVERSALS.c.charge_id.is_(None))
        .group_by(CHARGES.c.project_id, CHARGES.c.currency)
    )
    return [
        f"{project}/{currency}: charges {amount}, postings {posted.get((receivable(project), currency), 0)}"
        for project, currency, amount in conn.execute(live)
        if int(amount) != posted.get((receivable(project), currency), 0)
    ]
