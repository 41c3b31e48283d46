"""The ticks, how often they run, and one run of one tick. Whatever runs them is a thin shell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from gateway.billing.collect import collect
from gateway.billing.evidence import append
from gateway.billing.meters import watch_meters
from gateway.billing.openings import open_orders
from gateway.billing.upkeep import upkeep
from gateway.jobs.dispatch import dispatch
from gateway.jobs.facts import facts
from gateway.jobs.repository import StaleLease
from gateway.jobs.standby import accepting
from gateway.jobs.watch import watch
from gateway.notices.deliver import deliver
from gateway.services import Lease, Services
from gateway.settings import Settings

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Tick:
    """A plain function of (services, lease, now), run for each site every `every_s` seconds."""

    name: str
    run: Callable[[Services, Lease, datetime], Any]
    every_s: Callable[[Settings], float]


TICKS = (
    Tick("dispatch", dispatch, lambda s: s.dispatch_s),
    Tick("watch", watch, lambda s: s.watch_s),
    Tick("collect", collect, lambda s: s.collect_s),
    Tick("orders", open_orders, lambda s: s.orders_s),
    Tick("upkeep", upkeep, lambda s: s.facts_s),
    Tick("notices", deliver, lambda s: s.notices_s),
    Tick("meters", watch_meters, lambda s: s.meters_s),
    Tick("evidence", append, lambda s: s.evidence_s),
    Tick("facts", facts, lambda s: s.facts_s),
)


def run_tick(services: Services, lease: Lease, tick: Tick) -> Any:
    """One run of one tick; whatever it raises is told and ends this run only."""
    if not accepting(services.db):
        return None
    try:
        return tick.run(services, lease, services.clock())
    except StaleLease as exc:
        log.warning("lease_lost", site=lease.site_id, tick=tick.name, why=str(exc))
    except Exception:  # a tick that fails must not end the others; it is logged with its trace
        log.exception("tick_failed", site=lease.site_id, tick=tick.name)
    return None
