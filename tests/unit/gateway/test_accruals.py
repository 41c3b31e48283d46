"""A month is cut off: what runs over its end is accrued as it will be priced, and no second of it twice."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from accounting import store as books
from accounting.calendar import month
from accounting.ledger import accrued
from accounting.meter import MeteringPolicy
from accounting.store import periods, prices
from accounting.tariff import Discount, PriceRule
from gateway.billing import closing
from gateway.jobs.repository import RUNS
from site_adapters.types import Attributes, Resources
from tests.builders import MICRO, Gateway, local_site, make_gateway
from tests.unit.accounting import makers

OCTOBER, NOVEMBER = month("2026-10", "Asia/Shanghai"), month("2026-11", "Asia/Shanghai")
START = OCTOBER.end - timedelta(days=10)
HOUR = 360_000  # the price of a core's hour in this gateway


def begun(gateway: Gateway, *, cores: int = 2, **resources: Any) -> str:
    """A job of 90 days on two cores that began ten days before October's end."""
    wanted = Resources(cpu_cores_per_process=2, **resources)
    job_id = gateway.submit("local", attributes=Attributes(duration=90 * 86400), resources=wanted)
    with gateway.services.db.write() as conn:
        conn.execute(insert(RUNS).values(
            job_id=job_id, attempt=1, task=-1, restart=0, site_id="local", native_id="77", state="active", cores=cores,
            start_time=START, submit_time=START, observed_at=START,
        ))  # fmt: skip
    return job_id


def cut_off(gateway: Gateway, year: int, number: int) -> int:
    """Micro-units that stand as accrued when the month is over."""
    with gateway.services.db.write() as conn:
        now = datetime(year, number + 1, 2, tzinfo=UTC)
        period = periods.open_period(conn, year=year, month=number, zone="Asia/Shanghai", by="ada", now=now)
        closing.begin(conn, period, by="ada", now=now)
    with gateway.services.db.read() as conn:
        code = accrued(gateway.project_id)
        return books.balances(conn, code=code).get((code, "CNY"), 0)


@pytest.fixture
def gateway(db_url: str, tmp_path: Path) -> Gateway:
    """At a centre that counts shots."""
    return make_gateway(tmp_path, db_url, local_site(tmp_path, policy={"countables": ["shots"]}))


@pytest.fixture
def rich(gateway: Gateway) -> Gateway:
    with gateway.services.db.write() as conn:
        books.grant_credit(conn, project_id=gateway.project_id, commodity="CNY", amount=10**6 * MICRO, idem_key="g2",
                           now=START)  # fmt: skip
    return gateway


def test_each_month_accrues_its_own_part_of_a_long_run(rich: Gateway) -> None:
    begun(rich)
    assert cut_off(rich, 2026, 10) == 10 * 24 * 2 * HOUR
    assert cut_off(rich, 2026, 11) == 40 * 24 * 2 * HOUR
    rich.check_books()


def test_it_is_cut_where_the_price_changes_and_counts_accelerators(rich: Gateway) -> None:
    dearer = PriceRule(0, "CNY", MICRO, START, resource="gpu_seconds")
    with rich.services.db.write() as conn:
        books.add_tariff(conn, dearer, now=START)
        half = Discount(0, rich.project_id, 1, 2, OCTOBER.end - timedelta(days=4))
        prices.add_discount(conn, half, now=START)
        prices.add_discount(conn, replace(half, denominator=1, resource="gpu_seconds"), now=START)
    begun(rich, gpu_cores_per_process=1)
    assert cut_off(rich, 2026, 10) == 6 * 24 * 2 * HOUR + 4 * 24 * 2 * HOUR // 2 + 10 * 24 * MICRO


def test_units_that_a_run_has_taken_are_accrued_once_and_in_the_month_in_which_it_began(rich: Gateway) -> None:
    dearer = PriceRule(0, "CNY", 5 * MICRO, START, resource="unit:shots", per=1000)
    with rich.services.db.write() as conn:
        books.add_tariff(conn, dearer, now=START)
    begun(rich, units={"shots": 20_000})
    time = 24 * 2 * HOUR
    assert cut_off(rich, 2026, 10) == 10 * time + 100 * MICRO
    assert cut_off(rich, 2026, 11) == 40 * time + 100 * MICRO
    rich.check_books()


@pytest.mark.parametrize(("cpus", "cores"), [(4, 2), (5, 3)])
def test_threads_are_accrued_as_the_cores_that_their_record_will_be_billed_as(
    rich: Gateway, cpus: int, cores: int
) -> None:
    makers.agree(rich.services.db, makers.agreement(
        site_ids=("local",), metering=MeteringPolicy("threads-2", threads_per_core={"*": 2})
    ))  # fmt: skip
    begun(rich, cores=cpus)
    assert cut_off(rich, 2026, 10) == 10 * 24 * cores * HOUR
    with rich.services.db.read() as conn:
        code = accrued(rich.project_id)
        assert books.balances(conn, code=code)[code, "core-seconds"] == 10 * 86_400 * cores
    rich.check_books()


def test_what_was_accrued_is_taken_back_whole_by_the_record(rich: Gateway) -> None:
    """With its units and its threads: nothing stays on the account once the centre has told the run."""
    with rich.services.db.write() as conn:
        books.add_tariff(conn, PriceRule(0, "CNY", 5 * MICRO, START, resource="unit:shots", per=1000), now=START)
    job_id = begun(rich, units={"shots": 20_000})
    assert cut_off(rich, 2026, 10) > 100 * MICRO
    told = makers.run("77", cores=2, elapsed=40 * 86_400, start=START, site_id="local", units={"shots": 19_000})
    with rich.services.db.write() as conn:
        item = books.Assigned(told, job_id, rich.project_id, "u1", "CNY")
        books.record_and_book(conn, [item], now=START + timedelta(days=50))
        code = accrued(rich.project_id)
        assert {value for (account, _), value in books.balances(conn, code=code).items()} == {0}
    rich.check_books()
