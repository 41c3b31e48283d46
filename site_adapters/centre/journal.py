"""What the site has done for each request id: the same id again gets the same answer, and nothing is done twice."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
  request_id TEXT PRIMARY KEY, digest TEXT NOT NULL, verb TEXT NOT NULL, begun_at REAL NOT NULL, answer BLOB);
CREATE INDEX IF NOT EXISTS ix_answers_begun ON answers (begun_at);
CREATE TABLE IF NOT EXISTS attempts (
  fence TEXT PRIMARY KEY, state TEXT NOT NULL, native_id TEXT NOT NULL DEFAULT '', cluster TEXT NOT NULL DEFAULT '',
  username TEXT NOT NULL, home TEXT NOT NULL, person TEXT NOT NULL, project TEXT NOT NULL, account TEXT NOT NULL,
  places INTEGER NOT NULL, cores INTEGER NOT NULL, nodes INTEGER NOT NULL, reserve INTEGER NOT NULL,
  submitted_at REAL NOT NULL, ended_at REAL, used INTEGER NOT NULL DEFAULT 0, running TEXT NOT NULL DEFAULT '[]',
  outcome TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS ix_attempts_open ON attempts (ended_at) WHERE ended_at IS NULL;
CREATE INDEX IF NOT EXISTS ix_attempts_submitted ON attempts (submitted_at);
CREATE TABLE IF NOT EXISTS orders (
  order_id TEXT PRIMARY KEY, digest TEXT NOT NULL, terms TEXT NOT NULL, opening TEXT NOT NULL, wanted TEXT NOT NULL,
  asked_at REAL NOT NULL, decided_by TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS opened_accounts (
  username TEXT PRIMARY KEY, project TEXT NOT NULL, state TEXT NOT NULL, opened_at REAL NOT NULL);
"""
KEEP = timedelta(days=7)


class Store:
    """The site's own database: SQLite. What must be on disk before something is done is written `durable`.

    What follows it need not be: after a power cut a lost answer is `unknown`, and is looked up by its tag.
    """

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False, timeout=30.0)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.executescript(_SCHEMA)

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction; two never overlap. A durable one takes those before it to the disk as well (WAL)."""
        with self._lock:
            self._connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def read(self, statement: str, *values: Any) -> Sequence[sqlite3.Row]:
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    def close(self) -> None:
        with self._lock:
            self._connection.close()


class Journal:
    """Answers by request id."""

    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        self._store, self._clock = store, clock
        self._pruned = clock()

    def begin(self, request_id: str, digest: str, verb: str) -> bytes | bool | None:
        """True: it is new and noted. Bytes: it was done, here is the answer. None: it was begun and its end is lost.

        False: the id was used for another call.
        """
        now = self._clock()
        # A submission's places are reserved next, by a durable transaction that takes this one along.
        with self._store.write(durable=verb != "management.submit") as db:
            row = db.execute("SELECT digest, answer FROM answers WHERE request_id = ?", (request_id,)).fetchone()
            if row is not None:
                if row["digest"] != digest:
                    return False
                answer: bytes | None = row["answer"]
                return answer
            db.execute("INSERT INTO answers (request_id, digest, verb, begun_at) VALUES (?, ?, ?, ?)",
                       (request_id, digest, verb, now.timestamp()))  # fmt: skip
            if now - self._pruned > timedelta(hours=1):
                db.execute("DELETE FROM answers WHERE begun_at < ?", ((now - KEEP).timestamp(),))
                self._pruned = now
        return True

    def keep(self, request_id: str, answer: bytes) -> None:
        with self._store.write(durable=False) as db:
            db.execute("UPDATE answers SET answer = ? WHERE request_id = ?", (answer, request_id))
