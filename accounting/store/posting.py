"""Post drafts of charges: entries, charges, reversals, balances, accruals taken back, each in one statement."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct
from sqlalchemy import BigInteger, Connection, bindparam, select, update

from accounting.agreement import Agreement
from accounting.charge import Charge, segment_json
from accounting.errors import AccountingError
from accounting.ledger import CORE_SECONDS, Division, Entry, parts_of, usage_postings
from accounting.store.accruals import take_back
from accounting.store.journal import book
from accounting.store.readings import Assigned
from accounting.store.schema import BALANCES, CHARGES, HOLDS, REVERSALS, Row, among, insert_all, insert_rows, new_ids

_MOVE = (
    update(BALANCES)
    .where(BALANCES.c.project_id == bindparam("project"), BALANCES.c.commodity == bindparam("in_commodity"))
    .values(posted=BALANCES.c.posted + bindparam("more", type_=BigInteger))
)


class Draft(Struct, frozen=True, gc=False):
    """A charge to be posted. `delta` and `used` are what it adds: negative where it corrects downwards."""

    record_id: int
    item: Assigned
    charge: Charge
    division: Division
    replaced: tuple[Any, ...]
    delta: Division
    used: Mapping[str, int]
    agreement: Agreement | None
    policy_version: str
    grade: str
    user_class: str
    reason: str
    payers: Mapping[str, int] | None
    without_order: Division | None = None  # had no order paid for a part of it

    @property
    def idem_key(self) -> str:
        return f"charge:{self.record_id}"

    @property
    def centre_id(self) -> str | None:
        return None if self.agreement is None else self.agreement.centre_id


def post(conn: Connection, drafts: Sequence[Draft], *, now: datetime) -> None:
    """Book one entry for each draft (two where it passes its hold) and everything that hangs on it."""
    if not drafts:
        return
    over = _overages(conn, drafts)
    entries = [_entry(d, over.get(d.record_id, 0), now) for d in drafts]
    ids = book(conn, entries, now=now)
    extra = [_overage_entry(d, over[d.record_id], ids[d.idem_key], now) for d in drafts if d.record_id in over]
    book(conn, extra, now=now)
    take_back(conn, {d.item.job_id for d in drafts}, [d.item.record for d in drafts], now=now)
    charge_ids = new_ids(conn, CHARGES, len(drafts))
    charges = [
        _charge_row(d, id_, ids[d.idem_key], d.record_id in over, now)
        for id_, d in zip(charge_ids, drafts, strict=True)
    ]
    insert_rows(conn, CHARGES, _CHARGE, charges)
    insert_all(
        conn, REVERSALS,
        [{"charge_id": c.id, "by_usage_record_id": d.record_id, "entry_id": ids[d.idem_key], "recorded_at": now}
         for d in drafts for c in d.replaced],
    )  # fmt: skip
    _move_balances(conn, drafts)


def _move_balances(conn: Connection, drafts: Sequence[Draft]) -> None:
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for d in drafts:
        sums[d.item.project_id, d.item.currency] += d.delta.amount
        for commodity, quantity in d.used.items():
            sums[d.item.project_id, commodity] += quantity
    moves = [{"project": project_id, "in_commodity": commodity, "more": amount}
             for (project_id, commodity), amount in sorted(sums.items()) if amount]  # fmt: skip
    if moves:
        conn.execute(_MOVE, moves)


def _postings(d: Draft, division: Division, payers: Mapping[str, int] | None, used: Mapping[str, int]) -> Any:
    return usage_postings(
        d.item.project_id, currency=d.item.currency, division=division, used=used, centre_id=d.centre_id, payers=payers
    )


def _payers_delta(d: Draft) -> dict[str, int] | None:
    """What each payer's part changes by; a part that no payer had is the project's own."""
    old = [c.payers for c in d.replaced]
    if d.payers is None and not any(old):
        return None
    parts: dict[str, int] = defaultdict(int)
    for payer, amount in (d.payers or {"": d.division.amount}).items():
        parts[payer] += amount
    for c in d.replaced:
        for payer, amount in (c.payers or {"": c.amount_micro}).items():
            parts[payer] -= amount
    return dict(parts)


def _entry(d: Draft, over: int, now: datetime) -> Entry:
    if any(c.currency != d.item.currency for c in d.replaced):
        raise AccountingError(f"{d.item.job_id}: a correction cannot change the currency")
    division, used = d.delta, d.used
    payers = _payers_delta(d)
    if over:
        division = _within(d.delta, over)
        payers = None if payers is None else _within_parts(payers, over, d.delta.amount)
    kind = "correction" if d.replaced else "charge"
    at = d.item.record.end_time or now
    postings = _postings(d, division, payers, used)
    return Entry(d.idem_key, kind, at, postings, f"{d.item.job_id} at {d.item.record.site_id}")


def _overage_entry(d: Draft, over: int, entry_id: int, now: datetime) -> Entry:
    """What a run cost beyond its hold, linked to the entry of what was within (accounting.md, trap 27)."""
    division = d.delta.less(_within(d.delta, over))
    payers = _payers_delta(d)
    if payers is not None:
        within = _within_parts(payers, over, d.delta.amount)
        payers = {payer: amount - within[payer] for payer, amount in payers.items()}
    at = d.item.record.end_time or now
    memo = f"{d.item.job_id}: beyond its hold"
    return Entry(f"overage:{d.record_id}", "overage", at, _postings(d, division, payers, {}), memo,
                 linked_entry_id=entry_id)  # fmt: skip


def _within(delta: Division, over: int) -> Division:
    """The part of a division that the hold covers: the rest is in proportion to the amount, cut towards zero."""
    kept = delta.amount - over

    def part(value: int) -> int:
        return value * kept // delta.amount

    return Division(part(delta.gross), kept, part(delta.borne), part(delta.centre), part(delta.tax))


def _within_parts(payers: Mapping[str, int], over: int, amount: int) -> dict[str, int]:
    weights = [(payer, max(0, part)) for payer, part in payers.items()]
    return parts_of(amount - over, weights)


def _overages(conn: Connection, drafts: Sequence[Draft]) -> dict[int, int]:
    """By how much each draft takes its job beyond its hold; jobs without a hold have none."""
    query = select(HOLDS.c.job_id, HOLDS.c.commodity, HOLDS.c.amount)
    query = query.where(among(conn, HOLDS.c.job_id, {d.item.job_id for d in drafts}), HOLDS.c.commodity != CORE_SECONDS)
    held = {(r.job_id, r.commodity): int(r.amount) for r in conn.execute(query)}
    if not held:
        return {}
    charged = _charged(conn, {job_id for job_id, _ in held})
    found = {}
    for d in drafts:
        key = (d.item.job_id, d.item.currency)
        if key not in held:
            continue
        before = charged[key]
        charged[key] = after = before + d.delta.amount
        over = max(0, after - held[key]) - max(0, before - held[key])
        if over > 0 and d.delta.amount > 0:
            found[d.record_id] = over
    return found


def _charged(conn: Connection, job_ids: set[str]) -> dict[tuple[str, str], int]:
    query = (
        select(CHARGES.c.job_id, CHARGES.c.currency, CHARGES.c.amount_micro)
        .outerjoin(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id)
        .where(among(conn, CHARGES.c.job_id, job_ids), REVERSALS.c.charge_id.is_(None))
    )
    found: dict[tuple[str, str], int] = defaultdict(int)
    for job_id, currency, amount in conn.execute(query):
        found[job_id, currency] += int(amount)
    return found


_CHARGE = (
    "id", "usage_record_id", "entry_id", "job_id", "project_id", "meter", "currency", "amount_micro", "gross_micro",
    "borne_micro", "centre_micro", "tax_micro", "core_seconds", "agreement_id", "agreement_version", "policy_version",
    "grade", "user_class", "payers", "rule", "reason", "segments", "overage", "recorded_at",
    "list_gross_micro", "list_centre_micro",
)  # fmt: skip


def _charge_row(d: Draft, id_: int, entry_id: int, overage: bool, now: datetime) -> Row:
    agreement, version = (None, None) if d.agreement is None else (d.agreement.id, d.agreement.version)
    return (
        id_, d.record_id, entry_id, d.item.job_id, d.item.project_id, d.item.record.meter.value, d.charge.currency,
        d.division.amount, d.division.gross, d.division.borne, d.division.centre, d.division.tax,
        d.charge.core_seconds, agreement, version, d.policy_version, d.grade, d.user_class, d.payers,
        d.charge.rule[:300], d.reason[:64], [segment_json(s) for s in d.charge.segments], overage, now,
        *((None, None) if (other := d.without_order) is None else (other.gross, other.centre)),
    )  # fmt: skip
