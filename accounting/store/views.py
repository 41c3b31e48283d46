"""Two connections that see the same state of the database, for a look that is worth both processors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from sqlalchemy import Connection, Table, func, select, text

# PostgreSQL hashes a whole side of a join, where it may use the memory for it.
_MEMORY = "work_mem = '256MB'"


@contextmanager
def memory_for_hashes(conn: Connection) -> Iterator[None]:
    """Let a large look use more memory while it lasts."""
    if conn.dialect.name != "postgresql":
        yield
        return
    conn.execute(text(f"SET {_MEMORY}"))
    try:
        yield
    finally:
        conn.execute(text("RESET work_mem"))  # a pooled connection outlives its user


@contextmanager
def two_views(conn: Connection, growing: Sequence[Table]) -> Iterator[tuple[Connection, Connection] | None]:
    """Two connections for reading what `conn`, a reader, sees; None where that cannot be had: one has to do it alone.

    PostgreSQL lends one transaction's snapshot to another. SQLite cannot: there both see the same if nothing was added
    between the beginnings of both; `growing` are the tables, with ascending ids, whose growth would matter.
    """
    look = _lent if conn.dialect.name == "postgresql" else _alike
    with ExitStack() as opened:
        yield look(conn, growing, opened)


def _lent(conn: Connection, _growing: Sequence[Table], opened: ExitStack) -> tuple[Connection, Connection] | None:
    if conn.scalar(text("SELECT pg_current_xact_id_if_assigned()")) is not None:
        return None  # what it has written itself, no other connection sees
    first, second = (
        opened.enter_context(conn.engine.connect()).execution_options(isolation_level="REPEATABLE READ")
        for _ in range(2)
    )
    snapshot = first.scalar(text("SELECT pg_export_snapshot()"))
    second.exec_driver_sql(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
    for each in (first, second):
        each.execute(text(f"SET LOCAL {_MEMORY}"))
    return first, second


def _alike(conn: Connection, growing: Sequence[Table], opened: ExitStack) -> tuple[Connection, Connection] | None:
    other = opened.enter_context(conn.engine.connect())
    same = _ends(conn, growing) == _ends(other, growing)
    return (conn, other) if same else None


def _ends(conn: Connection, growing: Sequence[Table]) -> list[int | None]:
    return [conn.scalar(select(func.max(table.c.id))) for table in growing]
