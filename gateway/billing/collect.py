"""Tick: fetch the centre's own records, in a window that overlaps every time, and book what is new.

The centre's record governs: it replaces the gateway's provisional charge and posts only the difference.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog
from sqlalchemy import select, update

from accounting import store as books
from accounting.evidence.outbox import put_rows
from accounting.usage import Unreadable
from gateway.billing.names import Names
from gateway.billing.preparers import Preparers
from gateway.jobs import repository
from gateway.jobs.provisional import POLICY
from gateway.jobs.repository import SITES
from gateway.services import Lease, Services
from site_adapters.errors import SiteError, Unsupported
from site_adapters.types import UsageBatch

log = structlog.get_logger()

# Records arrive late (a slurmdbd that was down delivers hours later): every look goes back this far behind the last.
OVERLAP = timedelta(hours=6)
# Once a day, and after a start, the look goes back over the whole window (accounting.md, trap 19).
LONG_LOOK_EVERY = timedelta(days=1)
LONG_LOOK = timedelta(days=35)
# How much is asked for at once, so that a look of weeks at a big centre fits in memory.
_SHORTEST, _FIRST_SPAN, _LONGEST, _ROWS = timedelta(hours=1), timedelta(days=1), timedelta(days=3), 20_000
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
    with Preparers(services, lease.site_id, now) as preparers:
        while start < now:
            end = min(start + span, now)
            try:
                batch = adapter.billing.usage(start, end, accounts)
            except Unsupported:
                return CollectReport()
            except SiteError as exc:
                log.warning("usage_not_read", site=lease.site_id, error=str(exc))
                return replace(report, good=False)
            report += _book(services, lease, batch, preparers, now)
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


def _book(services: Services, lease: Lease, batch: UsageBatch, preparers: Preparers, now: datetime) -> CollectReport:
    """Prepare and book the rows of a look, a chunk in a transaction.

    While one chunk is written, the next one is prepared: a database that works (in C, or in a process of its own)
    leaves the interpreter to us.
    """
    unreadable = [Unreadable(lease.site_id, "framing", p.line, p.why) for p in batch.problems]
    ours = recorded = 0
    with _no_search_for_cycles(), ThreadPoolExecutor(1, thread_name_prefix="book") as writer:
        writing: Future[int] | None = None
        for prepared in preparers.prepared(batch.usages):
            unreadable += prepared.unreadable
            ours += len(prepared.sealed)
            recorded += writing.result() if writing is not None else 0
            writing = writer.submit(_record, services, lease, prepared.sealed, now) if prepared.sealed else None
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
            put_rows(conn, lease.site_id, [item.content_sha256 for item in sealed], [])
        return recorded


def _since(services: Services, site_id: str, now: datetime) -> datetime:
    with services.db.read() as conn:
        until = conn.scalar(select(SITES.c.collected_until).where(SITES.c.id == site_id))
    if until is None or until.date() != now.date():
        return now - LONG_LOOK
    last: datetime = min(until, now)
    return last - OVERLAP
