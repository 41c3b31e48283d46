"""The whole month of one centre on both databases, by the functions that the gateway runs.

Raw sacct text is framed, read, assigned, sealed, metered, rated and booked by the tick `collect`; the centre's signed
CSV is received, compared and its breaks settled as the contract says; the settlement is drawn, signed by both, booked.

python -m benchmarks month           PENSTOCK_BENCH_RUNS runs (a million: a few minutes, and 12 GB of disk)
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from accounting import store as books
from accounting.calendar import month as calendar_month
from accounting.reconciling import match as recon_match
from accounting.reconciling.statement_formats import Profile
from accounting.reconciling.statement_store import statement_row
from accounting.reconciling.terms import Narrower
from accounting.signing import sign_jws
from accounting.store.schema import CHARGES, POSTINGS
from benchmarks import month_books, stage
from benchmarks import month_made as made
from benchmarks import month_proof as proof
from benchmarks.month_books import KEYS
from gateway import leases
from gateway.billing import reconcile, settle
from gateway.billing.collect import collect
from gateway.billing.recon_rules import rules_for
from gateway.identity.access import Person
from gateway.services import Services
from tests.builders import Altered, local_site, make_gateway

COUNT = int(os.environ.get("PENSTOCK_BENCH_RUNS", "1000000"))
NOVEMBER = calendar_month("2026-11")
NOW = datetime(2026, 12, 2, tzinfo=UTC)


def run() -> None:
    """Seconds of each stage by the clock, and of processor time: this process + its helpers + the database's."""
    with stage.folder() as folder, stage.databases(folder) as databases:
        for name, url in databases:
            _month(name, url, folder)


@dataclass(slots=True)
class Times:
    """What each stage took: (seconds, of CPU here, in helpers, in PostgreSQL)."""

    server: Path
    stages: dict[str, tuple[float, ...]] = field(default_factory=dict)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        begun = (time.monotonic(), *_cpu(), _server_cpu(self.server))
        yield
        ended = (time.monotonic(), *_cpu(), _server_cpu(self.server))
        before = self.stages.get(stage, (0.0, 0.0, 0.0, 0.0))
        self.stages[stage] = tuple(was + b - a for was, a, b in zip(before, begun, ended, strict=True))

    def timed(self, stage: str, function: Any) -> Any:
        def wrapped(*args: Any, **more: Any) -> Any:
            with self.of(stage):
                return function(*args, **more)

        return wrapped


def _month(name: str, url: str, folder: Path) -> None:
    home = folder / name
    home.mkdir()
    site = local_site(home, site=made.SITE)
    gateway = make_gateway(home, url, site, credit=10**9)
    argv = [sys.executable, "-m", "benchmarks.month_made", str(home), str(COUNT), gateway.services.gateway_id]
    subprocess.run(argv, check=True)
    people = month_books.open_books(gateway.services, gateway.person.user_id)
    gateway.submit(made.SITE)
    with gateway.services.db.write() as conn:
        month_books.make_jobs(conn, home, people)
    meter = Altered(None, usage=month_books.Centre(home).usage)
    sites: Any = {made.SITE: replace(gateway.services.sites[made.SITE], billing=meter)}
    services = replace(gateway.services, sites=sites, clock=lambda: NOW)
    times = Times(folder / "postgres" / "data" / "postmaster.pid" if name == "PostgreSQL" else Path("/nothing"))
    month_books.analyze(services)
    result = _through(services, home, times)
    _report(name, services, times, result)
    services.close()


