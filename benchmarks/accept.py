"""Accepting jobs over HTTP while the worker hands them over to a real Slurm: 16 clients, both databases; needs root."""

from __future__ import annotations

import time
from pathlib import Path

from sqlalchemy import func, select

from benchmarks import stage
from benchmarks.stage import Row
from gateway.db import Database
from gateway.jobs.lifecycle import Phase
from gateway.jobs.repository import JOBS
from tests.builders import make_gateway, slurm_site
from tests.lab.slurm import SlurmLab, wait_for

CLIENTS, SECONDS = 16, 15.0
JOB = {"script": "#!/bin/sh\ntrue\n", "attributes": {"duration": 60}, "placement": {"resource_ids": ["alpha"]}}


def run() -> None:
    """Rate and times of POST /jobs; afterwards the number of 202s is the number of jobs at the centre."""
    reason = stage.missing(scheduler=True, wrk=True)
    if reason is not None:
        print(f"skipped: {reason}")
        return
    with stage.centre(nice=10) as lab, stage.folder() as folder, stage.databases(folder) as databases:
        lab.run("scontrol", "update", "partitionname=normal", "state=down")  # jobs queue, none runs
        rows: list[Row] = []
        for name, url in databases:
            rows += _measure(name, url, folder / name, lab)
            lab.cancel_all()
    stage.report(rows)


def _measure(name: str, url: str, home: Path, lab: SlurmLab) -> list[Row]:
    gateway = make_gateway(home, url, slurm_site(lab), credit=10**9)
    gateway.services.close()
    floor = stage.commits_per_second(url)
    with stage.processes(home, url) as (address,):
        stage.wrk(f"{address}/nothing", secret="", clients=CLIENTS, seconds=1)
        nothing = stage.wrk(f"{address}/nothing", secret="", clients=CLIENTS, seconds=3)
        load = stage.wrk(f"{address}/api/v2/jobs", secret=gateway.secret, clients=CLIENTS, seconds=SECONDS, post=JOB)
        db = Database(url)
        during = load.count - _left(db)
        begun = time.monotonic()
        wait_for(lambda: _left(db) == 0, "everything to be handed over", 300, every=0.5)
        after = time.monotonic() - begun
        with db.read() as conn:
            accepted = conn.scalar(select(func.count()).select_from(JOBS))
        there = len(lab.run("squeue", "-h", "-o", "%i").split())
        db.dispose()
    # wrk counts no answer that was on its way when it stopped.
    assert there == accepted >= load.count, (there, accepted, load.count)
    beside = f"{load.rate / floor:.2f} × bare commits ({floor:.0f}/s), "
    beside += f"{load.rate / nothing.rate:.2f} × a route that does nothing ({nothing.rate:.0f}/s)"
    handed = f"{during / SECONDS:.0f}/s meanwhile, the last {after:.1f} s after the load"
    return [
        Row(f"POST /jobs, {name}, {CLIENTS} clients, while dispatching", load.short, beside, "≥ 300/s, p99 ≤ 150 ms"),
        Row("… jobs at the centre", f"{there} of {accepted} accepted", handed, "all"),
    ]


def _left(db: Database) -> int:
    waiting = JOBS.c.phase.in_([Phase.WAITING.value, Phase.SUBMITTING.value, Phase.LOOKUP.value])
    with db.read() as conn:
        return int(conn.scalar(select(func.count()).where(waiting)) or 0)
