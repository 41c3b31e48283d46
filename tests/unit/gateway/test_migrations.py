"""A database of an older version brings its rows along."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from sqlalchemy import text

from gateway.db import Database
from gateway.migrations import schema


def test_confirmations_of_single_runs_become_parts_of_many(other_url: str, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir(exist_ok=True)
    db = Database(other_url)
    with db.write() as conn:
        command.upgrade(schema.config(conn), "0011")
        conn.execute(
            text("INSERT INTO record_confirmation (usage_record_id, statement_id, line_no, reconciliation_id) "
                 "VALUES (:reading, :statement, :line, :run)"),
            [{"reading": n, "statement": 1 + (n > 700), "line": 5000 - n, "run": 9} for n in range(1, 702)],
        )  # fmt: skip
    schema.upgrade(db)
    with db.read() as conn:
        parts = conn.execute(text("SELECT * FROM confirmed_part ORDER BY statement_id, first_reading")).mappings().all()
        sizes = [(p["statement_id"], p["first_reading"], p["last_reading"], p["reconciliation_id"]) for p in parts]
        assert sizes == [(1, 1, 500, 9), (1, 501, 700, 9), (2, 701, 701, 9)]
        assert "[701,4299]" in str(parts[2]["runs"]).replace(" ", "")
    db.dispose()
