"""Take back a run that the centre's log told under two keys: a new reading says that it is the other one."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from accounting import store as books
from accounting.reconciling.breaks import Cause, Refused
from accounting.store import USAGE
from accounting.store.readings import record_of
from accounting.store.schema import CHARGES
from accounting.usage import Kind, UsageRecord
from gateway.identity import vault
from gateway.services import Services


def is_about(row: Any) -> bool:
    """Whether a break is of such a run."""
    return Cause.TWICE in row.causes and row.usage_record_id is not None


def reading(services: Services, conn: Connection, row: Any, now: datetime) -> books.Assigned | None:
    """The reading that takes it back; None where nobody of ours pays. Raises `Refused` where the run has changed."""
    old = conn.execute(select(USAGE).where(USAGE.c.id == row.usage_record_id)).one()
    if conn.scalar(select(USAGE.c.id).where(USAGE.c.supersedes == old.id)) is not None:
        raise Refused("the run was read again since: compare the statement anew")
    if old.job_id is None or old.project_id is None or old.user_id is None:
        return None
    currency = conn.scalar(select(CHARGES.c.currency).where(CHARGES.c.usage_record_id == old.id)) or row.currency
    kept = record_of(old)
    used = ("elapsed_s", "suspended_s", "core_seconds", "node_seconds", "gpu_seconds", "memory_mib_seconds")
    same = {name: getattr(kept, name) for name in kept.__struct_fields__} | dict.fromkeys(used, 0)
    # Nothing of the raw record: what it says is not what is booked. The reading before has it.
    raw = {"statement": str(row.statement_id), "statement_line": str(row.line_no or ""), "break": str(row.id)}
    record = UsageRecord(**same | {"kind": Kind.TOLD_AGAIN, "units": {}, "raw": raw})
    key = vault.keys_of(services, conn, [old.user_id], now)[old.user_id]
    sealed = vault.seal_raw(record.raw, person=old.user_id, key=key, ref=vault.ref_of(record))
    return books.Assigned(
        record, old.job_id, old.project_id, old.user_id, str(currency), old.ordered_grade or "",
        statement_id=row.statement_id,
    ).kept_as(sealed, old.username)  # fmt: skip
