"""Charge again what a changed record gives back of a run of which a person had given it back before.

A line of 10 of which a credit note gave back 4, and whose record then says 6, is paid with 6: record and person found
the same, or nobody can tell that they did not. The books make the adjustment by themselves, name the credit on the next
bill, and a person who knows that there were two reasons gives it back by an adjustment that names the charge.

  Dr project:P:usage      Cr operator:credits (of a credit note; what the centre bore of it is its own again)
                          Cr operator:adjustments (of an adjustment)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, insert, update

from accounting import credit_share
from accounting.ledger import ADJUSTED, CREDITS, REVENUE, Entry, Posting, receivable
from accounting.store.contracts import contracts
from accounting.store.given_back import Given, given, met, projects_with_credits
from accounting.store.journal import book
from accounting.store.posting import Draft
from accounting.store.run_history import RunHistory, histories
from accounting.store.schema import ADJUSTMENTS, BALANCES, DECISIONS, OVERLAPS

BOOKS = "books"  # who asked for such an adjustment
_MOMENT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class _Met:
    """So much of what a person gave back of a run its new reading gives back too (negative: gives back no more)."""

    draft: Draft
    replaced_charge: int
    given: Given
    amount: int


def charge_again(conn: Connection, drafts: Sequence[Draft], *, now: datetime) -> None:
    """Book what these readings, which are posted, give back a second time. In their transaction."""
    changed = [d for d in drafts if d.replaced]
    if changed:
        credited = projects_with_credits(conn, {d.item.project_id for d in changed})
        changed = [d for d in changed if d.item.project_id in credited]
    if not changed:
        return
    runs = {run.newest.usage_record_id: run for run in histories(conn, {d.item.job_id for d in changed})}
    found = list(_met(conn, changed, [runs[d.record_id] for d in changed]))
    of_source: dict[tuple[str, bool], list[_Met]] = defaultdict(list)
    for item in found:
        of_source[item.given.source, item.amount > 0].append(item)
    for number, some in enumerate(of_source.values(), 1):
        _book(conn, some, f"o{some[0].draft.record_id}.{number}", now)


def _met(conn: Connection, drafts: Sequence[Draft], runs: Sequence[RunHistory]) -> Iterator[_Met]:
    """For each reading and what was given back of its run, oldest first, how much of that it gives back again.

    A fall counts below what the run cost when the person decided: what it rose by since has nothing to do with that.
    """
    sources = given(conn, runs)
    so_far = dict(met(conn, {g.source for some in sources for g in some}))
    used: dict[str, int] = defaultdict(int)
    for (source, _, _), amount in so_far.items():
        used[source] += amount
    for d, run, some in zip(drafts, runs, sources, strict=True):
        replaced = [c for c in run.charges if c.replaced_by == d.record_id]
        before, after = _parts([c.parts for c in replaced]), run.newest.parts
        left = {part: after.get(part, 0) - before.get(part, 0) for part in before.keys() | after.keys()}
        for g in some:
            key = (g.source, run.newest.site_id, run.newest.run_key)
            level, was, now = run.at(g.entry_id, g.part), _part(before, g.part), _part(after, g.part)
            # What of the fall below that level earlier sources have not met already.
            fall = min(min(was, level) - now, -_part(left, g.part), g.amount - used[g.source])
            # What has risen again of it.
            rise = min(so_far.get(key, 0) - max(0, level - now), _part(left, g.part))
            if amount := max(0, fall) - max(0, rise):
                used[g.source] += amount
                so_far[key] = so_far.get(key, 0) + amount
                _take(left, g.part, amount)
                yield _Met(d, replaced[0].charge_id, g, amount)


def _parts(some: Sequence[Mapping[str, int]]) -> dict[str, int]:
    found: dict[str, int] = defaultdict(int)
    for parts in some:
        for payer, amount in parts.items():
            found[payer] += amount
    return found


def _part(parts: Mapping[str, int], part: str | None) -> int:
    return sum(parts.values()) if part is None else parts.get(part, 0)


def _take(left: dict[str, int], part: str | None, amount: int) -> None:
    """So much of a fall (of a rise, with a minus) is met."""
    for name in sorted(left) if part is None else [part]:
        way = 1 if amount > 0 else -1
        taken = way * min(abs(amount), max(0, -way * left[name]))
        left[name] += taken
        amount -= taken


# ---------------------------------------------------------------- booking


def _book(conn: Connection, some: Sequence[_Met], name: str, now: datetime) -> None:
    """One adjustment for all readings of a call that meet one credit."""
    first, g = some[0].draft.item, some[0].given
    amount = sum(item.amount for item in some)
    reason = _reason(g, amount)
    conn.execute(insert(ADJUSTMENTS).values(
        id=name, kind="adjustment", project_id=first.project_id, currency=first.currency, amount_micro=amount,
        reason=reason, charge_id=some[0].replaced_charge, four_eyes=False, requested_by=BOOKS, recorded_at=now,
    ))  # fmt: skip
    # It counts with the correction: on the same bill, at the same rate of tax.
    at = min(item.draft.item.record.end_time or now for item in some)
    key = f"adjustment:{name}"
    entry_id = book(conn, [Entry(key, "adjustment", at, _postings(some[0], amount), reason)], now=now)[key]
    conn.execute(insert(DECISIONS).values(adjustment_id=name, decision="posted", decided_by=BOOKS, entry_id=entry_id,
                                          recorded_at=now))  # fmt: skip
    conn.execute(insert(OVERLAPS), [_row(name, item, now) for item in some])
    mine = (BALANCES.c.project_id == first.project_id) & (BALANCES.c.commodity == first.currency)
    conn.execute(update(BALANCES).where(mine).values(posted=BALANCES.c.posted + amount))
    _share(conn, some[0], amount, name, entry_id, now)


def _reason(g: Given, amount: int) -> str:
    """For the bill, in both languages."""
    what = g.source if g.line is None else f"{g.source.rpartition(':')[0]} ({g.line[0]})"
    if amount > 0:
        return f"given back already by {what} / 已由 {what} 退还"
    return f"the record no longer gives back what {what} gave back / 用量记录不再退还 {what} 已退还的金额"


def _postings(item: _Met, amount: int) -> tuple[Posting, ...]:
    """As the credit was booked, the other way round; tax that prices include comes back with the document."""
    g, owed = item.given, item.draft.item
    legs = [(receivable(owed.project_id), amount)]
    if g.line is None:
        legs.append((ADJUSTED, -amount))
    else:
        net = _net(g, amount)
        legs += [(CREDITS, -net), (REVENUE, net - amount)]
    return tuple(Posting(account, owed.currency, value) for account, value in legs if value)


def _net(g: Given, amount: int) -> int:
    sign = -1 if amount < 0 else 1
    return sign * (abs(amount) * g.net_micro // g.amount)


def _row(name: str, item: _Met, now: datetime) -> dict[str, Any]:
    record = item.draft.item.record
    return {
        "adjustment_id": name, "usage_record_id": item.draft.record_id, "source": item.given.source,
        "site_id": record.site_id, "run_key": record.run_key, "part": item.given.part or "",
        "payer_id": item.given.payer_id, "amount_micro": item.amount, "recorded_at": now,
    }  # fmt: skip


def _share(conn: Connection, item: _Met, amount: int, name: str, entry_id: int, now: datetime) -> None:
    """What the centre bore of the credit note is its own again: the changed record takes it from it by itself."""
    g = item.given
    if g.line is None or g.service_end is None:
        return
    agreement = contracts(conn).agreement(g.line[1], g.service_end - _MOMENT)
    postings = () if agreement is None else credit_share.postings_of(
        agreement, -_net(g, amount), item.draft.item.currency)  # fmt: skip
    if postings:
        memo = f"{g.source} and a changed record gave back the same"
        entry = Entry(f"credit-share:{name}", credit_share.KIND, now, postings, memo, service_at=g.line[3],
                      linked_entry_id=entry_id)  # fmt: skip
        book(conn, [entry], now=now)
