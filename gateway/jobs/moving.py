"""Many jobs take the same step of their lifecycle by one statement, and only those that may.

A compare-and-set of each job would be a round trip of each. Here the rows go in as one JSON value, and the statement
returns the jobs that it really changed: whoever has moved on meanwhile is not among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import JSON, Connection, Dialect, Integer, String, bindparam, cast, column, func, update

from gateway.jobs import repository
from gateway.jobs.lifecycle import SHOWN, Event, Phase, advance
from gateway.jobs.repository import JOBS


@dataclass(frozen=True, slots=True)
class Move:
    """One job of many: the attempt it must still be at, what is set besides, and what its event says."""

    job_id: str
    at_attempt: int
    changes: Mapping[str, Any]
    payload: Mapping[str, Any]


def move_all(conn: Connection, event: Event, moves: Sequence[Move], *, now: datetime, expected: Phase) -> set[str]:
    """`repository.move` of many jobs, which all set the same columns; the ids of those that were moved."""
    phase = advance(expected, event)
    if phase is None or not moves:
        return set()
    state, reason = SHOWN[phase]
    usual = {"phase": phase.value, "state": state.value, "reason": reason.value, "updated_at": now}
    rows = {
        move.job_id: {
            "from_attempt": move.at_attempt,
            **{name: _plain(conn.dialect, name, value) for name, value in {**usual, **move.changes}.items()},
        }
        for move in moves
    }
    query = _moved(conn.dialect.name, tuple(sorted(usual.keys() | moves[0].changes.keys())))
    found = {r.id: r for r in conn.execute(query, {"moves": rows, "from_phase": expected.value})}
    events = [
        repository.event_row(m.job_id, row.last_event, now, event.value, row.state, m.payload)
        for m in moves
        if (row := found.get(m.job_id)) is not None
    ]
    repository.insert_events(conn, events)
    return set(found)


@cache
def _moved(dialect: str, columns: tuple[str, ...]) -> Any:
    """The compare-and-set of these columns; `moves` is {job id: {from_attempt, column: value …}}."""
    told = func.json_each(bindparam("moves", type_=JSON)).table_valued(
        column("key", String), column("value", JSON), name="told"
    )

    def value(name: str, kind: Any) -> Any:
        text = told.c.value[name].as_string()
        # SQLite keeps a number a number, and its CAST would spoil a time.
        return cast(text, kind) if dialect == "postgresql" else text

    changes = {name: value(name, JOBS.c[name].type) for name in columns}
    return (
        update(JOBS)
        .where(JOBS.c.id == told.c.key, JOBS.c.phase == bindparam("from_phase"))
        .where(JOBS.c.attempt == value("from_attempt", Integer))
        .values(last_event=JOBS.c.last_event + 1, **changes)
        .returning(JOBS.c.id, JOBS.c.last_event, JOBS.c.state)
    )


def _plain(dialect: Dialect, name: str, value: Any) -> Any:
    """A value as JSON carries it: times as this database reads them."""
    if not isinstance(value, datetime):
        return value
    process = JOBS.c[name].type.dialect_impl(dialect).bind_processor(dialect)
    return str(value if process is None else process(value))
