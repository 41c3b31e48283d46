"""Openings: what of an order is opened at a centre. A wish is kept here first; a tick tells it to the centre.

States: `new` (not told yet), `asked` (waits for the centre's approval), `approved` (its scheduler has not taken it
yet), `opened`, `refused`, `closed`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, func, insert, or_, select, update

from accounting.errors import AccountingError
from accounting.store.schema import core
from accounting.tables import OpeningEventRow, OpeningRow

OPENINGS, OPENING_EVENTS = core(OpeningRow), core(OpeningEventRow)
OVER = ("refused", "closed")
KINDS = ("core_hours", "account", "queue_share")
ASK_AGAIN = timedelta(seconds=10)
LOOK_AGAIN = timedelta(minutes=5)  # whether what is open still is
# Asked in every submission: building a statement costs as much as running it.
_OPEN_AT = (
    select(OPENINGS)
    .where(OPENINGS.c.site_id == bindparam("site"), OPENINGS.c.state == "opened", OPENINGS.c.closing.is_(False))
    .order_by(OPENINGS.c.opened_at.desc(), OPENINGS.c.id.desc())
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be opened: `core_seconds` for core_hours, `username` for account, `cores` for queue_share."""

    id: str
    project_id: str
    site_id: str
    kind: str
    order_id: str | None = None
    person_id: str = ""
    username: str = ""
    queue: str | None = None
    core_seconds: int | None = None
    cores: int | None = None
    valid_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """What a centre answered to one revision of a wish."""

    revision: int
    state: str
    detail: str = ""
    native_account: str = ""
    native_username: str = ""
    qos: str = ""


def place(conn: Connection, wanted: Wanted, *, by: str, now: datetime) -> None:
    """Keep the wish; raises `AccountingError` for one that lacks what is wanted."""
    w = wanted
    lacks = {"core_hours": not w.core_seconds, "account": not w.username, "queue_share": not w.cores}
    if lacks.get(w.kind, True):
        raise AccountingError(f"an opening is one of {', '.join(KINDS)}, and says how much or for whom")
    conn.execute(insert(OPENINGS).values(
        id=w.id, order_id=w.order_id, project_id=w.project_id, site_id=w.site_id, kind=w.kind, person_id=w.person_id,
        username=w.username, queue=w.queue, core_seconds=w.core_seconds, cores=w.cores, valid_until=w.valid_until,
        revision=1, told=0, closing=False, close_reason="", state="new", detail="", native_account="",
        native_username="", qos="", recorded_at=now,
    ))  # fmt: skip
    _event(conn, w.id, "open", "new", "", by, now)


def change(conn: Connection, opening_id: str, terms: Mapping[str, Any], *, act: str, by: str, now: datetime) -> None:
    """Other terms for what is not over; raises `AccountingError`."""
    row = _live(conn, opening_id)
    values = {name: value for name, value in terms.items() if value is not None}
    if not values:
        raise AccountingError("nothing is changed")
    conn.execute(update(OPENINGS).where(OPENINGS.c.id == opening_id).values(
        **values, revision=row.revision + 1, tried_at=None))  # fmt: skip
    told = ", ".join(f"{name} {value}" for name, value in sorted(values.items()))
    _event(conn, opening_id, act, row.state, told, by, now)


def close(conn: Connection, opening_id: str, *, reason: str, by: str, now: datetime) -> None:
    """Nothing more under it; a second time changes nothing."""
    row = one(conn, opening_id)
    if row is None or row.closing or row.state in OVER:
        return
    conn.execute(update(OPENINGS).where(OPENINGS.c.id == opening_id).values(
        closing=True, close_reason=reason[:500], tried_at=None))  # fmt: skip
    _event(conn, opening_id, "close", row.state, reason, by, now)


def due(conn: Connection, site_id: str, *, now: datetime, limit: int = 100) -> Sequence[Any]:
    """What a centre must be told or asked now, oldest wish first."""
    o = OPENINGS.c
    pending = or_(o.told < o.revision, o.closing, o.state.in_(("new", "asked", "approved")))
    query = select(OPENINGS).where(
        o.site_id == site_id, o.state.not_in(OVER),
        or_(o.tried_at.is_(None), pending & (o.tried_at < now - ASK_AGAIN), o.tried_at < now - LOOK_AGAIN),
    )  # fmt: skip
    return conn.execute(query.order_by(o.id).limit(limit)).all()


def answered(conn: Connection, opening_id: str, answer: Answered, *, now: datetime) -> bool:
    """Keep a centre's answer; False where it was kept before. A newer wish stays to be told."""
    row = one(conn, opening_id)
    if row is None or row.state in OVER:
        return False
    values: dict[str, Any] = {
        "told": answer.revision, "state": answer.state, "detail": answer.detail[:500], "tried_at": now,
        "native_account": answer.native_account or row.native_account, "qos": answer.qos or row.qos,
        "native_username": answer.native_username or row.native_username,
    }  # fmt: skip
    if answer.state == "opened" and row.opened_at is None:
        values["opened_at"] = now
    if answer.state in OVER:
        values["closed_at"] = now
    conn.execute(update(OPENINGS).where(OPENINGS.c.id == opening_id).values(**values))
    if (row.state, row.detail, row.told) == (answer.state, answer.detail[:500], answer.revision):
        return False
    _event(conn, opening_id, "answer", answer.state, answer.detail, row.site_id, now)
    return True


def not_reached(conn: Connection, opening_id: str, why: str, *, now: datetime) -> None:
    """The centre did not answer: the wish stands, and is told again."""
    conn.execute(update(OPENINGS).where(OPENINGS.c.id == opening_id).values(tried_at=now, detail=why[:500]))


def one(conn: Connection, opening_id: str) -> Any | None:
    return conn.execute(select(OPENINGS).where(OPENINGS.c.id == opening_id)).one_or_none()


def of_order(conn: Connection, order_id: str) -> Sequence[Any]:
    return conn.execute(select(OPENINGS).where(OPENINGS.c.order_id == order_id).order_by(OPENINGS.c.id)).all()


def of_project(conn: Connection, project_id: str) -> Sequence[Any]:
    """All openings of a project, oldest first."""
    return conn.execute(select(OPENINGS).where(OPENINGS.c.project_id == project_id).order_by(OPENINGS.c.id)).all()


def open_at(conn: Connection, site_id: str) -> Sequence[Any]:
    """What is open at a centre and not being closed, newest first."""
    return conn.execute(_OPEN_AT, {"site": site_id}).all()


def events(conn: Connection, opening_id: str) -> Sequence[Any]:
    query = select(OPENING_EVENTS).where(OPENING_EVENTS.c.opening_id == opening_id)
    return conn.execute(query.order_by(OPENING_EVENTS.c.n)).all()


def _live(conn: Connection, opening_id: str) -> Any:
    row = one(conn, opening_id)
    if row is None or row.closing or row.state in OVER:
        raise AccountingError(f"the opening {opening_id!r} is closed or refused; order it anew")
    return row


def _event(conn: Connection, opening_id: str, act: str, state: str, detail: str, by: str, now: datetime) -> None:
    last = conn.scalar(select(func.max(OPENING_EVENTS.c.n)).where(OPENING_EVENTS.c.opening_id == opening_id))
    row = {"opening_id": opening_id, "n": (last or 0) + 1, "at": now, "act": act, "state": state}
    conn.execute(insert(OPENING_EVENTS).values(**row, detail=detail[:500], by=by))