def _through(services: Services, home: Path, times: Times) -> Any:
    lease = leases.take(services.db, made.SITE, "month")
    with times.of("collect"):
        collected = collect(services, lease, NOW)
    assert collected.good and collected.quarantined == 0, collected
    document = (home / "statement.csv").read_bytes()
    signature = (home / "statement.jws").read_bytes()
    profile = Profile({name: name for name in made.HEAD.split(",")})
    with times.of("receive"):
        received = reconcile.receive(services, document, site_id=made.SITE, period="2026-11", currency="CNY",
                                     format_name="csv", by="month", profile=profile, signature=signature)  # fmt: skip
    del document
    assert received.signed.signer == "centre" and not received.problems, received
    with services.db.read() as conn:
        rules = rules_for(conn, statement_row(conn, received.statement_id), Narrower(), now=NOW)
    recon_match.match, matched = times.timed("… of it matched", recon_match.match), recon_match.match  # type: ignore[assignment]
    with times.of("reconcile"):
        compared = reconcile.reconcile(services, received.statement_id, rules=rules, by="month")
    recon_match.match = matched
    staff = Person("month", "month", scopes=frozenset({"submit", "read"}), staff_of=frozenset({made.SITE}))
    with times.of("settle"):
        prepared = settle.prepare(services, centre_id="centre", start=NOVEMBER.start, end=NOVEMBER.end, disputed={},
                                  now=NOW)  # fmt: skip
        with services.db.write() as conn:
            drawn = settle.draw(services, conn, prepared, now=NOW)
        signed = sign_jws(drawn.statement.encode(), private=KEYS["centre"].private_bytes_raw(), key_id="centre#1",
                          kind=settle.KIND)  # fmt: skip
        with services.db.write() as conn:
            agreed = settle.countersign(services, conn, staff, drawn.id, signed, NOW)
    assert agreed.state == "agreed"
    return collected, compared, agreed


def _report(name: str, services: Services, times: Times, result: Any) -> None:
    collected, compared, agreed = result
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 2**20
    whole = [sum(t[n] for stage, t in times.stages.items() if not stage.startswith("…")) for n in range(4)]
    print(f"{name}: {COUNT:,} runs: {whole[0]:.1f} s, CPU {whole[1]:.1f} s here, {whole[2]:.1f} s in helpers, "
          f"{whole[3]:.1f} s in the server; "
          f"{COUNT / whole[0]:,.0f} runs/s; at most {peak:.2f} GiB in a process", flush=True)  # fmt: skip
    for stage_name, (wall, here, helpers, server) in times.stages.items():
        print(f"   {stage_name:16} {wall:7.1f} s   CPU {here:6.1f} + {helpers:5.1f} + {server:5.1f} s   "
              f"{COUNT / wall:9,.0f} runs/s")  # fmt: skip
    with services.db.read() as conn:
        lines, total = conn.execute(select(func.count(), func.sum(POSTINGS.c.amount))).one()
        charges = conn.scalar(select(func.count()).select_from(CHARGES))
        begun = time.monotonic()
        wrong = books.check_books(conn)
        print(f"   {lines:,} postings of {charges:,} charges, Σ = {total}; {collected.rows:,} rows read, "
              f"{collected.recorded:,} recorded; books checked in {time.monotonic() - begun:.0f} s: "
              f"{wrong or 'sound'}")  # fmt: skip
        print(f"   {dict(compared.counts)}, {compared.posted} posted by contract; net {agreed.said['net']}")
        assert not wrong and total == 0 and collected.recorded == COUNT
    with services.db.write() as conn:  # a transaction: PostgreSQL hands out many rows piece by piece only within one
        print(f"   {proof.sampled(conn)}", flush=True)
    print(f"   load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)


def _cpu() -> tuple[float, float]:
    here, helpers = (sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return here, helpers


def _server_cpu(pid_file: Path) -> float:
    """CPU seconds of PostgreSQL's processes, those that have ended included."""
    if not pid_file.exists():
        return 0.0
    pid = pid_file.read_text().split()[0]
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ticks = 0
    for process, first, last in [(pid, 11, 15), *((child, 11, 13) for child in children)]:
        try:
            words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            continue
        ticks += sum(int(word) for word in words[first:last])
    return ticks / os.sysconf("SC_CLK_TCK")
