"""What the exports are made from: charged runs, and the journal between two moments. Reads only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select

from accounting.exports.general_ledger import LedgerLine
from accounting.exports.ogf_ur import ChargedRun
from accounting.invoicing.invoice import Document, from_snapshot
from accounting.store.schema import ACCOUNTS, CHARGES, ENTRIES, POSTINGS, REVERSALS, USAGE
from accounting.store.settled import DOCUMENTS


def documents(conn: Connection, start: datetime, end: datetime, *, project_id: str | None = None) -> list[Document]:
    """Invoices and credit notes issued in [start, end), by number."""
    query = select(DOCUMENTS.c.snapshot).where(DOCUMENTS.c.issued_at >= start, DOCUMENTS.c.issued_at < end)
    if project_id is not None:
        query = query.where(DOCUMENTS.c.project_id == project_id)
    return [from_snapshot(text) for text in conn.scalars(query.order_by(DOCUMENTS.c.number))]


def charged_runs(
    conn: Connection, start: datetime, end: datetime, *, people: Mapping[str, str], projects: Mapping[str, str],
    project_id: str | None = None, whole: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
) -> list[ChargedRun]:  # fmt: skip
    """Runs that ended in [start, end) with what they cost as the books stand now; ids are shown by their names.

    `whole` opens a sealed raw record as far as the reader may know it.
    """
    query = (
        select(USAGE, CHARGES.c.amount_micro, CHARGES.c.currency, CHARGES.c.rule, CHARGES.c.job_id.label("job"),
               CHARGES.c.project_id.label("project"), CHARGES.c.core_seconds.label("billed_core_seconds"))
        .join(CHARGES, CHARGES.c.usage_record_id == USAGE.c.id)
        .outerjoin(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id)
        .where(REVERSALS.c.charge_id.is_(None), USAGE.c.end_time >= start, USAGE.c.end_time < end)
        .order_by(USAGE.c.id)
    )  # fmt: skip
    if project_id is not None:
        query = query.where(CHARGES.c.project_id == project_id)
    return [
        ChargedRun(
            run_key=r.run_key, site_id=r.site_id, native_id=r.native_id, job_id=r.job,
            job_name=str(raw.get("JobName", "")), username=str(raw.get("User", raw.get("username", r.username))),
            user=people.get(r.user_id, r.user_id or ""),
            project=projects.get(r.project, r.project), queue=r.queue, state=r.state, cores=r.cores, nodes=r.nodes,
            elapsed_s=r.elapsed_s, start=r.start_time, end=r.end_time, core_seconds=r.core_seconds,
            node_seconds=r.node_seconds, gpu_seconds=r.gpu_seconds, memory_mib_seconds=r.memory_mib_seconds,
            currency=r.currency, charge_micro=r.amount_micro, rule=r.rule, billed_core_seconds=r.billed_core_seconds,
            kind=r.kind, suspended_s=r.suspended_s, exclusive=r.exclusive, requested_cores=r.requested_cores,
            cpus=r.cpus, threads_per_core=r.threads_per_core, estimated=r.estimated, qos=r.qos, units=r.units or {},
        )
        for r in conn.execute(query)
        for raw in (whole(r.raw),)
    ]  # fmt: skip


def journal(conn: Connection, start: datetime, end: datetime) -> list[LedgerLine]:
    """Postings that took effect in [start, end), entry by entry."""
    query = (
        select(ENTRIES.c.id, ENTRIES.c.effective_at, ENTRIES.c.kind, ENTRIES.c.idem_key, ENTRIES.c.memo,
               ACCOUNTS.c.code, ACCOUNTS.c.commodity, POSTINGS.c.amount)
        .join(POSTINGS, POSTINGS.c.entry_id == ENTRIES.c.id)
        .join(ACCOUNTS, ACCOUNTS.c.id == POSTINGS.c.account_id)
        .where(ENTRIES.c.effective_at >= start, ENTRIES.c.effective_at < end)
        .order_by(ENTRIES.c.effective_at, ENTRIES.c.id, POSTINGS.c.line)
    )  # fmt: skip
    return [LedgerLine(r.id, r.effective_at, r.kind, r.idem_key, r.memo, r.code, r.commodity, r.amount)
            for r in conn.execute(query)]  # fmt: skip


def opening_balances(conn: Connection, before: datetime) -> dict[tuple[str, str], int]:
    """What each account held from entries that took effect before a moment."""
    query = (
        select(ACCOUNTS.c.code, ACCOUNTS.c.commodity, func.sum(POSTINGS.c.amount))
        .join(ACCOUNTS, ACCOUNTS.c.id == POSTINGS.c.account_id)
        .join(ENTRIES, ENTRIES.c.id == POSTINGS.c.entry_id).where(ENTRIES.c.effective_at < before)
        .group_by(ACCOUNTS.c.code, ACCOUNTS.c.commodity)
    )  # fmt: skip
    return {(account, commodity): int(amount) for account, commodity, amount in conn.execute(query)}
