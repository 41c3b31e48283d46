"""Open XDMoD's own expected figures from the real log it publishes, cell by cell, on both databases.

The data lie beside the repository (`../shared/data/xdmod`, LGPL: used as test data, not copied).
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest

from accounting import store as books
from accounting.calendar import days, months
from accounting.meter import MeteringPolicy
from accounting.reports.usage_by_period import PeriodUsage, span_of, usage_by_period
from accounting.sources import sacct
from accounting.tariff import PriceRule
from accounting.usage import UsageRecord
from gateway.db import Database

DATA = Path(__file__).parents[3].parent / "shared" / "data" / "xdmod"
COLUMNS = [
    *("jobid", "jobidraw", "cluster", "partition", "qos", "account", "group", "gid", "user", "uid", "submit"),
    *("eligible", "start", "end", "elapsed", "exitcode", "state", "nnodes", "ncpus", "reqcpus", "reqmem", "reqtres"),
    *("alloctres", "timelimit", "nodelist", "jobname"),
]
NOW = datetime(2017, 1, 5, tzinfo=UTC)
SITE = "pozidriv"

pytestmark = pytest.mark.skipif(not DATA.exists(), reason=f"XDMoD's log is not at {'../shared/data/xdmod'}")


def _lines() -> list[str]:
    return (DATA / "pozidriv.log").read_text().splitlines()


def _expected() -> dict[tuple[str, str], Decimal]:
    with (DATA / "pozidriv-expected.csv").open() as file:
        return {(row["metric"], row["period"]): Decimal(row["value"]) for row in csv.DictReader(file)}


def _records(lines: Sequence[str]) -> list[UsageRecord]:
    reading = sacct.read_document("\n".join(lines), site_id=SITE, columns=COLUMNS)
    assert reading.problems == ()
    assert reading.rows == len(lines)
    return list(reading.records)


def _store(db: Database, records: Sequence[UsageRecord], *, chunk: int = 500) -> int:
    recorded = 0
    for at in range(0, len(records), chunk):
        items = [
            books.Assigned(r, f"{r.native_id}.{r.task or 0}"[:32], r.account[:32], r.username, "CNY")
            for r in records[at : at + chunk]
        ]
        with db.write() as conn:
            recorded += books.record_and_book(conn, items, policy=MeteringPolicy(), now=NOW).recorded
    return recorded


def _hours(seconds: int) -> Decimal:
    return (Decimal(seconds) / 3600).quantize(Decimal("0.0001"), ROUND_HALF_UP)


def _cells(found: Sequence[PeriodUsage]) -> dict[tuple[str, str], Decimal]:
    cells: dict[tuple[str, str], Decimal] = {}
    for usage in found:
        for metric, value in {
            "total_cpu_hours": _hours(usage.core_seconds), "total_node_hours": _hours(usage.node_seconds),
            "total_wallduration_hours": _hours(usage.wall_seconds), "job_count": Decimal(usage.runs_ended),
            "started_job_count": Decimal(usage.runs_started),
        }.items():  # fmt: skip
            cells[metric, usage.period] = value
    return cells


def _check(db: Database) -> None:
    with db.read() as conn:
        span = span_of(conn, SITE)
        assert span is not None
        start, end = span
        found = _cells(usage_by_period(conn, SITE, [*days(start, end), *months(start, end)]))
    expected = _expected()
    assert len(expected) >= 60
    wrong = {cell: (value, found.get(cell)) for cell, value in expected.items() if found.get(cell) != value}
    assert wrong == {}


@pytest.fixture
def db(db_url: str) -> Database:
    db = Database(db_url)
    with db.write() as conn:
        books.add_tariff(conn, PriceRule(0, "CNY", 0, datetime(2016, 1, 1, tzinfo=UTC)), now=NOW)
    return db


def _any_order(lines: list[str]) -> list[list[str]]:
    shuffled = list(lines)
    random.Random(2017).shuffle(shuffled)
    return [shuffled]


def _overlapping_windows(lines: list[str]) -> list[list[str]]:
    step = len(lines) // 7
    windows = [lines[max(0, at - step // 2) : at + step] for at in range(0, len(lines), step)]
    random.Random(11).shuffle(windows)
    return windows


@pytest.mark.parametrize(
    "feed",
    [
        pytest.param(lambda lines: [lines], id="as it is"),
        pytest.param(
            lambda lines: [*_overlapping_windows(lines), *_any_order(lines)], id="twice, overlapping, shuffled"
        ),
    ],
)
def test_every_cell_of_xdmods_own_table_comes_out(db: Database, feed: Callable[[list[str]], list[list[str]]]) -> None:
    lines = _lines()
    recorded = sum(_store(db, _records(part)) for part in feed(lines))
    assert recorded == len(_records(lines))
    _check(db)
    db.dispose()
