"""What every table of the books is made of, and the triggers that keep history append-only (DESIGN law 11)."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import BigInteger, Connection, DateTime, Dialect, Integer, text
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeDecorator

from accounting.errors import BooksUnsafe


class UtcTime(TypeDecorator[datetime]):
    """Aware UTC in Python on every database."""

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
    """Accounting's own tables."""


metadata = Base.metadata
Id = BigInteger().with_variant(Integer, "sqlite")  # SQLite only numbers a column declared INTEGER


# In a table's `__table_args__`: its rows are never changed nor deleted.
HISTORY = {"info": {"append_only": True}}


def append_only_tables() -> tuple[str, ...]:
    """The names of all history tables that are declared, in order."""
    return tuple(sorted(table.name for table in metadata.tables.values() if table.info.get("append_only")))


def _closed(entry: str) -> str:
    """The closed period that an entry would be in."""
    return (
        f"SELECT 1 FROM period WHERE tenant = {entry}.tenant AND state = 'closed' "  # noqa: S608
        f"AND starts_at <= {entry}.effective_at AND {entry}.effective_at < ends_at"
    )


def append_only_triggers(dialect: str) -> list[str]:
    """DDL that refuses UPDATE and DELETE on history, and entries in a closed period; safe to run again.

    Written as the databases write it down, but for what makes it safe: `has_append_only_triggers` compares.
    """
    history = append_only_tables()
    if dialect == "sqlite":
        return [
            *(
                f"CREATE TRIGGER IF NOT EXISTS {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
                for table in history
                for verb in ("UPDATE", "DELETE")
            ),
            "CREATE TRIGGER IF NOT EXISTS journal_entry_in_open BEFORE INSERT ON journal_entry "
            f"WHEN EXISTS ({_closed('NEW')}) BEGIN SELECT RAISE(ABORT, 'the period is closed'); END",
        ]
    function = (
        "CREATE OR REPLACE FUNCTION penstock_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
    )
    triggers = [
        f"CREATE OR REPLACE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
        f"FOR EACH {'STATEMENT' if verb == 'TRUNCATE' else 'ROW'} EXECUTE FUNCTION penstock_append_only()"
        for table in history
        for verb in ("UPDATE", "DELETE", "TRUNCATE")
    ]
    in_open = (
        "CREATE OR REPLACE FUNCTION penstock_open_period() RETURNS trigger LANGUAGE plpgsql AS "  # noqa: S608
        f"$$ BEGIN IF EXISTS (SELECT 1 FROM added WHERE EXISTS ({_closed('added')})) "
        "THEN RAISE EXCEPTION 'the period is closed'; END IF; RETURN NULL; END $$"
    )
    # Once for all rows of a statement: a month's entries come by the thousand.
    guard = (
        "CREATE OR REPLACE TRIGGER journal_entry_in_open AFTER INSERT ON journal_entry "
        "REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION penstock_open_period()"
    )
    return [function, *triggers, in_open, guard]


def has_append_only_triggers(connection: Connection) -> bool:
    """Whether every one of them is there, enabled and word for word: nothing needs to be locked to define it again."""
    if connection.dialect.name == "sqlite":
        query = "SELECT sql FROM sqlite_master WHERE type = 'trigger'"
    else:
        query = (
            "SELECT pg_get_triggerdef(oid, true) FROM pg_trigger WHERE NOT tgisinternal AND tgenabled = 'O' "
            "UNION ALL SELECT 'CREATE FUNCTION ' || proname || '() RETURNS trigger LANGUAGE plpgsql AS $$' || prosrc "
            "|| '$$' FROM pg_proc WHERE pronamespace = current_schema()::regnamespace"
        )
    wanted = {
        statement.replace(" IF NOT EXISTS", "").replace(" OR REPLACE", "")
        for statement in append_only_triggers(connection.dialect.name)
    }
    return wanted <= set(connection.scalars(text(query)))


def assert_append_only(connection: Connection) -> None:
    """Raise `BooksUnsafe` where a trigger is missing (a migration in batch mode drops them silently)."""
    if connection.dialect.name == "sqlite":
        query = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        verbs: tuple[str, ...] = ("update", "delete")
    else:
        query = "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgenabled <> 'D'"
        verbs = ("update", "delete", "truncate")
    found = set(connection.scalars(text(query)))
    wanted = {f"{table}_no_{verb}" for table in append_only_tables() for verb in verbs} | {"journal_entry_in_open"}
    if missing := sorted(wanted - found):
        raise BooksUnsafe(f"append-only triggers are missing: {', '.join(missing)}")
