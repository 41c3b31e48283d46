"""Bring a database to the newest schema, with the triggers that keep history append-only."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text

from accounting.tables import append_only_triggers, assert_append_only, has_append_only_triggers
from gateway.db import Database
from gateway.errors import GatewayError

_UPGRADE_LOCK = 0x50535401 << 32  # beside the numbers of the sites' locks (distributed.lock_number)


def config(connection: Connection | None) -> Config:
    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).parent))
    settings.attributes["connection"] = connection
    return settings


def upgrade(db: Database) -> None:
    """Run what is missing, then (re)create the triggers: batch migrations on SQLite drop them silently.

    Where they are as they should be, no table is locked: other processes of the gateway book while this one starts.
    Raises `GatewayError` for a database that another version wrote.
    """
    with db.write() as conn:
        if not db.is_sqlite:  # processes that start at the same moment take turns: PostgreSQL refuses to define twice
            conn.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _UPGRADE_LOCK})
        if not _is_newest(conn):
            command.upgrade(config(conn), "head")
        if not has_append_only_triggers(conn):
            for statement in append_only_triggers(conn.dialect.name):
                conn.execute(text(statement))
        assert_append_only(conn)


def _is_newest(conn: Connection) -> bool:
    at = MigrationContext.configure(conn).get_current_revision()
    try:
        _scripts().get_revisions(at or ())
    except CommandError as exc:
        raise GatewayError(
            f"the database is at schema {at}, which this version does not know: run the version that wrote it, or "
            "restore a backup that this one made"
        ) from exc
    return at == _scripts().get_current_head()


@cache
def _scripts() -> ScriptDirectory:
    """Loaded once: that takes twice as long as all else that a database at the newest schema needs."""
    return ScriptDirectory.from_config(config(None))


def check(db: Database) -> None:
    """Raise where the tables in code differ from what the migrations make."""
    with db.write() as conn:
        command.check(config(conn))


def revision(db: Database, message: str) -> None:
    """Write a migration for what the tables in code have more."""
    with db.write() as conn:
        command.revision(config(conn), message=message, autogenerate=True)


def head() -> str:
    """The newest revision in code."""
    return _scripts().get_current_head() or ""
