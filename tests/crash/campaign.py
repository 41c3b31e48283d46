"""Feed a site with jobs while the process that serves it is killed again and again; then count what the jobs did."""

from __future__ import annotations

import random
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from accounting import store as books
from accounting.errors import CreditExhausted
from accounting.tables import HoldRow
from gateway.errors import GatewayError
from gateway.jobs import repository
from gateway.jobs.ids import tag_of
from gateway.jobs.repository import JOBS
from site_adapters.types import Array
from tests.builders import Gateway
from tests.crash.worker import POINTS
from tests.crash.zygote import Zygote
from tests.lab.slurm import wait_for

_HOLDS = HoldRow.__table__
FINAL = ("completed", "failed", "canceled")


@dataclass(slots=True)
class Job:
    """What was accepted, and what should come of it."""

    id: str
    tag: str
    state: str = "completed"
    tasks: int = 1
    wished: bool = False  # its end


@dataclass(slots=True)
class Campaign:
    """Kills of the process that serves `site`. `mark`: each run of a job leaves a line `<job's tag> <task>` in it."""

    gateway: Gateway
    site: str
    mark: Path
    zygote: Zygote
    chance: random.Random
    places_max: int
    jobs: list[Job] = field(default_factory=list)
    died_at: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    alive_s: float = 0.0

    def kill(self, times: int) -> None:
        """So many lives, each ended by signal 9: at every named point in turn, then half as many at any moment.

        Fences are taken of submissions that never left: one is made just before, else another life has cared for it.
        """
        lost = ("dispatch: before submit",)
        points = [p for point in POINTS for p in ((*lost, point) if "take_fences" in point else (point,))]
        cycle = [*points, *[""] * (len(POINTS) // 2)]
        for number in range(times):
            point = cycle[number % len(cycle)]
            self._feed()
            self._cancel(all_of_them="cancel" in point)
            nth = self.chance.choice((1, 1, 2, 3)) if "commit" in point else 1
            self._one(point, nth, 3.0 if point else self.chance.uniform(0.05, 1.0))
            self._limits_hold()

    def _one(self, point: str, nth: int, kill_after_s: float) -> None:
        settings = self.gateway.services.settings.model_dump(mode="json")
        order = {"settings": settings, "point": point, "nth": nth, "kill_after_s": kill_after_s}
        died = self.zygote.life(order)
        assert died["status"] == signal.SIGKILL, f"a worker ended by itself: {died}"
        self.died_at[point if died["at_point"] else "any moment"] += 1
        self.alive_s += died["alive_s"]

    def _feed(self) -> None:
        """A few jobs of each kind; where the credit does not reach, the gateway says so."""
        for _ in range(self.chance.randint(1, 2)):
            kind = self.chance.choice(("plain", "plain", "plain", "array", "fails", "canceled"))
            end = {"fails": "sleep 1.1; exit 3", "canceled": "sleep 300"}.get(kind, "sleep 1.1")
            script = f"#!/bin/sh\necho $PENSTOCK_JOB_TAG $PENSTOCK_ARRAY_TASK >>{self.mark}\n{end}\n"
            wanted: dict[str, Any] = {"array": Array("0-2")} if kind == "array" else {}
            try:
                job_id = self.gateway.submit(self.site, script, **wanted)
            except (CreditExhausted, GatewayError):
                self.refused += 1
                return
            tag = tag_of(self.gateway.services.gateway_id, job_id)
            state = {"fails": "failed", "canceled": "canceled"}.get(kind, "completed")
            self.jobs.append(Job(job_id, tag, state, 3 if kind == "array" else 1))

    def _cancel(self, *, all_of_them: bool) -> None:
        """Wish the end of those that would run for minutes, once the site knows them or at any time before."""
        for job in self.jobs:
            if job.state == "canceled" and not job.wished and (all_of_them or self.chance.random() < 0.2):
                job.wished = True
                self.gateway.wish(job.id, "cancel")

    def _limits_hold(self) -> None:
        with self.gateway.services.db.read() as conn:
            places = sum(int(r.places) for r in repository.count_by_person(conn, self.site))
            exposed = books.exposure(conn, self.gateway.project_id)
        assert places <= self.places_max
        assert all(e.available is None or e.available >= 0 for e in exposed), exposed

    # ------------------------------------------------------------ afterwards

    def settle(self, seconds: float = 180.0) -> None:
        """Serve the site until every job is final and the centre's records govern."""
        self._cancel(all_of_them=True)

        def done() -> bool:
            self.gateway.tick("dispatch", "watch", "collect", site=self.site)
            return self._open() == 0

        wait_for(done, f"the end of {len(self.jobs)} jobs", seconds, every=0.2)
        wait_for(self._all_governed, "the centre's records", seconds, every=0.5)

    def _open(self) -> int:
        query = select(func.count()).where(JOBS.c.state.not_in(FINAL))
        with self.gateway.services.db.read() as conn:
            return int(conn.scalar(query) or 0)

    def _all_governed(self) -> bool:
        """Every run that left a line has a charge by the centre's record."""
        self.gateway.tick("collect", site=self.site)
        return all(job.wished or len(self._charges(job)) >= len(self._lines(job)) for job in self.jobs)

    def check(self) -> None:
        """Nothing lost, nothing doubled, by what the jobs did; the books are whole, and nothing is held any more."""
        wrong = [problem for job in self.jobs for problem in self._problems(job)]
        assert wrong == []
        with self.gateway.services.db.read() as conn:
            held = conn.scalar(select(func.count()).where(_HOLDS.c.state == "open"))
            tags = set(conn.scalars(select(JOBS.c.tag)))
        assert held == 0
        assert {line.split()[0] for line in self._all_lines()} <= tags
        self.gateway.check_books()

    def _problems(self, job: Job) -> list[str]:
        lines, state, charges = self._lines(job), self.gateway.state(job.id), self._charges(job)
        told = f"{job.id} ({state}, {len(lines)} runs, {len(charges)} charges): {self.gateway.events(job.id)}"
        if len(lines) != len(set(lines)):
            return [f"doubled: {told}"]
        if state != job.state:
            return [f"ended otherwise: {told}"]
        # Canceled within its first second it may have left a line and no whole second, or the reverse.
        most = max(len(lines), len(charges))
        right = most <= 1 if job.wished else len(lines) == len(charges) == job.tasks
        return [] if right else [f"lost, or charged other than what ran: {told}"]

    def _lines(self, job: Job) -> list[str]:
        return [line for line in self._all_lines() if line.split()[0] == job.tag]

    def _all_lines(self) -> list[str]:
        return self.mark.read_text().splitlines() if self.mark.exists() else []

    def _charges(self, job: Job) -> list[Any]:
        """What is charged of this job by the centre's own records: one for each run of a second or more."""
        with self.gateway.services.db.read() as conn:
            return [c for c in books.charges_of_job(conn, job.id) if c.meter == "centre" and c.core_seconds]
