"""Builders for the tests of invoices: two legal entities, a tax rule, charges of a project."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count

from sqlalchemy import Connection

from accounting import store as books
from accounting.calendar import month
from accounting.invoicing import legal_entities
from accounting.invoicing.invoice import Document, LegalEntity
from accounting.invoicing.store import Wanted, issue_invoice
from accounting.invoicing.tax import TaxKind, TaxRule
from accounting.meter import MeteringPolicy
from accounting.tariff import PriceRule
from accounting.usage import Kind, Meter, UsageRecord

T0 = datetime(2026, 10, 5, 12, 0, tzinfo=UTC)
NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
OPERATOR = LegalEntity(
    "op", "Penstock Operations Ltd", "1 Gate Road, Shanghai", "CN", "91310000X", "Bank of Nowhere 123", prefix="PS"
)
PAYER = LegalEntity("uni", "物理研究院 Institute of Physics", "2 Lake Street", "CN", "12100000Y", language="zh")
VAT = TaxRule("vat", TaxKind.STANDARD, 60_000, T0 - timedelta(days=900), name_en="VAT", name_zh="增值税")
PEOPLE = {"u1": "alice", "u2": "bob"}
_runs = count(1)


def parties(conn: Connection, *, rate_micro: int = 50_000, tax: str = "vat") -> None:
    """An issuer, a payer of project r1, 6 % tax, and a price (default 0.05 per core-hour)."""
    legal_entities.add_tax_rule(conn, VAT, now=T0)
    legal_entities.save_entity(conn, OPERATOR, tax_code=tax, now=T0)
    legal_entities.save_entity(conn, PAYER, now=T0)
    legal_entities.set_payer(conn, project_id="r1", payer_id="uni", valid_from=T0 - timedelta(days=900), now=T0)
    books.open_project_accounts(conn, "r1", currency="CNY")
    books.add_tariff(conn, PriceRule(0, "CNY", rate_micro, T0 - timedelta(days=900)), now=T0)


def run(
    core_seconds: int, *, at: datetime = T0, user: str = "u1", site: str = "alpha", key: str = "",
    meter: Meter = Meter.CENTRE, note: str = "", project: str = "r1",
) -> books.Assigned:  # fmt: skip
    """One run that ended at `at`; the same `key` with other figures is a changed reading of it."""
    key = key or f"run{next(_runs)}"
    start, end = (str(int(moment.timestamp())) for moment in (at - timedelta(seconds=core_seconds), at))
    raw = {"key": key, "note": note, "State": "COMPLETED", "Submit": start, "Start": start, "End": end,
           "ElapsedRaw": str(core_seconds), "AllocCPUS": "1", "AllocNodes": "1", "Partition": "cpu"}  # fmt: skip
    record = UsageRecord(
        site_id=site, run_key=key, meter=meter, kind=Kind.RUN, native_id=key, state="COMPLETED",
        username="x", cores=1, nodes=1, elapsed_s=core_seconds, core_seconds=core_seconds, node_seconds=core_seconds,
        queue="cpu", submit_time=at - timedelta(seconds=core_seconds), start_time=at - timedelta(seconds=core_seconds),
        end_time=at, raw=raw,
    )  # fmt: skip
    return books.Assigned(record, f"j-{key}", project, user, "CNY")


def charge(conn: Connection, *runs: books.Assigned, now: datetime = T0) -> None:
    books.record_and_book(conn, runs, policy=MeteringPolicy(), now=now)


def wanted(name: str = "2026-10", *, sites: tuple[str, ...] | None = None, project: str = "r1") -> Wanted:
    return Wanted("op", "uni", project, "demo", "CNY", month(name, OPERATOR.zone), sites, PEOPLE)


def bill(conn: Connection, name: str = "2026-10", *, now: datetime = NOW) -> Document:
    made = issue_invoice(conn, wanted(name), now=now)
    assert made is not None
    return made
