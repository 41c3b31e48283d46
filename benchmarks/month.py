"""The whole month of one centre on both databases, by the functions that the gateway runs.

Raw sacct text is framed, read, assigned, sealed, metered, rated and booked by the tick `collect`; the centre's signed
CSV is received, compared and its breaks settled as the contract says; the settlement is drawn, signed by both and booked.

python -m benchmarks month           PENSTOCK_BENCH_RUNS runs (a million: a few minutes, and 12 GB of disk)
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, func, select

from accounting import store as books
from accounting.agreement import (
    Agreement,
    Bills,
    Model,
    PostingLimits,
    Share,
    Shares,
    StatementTerms,
    Tax,
    TaxKind,
    Tolerances,
)
from accounting.calendar import Window
from accounting.calendar import month as calendar_month
from accounting.evidence.note import public_bytes
from accounting.meter import Bears, MeteringPolicy
from accounting.parties import Party, Role, Signature, SigningKey
from accounting.reconciling import match as recon_match
from accounting.reconciling.statement_formats import Profile
from accounting.reconciling.statement_store import statement_row
from accounting.reconciling.terms import Narrower
from accounting.signing import sign_jws
from accounting.store import contracts
from accounting.store.contracts import Terms
from accounting.store.schema import CHARGES, POSTINGS, USAGE
from accounting.tariff import PriceRule, Tariff
from benchmarks import month_made as made
from benchmarks import month_proof as proof
from benchmarks import stage
from gateway import leases
from gateway.billing import reconcile, settle
from gateway.billing.collect import collect
from gateway.billing.recon_rules import rules_for
from gateway.billing.signing import ALGORITHM, STATEMENT, verify
from gateway.identity import service
from gateway.identity.access import Person
from gateway.jobs.repository import ACCOUNTS, JOBS
from gateway.services import Services
from site_adapters.command import Output
from site_adapters.slurm.commands import read_sacct
from site_adapters.types import SiteUsage, UsageBatch
from tests.builders import Altered, local_site, make_gateway

COUNT = int(os.environ.get("PENSTOCK_BENCH_RUNS", "1000000"))
NOVEMBER = calendar_month("2026-11")
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 12, 2, tzinfo=UTC)
ZONE = "Asia/Shanghai"
KEYS = {party: Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for party, n in (("op", 21), ("centre", 22))}
AGREEMENT = Agreement(
    id="month", version=1, operator_id="op", centre_id="centre", site_ids=(made.SITE,), model=Model.AGENCY,
    seller_of_record="centre", brand="Penstock", collector="op", currency="CNY",
    shares=Shares(100, (Share("centre", 70), Share("op", 30)), "op"), valid_from=LONG_AGO,
    metering=MeteringPolicy("month-1", cores_per_node={"*": 64}, liability={"NODE_FAIL": Bears(0, 1, 0)}),
    tolerances=Tolerances(line_micro=20, clock_skew_s=5), limits=PostingLimits(increase_micro=1_000_000),
    tax=Tax(TaxKind.INCLUSIVE, "VAT", 6, 100), zone="UTC",
    grades={"economy": "economy", "quality": "quality", "super": "super"},
    statements=StatementTerms(Bills.GROSS, must_be_signed=True),
)  # fmt: skip


def run() -> None:
    """Seconds of each stage by the clock, and of processor time: this process and its helpers + the database's."""
    with stage.folder() as folder, stage.databases(folder) as databases:
        for name, url in databases:
            _month(name, url, folder)


@dataclass(slots=True)
class Times:
    """What each stage took: (seconds, of CPU here, of CPU in PostgreSQL)."""

    server: Path
    stages: dict[str, tuple[float, float, float]] = field(default_factory=dict)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        begun, used, served = time.monotonic(), _cpu(), _server_cpu(self.server)
        yield
        took = (time.monotonic() - begun, _cpu() - used, _server_cpu(self.server) - served)
        before = self.stages.get(stage, (0.0, 0.0, 0.0))
        self.stages[stage] = (before[0] + took[0], before[1] + took[1], before[2] + took[2])

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
    people = _open_books(gateway.services, gateway.person.user_id)
    gateway.submit(made.SITE)
    with gateway.services.db.write() as conn:
        _jobs(conn, home, people)
    sites: Any = {
        made.SITE: replace(gateway.services.sites[made.SITE], billing=Altered(None, usage=Centre(home).usage))
    }
    services = replace(gateway.services, sites=sites, clock=lambda: NOW)
    times = Times(folder / "postgres" / "data" / "postmaster.pid" if name == "PostgreSQL" else Path("/nothing"))
    _analyze(services)
    result = _through(services, home, times)
    _report(name, services, times, result)
    services.close()


