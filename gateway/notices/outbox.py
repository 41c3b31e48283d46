"""The outbox of notices: put beside what they tell, claimed by one worker at a time, tried until taken or given up.

A worker that dies between sending and noting it leaves a notice that is sent again: receivers know it by its id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, insert, select, update

from gateway.db import table_of
from gateway.ids import new_id
from gateway.notices.tables import NoticeDeliveryRow, NoticeRow

NOTICES, DELIVERIES = table_of(NoticeRow), table_of(NoticeDeliveryRow)
WEBHOOK, MAIL = "webhook", "mail"

# After each try that failed; after the last one it is given up, three days on.
WAITS = tuple(timedelta(seconds=s) for s in (10, 60, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400))
# Longer than a try may take: only what a dead worker was sending is taken over.
_CLAIM = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class News:
    """What is to be told of a project; `subject` is what it is about, a budget's id. `to`: (channel, recipient), none
    where it only stands in the list."""

    kind: str
    project_id: str
    subject: str
    data: Mapping[str, Any]
    to: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Delivery:
    """A notice that is to go one way now; `tries` counts this one."""

    notice_id: str
    kind: str
    body: str
    channel: str
    recipient: str
    tries: int


def put(conn: Connection, news: Sequence[News], *, now: datetime) -> None:
    """Keep notices in the transaction that found what they tell, to go out in this order."""
    ids = sorted(new_id("n", now) for _ in news)
    rows = [
        {"id": id_, "kind": n.kind, "project_id": n.project_id, "subject": n.subject, "recorded_at": now,
         "body": _body(id_, n, now)}
        for id_, n in zip(ids, news, strict=True)
    ]  # fmt: skip
    ways = [
        {"notice_id": id_, "channel": channel, "recipient": recipient, "state": "waiting", "tries": 0, "next_at": now,
         "error": "", "done_at": None}
        for id_, n in zip(ids, news, strict=True) for channel, recipient in n.to
    ]  # fmt: skip
    if rows:
        conn.execute(insert(NOTICES), rows)
    if ways:
        conn.execute(insert(DELIVERIES), ways)


def _body(notice_id: str, n: News, now: datetime) -> str:
    whole = {"type": n.kind, "timestamp": now.astimezone(UTC).isoformat(), "data": {"id": notice_id, **n.data}}
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":"))


def is_any_due(conn: Connection, *, now: datetime) -> bool:
    return conn.execute(_due(now).limit(1)).first() is not None


def claim(conn: Connection, *, now: datetime) -> Delivery | None:
    """The next one, for whoever asks alone; committed before it is sent."""
    row = conn.execute(_due(now).limit(1).with_for_update(skip_locked=True, of=DELIVERIES)).one_or_none()
    if row is None:
        return None
    found = Delivery(row.notice_id, row.kind, row.body, row.channel, row.recipient, row.tries + 1)
    _set(conn, found, tries=found.tries, next_at=now + _CLAIM)
    return found


def delivered(conn: Connection, what: Delivery, *, now: datetime) -> None:
    _set(conn, what, state="delivered", error="", done_at=now)


def failed(conn: Connection, what: Delivery, error: str, *, now: datetime) -> bool:
    """Try it again later; True where it is given up."""
    over = what.tries > len(WAITS)
    if over:
        _set(conn, what, state="given_up", error=error[:300], done_at=now)
    else:
        _set(conn, what, error=error[:300], next_at=now + WAITS[what.tries - 1])
    return over


def notices(conn: Connection, project_id: str, *, limit: int) -> list[tuple[Any, list[Any]]]:
    """A project's notices, newest first, each with its deliveries."""
    query = select(NOTICES).where(NOTICES.c.project_id == project_id).order_by(NOTICES.c.id.desc()).limit(limit)
    rows = conn.execute(query).all()
    ways: dict[str, list[Any]] = {row.id: [] for row in rows}
    of_them = select(DELIVERIES).where(DELIVERIES.c.notice_id.in_(list(ways)))
    for way in conn.execute(of_them.order_by(DELIVERIES.c.channel, DELIVERIES.c.recipient)):
        ways[way.notice_id].append(way)
    return [(row, ways[row.id]) for row in rows]


def _due(now: datetime) -> Any:
    query = select(DELIVERIES, NOTICES.c.kind, NOTICES.c.body).join(NOTICES, NOTICES.c.id == DELIVERIES.c.notice_id)
    query = query.where(DELIVERIES.c.state == "waiting", DELIVERIES.c.next_at <= now)
    return query.order_by(DELIVERIES.c.next_at, DELIVERIES.c.notice_id)


def _set(conn: Connection, what: Delivery, **values: Any) -> None:
    conn.execute(
        update(DELIVERIES)
        .where(
            DELIVERIES.c.notice_id == what.notice_id, DELIVERIES.c.channel == what.channel,
            DELIVERIES.c.recipient == what.recipient, DELIVERIES.c.state == "waiting",
        )
        .values(**values)
    )  # fmt: skip
