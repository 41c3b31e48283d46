"""A child that runs the ticks until it dies: at a named point where it kills itself, or whenever it is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from gateway import leases
from gateway.bootstrap import compose
from gateway.db import Database
from gateway.services import Services
from gateway.settings import Settings
from gateway.ticks import TICKS, run_tick
from site_adapters.interfaces import SiteAdapter

TICKED = ("dispatch", "watch", "collect")
# Each is `<tick>: <moment>`; around every commit and every call of a site.
POINTS = tuple(
    f"{tick}: {moment} {what}"
    for tick, calls in {
        "dispatch": ("commit", "submit", "find", "take_fences", "cancel"),
        "watch": ("commit", "observe"),
        "collect": ("commit", "usage"),
    }.items()
    for what in calls
    for moment in ("before", "after")
)


class Death:
    """Sends this process a signal (9) when `point` is passed for the nth time; says so first."""

    def __init__(self, point: str, nth: int, report_to: int, number: signal.Signals = signal.SIGKILL) -> None:
        self._point, self._left, self._report_to, self._signal = point, nth, report_to, number
        self._mine = threading.local()

    def expect(self, point: str, nth: int) -> None:
        """Die there from now on: what comes before (the start) has commits of its own."""
        self._point, self._left = point, nth

    @property
    def tick(self) -> str:
        """The tick of this thread; empty outside of ticks, as where a lease is taken."""
        return str(getattr(self._mine, "tick", ""))

    @tick.setter
    def tick(self, name: str) -> None:
        self._mine.tick = name

    def at(self, moment: str) -> None:
        # Only dispatch speaks to the site in threads of its own.
        tick = self.tick or ("" if moment.endswith("commit") else "dispatch")
        if f"{tick}: {moment}" != self._point:
            return
        self._left -= 1
        if self._left == 0:
            os.write(self._report_to, b"!")
            signal.pthread_kill(threading.get_ident(), self._signal)  # to this thread: it goes no step further


class DeadlyDatabase(Database):
    """A database around whose commits one may die."""

    def __init__(self, url: str, death: Death) -> None:
        super().__init__(url)
        self.death = death

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with super().write() as conn:
            yield conn
            self.death.at("before commit")
        self.death.at("after commit")


class _Deadly:
    """An interface of a site around whose calls one may die."""

    def __init__(self, real: Any, death: Death) -> None:
        self._real, self._death = real, death

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._real, name)

        def call(*args: Any, **options: Any) -> Any:
            self._death.at(f"before {name}")
            answer = method(*args, **options)
            self._death.at(f"after {name}")
            return answer

        return call


def live(order: dict[str, Any], report_to: int) -> None:
    """Take every site and run its ticks, for ever."""
    death = Death(order["point"], order["nth"], report_to)
    settings = Settings(**order["settings"])
    services = compose(settings, db=DeadlyDatabase(settings.effective_database_url, death))
    services = replace(services, sites={name: deadly(site, death) for name, site in services.sites.items()})
    _ticks(services, death)


def _ticks(services: Services, death: Death) -> None:
    taken = [leases.take(services.db, site_id, f"crash:{os.getpid()}") for site_id in services.sites]
    while True:
        for lease in taken:
            for tick in TICKS:
                if tick.name in TICKED:
                    death.tick = tick.name
                    run_tick(services, lease, tick)
        time.sleep(0.02)


def deadly(site: SiteAdapter, death: Death) -> SiteAdapter:
    management, billing = _Deadly(site.management, death), _Deadly(site.billing, death)
    made: Any = {"management": management, "billing": billing}
    return replace(site, **made)
