"""Match a statement of a million lines with a million runs, on both databases; what is before and after is timed too.

The runs are made from the lines by the database itself; one in a hundred is changed, so that something is found.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from sqlalchemy import Connection, text

from accounting.calendar import month
from accounting.reconciling import match as recon_match
from accounting.reconciling import statement_store
from accounting.reconciling.drafts import Known, Rules, drafts
from accounting.reconciling.explain import Ground
from accounting.reconciling.found import Matched
from accounting.reconciling.sides import Scope
from accounting.reconciling.statement import Header, Signed
from accounting.reconciling.statement_formats import Profile, read_statement
from accounting.reconciling.store import MARGIN_S
from benchmarks import stage
from gateway.db import Database
from gateway.migrations import schema

COUNT = int(os.environ.get("PENSTOCK_BENCH_LINES", "1000000"))
NOVEMBER = month("2026-11")
HEAD = "run_key,native_id,username,cores,nodes,start,end,elapsed,quantity,amount"
RULES = Rules(ground=Ground(cores_per_node=64, price=360_000))


def run() -> None:
    """Seconds of each part by the clock, and in brackets of this process's CPU; the match is one of them."""
    with stage.folder() as folder, stage.databases(folder) as databases:
        document = _document()
        for name, url in databases:
            db = Database(url)
            schema.upgrade(db)
            _measure(name, db, document)
            db.dispose()


def _measure(name: str, db: Database, document: bytes) -> None:
    spent: dict[str, tuple[float, float]] = {}
    with _timed(spent, "parse"):
        statement = read_statement(document, site_id="alpha", format_name="csv", header=Header(NOVEMBER, "CNY"),
                                   profile=Profile({n: n for n in HEAD.split(",")}))  # fmt: skip
    assert (statement.read.lines, statement.problems) == (COUNT, ())
    with _timed(spent, "load"), db.write() as conn:
        now = datetime.now(UTC)
        number = statement_store.arrive(conn, statement, now=now)
        for rows in statement.read.batches():
            statement_store.save_lines(conn, number, rows)
        statement_id, _ = statement_store.complete(conn, number, statement, document, Signed(), by="bench", now=now)
    del statement
    with db.write() as conn:
        _runs(conn, statement_id)
    with db.read() as conn:
        scope = Scope(statement_id, "alpha", NOVEMBER, RULES.basis, MARGIN_S, {})
        with _timed(spent, "match"):
            found = recon_match.match(conn, scope, RULES.tolerance)
    with _timed(spent, "explain"):
        explained = drafts(found, [], RULES, Known())
    _check(found, len(explained))
    parts = ", ".join(f"{part} {wall:.1f} s ({cpu:.1f})" for part, (wall, cpu) in spent.items())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{name:10} {COUNT:,} lines × {found.runs:,} runs: {parts}; {len(explained):,} breaks; {peak:.1f} GiB",
        flush=True,
    )


def _check(found: Matched, explained: int) -> None:
    changed = COUNT // 100
    assert (found.agreed, len(found.pairs), len(found.unknown), len(found.missing)) == (COUNT - changed, changed, 0, 0)
    assert explained == changed


def _document() -> bytes:
    """Runs of an hour or so, spread over the month; 0.36 for a core-hour is 100 micro-units a core-second."""
    first = NOVEMBER.epochs[0]
    lines = [HEAD]
    for n in range(COUNT):
        cores, elapsed, start = 1 + n % 31, 3607 + n % 1000, first + n % 2_500_000
        amount = cores * elapsed * 100
        lines.append(f"alpha:{n},{n},u{n % 997},{cores},1,{start},{start + elapsed},{elapsed},{cores * elapsed},"
                     f"{amount // 1_000_000}.{amount % 1_000_000:06d}")  # fmt: skip
    return "\n".join(lines).encode()


def _runs(conn: Connection, statement_id: int) -> None:
    """Our side: the same runs with their charges, one in a hundred three seconds shorter."""
    at = (
        "to_timestamp({0})"
        if conn.dialect.name == "postgresql"
        else "strftime('%Y-%m-%d %H:%M:%S.000000', {0}, 'unixepoch')"
    )
    no = "false" if conn.dialect.name == "postgresql" else "0"
    less = "(CASE WHEN line_no % 100 = 0 THEN 3 ELSE 0 END)"
    conn.execute(
        text(f"""INSERT INTO usage_record (id, site_id, run_key, meter, revision, content_sha256, kind, job_id,
        project_id, user_id, native_id, state, username, account, queue, qos, cores, nodes, elapsed_s, suspended_s,
        core_seconds, node_seconds, gpu_seconds, memory_mib_seconds, start_time, end_time, estimated, exclusive,
        threads_per_core, raw, recorded_at)
        SELECT line_no, 'alpha', run_key, 'centre', 1, '', 'run', native_id, 'p', 'u', native_id, 'COMPLETED', username,
        '', 'cpu', '', cores, nodes, elapsed_s - {less}, 0, cores * (elapsed_s - {less}), elapsed_s, 0, 0,
        {at.format("started")}, {at.format(f"ended - {less}")}, {no}, {no}, 1, '{{}}', {at.format("ended")}
        FROM centre_statement_line WHERE statement_id = :statement"""),
        {"statement": statement_id},
    )
    conn.execute(
        text(f"""INSERT INTO charge (usage_record_id, entry_id, job_id, project_id, meter, currency, amount_micro,
        gross_micro, borne_micro, centre_micro, tax_micro, core_seconds, policy_version, grade, user_class, rule,
        reason, segments, overage, recorded_at)
        SELECT id, id, job_id, project_id, 'centre', 'CNY', core_seconds * 100, core_seconds * 100, 0,
        core_seconds * 100, 0, core_seconds, 'x', '', '', '', '', '[]', {no}, recorded_at FROM usage_record""")
    )
    if conn.dialect.name == "postgresql":
        for table in ("usage_record", "charge", "centre_statement_line"):
            conn.execute(text(f"ANALYZE {table}"))


@contextmanager
def _timed(spent: dict[str, tuple[float, float]], part: str) -> Iterator[None]:
    """Seconds by the clock, and of this process's CPU (of SQLite that is all there is; PostgreSQL has its own)."""
    begun, used = time.monotonic(), time.process_time()
    yield
    spent[part] = (time.monotonic() - begun, time.process_time() - used)
