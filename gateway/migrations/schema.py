"""Bring a database to the newest schema, with the triggers that keep history append-only."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text

from accounting.tables import append_only_triggers, assert_append_only
from gateway.db import Database
from gateway.errors import GatewayError


def config(connection: Connection | None) -> Config:
    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).parent))
    settings.attributes["connection"] = connection
    return settings


def upgrade(db: Database) -> None:
    """Run what is missing, then (re)create the triggers: batch migrations on SQLite drop them silently.

    Raises `GatewayError` for a database that another version wrote.
    """
    with db.write() as conn:
        _known(conn)
        command.upgrade(config(conn), "head")
        for statement in append_only_triggers(conn.dialect.name):
            conn.execute(text(statement))
        assert_append_only(conn)


def _known(conn: Connection) -> None:
    at = MigrationContext.configure(conn).get_current_revision()
    try:
        ScriptDirectory.from_config(config(None)).get_revisions(at or ())
    except CommandError as exc:
        raise GatewayError(
            f"the database is at schema {at}, which this version does not know: run the version that wrote it, or "
            "restore a backup that this one made"
        ) from exc


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
    found = ScriptDirectory.from_config(config(None)).get_current_head()
    return found or ""
