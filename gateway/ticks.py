"""The ticks, and how often they run. No logic: whatever runs them is a thin shell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gateway.billing.collect import collect
from gateway.jobs.dispatch import dispatch
from gateway.jobs.facts import facts
from gateway.jobs.watch import watch
from gateway.services import Lease, Services
from gateway.settings import Settings


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
    Tick("facts", facts, lambda s: s.facts_s),
)
