"""Tick: fetch the centre's own records, in a window that overlaps every time, and book what is new.

The centre's record governs: it replaces the gateway's provisional charge and posts only the difference.
"""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Connection, select, update

from accounting import store as books
from accounting.evidence.outbox import put_rows
from accounting.sources import read_usage
from accounting.store.schema import among
from accounting.usage import Kind, Unreadable, UsageRecord
from gateway.billing.names import Names
from gateway.db import table_of
from gateway.identity import vault
from gateway.identity.tables import ProjectRow
from gateway.jobs import repository
from gateway.jobs.provisional import POLICY
from gateway.jobs.repository import ATTEMPTS, JOBS, SITES
from gateway.services import Lease, Services
from site_adapters.errors import SiteError, Unsupported
from site_adapters.types import SiteUsage, UsageBatch

log = structlog.get_logger()

# Records arrive late (a slurmdbd that was down delivers hours later): every look goes back this far behind the last.
OVERLAP = timedelta(hours=6)
# Once a day, and after a start, the look goes back over the whole window (accounting.md, trap 19).
LONG_LOOK_EVERY = timedelta(days=1)
LONG_LOOK = timedelta(days=35)
# How much is asked for at once, so that a look of weeks at a big centre fits in memory.
_SHORTEST, _FIRST_SPAN, _LONGEST, _ROWS = timedelta(hours=1), timedelta(days=1), timedelta(days=3), 20_000
_CHUNK = 1000
# After this many new records the planner's picture of the books is old.
_MANY = 10_000


@dataclass(frozen=True, slots=True)
class CollectReport:
    """What one look at the centre's meter brought."""

    rows: int = 0
    ours: int = 0
    recorded: int = 0
    quarantined: int = 0
    good: bool = True

    def __add__(self, other: CollectReport) -> CollectReport:
        return CollectReport(self.rows + other.rows, self.ours + other.ours, self.recorded + other.recorded,
                             self.quarantined + other.quarantined, self.good and other.good)  # fmt: skip


def collect(services: Services, lease: Lease, now: datetime) -> CollectReport:
    """Ask the centre's meter, keep and price what is new."""
    adapter = services.sites[lease.site_id]
    if adapter.closed_reason is not None:
        return CollectReport(good=False)
    with services.db.read() as conn:
        accounts = tuple(repository.all_site_accounts(conn, lease.site_id))
    if not accounts:
        return CollectReport()
    report = CollectReport()
    start = _since(services, lease.site_id, now)
    span = _FIRST_SPAN
    while start < now:
        end = min(start + span, now)
        try:
            batch = adapter.billing.usage(start, end, accounts)
        except Unsupported:
            return CollectReport()
        except SiteError as exc:
            log.warning("usage_not_read", site=lease.site_id, error=str(exc))
            return replace(report, good=False)
        report += _book(services, lease, batch, now)
        start, span = end, _next_span(span, len(batch.usages))
    if report.recorded >= _MANY:
        with services.db.write() as conn:
            books.refresh_statistics(conn)
    with services.db.write() as conn:
        repository.assert_served_by(conn, lease)
        conn.execute(update(SITES).where(SITES.c.id == lease.site_id).values(collected_until=now))
    if report.quarantined:
        log.warning("usage_quarantined", site=lease.site_id, rows=report.quarantined)
    return report


def _next_span(span: timedelta, rows: int) -> timedelta:
    """How much to ask for next: so much that about `_ROWS` come, whether the centre runs ten jobs a day or 100,000."""
    wanted = span * min(2.0, _ROWS / max(1, rows))
    return min(max(_SHORTEST, wanted), _LONGEST)  # after quiet days a busy one may come


def _book(services: Services, lease: Lease, batch: UsageBatch, now: datetime) -> CollectReport:
    """Read, assign, seal and book the rows of a look, `_CHUNK` in a transaction.

    While one chunk is written, the next one is read: a database that works (in C, or in a process of its own) leaves
    the interpreter to us.
    """
    unreadable = [Unreadable(lease.site_id, "framing", p.line, p.why) for p in batch.problems]
    ours = recorded = 0
    with _no_search_for_cycles(), ThreadPoolExecutor(1, thread_name_prefix="book") as writer:
        writing: Future[int] | None = None
        for start in range(0, len(batch.usages), _CHUNK):
            records, problems = _read(batch.usages[start : start + _CHUNK], lease.site_id)
            unreadable += problems
            sealed = _sealed(services, lease, records, now)
            ours += len(sealed)
            recorded += writing.result() if writing is not None else 0
            writing = writer.submit(_record, services, lease, sealed, now) if sealed else None
        recorded += writing.result() if writing is not None else 0
    quarantined = 0
    if unreadable:
        with services.db.write() as conn:
            repository.assert_served_by(conn, lease)
            names = Names(services, conn, lease.site_id, make=now)
            quarantined = books.quarantine(conn, unreadable, kept=names.unreadable, now=now)
            if quarantined:
                put_rows(conn, lease.site_id, [], [row.content_sha256 for row in unreadable])
    return CollectReport(len(batch.usages) + len(batch.problems), ours, recorded, quarantined)


@contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    """Thousands of records that live for a moment make Python search the whole heap for cycles; they have none."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _record(services: Services, lease: Lease, sealed: Sequence[books.Assigned], now: datetime) -> int:
    with services.db.write() as conn:
        repository.assert_served_by(conn, lease)
        recorded = books.record_and_book(conn, sealed, policy=POLICY, now=now).recorded
        if recorded:
            put_rows(conn, lease.site_id, [item.record.content_sha256 for item in sealed], [])
        return recorded


def _since(services: Services, site_id: str, now: datetime) -> datetime:
    with services.db.read() as conn:
        until = conn.scalar(select(SITES.c.collected_until).where(SITES.c.id == site_id))
    if until is None or until.date() != now.date():
        return now - LONG_LOOK
    last: datetime = min(until, now)
    return last - OVERLAP


def _read(usages: Sequence[SiteUsage], site_id: str) -> tuple[list[UsageRecord], list[Unreadable]]:
    records: list[UsageRecord] = []
    unreadable: list[Unreadable] = []
    for usage in usages:
        match read_usage(usage.format, usage.fields, site_id=site_id):
            case UsageRecord() as record:
                records.append(record)
            case Unreadable() as problem:
                unreadable.append(problem)
    return records, unreadable


def _assign(conn: Connection, gateway_id: str, site_id: str, records: Sequence[UsageRecord]) -> list[books.Assigned]:
    """Who pays for each record: by our tag in it, else by the native id of one of our attempts.

    A tag is public, anybody can name a job by it: it only counts in a record of that job's site and login.
    """
    tags = {r.tag.partition(".")[0] for r in records if r.tag.startswith(f"p{gateway_id}")}
    by_tag = _jobs_by_tag(conn, site_id, tags)
    untagged = [r for r in records if not r.tag]
    by_id = _attempts_by_native_id(conn, site_id, {r.native_id for r in untagged})
    assigned = []
    for record in records:
        job = by_tag.get(record.tag.partition(".")[0]) if record.tag else _same_job(record, by_id)
        if job is None or job.username != record.username:
            continue
        known = _as_we_know(conn, job.id, record) if record.kind is Kind.FENCED_COPY else record
        if known is not None:
            item = books.Assigned(known, job.id, job.project_id, job.user_id, job.currency, job.grade or "")
            assigned.append(item)
    return assigned


def _as_we_know(conn: Connection, job_id: str, record: UsageRecord) -> UsageRecord | None:
    """A record with the fence's exit code: the run that was accepted is no copy, whatever number it ended with.

    None while nobody can say which of the copies runs: the next look brings the record again.
    """
    attempt = record.tag.partition(".")[2]
    query = select(ATTEMPTS.c.outcome, ATTEMPTS.c.native_id).where(ATTEMPTS.c.job_id == job_id)
    row = conn.execute(query.where(ATTEMPTS.c.attempt == int(attempt or 0))).one_or_none()
    if row is None or row.outcome == "fenced":
        return record
    if row.outcome != "accepted":
        return None
    return replace(record, kind=Kind.RUN) if row.native_id == record.native_id else record


def _sealed(services: Services, lease: Lease, records: Sequence[UsageRecord], now: datetime) -> list[books.Assigned]:
    """The readings that are ours as they are kept: what they say of a person under that person's key."""
    with services.db.read() as conn:
        assigned = _assign(conn, services.gateway_id, lease.site_id, records)
        persons = {a.user_id for a in assigned}
        keys = vault.known_keys(services, conn, persons)
    if persons - keys.keys():
        with services.db.write() as conn:
            keys = vault.keys_of(services, conn, persons, now)
    return [
        books.Assigned(vault.seal_record(a.record, person=a.user_id, key=keys[a.user_id]), a.job_id, a.project_id,
                       a.user_id, a.currency, a.grade)
        for a in assigned
    ]  # fmt: skip


def _same_job(record: UsageRecord, by_id: Mapping[str, Sequence[Any]]) -> Any | None:
    """A record without our tag is ours only if login and submit time fit too: job ids are used again."""
    for job in by_id.get(record.native_id, ()):
        if job.username != record.username or job.native_submit_time is None or record.submit_time is None:
            continue
        if abs(job.native_submit_time - record.submit_time) <= timedelta(seconds=2):
            return job
    return None


def _jobs_by_tag(conn: Connection, site_id: str, tags: Collection[str]) -> dict[str, Any]:
    project, account = table_of(ProjectRow), repository.ACCOUNTS
    query = (
        select(
            JOBS.c.id,
            JOBS.c.tag,
            JOBS.c.site_id,
            JOBS.c.project_id,
            JOBS.c.user_id,
            project.c.currency,
            account.c.username,
            repository.ORDERED_GRADE,
        )
        .join(project, project.c.id == JOBS.c.project_id)
        .join(account, account.c.id == JOBS.c.site_account_id)
        .where(among(conn, JOBS.c.tag, tags))
    )
    # The site is looked at here: told of it, SQLite walks all of the site's jobs in place of the tags'.
    return {row.tag: row for row in conn.execute(query) if row.site_id == site_id}


def _attempts_by_native_id(conn: Connection, site_id: str, native_ids: Iterable[str]) -> dict[str, list[Any]]:
    wanted = sorted(native_ids)
    if not wanted:
        return {}
    project, account = table_of(ProjectRow), repository.ACCOUNTS
    query = (
        select(JOBS.c.id, JOBS.c.project_id, JOBS.c.user_id, project.c.currency, account.c.username,
               ATTEMPTS.c.native_id, JOBS.c.native_submit_time, repository.ORDERED_GRADE)
        .join(JOBS, JOBS.c.id == ATTEMPTS.c.job_id)
        .join(project, project.c.id == JOBS.c.project_id)
        .join(account, account.c.id == JOBS.c.site_account_id)
        .where(ATTEMPTS.c.site_id == site_id, ATTEMPTS.c.native_id.in_(wanted))
    )  # fmt: skip
    found: dict[str, list[Any]] = {}
    for row in conn.execute(query):
        found.setdefault(row.native_id, []).append(row)
    return found
