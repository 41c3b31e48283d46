"""Keep what a comparison found, some at a time, so that others write between. Nothing here commits.

A comparison has a number from its beginning, and counts once all its breaks are there: until then nothing of it shows.
One that was cut off before is continued under its number by the next of the same statement, whose findings are the ones
that count; one that was cut off after it had its breaks leaves what it had to settle to the next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select

from accounting import tables
from accounting.reconciling.breaks import CONTRACT, TRANSITIONS, Act, Category, Event, State, act_on
from accounting.reconciling.drafts import Draft
from accounting.reconciling.store import (
    BREAKS,
    EVENTS,
    MACHINE,
    RECONCILIATIONS,
    REPLACED,
    BreakNow,
    Compared,
    breaks,
    earlier_statements,
    event_row,
)
from accounting.store.schema import core, insert_all, lock, upsert

STAGES = core(tables.ComparisonStageRow)
_BEGUN, _SETTLED = "begun", "settled"
_OF_THE_WHOLE = frozenset({Category.SIGNATURE, Category.CONTROL_TOTAL})

# Breaks that are kept in one transaction: some 30 ms on SQLite.
AT_ONCE = 500

Keyed = Mapping[str, Draft]


def keyed(compared: Compared) -> dict[str, Draft]:
    """The drafts by the keys under which they are kept."""
    return {_key(compared.row.id, draft): draft for draft in compared.drafts}


def begin(conn: Connection, statement_id: int, *, now: datetime) -> int:
    """The number of a comparison of a statement: that of one that was cut off, or a new one."""
    lock(conn, {"comparison"})
    whole = select(RECONCILIATIONS.c.id)
    cut_off = select(func.max(STAGES.c.reconciliation_id)).where(
        STAGES.c.statement_id == statement_id, STAGES.c.reconciliation_id.not_in(whole)
    )  # fmt: skip
    if (number := conn.scalar(cut_off)) is not None:
        return int(number)
    columns = (STAGES.c.reconciliation_id, RECONCILIATIONS.c.id)
    number = max(conn.scalar(select(func.max(column))) or 0 for column in columns) + 1
    conn.execute(insert(STAGES), [_stage(number, _BEGUN, statement_id, now)])
    return int(number)


def _stage(number: int, stage: str, statement_id: int, now: datetime) -> dict[str, Any]:
    return {"reconciliation_id": number, "stage": stage, "statement_id": statement_id, "at": now}


def open_breaks(conn: Connection, number: int, row: Any, some: Sequence[tuple[str, Draft]], *, now: datetime) -> None:
    """Some of the breaks, opened and, where the cause is certain, explained; those that are known stay as they are."""
    drafts = dict(some)
    rows = [_break_row(number, row, key, draft, now) for key, draft in some]
    opened = upsert(conn, BREAKS).on_conflict_do_nothing().returning(BREAKS.c.id, BREAKS.c.break_key)
    fresh = {made.id: drafts[made.break_key] for made in conn.execute(opened, rows)}
    insert_all(conn, EVENTS, [e for break_id, draft in fresh.items() for e in _first_events(break_id, draft, now)])


def complete(
    conn: Connection, number: int, compared: Compared, *, rules_json: Mapping[str, Any], by: str, now: datetime
) -> None:
    """All breaks are kept: the comparison counts. Where another has completed the same number, it stays as it is."""
    row = compared.row
    made = {"id": number, "statement_id": row.id, "site_id": row.site_id, "period": row.period,
            "rules": dict(rules_json), "counts": compared.counts, "by": by, "at": now}  # fmt: skip
    conn.execute(upsert(conn, RECONCILIATIONS).on_conflict_do_nothing(), made)


@dataclass(frozen=True, slots=True)
class Left:
    """What is to be done once a comparison counts, by the numbers of breaks.

    `gone`: found no more; `back`: found again, after they were gone; `accepted`: of those that are new, what the
    contract lets stand; `replaced`: breaks of earlier statements of the month, whose place this one has taken.
    """

    gone: tuple[int, ...]
    back: Mapping[int, Draft]
    accepted: tuple[int, ...]
    replaced: tuple[int, ...]


def left(conn: Connection, number: int, row: Any, found: Keyed) -> Left:
    """Look at all breaks of the statement once, and decide."""
    known = breaks(conn, statement_id=row.id)
    new = {number, *_unsettled(conn, row.id)}
    gone, accepted, back = [], [], {}
    for item in known:
        draft = found.get(item.row.break_key)
        if draft is None and _may_vanish(item):
            gone.append(item.row.id)
        elif draft is not None and item.state is State.GONE:
            back[item.row.id] = draft
        elif draft is not None and draft.accepted and item.row.reconciliation_id in new and _is_explained(item):
            accepted.append(item.row.id)
    waiting = {item.row.id for item in known if not item.is_final}.difference(gone).union(back)
    doubted = any(item.row.id in waiting and item.row.category in _OF_THE_WHOLE for item in known)
    return Left(tuple(gone), back, tuple(accepted), () if doubted else tuple(_replaced(conn, row)))


def _unsettled(conn: Connection, statement_id: int) -> set[int]:
    """Comparisons of the statement that count and were cut off after that: what they found is as good as new."""
    query = select(STAGES.c.reconciliation_id, STAGES.c.stage).where(STAGES.c.statement_id == statement_id)
    stages = [tuple(stage) for stage in conn.execute(query)]
    return {number for number, _ in stages} - {number for number, stage in stages if stage == _SETTLED}


def _may_vanish(item: BreakNow) -> bool:
    return item.state in (State.OPEN, State.EXPLAINED)


def _is_explained(item: BreakNow) -> bool:
    """Whether nobody but the machine has done anything to it."""
    return item.state is State.EXPLAINED


def _replaced(conn: Connection, row: Any) -> list[int]:
    """A statement is of its whole month: what nobody has begun to settle of an earlier one is asked no more.

    Not by one that is in doubt itself: whoever sends an unreadable file does not make a good one void.
    """
    return [item.row.id for earlier in earlier_statements(conn, row) for item in breaks(conn, statement_id=earlier)
            if (item.state, Act.VANISH) in TRANSITIONS]  # fmt: skip


def vanish(conn: Connection, some: Sequence[int], *, now: datetime) -> None:
    """These are found no more; but for those that somebody has begun to settle since."""
    _vanish(conn, some, Event(Act.VANISH, State.GONE, MACHINE, now, "a later look finds it no more"))


def replace(conn: Connection, some: Sequence[int], row: Any, *, now: datetime) -> None:
    """These breaks of earlier statements are void: statement `row` has taken the place of those."""
    note = f"statement {row.id} has taken the place of this one"
    _vanish(conn, some, Event(Act.VANISH, State.GONE, MACHINE, now, note), entry_key=f"{REPLACED}{row.id}")


def _vanish(conn: Connection, some: Sequence[int], event: Event, *, entry_key: str = "") -> None:
    waiting = [item.row for item in breaks(conn, ids=some) if (item.state, Act.VANISH) in TRANSITIONS]
    insert_all(conn, EVENTS, [event_row(row.id, row.seq + 1, event, entry_key=entry_key) for row in waiting])


def come_back(conn: Connection, some: Sequence[tuple[int, Draft]], *, now: datetime) -> list[int]:
    """What was gone and is found again is open as at first; those that the contract lets stand, still to be posted."""
    drafts = dict(some)
    events, accepted = [], []
    for item in breaks(conn, ids=list(drafts), state=State.GONE):
        draft = drafts[item.row.id]
        again = Event(Act.RETURN, State.OPEN, MACHINE, now, "a later look finds it again")
        events.append(event_row(item.row.id, item.row.seq + 1, again))
        if draft.certain:
            said = Event(Act.EXPLAIN, State.EXPLAINED, MACHINE, now, draft.explanation)
            events.append(event_row(item.row.id, item.row.seq + 2, said))
        if draft.accepted:
            accepted.append(item.row.id)
    insert_all(conn, EVENTS, events)
    return accepted


def still_explained(conn: Connection, some: Sequence[int]) -> list[Any]:
    """The rows of those that nobody has begun to settle since."""
    return [item.row for item in breaks(conn, ids=some) if _is_explained(item)]


def let_stand(conn: Connection, booked: Sequence[tuple[Any, tuple[str, str]]], *, version: str, now: datetime) -> None:
    """The contract's rules let these explained breaks stand, as good as two signatures, and they are booked: each with
    (its entry's key, what was done)."""
    rows = []
    for row, (entry_key, note) in booked:
        explained = Event(Act.EXPLAIN, State.EXPLAINED, MACHINE, now)
        accepted = act_on([explained], Act.ACCEPT, by=CONTRACT, at=now, note=f"within the limits of {version}")
        posted = act_on([explained, accepted], Act.POST, by=CONTRACT, at=now, note=note)
        rows.append(event_row(row.id, row.seq + 1, accepted))
        rows.append(event_row(row.id, row.seq + 2, posted, entry_key=entry_key))
    insert_all(conn, EVENTS, rows)


def settled(conn: Connection, number: int, row: Any, *, now: datetime) -> None:
    """All is done, for this comparison and for those that were cut off before it."""
    rows = [_stage(each, _SETTLED, row.id, now) for each in sorted({number, *_unsettled(conn, row.id)})]
    conn.execute(upsert(conn, STAGES).on_conflict_do_nothing(), rows)


def _key(statement_id: int, draft: Draft) -> str:
    """The same difference found again has the same key; other figures make another, as a break's facts never change.

    One of the statement as a whole is told by its words.
    """
    if draft.line_no is None and draft.usage_record_id is None:
        return f"{statement_id}:{draft.category}:{draft.explanation}"[:120]
    figures = (draft.ours_core_seconds, draft.theirs_core_seconds, draft.ours_micro, draft.theirs_micro)
    told = hashlib.sha256(repr(figures).encode()).hexdigest()[:12]
    return f"{statement_id}:{draft.category}:{draft.line_no}:{draft.usage_record_id}:{told}"


def _break_row(run_id: int, row: Any, key: str, draft: Draft, now: datetime) -> dict[str, Any]:
    return {
        "break_key": key, "reconciliation_id": run_id, "statement_id": row.id, "site_id": row.site_id,
        "period": row.period, "category": draft.category.value, "tier": draft.tier, "line_no": draft.line_no,
        "usage_record_id": draft.usage_record_id, "native_id": draft.native_id, "username": draft.username,
        "job_id": draft.job_id, "project_id": draft.project_id, "currency": row.currency,
        "ours_core_seconds": draft.ours_core_seconds, "theirs_core_seconds": draft.theirs_core_seconds,
        "ours_micro": draft.ours_micro, "theirs_micro": draft.theirs_micro,
        "causes": [cause.value for cause in draft.causes], "explanation": draft.explanation[:1000], "opened_at": now,
    }  # fmt: skip


def _first_events(break_id: int, draft: Draft, now: datetime) -> list[dict[str, Any]]:
    rows = [event_row(break_id, 1, Event(Act.EXPLAIN, State.OPEN, MACHINE, now), act="open")]
    if draft.certain:
        rows.append(event_row(break_id, 2, Event(Act.EXPLAIN, State.EXPLAINED, MACHINE, now, draft.explanation)))
    return rows
