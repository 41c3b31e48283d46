"""Two workers and an API process on PostgreSQL: one worker dies or freezes, the other serves its site within 15 s."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select, text

from gateway import leases
from gateway.db import libpq_url
from gateway.distributed import SiteLock
from gateway.jobs import repository
from gateway.jobs.ids import tag_of
from gateway.jobs.repository import ATTEMPTS, JOBS, SITES
from tests.builders import Gateway, make_gateway, slurm_site
from tests.crash.failing_worker import SENDING
from tests.crash.worker import POINTS
from tests.lab.postgres import PostgresLab
from tests.lab.slurm import SlurmLab, wait_for

pytestmark = pytest.mark.live

SERVED_AGAIN_WITHIN = timedelta(seconds=15)


@dataclass(slots=True)
class Federation:
    """The processes of a gateway, and what they wrote."""

    gateway: Gateway
    mark: Path
    folder: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    jobs: list[str] = field(default_factory=list)
    port: int = 0

    def start(self, *argv: str) -> subprocess.Popen[bytes]:
        settings = self.gateway.services.settings
        env = {
            **os.environ, "PENSTOCK_HOME": str(settings.home), "PENSTOCK_DATABASE_URL": str(settings.database_url),
            "PENSTOCK_EMBEDDED_WORKER": "false", "PENSTOCK_PORT": str(self.port), "PENSTOCK_UNKNOWN_WAIT_S": "0.2",
        }  # fmt: skip
        with (self.folder / f"process-{len(self.running)}.log").open("wb") as log:
            process = subprocess.Popen([sys.executable, "-m", *argv], env=env, stdout=log, stderr=log)
        self.running.append(process)
        return process

    def serve(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start("gateway", "serve")
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", verify=False) as client:
            wait_for(lambda: self._answers(client), "the API", 120)

    @staticmethod
    def _answers(client: httpx.Client) -> bool:
        try:
            return client.get("/healthz").status_code == 200
        except httpx.TransportError:
            return False

    def post(self, count: int) -> None:
        """Jobs through the API; each run leaves its tag in a file."""
        script = f"#!/bin/sh\necho $PENSTOCK_JOB_TAG >>{self.mark}\n"
        body = {"name": "failover", "script": script, "attributes": {"duration": 600},
                "placement": {"resource_ids": ["alpha"]}}  # fmt: skip
        headers = {"Authorization": f"Bearer {self.gateway.secret}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=30) as client:
            for _ in range(count):
                answer = client.post("/api/v2/jobs", json=body)
                assert answer.status_code == 202, answer.text
                self.jobs.append(answer.json()["id"])

    def site(self) -> Any:
        with self.gateway.services.db.read() as conn:
            return conn.execute(select(SITES.c.worker, SITES.c.fencing).where(SITES.c.id == "alpha")).one()

    def now(self) -> datetime:
        with self.gateway.services.db.read() as conn:
            found: datetime = conn.execute(text("SELECT now()")).scalar_one()
            return found

    def serving(self) -> subprocess.Popen[bytes] | None:
        name = str(self.site().worker)
        return next((p for p in self.running if name.endswith(f":{p.pid}")), None)

    def until_served(self) -> subprocess.Popen[bytes]:
        wait_for(self.serving, "a worker to serve the site", 120)
        found = self.serving()
        assert found is not None
        return found

    def until_another_waits(self) -> None:
        """Until a second worker asks for the site's lock: a process takes its time to start on a busy machine."""
        asks = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND pid <> pg_backend_pid() AND query LIKE '%pg_terminate_backend%'")  # fmt: skip

        def waits() -> bool:
            with self.gateway.services.db.read() as conn:
                return bool(conn.execute(asks).scalar_one())

        wait_for(waits, "a second worker", 120)

    def served_again_after(self, at: datetime) -> timedelta:
        """How long after `at` the next hand-over was begun, by the database's rows."""
        query = select(ATTEMPTS.c.intent_at).where(ATTEMPTS.c.intent_at > at).order_by(ATTEMPTS.c.intent_at)

        def found() -> Any:
            with self.gateway.services.db.read() as conn:
                return conn.execute(query).first()

        wait_for(found, "the site to be served again", 60)
        first: datetime = found().intent_at
        return first - at

    def all_ran_once(self) -> None:
        wait_for(self._all_final, "the end of all jobs", 240, every=0.3)
        tags = sorted(tag_of(self.gateway.services.gateway_id, job_id) for job_id in self.jobs)
        assert sorted(self.mark.read_text().split()) == tags
        self.gateway.check_books()

    def _all_final(self) -> bool:
        with self.gateway.services.db.read() as conn:
            states = list(conn.scalars(select(JOBS.c.state)))
        return len(states) == len(self.jobs) and set(states) == {"completed"}

    def close(self) -> None:
        for process in self.running:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
        for log in sorted(self.folder.glob("process-*.log")):
            print(f"--- {log.name}", log.read_text()[-20_000:], sep="\n")  # seen where the test failed


@pytest.fixture
def federation(
    tmp_path: Path, postgres: PostgresLab, slurm_alpha: SlurmLab, _postgres_template: str
) -> Iterator[Federation]:
    url = postgres.fresh(_postgres_template)
    mark = slurm_alpha.root / "home" / "lab_alice" / f"failover-{os.urandom(4).hex()}"
    made = Federation(make_gateway(tmp_path, url, slurm_site(slurm_alpha)), mark, tmp_path)
    made.serve()
    yield made
    made.close()
    made.gateway.services.close()
    slurm_alpha.cancel_all()
    mark.unlink(missing_ok=True)
    postgres.drop(url)


def test_site_of_a_killed_worker_is_served_by_the_other(federation: Federation) -> None:
    for _ in range(2):
        federation.start("gateway", "worker")
    first = federation.until_served()
    federation.until_another_waits()
    federation.post(10)

    killed_at = federation.now()
    first.send_signal(signal.SIGKILL)
    federation.post(10)

    assert federation.served_again_after(killed_at) <= SERVED_AGAIN_WITHIN
    assert federation.serving() not in (None, first)
    federation.all_ran_once()


@pytest.mark.parametrize(
    "point", ["dispatch: before commit", "dispatch: after submit", "watch: before commit", SENDING]
)
def test_frozen_worker_is_replaced_and_writes_nothing_when_it_thaws(federation: Federation, point: str) -> None:
    assert point in (*POINTS, SENDING)
    frozen = federation.start("tests.crash.failing_worker", point)
    assert federation.until_served() is frozen
    federation.start("gateway", "worker")
    federation.until_another_waits()
    federation.post(10)
    wait_for(lambda: _is_stopped(frozen.pid), "the worker to freeze", 120)
    frozen_at = federation.now()
    federation.post(5)

    assert federation.served_again_after(frozen_at) <= SERVED_AGAIN_WITHIN
    fencing = federation.site().fencing
    frozen.send_signal(signal.SIGCONT)
    federation.post(5)

    federation.all_ran_once()
    assert federation.site().fencing == fencing  # the thawed one took nothing back
    assert federation.serving() is not frozen
    assert frozen.poll() is None


def test_a_heartbeat_waits_for_no_transaction_of_a_tick(federation: Federation) -> None:
    db = federation.gateway.services.db
    lease = leases.take(db, "alpha", "here")
    with db.write() as conn:
        repository.assert_served_by(conn, lease)
        with SiteLock(libpq_url(db) + "?options=-clock_timeout%3D2000", "alpha") as lock:
            assert lock.take()


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
