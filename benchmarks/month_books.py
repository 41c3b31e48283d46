"""The gateway whose month is measured: people, projects and their terms, what centre and operator signed, the jobs."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, select

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
from accounting.evidence.note import public_bytes
from accounting.meter import Bears, MeteringPolicy
from accounting.parties import Party, Role, Signature, SigningKey
from accounting.store import contracts
from accounting.store.contracts import Terms
from accounting.tariff import PriceRule, Tariff
from benchmarks import month_made as made
from gateway.billing.signing import ALGORITHM, verify
from gateway.identity import service
from gateway.jobs.repository import ACCOUNTS, JOBS
from gateway.services import Services
from site_adapters.command import Output
from site_adapters.slurm.commands import read_sacct
from site_adapters.types import SiteUsage, UsageBatch

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
ZONE = "Asia/Shanghai"
KEYS = {"op": Ed25519PrivateKey.from_private_bytes(bytes([21]) * 32),
        "centre": Ed25519PrivateKey.from_private_bytes(made.CENTRE_KEY)}  # fmt: skip
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


def open_books(services: Services, admin: str) -> list[tuple[str, str, str]]:
    """People with accounts and projects, two payers for every third; what both sides signed.

    (user, project, account) of each person.
    """
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


def make_jobs(conn: Connection, home: Path, people: list[tuple[str, str, str]]) -> None:
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


def analyze(services: Services) -> None:
    with services.db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.exec_driver_sql("ANALYZE")
