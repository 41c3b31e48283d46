"""Accepting jobs over HTTP while the worker hands them over to a real Slurm: 16 clients, both databases; needs root."""

from __future__ import annotations

import time
from pathlib import Path

from sqlalchemy import func, select

from benchmarks import stage
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
        for name, url in databases:
            _measure(name, url, folder / name, lab)
            lab.cancel_all()


def _measure(name: str, url: str, home: Path, lab: SlurmLab) -> None:
    gateway = make_gateway(home, url, slurm_site(lab), credit=10**9)
    gateway.services.close()
    floor = stage.commits_per_second(url)
    with stage.processes(home, url) as (address,):
        stage.wrk(f"{address}/healthz", secret="", clients=CLIENTS, seconds=1)
        nothing = stage.wrk(f"{address}/healthz", secret="", clients=CLIENTS, seconds=3)
        load = stage.wrk(f"{address}/api/v2/jobs", secret=gateway.secret, clients=CLIENTS, seconds=SECONDS, post=JOB)
        print(f"{name:10} POST /jobs   {load}", flush=True)
        print(f"{'':10} {load.rate / floor:.2f} × bare commits ({floor:.0f}/s), "
              f"{load.rate / nothing.rate:.2f} × GET /healthz ({nothing.rate:.0f}/s)")  # fmt: skip
        db = Database(url)
        begun = time.monotonic()
        wait_for(lambda: _left(db) == 0, "everything to be handed over", 300, every=0.5)
        with db.read() as conn:
            accepted = conn.scalar(select(func.count()).select_from(JOBS))
        there = len(lab.run("squeue", "-h", "-o", "%i").split())
        print(f"{'':10} accepted {accepted} (wrk counted {load.count}), at the centre {there}; the last was there "
              f"{time.monotonic() - begun:.1f} s after the load ended", flush=True)  # fmt: skip
        db.dispose()
        assert there == accepted >= load.count


def _left(db: Database) -> int:
    waiting = JOBS.c.phase.in_([Phase.WAITING.value, Phase.SUBMITTING.value, Phase.LOOKUP.value])
    with db.read() as conn:
        return int(conn.scalar(select(func.count()).where(waiting)) or 0)
