"""A centre that stops hurts only itself; 200 viewers of live events do not slow a plain look. Needs root."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from sqlalchemy import func, select

from benchmarks import stage
from benchmarks.stage import Load, Row
from benchmarks.viewers import viewing
from gateway.db import Database
from gateway.jobs.lifecycle import Phase
from gateway.jobs.repository import JOBS
from tests.builders import make_gateway, slurm_site
from tests.lab.slurm import SlurmLab, wait_for

VIEWERS, BATCH, ROUNDS = 200, 200, 2


def run() -> None:
    """Jobs per second handed to one centre while the other stands still; failed reads; milliseconds of a look."""
    reason = stage.missing(scheduler=True, wrk=True)
    if reason is not None:
        print(f"skipped: {reason}")
        return
    rows: list[Row] = []
    with (
        stage.centre("alpha", nice=10) as alpha,
        stage.centre("beta", 1000, nice=10) as beta,
        stage.folder() as folder,
        stage.databases(folder) as databases,
    ):
        for lab in (alpha, beta):
            lab.run("scontrol", "update", "partitionname=normal", "state=down")  # jobs queue, none runs
        for name, url in databases:
            gateway = make_gateway(folder / name, url, slurm_site(alpha), slurm_site(beta), credit=10**9)
            gateway.services.close()
            with stage.processes(folder / name, url) as (address,), _Probe(url, address, gateway.secret) as probe:
                rows += _viewers(name, probe)
                rows += _stopped(name, probe, alpha)
            for lab in (alpha, beta):
                lab.cancel_all()
    stage.report(rows)


class _Probe:
    """Somebody who submits to both centres, and looks."""

    def __init__(self, url: str, address: str, secret: str) -> None:
        self.address, self.secret = address, secret
        self._db = Database(url)
        headers = {"Authorization": f"Bearer {secret}"}
        self._http = httpx.Client(base_url=f"{address}/api/v2", headers=headers, timeout=60)

    def __enter__(self) -> _Probe:
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.close()
        self._db.dispose()

    def submit(self, site: str, count: int) -> list[str]:
        """Accept jobs, and wait until all of them are at the centre."""
        before = self._at(site)
        job = {"script": "#!/bin/sh\ntrue\n", "attributes": {"duration": 60}, "placement": {"resource_ids": [site]}}
        results = self._http.post("/jobs:bulk", json={"jobs": [job] * count}).json()["results"]
        wait_for(lambda: self._at(site) == before + count, f"{count} jobs to be at {site}", 120, every=0.02)
        return [str(result["id"]) for result in results]

    def rate(self, site: str) -> float:
        begun = time.monotonic()
        self.submit(site, BATCH)
        return BATCH / (time.monotonic() - begun)

    def look(self, job_id: str, *, clients: int, seconds: float = 4.0) -> Load:
        return stage.wrk(f"{self.address}/api/v2/jobs/{job_id}", secret=self.secret, clients=clients, seconds=seconds)

    def stale(self, job_id: str) -> bool:
        return self._http.get(f"/jobs/{job_id}").json()["status"]["stale_since"] is not None

    def _at(self, site: str) -> int:
        query = select(func.count()).where(JOBS.c.site_id == site, JOBS.c.phase == Phase.AT_SITE.value)
        with self._db.read() as conn:
            return int(conn.scalar(query) or 0)


# ---------------------------------------------------------------- one centre stands still


def _stopped(name: str, probe: _Probe, alpha: SlurmLab) -> list[Row]:
    there = probe.submit("alpha", 20)[0]
    probe.rate("beta")
    rows = []
    for what in ("sshd", "slurmdbd"):
        alone, beside, failed, asked = [], [], 0, 0
        for _ in range(ROUNDS):
            alone.append(probe.rate("beta"))
            with _frozen(alpha, what):
                if what == "sshd":
                    time.sleep(3.0)  # its ticks hang by now
                beside.append(probe.rate("beta"))
                load = probe.look(there, clients=8)
                failed, asked = failed + load.errors, asked + load.count
            alone.append(probe.rate("beta"))
        usual, then = sum(alone) / len(alone), sum(beside) / len(beside)
        spread = f"{min(alone):.0f} to {max(alone):.0f}/s"
        rows += [
            Row(f"dispatch to beta while alpha's {what} is stopped, {name}", f"{100 * (then / usual - 1):+.0f} %",
                f"{then:.0f}/s, without {usual:.0f}/s (runs of {spread})", "< 5 %"),
            Row("… reads of a job at alpha that failed", f"{failed} of {asked}", "", "0"),
        ]  # fmt: skip
    return rows


@contextmanager
def _frozen(lab: SlurmLab, daemon: str) -> Iterator[None]:
    """SIGSTOP to a daemon and to all that it has started."""
    pids = list(_family(lab.pid(daemon)))
    try:
        for pid in pids:
            _signal(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            _signal(pid, signal.SIGCONT)


def _family(pid: int) -> Iterator[int]:
    yield pid
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from _family(int(child))


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


# ---------------------------------------------------------------- viewers


def _viewers(name: str, probe: _Probe) -> list[Row]:
    jobs = probe.submit("alpha", 50)
    alone = probe.look(jobs[0], clients=1)
    with viewing(probe.address, probe.secret, [jobs[number % len(jobs)] for number in range(VIEWERS)]):
        among = probe.look(jobs[0], clients=1)
    beside = f"without viewers {alone.p95:.1f} ms"
    return [Row(f"a plain GET among {VIEWERS} SSE viewers, {name}", f"p95 {among.p95:.1f} ms", beside, "≤ 20 ms")]
