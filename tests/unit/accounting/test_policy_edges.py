"""Edges of the metering policy, each figure computed by hand."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from msgspec import structs

from accounting.calendar import Window
from accounting.meter import Basis, MeteringPolicy, meter, threads_as_cores
from accounting.price import PriceBook, price
from accounting.tariff import MINIMUM
from accounting.usage import CORE_SECONDS, GPU_SECONDS, MEMORY, NODE_SECONDS, Kind, UsageRecord
from tests.unit.accounting.makers import HERE, rule, run

HELD = (CORE_SECONDS, GPU_SECONDS, NODE_SECONDS, MEMORY)


def stopped(**more: Any) -> UsageRecord:
    """4 cores, 1 node, 2 GPUs: 600 s running, 400 s suspended."""
    found = run(cores=4, elapsed=600)
    given = {"suspended_s": 400, "gpu_seconds": 2000, "memory_mib_seconds": 1001, "nodes": 1, "node_seconds": 600}
    return structs.replace(found, core_seconds=2400, **(given | more))


@pytest.mark.parametrize(("cpus", "nodes", "threads", "cores"), [
    (5, 1, 2, 3), (1, 1, 2, 1), (6, 1, 2, 3), (0, 1, 2, 0),
    (10, 2, 2, 6),  # 5 threads on each of two nodes: 3 cores each, not 5 in all
    (7, 3, 2, 4),  # 2 + 2 + 3
    (9, 2, 4, 3),  # 4 + 5: one core and two
    (64, 3, 2, 33),  # 21 + 21 + 22
])  # fmt: skip
def test_odd_threads_are_whole_cores_on_each_node(cpus: int, nodes: int, threads: int, cores: int) -> None:
    assert threads_as_cores(cpus, nodes, threads) == cores


def test_suspended_time_is_billed_for_what_the_agreement_says_is_held() -> None:
    """Allocated: 4 × 600, or 4 × 1000; GPUs 2 × 1000, or 2 × 600; one node for 600, or for 1000."""
    default = meter(stopped(), MeteringPolicy()).quantities
    assert (default[CORE_SECONDS], default[GPU_SECONDS], default[NODE_SECONDS]) == (2400, 2000, 600)
    held = meter(stopped(), MeteringPolicy(held_while_suspended=HELD)).quantities
    assert (held[CORE_SECONDS], held[GPU_SECONDS], held[NODE_SECONDS]) == (4000, 2000, 1000)
    free = meter(stopped(), MeteringPolicy(held_while_suspended=())).quantities
    assert (free[CORE_SECONDS], free[GPU_SECONDS], free[NODE_SECONDS], free[MEMORY]) == (2400, 1200, 600, 600)


def test_suspended_time_of_requested_cores() -> None:
    asked = stopped(requested_cores=3)
    by_request = MeteringPolicy(basis=Basis.REQUESTED)
    assert meter(asked, by_request).core_seconds == 1800
    held = MeteringPolicy(basis=Basis.REQUESTED, held_while_suspended=HELD)
    assert meter(asked, held).core_seconds == 3000
    assert meter(stopped(requested_cores=None), held).core_seconds == 4000  # nothing says what was asked


def test_whole_nodes_that_are_unlike_are_what_the_scheduler_counted_where_no_figure_is_agreed() -> None:
    """A node of 64 cores and one of 128."""
    unlike = structs.replace(run(cores=192, elapsed=100), nodes=2, exclusive=True, requested_cores=10)
    assert meter(unlike, MeteringPolicy()).core_seconds == 19_200
    assert meter(unlike, MeteringPolicy(cores_per_node={"*": 64})).core_seconds == 12_800  # what was signed
    assert meter(unlike, MeteringPolicy(exclusive_whole_nodes=False)).core_seconds == 1000


RULE = rule(1, 3_600_000)  # 1000 micro-units a core-second
LEAST = rule(2, 50_000, resource=MINIMUM, per=1)


@pytest.mark.parametrize(("elapsed", "micro"), [(0, 0), (1, 50_000), (49, 50_000), (50, 50_000), (51, 51_000)])
def test_a_minimum_is_of_runs_that_used_something(elapsed: int, micro: int) -> None:
    record = structs.replace(run(cores=1, elapsed=elapsed), kind=Kind.RUN)
    book = PriceBook((RULE, LEAST))
    assert price(record, meter(record, MeteringPolicy()), book, HERE).amount_micro == micro


def test_a_requeued_run_of_no_seconds_costs_nothing_by_either_policy() -> None:
    record = structs.replace(run(cores=64, elapsed=0), state="REQUEUED", kind=Kind.RUN)
    for bills in (True, False):
        metered = meter(record, MeteringPolicy(bill_requeued=bills))
        assert price(record, metered, PriceBook((RULE, LEAST)), HERE).amount_micro == 0


@pytest.mark.parametrize(("day", "hours", "night"), [
    (date(2026, 10, 25), 25, 9),  # the clock is turned back at 03:00: 7 + 2 hours of night
    (date(2026, 3, 29), 23, 7),  # and on at 02:00: 5 + 2
    (date(2026, 6, 1), 24, 8),
])  # fmt: skip
def test_a_day_of_berlin_at_two_prices(day: date, hours: int, night: int) -> None:
    """One core from midnight to midnight: by night (22 to 6) for half of the price of the day."""
    zone = ZoneInfo("Europe/Berlin")
    days = (day, day + timedelta(days=1))
    start, end = (datetime.combine(midnight, time(), zone).astimezone(UTC) for midnight in days)
    record = structs.replace(run(cores=1, elapsed=hours * 3600), start_time=start, end_time=end)
    assert end - start == timedelta(hours=hours)
    cheap = rule(3, 1_800_000, window=Window(22 * 60, 6 * 60), zone="Europe/Berlin")
    charge = price(record, meter(record, MeteringPolicy()), PriceBook((RULE, cheap)), HERE)
    assert charge.amount_micro == night * 1_800_000 + (hours - night) * 3_600_000
    assert sum(s.quantity for s in charge.segments) == hours * 3600
