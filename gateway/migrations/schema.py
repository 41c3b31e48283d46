"""Bring a database to the newest schema, with the triggers that keep history append-only."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from accounting.tables import append_only_triggers, assert_append_only
from gateway.db import Database

_UPGRADE_LOCK = 0x50535401 << 32  # beside the numbers of the sites' locks (distributed.lock_number)


def config(connection: Connection | None) -> Config:
    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).parent))
    settings.attributes["connection"] = connection
    return settings


def upgrade(db: Database) -> None:
    """Run what is missing, then (re)create the triggers: batch migrations on SQLite drop them silently."""
    with db.write() as conn:
        if not db.is_sqlite:  # processes that start at the same moment take turns: PostgreSQL refuses to define twice
            conn.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _UPGRADE_LOCK})
        command.upgrade(config(conn), "head")
        for statement in append_only_triggers(conn.dialect.name):
            conn.execute(text(statement))
        assert_append_only(conn)


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
