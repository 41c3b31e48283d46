"""The database: one engine, read and write transactions; what differs between SQLite and PostgreSQL lives here only."""

from __future__ import annotations

import os
import secrets
import select
import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, cast

from sqlalchemy import Connection, DateTime, Dialect, Engine, Table, create_engine, event, make_url
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC in Python; SQLite stores naive UTC text, PostgreSQL timestamptz. Naive values are refused."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"naive datetime {value!r}: times are aware UTC")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """The gateway's own tables; accounting has a metadata of its own in the same database."""


def table_of(row: type[DeclarativeBase]) -> Table:
    """The Core table behind a declared row, for the statements of the hot paths."""
    return cast(Table, row.__table__)


def libpq_url(db: Database) -> str:
    """What psycopg and pg_dump connect with."""
    return make_url(db.url).set(drivername="postgresql").render_as_string(hide_password=False)


# PostgreSQL shows each of its sessions under this name (at most 63 bytes): whoever finds one of this process frozen
# knows the others.
SESSIONS_OF_THIS_PROCESS = f"penstock {socket.gethostname()[:30]}:{os.getpid()}:{secrets.token_hex(4)}"


class FifoLock:
    """A lock that is granted in the order of asking: SQLite's busy retry starves late writers."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held = False
        self._waiting: deque[threading.Event] = deque()

    def __enter__(self) -> None:
        with self._guard:
            if not self._held:
                self._held = True
                return
            turn = threading.Event()
            self._waiting.append(turn)
        turn.wait()

    @property
    def is_wanted(self) -> bool:
        """Whether somebody has it, or waits for it."""
        with self._guard:
            return self._held

    def __exit__(self, *exc: object) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().set()  # the lock passes on, held
            else:
                self._held = False


class Database:
    """Read and write transactions on one engine."""

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        self.url = url
        self.engine = _engine(url, pool_size)
        autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._reading = self.engine if self.is_sqlite else autocommit
        self._write_lock: FifoLock | None = FifoLock() if self.is_sqlite else None

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    @property
    def others_write(self) -> bool:
        """Whether whoever writes much should write little at a time: on SQLite others wait for as long as it takes."""
        return self._write_lock is not None and self._write_lock.is_wanted

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A look; nothing may be written in it.

        On PostgreSQL each statement sees what is committed then, as in any transaction of its default level; none is
        begun, which saves two round trips, and a ROLLBACK would make psycopg forget its prepared statements.
        """
        with self._reading.connect() as connection:
            yield connection
            if self.is_sqlite:
                connection.rollback()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction, committed at the end or not at all. Keep it short, and never speak to a site in it."""
        if self._write_lock is None:
            with self.engine.begin() as connection:
                yield connection
            return
        with self._write_lock, self.engine.connect() as connection:
            connection = connection.execution_options(penstock_write=True)
            with connection.begin():
                yield connection

    def dispose(self) -> None:
        self.engine.dispose()


# `cache_size` is in KiB: with the 2 MB of the default a month of bookings reads its indices from the disk's cache.
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000", "cache_size=-16384")


def _engine(url: str, pool_size: int) -> Engine:
    if not url.startswith("sqlite"):
        return _postgresql(url, pool_size)
    engine = create_engine(url, pool_size=pool_size, max_overflow=64, connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def _settings(dbapi_connection: Any, _record: object) -> None:
        dbapi_connection.isolation_level = None  # we say BEGIN ourselves, below
        for pragma in _PRAGMAS:
            dbapi_connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that starts as a reader cannot become a writer without a chance of SQLITE_BUSY.
        write = connection.get_execution_options().get("penstock_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


# A process that is frozen in the middle of a transaction keeps its locks: whoever submits would wait for it to thaw.
# The server ends such a session; ours take milliseconds (a month's closing, seconds),
# as nothing is said to a site within one.
_FROZEN_TRANSACTION_MS = 10_000


def _postgresql(url: str, pool_size: int) -> Engine:
    # No JIT: a walk along an index looks costly where it may be long, and is compiled for longer than it runs.
    options = {
        "options": f"-c idle_in_transaction_session_timeout={_FROZEN_TRANSACTION_MS} -c jit=off",
        "application_name": SESSIONS_OF_THIS_PROCESS,
    }
    engine = create_engine(url, pool_size=pool_size, max_overflow=pool_size, connect_args=options)

    @event.listens_for(engine, "checkout")
    def _still_there(dbapi_connection: Any, _record: object, _proxy: object) -> None:
        # A server that went away has closed its end, so that an idle socket can be read: no question needs to be asked.
        if select.select([dbapi_connection.fileno()], [], [], 0)[0]:
            raise DisconnectionError("the database closed this connection")

    return engine
