"""How much is booked at once: as much as is there, and little while others wait for SQLite's only writer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accounting import store as books
from gateway import leases
from gateway.billing import bookers as module
from gateway.billing.bookers import Bookers
from gateway.db import Database
from gateway.services import Lease
from tests.builders import Gateway, local_site, make_gateway
from tests.unit.accounting.makers import assigned, run


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    made = make_gateway(tmp_path, f"sqlite:///{tmp_path}/books.db", local_site(tmp_path))
    yield made
    made.services.close()


@pytest.fixture
def lease(gateway: Gateway) -> Lease:
    return leases.take(gateway.services.db, "local", "test")


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many readings each transaction has."""
    found, book = list[int](), books.record_and_book

    def counted(conn: Any, sealed: Any, **more: Any) -> books.Booked:
        found.append(len(sealed))
        return book(conn, sealed, **more)

    monkeypatch.setattr(books, "record_and_book", counted)
    monkeypatch.setattr(module, "_FEW", 2)
    return found


def readings(gateway: Gateway, count: int = 5) -> list[books.Assigned]:
    return [assigned(run(str(n)), project_id=gateway.project_id) for n in range(count)]


def test_what_is_there_is_booked_at_once(gateway: Gateway, lease: Lease, sizes: list[int]) -> None:
    with Bookers(gateway.services, lease, gateway.services.clock()) as bookers:
        bookers.book(readings(gateway))
        bookers.finish()
    assert bookers.recorded == 5
    assert sizes == [5]


def test_while_another_writes_only_a_few_are_booked_at_a_time(gateway: Gateway, lease: Lease, sizes: list[int]) -> None:
    db = gateway.services.db
    with Bookers(gateway.services, lease, gateway.services.clock()) as bookers:
        with db.write():
            bookers.book(readings(gateway))
            until_somebody_waits(db)
        bookers.finish()
    assert bookers.recorded == 5
    assert sizes == [2, 3]
    with gateway.services.db.read() as conn:
        assert books.check_books(conn) == []


def until_somebody_waits(db: Database) -> None:
    lock = db._write_lock
    assert lock is not None
    ends = time.monotonic() + 30
    while not lock._waiting:
        assert time.monotonic() < ends, "nobody asked for the lock"
        time.sleep(0.001)
