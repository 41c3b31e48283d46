"""A statement is drawn while others book: they wait shortly, and what slips in is in it or in the next one, once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy import Connection, func, select

from accounting.store import contracts, drawing, settlements
from accounting.store.drawing import Changed, Chosen
from accounting.store.schema import ENTRIES
from accounting.store.settlement_sums import ITEMS
from gateway.billing import settle
from gateway.db import Database
from gateway.errors import Conflict
from gateway.services import Services
from tests.unit.accounting.evidence_case import T0, book
from tests.unit.accounting.test_settlement import AGREEMENT, MONTH, agree, db, draw

_ = db  # the fixture
DRAWN_AT = T0 + timedelta(days=31)


def chosen(conn: Connection, number: int = 1) -> Chosen:
    return drawing.choose(conn, AGREEMENT, settlement_id=f"s{number}", start=MONTH[0], end=MONTH[1], disputed={})


def items(conn: Connection, number: int) -> set[str]:
    query = select(ENTRIES.c.idem_key).join(ITEMS, ITEMS.c.entry_id == ENTRIES.c.id)
    return set(conn.scalars(query.where(ITEMS.c.settlement_id == f"s{number}")))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(drawing, "AT_ONCE", 7)
    return 7


def drawn_beside(db: Database) -> settlements.Settlement:
    """A statement drawn in its own transactions; between each two of them another writer books."""
    runs = iter(range(100, 200))

    def slip_in() -> None:
        with db.write() as conn:
            book(conn, [next(runs)])

    with db.read() as conn:
        found = chosen(conn)
    slip_in()
    for part in found.parts:
        with db.write() as conn:
            drawing.take(conn, found, part)
        slip_in()
    with db.read() as conn:
        added = drawing.add_up(conn, found)
    slip_in()
    with db.write() as conn:
        return drawing.complete(conn, added, now=DRAWN_AT)


def test_what_is_booked_meanwhile_is_in_the_next_statement_and_nothing_is_lost_or_doubled(
    db: Database, small: int
) -> None:
    with db.read() as conn:
        before = drawing.still_open(conn, "c1", "CNY", MONTH[1], set(conn.scalars(select(ENTRIES.c.idem_key))))
    first = drawn_beside(db)
    with db.write() as conn:
        assert items(conn, 1) == before
        agree(conn, first)
        agree(conn, draw(conn, 2))
        assert len(items(conn, 2)) == len(before) // small + bool(len(before) % small) + 2, "one for each slip"
        assert not items(conn, 1) & items(conn, 2)
        assert settlements.check_settlements(conn) == []
        left = drawing.still_open(conn, "c1", "CNY", MONTH[1], set(conn.scalars(select(ENTRIES.c.idem_key))))
        assert left == set()


def test_it_says_the_same_as_one_that_is_drawn_in_one_transaction(db: Database, small: int) -> None:
    with db.write() as conn:
        whole = draw(conn, 1).said
        settlements.withdraw(conn, "s1", by="x", reason="", now=T0)
        parts = draw(conn, 2).said
    different = {name for name in whole if whole[name] != parts[name]}
    assert different == {"id", "revision", "drawn_at"}


def test_a_statement_that_was_never_completed_takes_nothing(db: Database, small: int) -> None:
    with db.write() as conn:
        dead = chosen(conn)
        drawing.take(conn, dead, dead.parts[0])
    with db.write() as conn:
        found = agree(conn, draw(conn, 2))
        assert items(conn, 1) < items(conn, 2)
        assert int(found.said["entries"]) == len(items(conn, 2))
        assert settlements.check_settlements(conn) == []


def test_one_that_was_drawn_and_signed_meanwhile_stops_the_other(db: Database, small: int) -> None:
    with db.write() as conn:
        slow = chosen(conn)
        for part in slow.parts:
            drawing.take(conn, slow, part)
        added = drawing.add_up(conn, slow)
    with db.write() as conn:
        agree(conn, draw(conn, 2))
    with pytest.raises(Changed), db.write() as conn:
        drawing.complete(conn, added, now=DRAWN_AT)
    with db.read() as conn:
        assert [s.id for s in settlements.every(conn)] == ["s2"]
        assert settlements.check_settlements(conn) == []


# ---------------------------------------------------------------- as the gateway does it


class Watched:
    """A database that says how many items each of its write transactions put on statements."""

    def __init__(self, db: Database) -> None:
        self._db, self.written = db, list[int]()
        self.read = db.read

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with self._db.write() as conn:
            before = conn.scalar(select(func.count()).select_from(ITEMS))
            yield conn
            self.written.append(int(conn.scalar(select(func.count()).select_from(ITEMS)) or 0) - int(before or 0))


def prepared(services: Any) -> settle.Prepared:
    return settle.prepare(cast(Services, services), centre_id="c1", start=MONTH[0], end=MONTH[1], disputed={},
                          now=DRAWN_AT)  # fmt: skip


def test_no_writer_waits_for_more_than_one_part_and_none_while_it_is_added_up(
    db: Database, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(db)
    adding = drawing.add_up

    def while_others_write(conn: Connection, found: Chosen) -> drawing.Added:
        with db.write() as other:  # on SQLite, whoever held the lock here would wait for itself
            book(other, [500])
        return adding(conn, found)

    monkeypatch.setattr(drawing, "add_up", while_others_write)
    with db.read() as conn:
        parts = chosen(conn).parts
    prepared(SimpleNamespace(db=watched))
    assert len(watched.written) == len(parts) > 3
    assert 0 < max(watched.written) <= small


@pytest.mark.parametrize("what", ["dispute", "agreement"])
def test_a_dispute_or_an_agreement_that_comes_meanwhile_is_not_passed_over(
    db: Database, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = cast(Services, SimpleNamespace(db=db))
    made = prepared(services)
    if what == "dispute":
        monkeypatch.setattr(settle, "_live_disputes", lambda _conn, _agreement: ("d1",))
    else:
        monkeypatch.setattr(settle, "_agreement", lambda _conn, _centre, _end: None)
    with pytest.raises(Conflict, match="changed"), db.write() as conn:
        settle.draw(services, conn, made, now=DRAWN_AT)
    with db.read() as conn:
        assert settlements.every(conn) == []
        assert contracts.in_force(conn)