def _through(services: Services, home: Path, times: Times) -> Any:
    lease = leases.take(services.db, made.SITE, "month")
    with times.of("collect"):
        collected = collect(services, lease, NOW)
    assert collected.good and collected.quarantined == 0, collected
    document = (home / "statement.csv").read_bytes()
    jws = sign_jws(document, private=KEYS["centre"].private_bytes_raw(), key_id="centre#1", kind=STATEMENT)
    head, _, tail = jws.split(".")
    signature = f"{head}..{tail}".encode()
    profile = Profile({name: name for name in made.HEAD.split(",")})
    with times.of("receive"):
        received = reconcile.receive(services, document, site_id=made.SITE, period="2026-11", currency="CNY",
                                     format_name="csv", by="month", profile=profile, signature=signature)  # fmt: skip
    del document, jws, signature
    assert received.signed.signer == "centre" and not received.problems, received
    with services.db.read() as conn:
        rules = rules_for(conn, statement_row(conn, received.statement_id), Narrower(), now=NOW)
    recon_match.stage, was = times.timed("… of it staged", recon_match.stage), recon_match.stage  # type: ignore[assignment]
    recon_match.match, matched = times.timed("… of it matched", recon_match.match), recon_match.match  # type: ignore[assignment]
    with times.of("reconcile"):
        compared = reconcile.reconcile(services, received.statement_id, rules=rules, by="month")
    recon_match.stage, recon_match.match = was, matched
    staff = Person("month", "month", scopes=frozenset({"submit", "read"}), staff_of=frozenset({made.SITE}))
    with times.of("settle"):
        with services.db.write() as conn:
            drawn = settle.draw(services, conn, centre_id="centre", start=NOVEMBER.start, end=NOVEMBER.end, disputed={},
                                now=NOW)  # fmt: skip
        signed = sign_jws(drawn.statement.encode(), private=KEYS["centre"].private_bytes_raw(), key_id="centre#1",
                          kind=settle.KIND)  # fmt: skip
        with services.db.write() as conn:
            agreed = settle.countersign(services, conn, staff, drawn.id, signed, NOW)
    assert agreed.state == "agreed"
    return collected, compared, agreed


