"""What measurements share: a real Slurm, real databases that keep what they commit, processes of the gateway, wrk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from gateway.db import Database
from tests.lab import postgres, slurm
from tests.lab.postgres import PostgresLab
from tests.lab.slurm import SlurmLab, wait_for

# Loopback ports of the measurements, apart from those of the tests.
SLURM_PORTS, SHARED_PORTS, HTTP_PORT = 31000, 30800, 30642
POSTGRES_PORT = 30432 + int(os.environ.get("PENSTOCK_LAB", "0"))


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: what was measured, beside a floor of the same run, and what was promised."""

    figure: str
    measured: str
    beside: str = ""
    target: str = ""


def report(rows: Sequence[Row]) -> None:
    """Print a table as the README has it, and how busy the machine was (load of the last minute, cores)."""
    lines = [("figure", "measured", "beside it", "target"), ("---",) * 4]
    lines += [(row.figure, row.measured, row.beside, row.target) for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    for line in lines:
        print("| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)


@contextmanager
def folder() -> Iterator[Path]:
    """On a disk (not in memory): commits are part of what is measured."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="penstock-bench-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@contextmanager
def centre(name: str = "alpha", shift: int = 0, *, nice: int = 0) -> Iterator[SlurmLab]:
    """A real Slurm centre; needs root. `nice`: it shares our cores, and a real one does not."""
    with folder() as root:
        lab = SlurmLab(root, name, SLURM_PORTS + shift, SHARED_PORTS + shift)
        try:
            os.nice(nice)
            lab.start()
            os.setpriority(os.PRIO_PROCESS, 0, 0)
            yield lab
        finally:
            SlurmLab.stop_all(root)


def missing(*, scheduler: bool = False, wrk: bool = False) -> str | None:
    """Why a measurement cannot be made here."""
    if wrk and shutil.which("wrk") is None:
        return "wrk is not installed (tests/lab/install.sh)"
    return slurm.missing_reason() if scheduler else None


@contextmanager
def databases(home: Path) -> Iterator[list[tuple[str, str]]]:
    """Name and URL of an empty database of each kind that can be had here."""
    with ExitStack() as stack:
        urls = [("SQLite", f"sqlite:///{home / 'penstock.sqlite'}")]
        if postgres.missing_reason() is None:
            lab = PostgresLab(home / "postgres", port=POSTGRES_PORT, durable=True)
            lab.start()
            stack.callback(lab.stop)
            urls.append(("PostgreSQL", lab.fresh()))
        yield urls


@contextmanager
def processes(home: Path, url: str, *, apis: int = 1, worker: bool = True, **settings: str) -> Iterator[list[str]]:
    """The gateway as deployed: one process on SQLite; API processes and a worker on PostgreSQL. Yields addresses.

    Its API has one route more, `/nothing`: the floor of whatever it answers.
    """
    embedded = url.startswith("sqlite") and worker
    env = os.environ | {"PENSTOCK_HOME": str(home), "PENSTOCK_DATABASE_URL": url, "PENSTOCK_REQUESTS_PER_MINUTE": "0",
                        "PENSTOCK_EMBEDDED_WORKER": str(embedded).lower(), **settings}  # fmt: skip
    ports = [HTTP_PORT + number for number in range(apis)]
    commands: list[tuple[Sequence[str], Mapping[str, str]]] = [
        (["serve"], env | {"PENSTOCK_PORT": str(port)}) for port in ports
    ]
    if worker and not embedded:
        commands.append((["worker"], env))
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    with (home / "gateway.log").open("ab") as log:
        started = [
            subprocess.Popen([sys.executable, "-m", "benchmarks.served", *argv], env=own, stdout=log, stderr=log)
            for argv, own in commands
        ]
        try:
            for address in urls:
                wait_for(lambda address=address: _answers(address), "the gateway", 90)  # type: ignore[misc]
            yield urls
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait(30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw: requests per second, times in milliseconds, answers of 400 and more."""

    rate: float
    p50: float
    p95: float
    p99: float
    count: int
    errors: int

    def __str__(self) -> str:
        times = f"p50 {self.p50:6.1f} ms   p95 {self.p95:6.1f} ms   p99 {self.p99:6.1f} ms"
        return f"{self.rate:7.0f}/s   {times}" + (f"   {self.errors} ERRORS" if self.errors else "")

    @property
    def short(self) -> str:
        return f"{self.rate:.0f}/s, p99 {self.p99:.0f} ms" + (f", {self.errors} ERRORS" if self.errors else "")


_LUA = """
{setup}
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('RESULT {{"count": %d, "us": %d, "p50": %f, "p95": %f, "p99": %f, "errors": %d}}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(95), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def wrk(url: str, *, secret: str, clients: int, seconds: float, post: object = None) -> Load:
    """Bounded load by wrk; `post` is sent as JSON."""
    setup = ""
    if post is not None:
        setup = f"wrk.method = 'POST'\nwrk.body = [==[{json.dumps(post)}]==]"
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(_LUA.format(setup=setup))
        file.flush()
        argv = ["wrk", "-t", "1", "-c", str(clients), "-d", f"{seconds:g}s", "--timeout", "30s", "-s", file.name,
                "-H", f"Authorization: Bearer {secret}", url]  # fmt: skip
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.partition("RESULT ")[2])
    return Load(result["count"] / result["us"] * 1e6, result["p50"] / 1e3, result["p95"] / 1e3, result["p99"] / 1e3,
                result["count"], result["errors"])  # fmt: skip


def commits_per_second(url: str, *, seconds: float = 2.0) -> float:
    """The machine's floor for anything that is kept: transactions of one row, one after the other."""
    db = Database(url)
    try:
        with db.write() as conn:
            conn.exec_driver_sql("CREATE TABLE IF NOT EXISTS floor (n INTEGER)")
        begun, count = time.monotonic(), 0
        while time.monotonic() - begun < seconds:
            with db.write() as conn:
                conn.exec_driver_sql("INSERT INTO floor VALUES (1)")
            count += 1
        return count / (time.monotonic() - begun)
    finally:
        with db.write() as conn:
            conn.exec_driver_sql("DROP TABLE floor")
        db.dispose()


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


@contextmanager
def beside(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run something in a thread until the block ends."""
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
