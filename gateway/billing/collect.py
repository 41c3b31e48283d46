"""Tick: fetch the centre's own records, in a window that overlaps every time, and book what is new.

The centre's record governs: it replaces the gateway's provisional charge and posts only the difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog
from sqlalchemy import select, update

from accounting import store as books
from accounting.evidence.outbox import put_rows
from accounting.usage import Unreadable
from gateway.billing.bookers import Bookers
from gateway.billing.cycles import no_search_for_cycles
from gateway.billing.names import Names
from gateway.billing.preparers import Preparers
from gateway.jobs import repository
from gateway.jobs.repository import SITES
from gateway.jobs.returned import settle_recorded
from gateway.services import Lease, Services
from site_adapters.errors import SiteError, Unsupported
from site_adapters.interfaces import Billing
from site_adapters.types import SiteAccount, UsageBatch

log = structlog.get_logger()

# Records arrive late (a slurmdbd that was down delivers hours later): every look goes back this far behind the last.
OVERLAP = timedelta(hours=6)
# Once a day, and after a start, the look goes back over the whole window (accounting.md, trap 19).
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
    with Preparers(services, lease.site_id, now) as preparers, Bookers(services, lease, now) as bookers:
        try:
            for batch in _looks(adapter.billing, accounts, _since(services, lease.site_id, now), now):
                report += _book(services, lease, batch, preparers, bookers, now)
        except Unsupported:
            return CollectReport()
        except SiteError as exc:
            log.warning("usage_not_read", site=lease.site_id, error=str(exc))
            report = replace(report, good=False)
        bookers.finish()
        report = replace(report, recorded=bookers.recorded)
    if report.recorded >= _MANY:
        with services.db.write() as conn:
            books.refresh_statistics(conn)
    if report.recorded:
        settle_recorded(services, lease, now)
    if not report.good:
        return report
    with services.db.write() as conn:
        repository.assert_served_by(conn, lease)
        conn.execute(update(SITES).where(SITES.c.id == lease.site_id).values(collected_until=now))
    if report.quarantined:
        log.warning("usage_quarantined", site=lease.site_id, rows=report.quarantined)
    return report


def _looks(billing: Billing, accounts: tuple[SiteAccount, ...], start: datetime, now: datetime) -> Iterator[UsageBatch]:
    """What the meter says from `start` until now, in spans; the next one is asked for while one is booked."""
    with ThreadPoolExecutor(1, thread_name_prefix="usage") as asking:
        span, end = _FIRST_SPAN, min(start + _FIRST_SPAN, now)
        asked = asking.submit(billing.usage, start, end, accounts)
        while end < now:
            batch = asked.result()
            span = _next_span(span, len(batch.usages))
            start, end = end, min(end + span, now)
            asked = asking.submit(billing.usage, start, end, accounts)
            yield batch
        yield asked.result()


def _next_span(span: timedelta, rows: int) -> timedelta:
    """How much to ask for next: so much that about `_ROWS` come, whether the centre runs ten jobs a day or 100,000."""
    wanted = span * min(2.0, _ROWS / max(1, rows))
    return min(max(_SHORTEST, wanted), _LONGEST)  # after quiet days a busy one may come


def _book(
    services: Services, lease: Lease, batch: UsageBatch, preparers: Preparers, bookers: Bookers, now: datetime
) -> CollectReport:
    """Prepare and book the rows of a look; what is still being booked is counted at the end of all looks."""
    unreadable = [Unreadable(lease.site_id, "framing", p.line, p.why) for p in batch.problems]
    ours = 0
    with no_search_for_cycles():
        for prepared in preparers.prepared(batch.usages):
            unreadable += prepared.unreadable
            ours += len(prepared.sealed)
            bookers.book(prepared.sealed)
    quarantined = 0
    if unreadable:
        with services.db.write() as conn:
            repository.assert_served_by(conn, lease)
            names = Names(services, conn, lease.site_id, make=now)
            quarantined = books.quarantine(conn, unreadable, kept=names.unreadable, now=now)
            if quarantined:
                put_rows(conn, lease.site_id, [], [row.content_sha256 for row in unreadable])
    return CollectReport(len(batch.usages) + len(batch.problems), ours, 0, quarantined)


def _since(services: Services, site_id: str, now: datetime) -> datetime:
    with services.db.read() as conn:
        until = conn.scalar(select(SITES.c.collected_until).where(SITES.c.id == site_id))
    if until is None or until.date() != now.date():
        return now - LONG_LOOK
    last: datetime = min(until, now)
    return last - OVERLAP
