"""Accepting and reading over real HTTP on SQLite: 16 clients, one gateway process without its worker."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

from tests.builders import local_site, make_gateway
from tests.lab.slurm import wait_for

CLIENTS = 16
SECONDS = 8.0
JOB = {"script": "#!/bin/sh\ntrue\n", "attributes": {"duration": 60}, "placement": {"resource_ids": ["local"]}}


def run() -> None:
    """Rates with p50 and p99; reading as a ratio to a route that only asks the database whether it is there."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        gateway = make_gateway(home, f"sqlite:///{home / 'penstock.sqlite'}", local_site(home), credit=10**6)
        gateway.services.db.dispose()
        port = 18642
        env = os.environ | {"PENSTOCK_HOME": folder, "PENSTOCK_PORT": str(port), "PENSTOCK_EMBEDDED_WORKER": "false",
                            "PENSTOCK_REQUESTS_PER_MINUTE": "0"}  # fmt: skip
        process = subprocess.Popen([sys.executable, "-m", "gateway", "serve"], env=env)
        url = f"http://127.0.0.1:{port}"
        try:
            wait_for(lambda: _answers(url), "the gateway")
            headers = {"Authorization": f"Bearer {gateway.secret}"}
            _load("POST /jobs", url, headers, lambda c: c.post("/api/v2/jobs", json=JOB))
            job_id = httpx.post(f"{url}/api/v2/jobs", json=JOB, headers=headers).json()["id"]
            shown = _load("GET /jobs/{id}", url, headers, lambda c: c.get(f"/api/v2/jobs/{job_id}"))
            floor = _load("GET /healthz", url, headers, lambda c: c.get("/healthz"))
            print(f"GET /jobs/{{id}} is {shown / floor:.2f} of GET /healthz")
        finally:
            process.terminate()
            process.wait(20)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def _load(name: str, url: str, headers: dict[str, str], call) -> float:  # type: ignore[no-untyped-def]
    """Bounded in time; each client keeps one connection."""
    times: list[float] = []
    end = time.monotonic() + SECONDS

    def one() -> None:
        with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
            while time.monotonic() < end:
                began = time.monotonic()
                answer = call(client)
                assert answer.status_code in (200, 202), answer.text
                times.append(time.monotonic() - began)

    threads = [threading.Thread(target=one) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times.sort()
    rate = len(times) / SECONDS
    print(f"{name:16} {rate:7.0f}/s   p50 {times[len(times) // 2] * 1e3:6.1f} ms   "
          f"p99 {times[int(len(times) * 0.99)] * 1e3:6.1f} ms", flush=True)  # fmt: skip
    return rate
