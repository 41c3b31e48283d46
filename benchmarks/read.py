"""Reading one job: against a route that does nothing in the same process, and by two processes on PostgreSQL."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import httpx

from benchmarks import stage
from benchmarks.stage import Load, Row
from gateway.identity import tokens
from tests.builders import Gateway, local_site, make_gateway

CLIENTS, SECONDS = 32, 6.0


def run() -> None:
    """Requests per second; the seconds until a revoked token is refused by every process, under that load."""
    reason = stage.missing(wrk=True)
    if reason is not None:
        print(f"skipped: {reason}")
        return
    rows: list[Row] = []
    with stage.folder() as folder, stage.databases(folder) as databases:
        for name, url in databases:
            gateway = make_gateway(folder / name, url, local_site(folder / name), credit=10**9)
            job_id = [gateway.submit("local") for _ in range(50)][25]
            rows += _one_process(name, folder / name, url, gateway, job_id)
            if not url.startswith("sqlite"):
                rows += _two_processes(folder / name, url, gateway, job_id)
            gateway.services.close()
    stage.report(rows)


def _one_process(name: str, home: Path, url: str, gateway: Gateway, job_id: str) -> list[Row]:
    with stage.processes(home, url, worker=False) as (address,):
        loads = []
        for path in ("/nothing", f"/api/v2/jobs/{job_id}"):
            stage.wrk(address + path, secret=gateway.secret, clients=CLIENTS, seconds=1)
            loads.append(stage.wrk(address + path, secret=gateway.secret, clients=CLIENTS, seconds=SECONDS))
    nothing, job = loads
    beside = f"{job.rate / nothing.rate:.2f} × a route that does nothing ({nothing.rate:.0f}/s)"
    return [Row(f"GET /jobs/{{id}}, {name}, one process", job.short, beside, "≥ 0.2 ×")]


def _two_processes(home: Path, url: str, gateway: Gateway, job_id: str) -> list[Row]:
    with stage.processes(home, url, apis=2, worker=False) as addresses, ThreadPoolExecutor(2) as pool:

        def load(address: str, seconds: float) -> Load:
            path = f"{address}/api/v2/jobs/{job_id}"
            return stage.wrk(path, secret=gateway.secret, clients=CLIENTS // 2, seconds=seconds)

        list(pool.map(load, addresses, (1.0, 1.0)))
        loads = pool.map(load, addresses, (SECONDS, SECONDS))
        time.sleep(SECONDS / 3)
        late = _revoked_after(gateway, addresses, job_id)
        both = list(loads)
    rate, p99 = sum(one.rate for one in both), max(one.p99 for one in both)
    return [
        Row("GET /jobs/{id}, PostgreSQL, two processes", f"{rate:.0f}/s, p99 {p99:.0f} ms", "", "≥ 1,000/s"),
        Row("a revoked token is refused by both, under that load", f"after {late:.2f} s", "", "≤ 1 s"),
    ]


def _revoked_after(gateway: Gateway, addresses: list[str], job_id: str) -> float:
    """Use a second token at every process, revoke it, and wait until none takes it any more."""
    services = gateway.services
    with services.db.write() as conn:
        made = tokens.issue(conn, user_id=gateway.person.user_id, name="r", scopes=("read",),
                            lifetime=timedelta(hours=1), now=services.clock())  # fmt: skip

    def refused(address: str) -> bool:
        answer = httpx.get(f"{address}/api/v2/jobs/{job_id}", headers={"Authorization": f"Bearer {made.secret}"})
        return answer.status_code == 401

    assert not any(refused(address) for address in addresses)
    with services.db.write() as conn:
        tokens.revoke(conn, token_id=made.id, user_id=None, now=services.clock())
    begun = time.monotonic()
    while not all(map(refused, addresses)):
        time.sleep(0.01)
    return time.monotonic() - begun
