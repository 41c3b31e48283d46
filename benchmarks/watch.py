"""Watching: 10,000 live jobs at one real Slurm in one question; how late a change is told to those who follow it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import func, insert, select

from benchmarks import stage
from benchmarks.stage import Row
from benchmarks.viewers import viewing
from gateway import leases
from gateway.api.submitting import AT_ONCE, Posted, submit
from gateway.jobs.dispatch import dispatch
from gateway.jobs.lifecycle import Phase
from gateway.jobs.repository import ATTEMPTS, JOBS
from gateway.jobs.watch import watch
from site_adapters.slurm.commands import squeue
from tests.builders import Gateway, make_gateway, slurm_site
from tests.lab.slurm import SlurmLab, wait_for

LIVE, LOOKS, FOLLOWED = 3_000, 5, 20
JOB = {"script": "#!/bin/sh\ntrue\n", "attributes": {"duration": 60}}


def run() -> None:
    """Seconds of a tick, and from a change at the centre to its event."""
    reason = stage.missing(scheduler=True)
    if reason is not None:
        print(f"skipped: {reason}")
        return
    rows: list[Row] = []
    with stage.centre(nice=10) as lab:
        lab.run("scontrol", "update", "partitionname=normal", "state=down")  # jobs queue, none runs
        with stage.folder() as folder, stage.databases(folder) as databases:
            for name, url in databases:
                rows += _events(name, url, folder / name, lab)
                lab.cancel_all()
        with stage.folder() as folder, stage.databases(folder) as databases:
            rows += _ticks(databases, folder, lab)
    stage.report(rows)


# ---------------------------------------------------------------- 10,000 jobs


def _ticks(databases: list[tuple[str, str]], folder: Path, lab: SlurmLab) -> list[Row]:
    rest = {"backend": "rest", "rest": {"url": lab.rest_url, "jwt_key_file": str(lab.jwt_key_path)}}
    rows: list[Row] = []
    first: Gateway | None = None
    for name, url in databases:
        gateway = make_gateway(folder / name, url, slurm_site(lab, **rest), credit=10**9, dispatch_batch=500)
        if first is None:
            _fill(gateway)
            first = gateway
            copies = _rows(gateway)
        else:
            _copy(copies, gateway)
        rows += _looks(name, gateway, lab)
    return rows


def _fill(gateway: Gateway) -> None:
    """Accept and hand over, by the gateway's own means."""
    services, body = gateway.services, json.dumps(JOB).encode()
    for _ in range(LIVE // AT_ONCE):
        submit(services, [Posted(gateway.person, body, None)] * AT_ONCE)
    lease = leases.take(services.db, "alpha", "bench")
    begun = time.monotonic()
    while _count(gateway) < LIVE:
        dispatch(services, lease, services.clock())
    print(f"{LIVE:,} jobs were handed over in {time.monotonic() - begun:.0f} s", flush=True)


def _count(gateway: Gateway) -> int:
    query = select(func.count()).where(JOBS.c.phase == Phase.AT_SITE.value)
    with gateway.services.db.read() as conn:
        return int(conn.scalar(query) or 0)


def _rows(gateway: Gateway) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    with gateway.services.db.read() as conn:
        return [dict(r._mapping) for r in conn.execute(select(JOBS))], [
            dict(r._mapping) for r in conn.execute(select(ATTEMPTS))
        ]


def _copy(rows: tuple[list[dict[str, Any]], list[dict[str, Any]]], gateway: Gateway) -> None:
    """The same jobs in another gateway: as its own person's."""
    gateway_job = gateway.submit("alpha")
    with gateway.services.db.read() as conn:
        own = conn.execute(select(JOBS).where(JOBS.c.id == gateway_job)).one()
    mine = {"user_id": own.user_id, "project_id": own.project_id, "site_account_id": own.site_account_id}
    with gateway.services.db.write() as conn:
        conn.execute(insert(JOBS), [{**row, **mine} for row in rows[0]])
        conn.execute(insert(ATTEMPTS), rows[1])


def _looks(name: str, gateway: Gateway, lab: SlurmLab) -> list[Row]:
    services = gateway.services
    lease = leases.take(services.db, "alpha", "bench")
    program = squeue("squeue", user=None)
    env = [f"{key}={value}" for key, value in program.env]
    bare = min(_seconds(lambda: lab.run("env", *env, *program.argv)) for _ in range(3))
    took, reports = [], []
    for _ in range(1 + LOOKS):
        begun = time.monotonic()
        reports.append(watch(services, lease, services.clock()))
        took.append(time.monotonic() - begun)
    assert reports[0].jobs == LIVE and reports[0].changed == LIVE, reports[0]
    assert all(report.queries == 1 and report.good for report in reports), reports
    beside = f"{max(took[1:]) / bare:.1f} × squeue alone ({bare:.2f} s); {reports[-1].queries} question each"
    return [
        Row(f"a tick over {LIVE:,} live jobs, {name}", f"{max(took[1:]):.2f} s at most", beside, "≤ 2 s, 1 question"),
        Row("… the first, in which all have changed", f"{took[0]:.1f} s"),
    ]


def _seconds(work: Any) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


# ---------------------------------------------------------------- from the centre to the event


def _events(name: str, url: str, home: Path, lab: SlurmLab) -> list[Row]:
    gateway = make_gateway(home, url, slurm_site(lab), credit=10**9)
    tick_s = gateway.services.settings.watch_s
    gateway.services.close()
    with stage.processes(home, url) as (address,):
        http = httpx.Client(base_url=f"{address}/api/v2", headers={"Authorization": f"Bearer {gateway.secret}"})
        with http:
            made = [http.post("/jobs", json=JOB).json()["id"] for _ in range(FOLLOWED)]
            wait_for(lambda: all(_queued(http, job_id) for job_id in made), "the jobs to be queued", 60, every=0.5)
            native = {job_id: http.get(f"/jobs/{job_id}").json()["native_job_id"] for job_id in made}
            late = _lateness(address, gateway.secret, native, lab)
    p95 = stage.percentile(late, 0.95)
    beside = f"tick {tick_s:g} s, p50 {stage.percentile(late, 0.5):.2f} s, {len(late)} changes"
    return [Row(f"state changed at the centre → SSE event, {name}", f"p95 {p95:.2f} s", beside, "≤ tick + 0.5 s")]


def _queued(http: httpx.Client, job_id: str) -> bool:
    return bool(http.get(f"/jobs/{job_id}").json()["status"]["state"] == "queued")


def _lateness(address: str, secret: str, native: dict[str, str], lab: SlurmLab) -> list[float]:
    """Hold each job, then release it; seconds until its follower is told."""
    told: dict[tuple[str, str], float] = {}
    changed: dict[tuple[str, str], float] = {}

    def note(job_id: str, event: dict[str, Any]) -> None:
        if (job_id, "held") in changed:  # not what happened before
            told.setdefault((job_id, event["state"]), time.monotonic())

    with viewing(address, secret, list(native), told=note):
        for verb, state in (("hold", "held"), ("release", "queued")):
            for job_id, native_id in native.items():
                changed[job_id, state] = time.monotonic()
                lab.run("scontrol", verb, native_id)
                time.sleep(0.15)
            wait_for(lambda s=state: all((j, s) in told for j in native), f"{state} to be told", 30)  # type: ignore[misc]
    return [told[key] - at for key, at in changed.items()]
