"""Exports: FOCUS by its validator, usage records by their schema and back, books that add up again elsewhere."""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import xmlschema
from defusedxml.ElementTree import fromstring
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounting.exports import rows as export_rows
from accounting.exports.focus import COLUMNS, focus_csv
from accounting.exports.general_ledger import LedgerLine, beancount, hledger, journal_csv, trial_balance
from accounting.exports.ogf_ur import NAMESPACE, ChargedRun, ogf_ur_xml
from accounting.invoicing.credit_notes import Credit
from accounting.invoicing.invoice import LineKind, Ordered
from accounting.invoicing.store import issue_credit_note
from accounting.meter import CENTRE, OPERATOR, Basis, MeteringPolicy, meter
from accounting.payments.payment import BankTransaction
from accounting.payments.store import import_payments
from accounting.sources import ogf_ur
from accounting.usage import Kind, Meter, UsageRecord
from gateway.db import Database
from tests.unit.accounting.invoicing import NOW, T0, bill, charge, parties, run
from tests.unit.accounting.test_evidence_verifier import verifier
from tests.unit.accounting.test_invoice_papers import HOSTILE, invoice

_ = verifier  # the fixture

ROOT = Path(__file__).parents[3]
TOOLS = ROOT / ".venv" / "tools"
SCHEMA = next((p for p in (ROOT.parent / "shared/data/ogf-ur/ur.xsd", ROOT.parents[1] / "shared/data/ogf-ur/ur.xsd")
               if p.exists()), None)  # fmt: skip
START, END = T0 - timedelta(days=40), NOW + timedelta(days=40)


@pytest.fixture
def db(db_url: str) -> Iterator[Database]:
    """A month billed, partly credited and paid."""
    made = Database(db_url)
    with made.write() as conn:
        parties(conn)
        charge(conn, run(1_234_567), run(7_200, user="u2"), run(36_000, site="beta", key="a b"))
        bill(conn)
        issue_credit_note(conn, "PS-000001", [Credit(1, 100)], reason="node failed", now=NOW)
        import_payments(
            conn, [BankTransaction("ACC", "b1", NOW, "CNY", 1500, "Uni", 'PS-000001 "=1"; {x}\n2')], now=NOW
        )
    yield made
    made.dispose()


def tool(*args: str) -> subprocess.CompletedProcess[str]:
    """A program of `.venv/tools` (`make .venv/tools/.installed`), in a process with its own libraries."""
    if not (TOOLS / ".installed").exists():
        pytest.skip("validators are not installed: make .venv/tools/.installed")
    env = {**os.environ, "PYTHONPATH": str(TOOLS), "PYTHONWARNINGS": "ignore"}
    return subprocess.run([sys.executable, *args], cwd=TOOLS, env=env, capture_output=True, text=True,
                          timeout=300, check=False)  # fmt: skip


# ---------------------------------------------------------------- FOCUS


# Its libraries take longer to load than a file takes to judge: each file is judged in a fork of one process.
FOCUS = """
import os, sys
os.dup2(1, 2)
from focus_validator.main import main
for file in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        sys.argv = ["focus-validator", "--data-file", file, "--validate-version", "1.0"]
        main()
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(child, 0)
    print("\\f", flush=True)
"""


def focus_verdicts(texts: Sequence[str], folder: Path) -> list[str]:
    """What focus-validator 1.0.0 says of each by the rules of FOCUS 1.0.

    Its rule on SkuPriceId still asks for `ChargeType`, as the column was called before 1.0: it gets both names.
    """
    files = [folder / f"focus-{number}.csv" for number in range(len(texts))]
    for text, path in zip(texts, files, strict=True):
        rows = list(csv.DictReader(io.StringIO(text)))
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*COLUMNS, "ChargeType"])
            writer.writeheader()
            writer.writerows(row | {"ChargeType": row["ChargeCategory"]} for row in rows)
    done = tool("-c", FOCUS, *(str(path) for path in files))
    verdicts = done.stdout.split("\f")[:-1]
    assert len(verdicts) == len(texts), done.stderr
    return verdicts


def test_focus_export_passes_the_validator(db: Database, tmp_path: Path) -> None:
    with db.read() as conn:
        documents = export_rows.documents(conn, START, END)
    assert len(documents) == 2
    [verdict] = focus_verdicts([focus_csv([*documents, invoice(user="=1+1")])], tmp_path)
    assert "Validation succeeded" in verdict, verdict


def test_the_validator_would_find_a_wrong_export(tmp_path: Path) -> None:
    wrong = {"ChargeClass": "Late", "BilledCost": "", "BillingCurrency": "RMB", "BillingPeriodStart": "October"}
    rows = list(csv.DictReader(io.StringIO(focus_csv([invoice()]))))
    texts = []
    for column, value in wrong.items():
        out = io.StringIO()
        writer = csv.DictWriter(out, COLUMNS)
        writer.writeheader()
        writer.writerows(row | {column: value} for row in rows)
        texts.append(out.getvalue())
    for column, verdict in zip(wrong, focus_verdicts(texts, tmp_path), strict=True):
        assert "Validation failed" in verdict and column in verdict, (column, verdict)


