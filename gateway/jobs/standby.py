"""Whether this gateway takes writes: after a restore it stands by until every site was asked."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, select, update

from gateway.db import Database, table_of
from gateway.errors import NotReady
from gateway.jobs.tables import GatewayRow

_GATEWAY = table_of(GatewayRow)


def accepting(db: Database) -> bool:
    """Whether writes are accepted and ticks run."""
    with db.read() as conn:
        return conn.scalar(select(_GATEWAY.c.recovering_since).where(_GATEWAY.c.id == 1)) is None


_RECOVERING = select(_GATEWAY.c.recovering_since).where(_GATEWAY.c.id == 1)


def assert_accepting(conn: Connection) -> None:
    """Raise `NotReady` while a restored gateway has not recovered."""
    if conn.scalar(_RECOVERING) is not None:
        raise NotReady("This gateway was restored and has not looked at its sites yet.", remedy="Try again later.")


def begin(conn: Connection, now: datetime) -> None:
    """Take no writes from now on."""
    conn.execute(update(_GATEWAY).values(recovering_since=now))


def end(conn: Connection) -> None:
    """Take writes again."""
    conn.execute(update(_GATEWAY).values(recovering_since=None))
