"""Eight writers on one database, killed at any moment: nothing lost, nothing doubled, no limit passed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import func, select

from accounting import store as books
from accounting.store.schema import CHARGES, USAGE
from gateway.db import Database
from tests.unit.accounting.makers import add_rules, owed, rule
from tests.unit.accounting.writer import HOLD, HOLDER, readings

WRITERS = 8
LIMIT = 3 * HOLD


@contextlib.contextmanager
def nursery(url: str, count: int) -> Iterator[Callable[[int], int]]:
    """Gives `spawn(seed) -> pid`."""
    argv = [sys.executable, "-m", "tests.unit.accounting.writer", url, str(count)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, env=os.environ | {"PYTHONPATH": os.getcwd()})
    assert process.stdin is not None and process.stdout is not None

    def spawn(seed: int) -> int:
        assert process.stdin is not None and process.stdout is not None
        print(seed, file=process.stdin, flush=True)
        return int(process.stdout.readline())

    with process:
        yield spawn


def campaign(url: str, db: Database, *, kills: int, runs: int, seed: int) -> None:
    """Kill a writer at a random moment, start another in its place; look at the books while the rest goes on."""
    dice = random.Random(seed)
    with db.write() as conn:
        books.open_project_accounts(conn, HOLDER, currency="CNY")
        books.credit_line(conn, project_id=HOLDER, commodity="CNY", limit=LIMIT, idem_key="line",
                          now=datetime.now(UTC), reason="")  # fmt: skip
    with nursery(url, runs) as spawn:
        writers = [spawn(seed + i) for i in range(WRITERS)]
        try:
            number = -1
            while (number := number + 1) < kills or not charged(db):
                time.sleep(dice.random() * 0.08)
                os.kill(writers.pop(dice.randrange(WRITERS)), signal.SIGKILL)
                writers.append(spawn(seed + 100 + number))
                if number % 40 == 0:
                    assert_sound(db)
        finally:
            for pid in writers:
                os.kill(pid, signal.SIGKILL)
    assert_sound(db)
    with db.write() as conn:
        books.record_and_book(conn, readings(runs), now=datetime.now(UTC))  # the overlapping window brings it all again
    assert owed(db) == runs * 40_000  # each run by its centre's reading, once
    with db.read() as conn:
        centre = select(func.count()).select_from(USAGE).where(USAGE.c.meter == "centre")
        assert conn.scalar(centre) == runs
        assert sum(line.amount for line in conn.execute(books.posting_lines())) == 0


def charged(db: Database) -> bool:
    """Whether the writers got to anything: on a busy machine they may be killed too soon for long."""
    with db.read() as conn:
        return conn.scalar(select(CHARGES.c.id).limit(1)) is not None


def assert_sound(db: Database) -> None:
    with db.write() as conn:  # on SQLite nobody writes meanwhile; on PostgreSQL all is read from one snapshot
        if not db.is_sqlite:
            conn.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert books.check_books(conn) == []
        money = next(e for e in books.exposure(conn, HOLDER) if e.commodity == "CNY")
    assert money.in_flight + money.committed <= LIMIT


def test_writers_that_are_killed_book_each_run_once(db: Database, db_url: str) -> None:
    add_rules(db, rule())
    campaign(db_url, db, kills=100, runs=300, seed=1)


@pytest.mark.soak
def test_a_thousand_kills_on_each_database(db: Database, db_url: str) -> None:
    add_rules(db, rule())
    campaign(db_url, db, kills=1_000, runs=2_000, seed=int(time.time()))
