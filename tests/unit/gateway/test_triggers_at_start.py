"""A process that starts finds the guards of the books in place, or puts them there; it holds up nobody who books."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DatabaseError

from accounting import store as books
from accounting.ledger import Entry, Posting
from accounting.tables import has_append_only_triggers
from gateway.db import Database
from gateway.migrations import schema
from tests.unit.accounting.makers import NOW


@pytest.fixture
def db(db_url: str) -> Iterator[Database]:
    database = Database(db_url)
    yield database
    database.dispose()


def grant(key: str) -> Entry:
    return Entry(key, "grant", NOW, (Posting("a", "CNY", 1), Posting("b", "CNY", -1)))


def is_guarded(db: Database) -> bool:
    with db.read() as conn:
        return has_append_only_triggers(conn)


def test_a_new_database_is_guarded_word_for_word(db: Database) -> None:
    assert is_guarded(db)


@pytest.mark.parametrize("db_url", ["postgresql"], indirect=True)  # SQLite has one writer: there one waits
def test_whoever_starts_waits_for_nobody_who_books(db: Database) -> None:
    starting = Database(db.url)
    event.listen(starting.engine, "connect", lambda connection, _: connection.execute("SET lock_timeout = '2s'"))
    with db.write() as conn:
        books.book(conn, [grant("once")], now=NOW)
        conn.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        schema.upgrade(starting)
    starting.dispose()


@pytest.mark.parametrize(
    "harm",
    [
        "DROP TRIGGER journal_entry_no_delete ON journal_entry",
        "ALTER TABLE journal_entry DISABLE TRIGGER journal_entry_no_delete",
        "CREATE OR REPLACE FUNCTION penstock_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RETURN OLD; END $$",
        "CREATE OR REPLACE TRIGGER journal_entry_no_delete BEFORE DELETE ON journal_entry FOR EACH ROW "
        "WHEN (old.tenant = 'nobody') EXECUTE FUNCTION penstock_append_only()",
    ],
)
def test_a_guard_that_was_harmed_is_put_back_at_the_start(db: Database, harm: str) -> None:
    if db.is_sqlite:
        harm = "DROP TRIGGER journal_entry_no_delete"
    with db.write() as conn:
        books.book(conn, [grant("once")], now=NOW)
        conn.execute(text(harm))
    assert not is_guarded(db)

    schema.upgrade(db)

    assert is_guarded(db)
    with pytest.raises(DatabaseError, match="append-only"), db.write() as conn:
        conn.execute(text("DELETE FROM journal_entry"))
