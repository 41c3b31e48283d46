"""The embedded worker: APScheduler runs the ticks of every site inside the process that serves HTTP."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime, timedelta

import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from gateway import leases
from gateway.services import Lease, Services
from gateway.ticks import TICKS, Tick, run_tick

log = structlog.get_logger()


class EmbeddedWorker:
    """Runs the ticks until stopped. `wake` asks for a dispatch now instead of at the next second."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._handing_over: set[str] = set()  # sites whose dispatch runs now
        self._again: set[str] = set()  # … and that were woken meanwhile
        threads = max(1, len(TICKS) * len(services.sites))  # ticks that hang at one site keep no thread from another
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(threads)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )

    def start(self) -> None:
        worker = f"{socket.gethostname()}:{os.getpid()}"
        first = datetime.now(UTC)
        for site_id, adapter in self._services.sites.items():
            if adapter.closed_reason is not None:
                log.warning("site_closed", site=site_id, reason=adapter.closed_reason)
                continue
            lease = leases.take(self._services.db, site_id, worker)
            for number, tick in enumerate(reversed(TICKS)):  # facts first: checks need them
                self._scheduler.add_job(
                    self._run, "interval", args=(lease, tick), id=f"{tick.name}:{site_id}",
                    seconds=tick.every_s(self._services.settings),
                    next_run_time=first + timedelta(milliseconds=50 * number),
                )  # fmt: skip
        self._scheduler.start()

    def _run(self, lease: Lease, tick: Tick) -> None:
        if tick.name != "dispatch":
            run_tick(self._services, lease, tick)
            return
        self._again.discard(lease.site_id)
        self._handing_over.add(lease.site_id)
        run_tick(self._services, lease, tick)
        self._handing_over.discard(lease.site_id)
        if lease.site_id in self._again:
            self.wake(lease.site_id)

    def wake(self, site_id: str) -> None:
        """Hand over soon. The scheduler would skip what still runs, and only then wait for the next second."""
        if site_id in self._handing_over:
            self._again.add(site_id)
            return
        job = self._scheduler.get_job(f"dispatch:{site_id}") if self._scheduler.running else None
        soon = datetime.now(UTC) + timedelta(milliseconds=20)
        if job is not None and job.next_run_time is not None and job.next_run_time > soon:
            job.modify(next_run_time=soon)

    def stop(self) -> None:
        """Let running ticks end, start no more."""
        self._scheduler.shutdown(wait=True)