def test_focus_rows_sum_to_the_documents_and_corrections_are_named(db: Database) -> None:
    with db.read() as conn:
        documents = export_rows.documents(conn, START, END)
    rows = list(csv.DictReader(io.StringIO(focus_csv(documents))))
    for doc in documents:
        cost = sum(Decimal(r["BilledCost"]) for r in rows if r["x_InvoiceId"] == doc.number)
        assert cost * 100 == doc.gross_minor
    kinds = {(r["x_InvoiceId"][:3], r["ChargeCategory"], r["ChargeClass"]) for r in rows}
    assert kinds == {
        ("PS-", "Usage", ""),
        ("PS-", "Tax", ""),
        ("PSC", "Credit", "Correction"),
        ("PSC", "Tax", "Correction"),
    }
    [late] = csv.DictReader(io.StringIO(focus_csv([invoice(1)])))
    assert (late["ChargeCategory"], late["ChargeClass"]) == ("Usage", "Correction")


# ---------------------------------------------------------------- OGF usage records


def charged(**changes: object) -> ChargedRun:
    made = ChargedRun(
        "k1", "alpha", "42", "j1", "relax", "x1", "alice", "demo", "cpu", "COMPLETED", 4, 1, 100, T0, T0, 400, 100, 0,
        8, "CNY", 5556, "4 allocated cores × 100 s",
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def schema() -> xmlschema.XMLSchema:
    if SCHEMA is None:
        pytest.skip("the OGF schema (shared/data/ogf-ur/ur.xsd) is not here")
    return xmlschema.XMLSchema(str(SCHEMA), allow="local")


@pytest.mark.parametrize("changes", [
    {}, {"start": None}, {"cores": 0, "nodes": 0}, {"state": "CANCELLED by 1000"}, {"state": "NODE_FAIL"},
    {"site_id": "under_score"}, {"site_id": "-x"}, {"job_name": "", "queue": "", "user": ""}, {"charge_micro": -5},
    {"run_key": "a b\n c"}, *({"job_name": x, "project": x, "rule": x} for x in [*HOSTILE, "\x00\x08", "<&>"]),
])  # fmt: skip
def test_usage_records_are_valid_by_the_schema(schema: xmlschema.XMLSchema, changes: dict[str, object]) -> None:
    schema.validate(ogf_ur_xml([charged(**changes), charged()], created=NOW))


def test_the_schema_would_find_a_wrong_record(schema: xmlschema.XMLSchema) -> None:
    good = ogf_ur_xml([charged()], created=NOW)
    for wrong in (good.replace("PT100S", "100"), good.replace(">4<", ">-4<"), good.replace("urf:Status", "urf:State")):
        assert wrong != good
        assert not schema.is_valid(wrong)


def test_usage_records_come_back_as_they_were(db: Database) -> None:
    with db.read() as conn:
        runs = export_rows.charged_runs(conn, START, END, people={"u1": "alice"}, projects={"r1": "demo"})
    assert len(runs) == 3 and {r.user for r in runs} == {"alice", "u2"}
    text = ogf_ur_xml(runs, created=NOW)
    for site in ("alpha", "beta"):
        mine = [r for r in runs if r.site_id == site]
        back = ogf_ur.read_document(ogf_ur_xml(mine, created=NOW), site_id=site)
        assert back.problems == ()
        assert [(x.run_key, x.native_id, x.state, x.username, x.account, x.queue, x.cores, x.nodes, x.elapsed_s,
                 x.core_seconds, x.start_time, x.end_time) for x in back.records] == [
            (r.run_key, r.native_id, r.state, r.username, r.project, r.queue, r.cores, r.nodes, r.elapsed_s,
             r.core_seconds, r.start, r.end) for r in mine
        ]  # fmt: skip
    ns = {"u": NAMESPACE}
    exact = [
        {e.get(f"{{{NAMESPACE}}}description"): int(e.text or "") for e in record.findall("u:Resource", ns)}
        for record in fromstring(text)
    ]
    assert [(x["core_seconds"], x["charge_micro"]) for x in exact] == [(r.core_seconds, r.charge_micro) for r in runs]


POLICIES = (
    MeteringPolicy(), MeteringPolicy(basis=Basis.REQUESTED), MeteringPolicy(cores_per_node={"*": 32}),
    MeteringPolicy(exclusive_whole_nodes=False), MeteringPolicy(threads_per_core={"*": 2}),
    MeteringPolicy(held_while_suspended=("core_seconds", "node_seconds")), MeteringPolicy(held_while_suspended=()),
    MeteringPolicy(bill_requeued=False, liability={"NODE_FAIL": CENTRE, "PREEMPTED": OPERATOR}),
)  # fmt: skip
COUNTS = st.integers(0, 4096)
MUCH = st.one_of(st.just(0), st.integers(1, 10**16))
STATES = ("COMPLETED", "NODE_FAIL", "PREEMPTED", "REQUEUED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY")


@st.composite
def readings(draw: st.DrawFn) -> UsageRecord:
    """A record of a centre with all that a meter may look at."""
    elapsed, cores, threads = draw(st.integers(0, 10**7)), draw(COUNTS), draw(st.sampled_from([1, 1, 2, 4]))
    end = T0 + timedelta(microseconds=draw(st.integers(0, 10**12)))
    return UsageRecord(
        site_id="alpha", run_key="k1", meter=Meter.CENTRE, kind=Kind.RUN if elapsed else Kind.NEVER_RAN,
        native_id="42", state=draw(st.sampled_from(STATES)), username="x1", cores=cores, nodes=draw(COUNTS),
        elapsed_s=elapsed, core_seconds=draw(st.one_of(st.just(cores * elapsed), MUCH)), node_seconds=draw(MUCH),
        gpu_seconds=draw(MUCH), memory_mib_seconds=draw(MUCH), suspended_s=draw(st.integers(0, 10**6)),
        queue="cpu", qos=draw(st.sampled_from(["", "high"])), start_time=end - timedelta(seconds=elapsed), end_time=end,
        estimated=draw(st.booleans()), units=draw(st.dictionaries(st.sampled_from(["shots", "qpu.min-utes_2"]), MUCH)),
        exclusive=draw(st.booleans()), requested_cores=draw(st.none() | COUNTS),
        cpus=draw(st.none() | st.just(cores * threads)), threads_per_core=threads,
    )  # fmt: skip


def exported(r: UsageRecord) -> ChargedRun:
    return charged(
        state=r.state, cores=r.cores, nodes=r.nodes, elapsed_s=r.elapsed_s, start=r.start_time, end=r.end_time,
        core_seconds=r.core_seconds, node_seconds=r.node_seconds, gpu_seconds=r.gpu_seconds,
        memory_mib_seconds=r.memory_mib_seconds, kind=r.kind.value, suspended_s=r.suspended_s, exclusive=r.exclusive,
        requested_cores=r.requested_cores, cpus=r.cpus, threads_per_core=r.threads_per_core, estimated=r.estimated,
        qos=r.qos, units=r.units,
    )  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(readings(), st.sampled_from([1, 2]))
def test_an_exported_run_read_back_meters_the_same_by_every_policy(
    schema: xmlschema.XMLSchema, verifier: ModuleType, record: UsageRecord, cpus_per_core: int
) -> None:
    text = ogf_ur_xml([exported(record)], created=NOW)
    schema.validate(text)
    reading = ogf_ur.read_document(text, site_id="alpha", cpus_per_core=cpus_per_core)
    assert reading.problems == ()
    [back] = reading.records
    for policy in POLICIES:
        assert meter(back, policy) == meter(record, policy)
    same = ("start_time", "end_time", "qos", "estimated", "kind", "queue")
    assert [getattr(back, name) for name in same] == [getattr(record, name) for name in same]
    told: list[str] = []
    shown = {"cores", "nodes", "core_seconds", "node_seconds", "gpu_seconds", "memory_mib_seconds", "elapsed_s",
             "suspended_s", "threads_per_core", "cpus", "requested_cores"}  # fmt: skip
    read: dict[str, Any] = {name: None if (v := getattr(back, name)) is None else str(v) for name in shown}
    read |= {"exclusive": back.exclusive, "kind": back.kind.value, "state": back.state, "queue": back.queue,
             "start": None if back.start_time is None else back.start_time.replace(microsecond=0).isoformat(),
             "end": None if back.end_time is None else back.end_time.replace(microsecond=0).isoformat()}  # fmt: skip
    if record.threads_per_core == 1 or record.core_seconds == record.cores * record.elapsed_s:
        verifier.check_read(read, verifier.from_ogf(back.raw), told.append)
        assert told == []


def test_a_figure_of_a_resource_that_is_no_number_is_a_problem() -> None:
    text = ogf_ur_xml([charged(gpu_seconds=77)], created=NOW)
    for wrong in ("-77", "7.5", "x", "9" * 30):
        [problem] = ogf_ur.read_document(text.replace(">77<", f">{wrong}<"), site_id="alpha").problems
        assert "no whole number" in problem.why


# ---------------------------------------------------------------- the general ledger


def lines_of(db: Database) -> list[LedgerLine]:
    with db.read() as conn:
        return export_rows.journal(conn, START, END)


def test_journal_as_csv_balances_entry_by_entry(db: Database) -> None:
    sums: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for row in csv.DictReader(io.StringIO(journal_csv(lines_of(db)))):
        sums[row["entry"], row["commodity"]] += Decimal(row["amount"])
    assert len(sums) >= 6 and not any(sums.values())


def test_trial_balance_closes_with_what_the_next_one_opens_with(db: Database) -> None:
    def table(start: datetime, end: datetime) -> dict[tuple[str, str], dict[str, str]]:
        with db.read() as conn:
            text = trial_balance(export_rows.journal(conn, start, end), export_rows.opening_balances(conn, start))
        return {(r["account"], r["commodity"]): r for r in csv.DictReader(io.StringIO(text))}

    first, second, whole = table(START, NOW), table(NOW, END), table(START, END)
    for key, row in second.items():
        assert (
            Decimal(row["opening"]) == Decimal(first[key]["closing"]) if key in first else Decimal(row["opening"]) == 0
        )
        assert Decimal(row["closing"]) == Decimal(whole[key]["closing"])
    for column in ("debit", "credit", "closing"):
        total = sum(Decimal(r[column]) for (_, c), r in whole.items() if c == "CNY")
        assert total == 0 if column == "closing" else total != 0
    assert whole["payer:uni:receivable", "CNY"]["closing"] == "2.76"  # 18.82 billed, 1.06 credited, 15.00 paid


def test_beancount_opens_the_books_and_adds_them_up(db: Database, tmp_path: Path) -> None:
    file = tmp_path / "books.beancount"
    file.write_text(beancount(lines_of(db)), encoding="utf-8")
    done = tool("-m", "beancount.scripts.check", str(file))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    file.write_text(file.read_text().replace(" 15.00 CNY", " 15.01 CNY").replace(" 15 CNY", " 15.01 CNY", 1))
    wrong = tool("-m", "beancount.scripts.check", str(file))
    assert "does not balance" in wrong.stdout + wrong.stderr


def test_hledger_text_adds_up_when_it_is_read_again(db: Database) -> None:
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for block in hledger(lines_of(db)).strip().split("\n\n"):
        head, *postings = block.split("\n")
        assert re.match(r"\d{4}-\d\d-\d\d \(\d+\) \w+ \| ", head)
        entry: dict[str, Decimal] = defaultdict(Decimal)
        for posting in postings:
            account, amount = re.fullmatch(r"    (\S.*?)  (.+)", posting).groups()  # type: ignore[union-attr]
            value, commodity = amount.split(" ", 1)
            entry[commodity] += Decimal(value)
            if commodity == '"CNY"':
                sums[account] += Decimal(value)
        assert not any(entry.values()), block
    assert sums["bank:ACC"] == 15


def test_accounts_that_differ_only_in_signs_stay_two(db: Database) -> None:
    one = LedgerLine(1, T0.replace(tzinfo=UTC), "k", "key", "m", "bank:a_b", "CNY", 1_000_000)
    text = beancount([one, replace(one, account="bank:a.b", amount=-1_000_000)])
    assert "Assets:Bank:A-b " in text and "Assets:Bank:A-b-2 " in text


@pytest.mark.parametrize("memo", [*HOSTILE, 'a"b\\', "x\n2026-01-01 open Assets:X", "  ; comment", "\u2028y"])
def test_memos_cannot_write_into_the_books(memo: str) -> None:
    one = LedgerLine(1, T0, "k", "key", memo, "bank:a", "CNY", 1_000_000)
    lines = [one, replace(one, account="tax:b", amount=-1_000_000)]
    for text in (beancount(lines), hledger(lines)):
        assert len([x for x in text.splitlines() if x.startswith("2026-")]) in (1, 3)
        assert len([x for x in text.splitlines() if x.lstrip().startswith(("bank:", "Assets:Bank"))]) == 1


def test_a_purchase_passes_the_focus_validator(tmp_path: Path) -> None:
    made = invoice()
    block = Ordered("o1", "o1", "block", "core-seconds", 3_600_000)
    lines = [replace(made.lines[0], kind=LineKind.ORDER, user="", user_id="", runs=0, core_seconds=0, ordered=ordered,
                     site_id=site) for ordered, site in (
        (block, "alpha"), (replace(block, kind="subscription", commodity="gpu-seconds"), ""),
        (replace(block, commodity="shots", quantity=100), ""))]  # fmt: skip
    rest = made.lines[1:]
    net, tax = (sum(getattr(x, name) for x in (*lines, *rest)) for name in ("net_minor", "tax_minor"))
    bought = replace(made, lines=(*lines, *rest), net_minor=net, tax_minor=tax, gross_minor=net + tax)
    [verdict] = focus_verdicts([focus_csv([bought])], tmp_path)
    assert "Validation succeeded" in verdict, verdict
