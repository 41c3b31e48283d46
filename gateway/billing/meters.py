"""Tick: compare the gateway's meter with the centre's, day by day, and raise what a person should look at."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

import structlog
from sqlalchemy import Connection, select

from accounting import meters_watch
from accounting.meters_watch import LATE, Alarm, DayTotals
from accounting.store import alarms
from gateway.billing.collect import LONG_LOOK
from gateway.jobs import repository
from gateway.jobs.repository import SITES
from gateway.services import Lease, Services

log = structlog.get_logger()

# Two clocks may be a little apart, and a scheduler tells the end of a job some seconds after it.
_CLOCKS_S = 10


def watch_meters(services: Services, lease: Lease, now: datetime) -> list[Alarm]:
    """The alarms that are new. A site that was closed for a reason of its own is still watched: its bill goes on."""
    with services.db.read() as conn:
        days = day_totals(services, conn, lease.site_id, now)
        last = conn.scalar(select(SITES.c.collected_until).where(SITES.c.id == lease.site_id))
    found = meters_watch.alarms(days, last_read=last, now=now)
    with services.db.write() as conn:
        repository.assert_served_by(conn, lease)
        raised = alarms.keep(conn, lease.site_id, found, now=now)
    for alarm in raised:
        log.warning("meter_alarm", site=lease.site_id, kind=alarm.kind.value, day=alarm.day, why=alarm.text)
    return raised


def day_totals(services: Services, conn: Connection, site_id: str, now: datetime) -> list[DayTotals]:
    """The control totals of the days that the collect tick still looks back to, up to what may still come."""
    jobs = alarms.seen_jobs(conn, site_id, now - LONG_LOOK + timedelta(days=1), now - LATE)
    return meters_watch.totals(jobs, slack_s=math.ceil(2 * services.settings.watch_s) + _CLOCKS_S)