def _report(name: str, services: Services, times: Times, result: Any) -> None:
    collected, compared, agreed = result
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 2**20
    whole = [sum(t[n] for stage, t in times.stages.items() if not stage.startswith("…")) for n in range(3)]
    print(f"{name}: {COUNT:,} runs: {whole[0]:.1f} s, CPU {whole[1]:.1f} s and {whole[2]:.1f} s in the server, "
          f"{COUNT / whole[0]:,.0f} runs/s; at most {peak:.2f} GiB in a process", flush=True)  # fmt: skip
    for stage_name, (wall, cpu, server) in times.stages.items():
        print(f"   {stage_name:16} {wall:7.1f} s   CPU {cpu:6.1f} + {server:5.1f} s   {COUNT / wall:9,.0f} runs/s")
    with services.db.read() as conn:
        lines, total = conn.execute(select(func.count(), func.sum(POSTINGS.c.amount))).one()
        charges = conn.scalar(select(func.count()).select_from(CHARGES))
        begun = time.monotonic()
        wrong = books.check_books(conn)
        print(f"   {lines:,} postings of {charges:,} charges, Σ = {total}; {collected.rows:,} rows read, "
              f"{collected.recorded:,} recorded; compared {dict(compared.counts)}, {compared.posted} posted by contract; "
              f"settled net {agreed.said['net']}; books checked in {time.monotonic() - begun:.0f} s: {wrong or 'sound'}")  # fmt: skip
        assert not wrong and total == 0 and collected.recorded == COUNT
        print(f"   {proof.sampled(conn, rules=books.price_book(conn))}", flush=True)
    print(f"   load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)


def _cpu() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


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


# ---------------------------------------------------------------- the centre, and who is who


class Centre:
    """Answers for a span with the text that sacct would print, framed as the Slurm adapter frames it."""

    def __init__(self, home: Path) -> None:
        self._text = home / "sacct.txt"
        self._ends, self._offsets = array("q"), array("q")
        self._ends.frombytes((home / "ends").read_bytes())
        self._offsets.frombytes((home / "offsets").read_bytes())

    def usage(self, since: datetime, until: datetime, _accounts: Any = ()) -> UsageBatch:
        first, last = (bisect_left(self._ends, int(at.timestamp())) for at in (since, until))
        with self._text.open("rb") as file:
            file.seek(self._offsets[first])
            text = file.read(self._offsets[last] - self._offsets[first])
        found = read_sacct(Output(text, b"", 0), made.SEPARATOR)
        return UsageBatch(tuple(SiteUsage("sacct/1", row) for row in found.rows), found.problems)


def _open_books(services: Services, admin: str) -> list[tuple[str, str, str]]:
    """People with accounts and projects, two payers for every third; what both sides signed. (user, project, account)"""
    with services.db.write() as conn:
        projects = [service.create_project(conn, name=f"r{n}", currency="CNY", now=LONG_AGO)
                    for n in range(made.PROJECTS)]  # fmt: skip
        for project in projects[::3]:
            contracts.set_terms(conn, Terms(project, LONG_AGO, "", (("fund", 60), ("lab", 40))), now=LONG_AGO)
        own = conn.execute(select(ACCOUNTS).where(ACCOUNTS.c.user_id == admin)).mappings().one()
        people = []
        for n in range(made.PEOPLE):
            user = service.create_user(conn, name=f"person{n}", now=LONG_AGO)
            account = {**own, "id": f"amonth{n}", "user_id": user, "username": f"u{n}"}
            conn.execute(ACCOUNTS.insert(), [account])
            people.append((user, projects[n % made.PROJECTS], account["id"]))
        _sign_contracts(conn)
    return people


def _sign_contracts(conn: Connection) -> None:
    rules = (
        _rule(made.DAY, grade="economy"),
        _rule(made.NIGHT, grade="economy", window=Window(22 * 60, 8 * 60), zone=ZONE),
        _rule(made.QUALITY, grade="quality", zone=ZONE),
        _rule(made.QUALITY_MORE, grade="quality", zone=ZONE, tier_from=made.MORE_FROM),
        _rule(made.SUPER, grade="super"),
        _rule(made.SUPER_GPU, grade="super", resource="gpu_seconds"),
    )
    tariff = Tariff("month", 1, "month", LONG_AGO, rules)
    for party, role in (("op", Role.OPERATOR), ("centre", Role.CENTRE)):
        sites = (made.SITE,) if party == "centre" else ()
        contracts.save_party(conn, Party(party, role, party, site_ids=sites), now=LONG_AGO)
        public = public_bytes(KEYS[party])
        contracts.add_key(conn, party, SigningKey(f"{party}#1", ALGORITHM, public, LONG_AGO))
    contracts.save_agreement(conn, AGREEMENT, now=LONG_AGO)
    contracts.save_tariff(conn, tariff, now=LONG_AGO)
    for document in (AGREEMENT, tariff):
        for party in KEYS:
            signature = Signature(party, f"{party}#1", KEYS[party].sign(document.payload), LONG_AGO)
            contracts.sign(conn, document.sha256, signature, verify)


def _rule(price_micro: int, **more: Any) -> PriceRule:
    return PriceRule(0, "CNY", price_micro, LONG_AGO, **more)


def _jobs(conn: Connection, home: Path, people: list[tuple[str, str, str]]) -> None:
    """The jobs whose runs the centre tells of: copies of one that was accepted, as they stand when they have ended."""
    varied = ("id", "tag", "user_id", "project_id", "site_account_id", "native_id", "queue", "phase", "state")
    for index in sorted(JOBS.indexes, key=str):
        index.drop(conn)
    conn.exec_driver_sql(f"CREATE TEMPORARY TABLE made AS SELECT {', '.join(varied)} FROM jobs WHERE 1 = 0")
    raw: Any = conn.connection.driver_connection
    if conn.dialect.name == "sqlite":
        raw.executemany(f"INSERT INTO made VALUES ({', '.join('?' * len(varied))})", _job_rows(home, people))
    else:
        with raw.cursor().copy("COPY made FROM STDIN") as copy:
            for row in _job_rows(home, people):
                copy.write_row(row)
    names = ", ".join(column.name for column in JOBS.c)
    values = ", ".join(f"{'made' if c.name in varied else 'jobs'}.{c.name}" for c in JOBS.c)
    conn.exec_driver_sql(f"INSERT INTO jobs ({names}) SELECT {values} FROM made, jobs")
    for index in sorted(JOBS.indexes, key=str):
        index.create(conn)


def _job_rows(home: Path, people: list[tuple[str, str, str]]) -> Iterator[tuple[str, ...]]:
    with (home / "jobs.csv").open() as lines:
        for line in lines:
            job_id, tag, person, _, native_id, queue, _ = line.strip().split(",")
            user, project, account = people[int(person)]
            yield job_id, tag, user, project, account, native_id, queue, "ended", "completed"


def _analyze(services: Services) -> None:
    with services.db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.exec_driver_sql("ANALYZE")


__all__ = ["USAGE", "run", "timedelta"]
