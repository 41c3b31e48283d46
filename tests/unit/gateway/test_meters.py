"""Control totals of both meters, day by day: what the tick raises, what it takes back, and who sees it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from penstock.cli import penstock
from sqlalchemy import update

from accounting import meters_watch
from accounting import store as books
from accounting.store.alarms import AlarmNow, alarms
from accounting.usage import Kind, Meter, UsageRecord
from gateway import leases
from gateway.billing.meters import watch_meters
from gateway.jobs.repository import SITES
from gateway.services import Lease
from gateway.ticks import TICKS
from tests.builders import Gateway


def have(
    gateway: Gateway, number: int, meter: Meter, seconds: int, *, days_ago: int = 2, key: str = "",
    task: int | None = None,
) -> None:  # fmt: skip
    """A meter read job `number`: 4 cores for so many seconds, ended at noon so many days ago."""
    now = gateway.services.clock()
    end = (now - timedelta(days=days_ago)).replace(hour=12, minute=0, second=0, microsecond=0)
    record = UsageRecord(
        site_id="local", run_key=key or f"{meter}{number}", meter=meter, kind=Kind.RUN, native_id=str(number),
        task=task, state="COMPLETED", username="u", cores=4, nodes=1, elapsed_s=seconds, core_seconds=4 * seconds,
        node_seconds=0, queue="cpu", start_time=end - timedelta(seconds=seconds), end_time=end,
        raw={"n": f"{number}/{seconds}"},
    )  # fmt: skip
    with gateway.services.db.write() as conn:
        books.record_and_book(conn, [books.Assigned(record, f"j{number}", gateway.project_id, "u1", "CNY")], now=now)


def tick(gateway: Gateway, *, in_hours: int = 0) -> list[str]:
    """The kinds that one run raises."""
    lease = Lease("local", leases.take(gateway.services.db, "local", "test").fencing)
    now = gateway.services.clock() + timedelta(hours=in_hours)
    return [alarm.kind.value for alarm in watch_meters(gateway.services, lease, now)]


def stand(gateway: Gateway, **which: Any) -> list[AlarmNow]:
    with gateway.services.db.read() as conn:
        return alarms(conn, **which)


def test_the_tick_is_among_those_that_every_worker_runs() -> None:
    assert "meters" in [t.name for t in TICKS]


def test_a_job_without_a_record_of_its_centre_is_told_once_and_is_over_when_it_comes(gateway: Gateway) -> None:
    have(gateway, 1, Meter.GATEWAY, 3600)
    have(gateway, 2, Meter.GATEWAY, 3600)
    have(gateway, 2, Meter.CENTRE, 3601)
    assert tick(gateway) == ["gap"]
    assert tick(gateway) == []  # it stands, and nobody is woken again
    (alarm,) = stand(gateway)
    assert alarm.text == "1 of 2 jobs that ended have no record of the centre"
    have(gateway, 1, Meter.CENTRE, 3600)
    assert tick(gateway) == []
    assert stand(gateway) == []
    assert [a.state for a in stand(gateway, over=True)] == ["over"]


def test_two_clocks_are_no_alarm_and_what_is_beyond_them_is(gateway: Gateway) -> None:
    have(gateway, 1, Meter.GATEWAY, 3600)
    have(gateway, 1, Meter.CENTRE, 3590)
    assert tick(gateway) == []
    have(gateway, 2, Meter.GATEWAY, 3600)
    have(gateway, 2, Meter.CENTRE, 1800)
    assert tick(gateway) == ["control_total"]
    (alarm,) = stand(gateway)
    assert alarm.figures == {"gateway_core_seconds": 28_800, "centre_core_seconds": 21_560}
    have(gateway, 2, Meter.CENTRE, 1000)
    assert tick(gateway) == ["control_total"]  # it says something else now
    have(gateway, 2, Meter.CENTRE, 3600)
    assert tick(gateway) == []
    assert stand(gateway) == []


def test_what_one_job_has_too_much_makes_up_for_nothing_that_another_lacks(gateway: Gateway) -> None:
    for number, metered in ((1, 7200), (2, 36)):
        have(gateway, number, Meter.GATEWAY, 3600)
        have(gateway, number, Meter.CENTRE, metered)
    assert tick(gateway) == ["control_total"]


def test_tasks_of_an_array_that_the_centre_lost_are_a_gap_though_it_told_others(gateway: Gateway) -> None:
    """An hour of the centre's log is missing. The tasks are so short that the sums are within two clocks."""
    for task in range(5):
        have(gateway, 1, Meter.GATEWAY, 30, key=f"g:{task}:0", task=task)
    have(gateway, 1, Meter.CENTRE, 30, key="c:0", task=0)
    assert tick(gateway) == ["gap"]
    (alarm,) = stand(gateway)
    assert alarm.text == "1 of 1 jobs that ended have no record of the centre, 1 of them of some tasks only"
    for task in range(1, 5):
        have(gateway, 1, Meter.CENTRE, 30, key=f"c:{task}", task=task)
    assert tick(gateway) == []


def test_runs_that_a_centre_tells_again_under_other_keys_are_an_alarm_however_short(gateway: Gateway) -> None:
    """Its database was restored and numbers its rows anew: the same runs come once more."""
    have(gateway, 1, Meter.GATEWAY, 9)
    have(gateway, 1, Meter.CENTRE, 9, key="c:1")
    have(gateway, 1, Meter.CENTRE, 10, key="c:1")  # the next revision is no other run
    assert tick(gateway) == []
    have(gateway, 1, Meter.CENTRE, 10, key="c:900001")
    assert tick(gateway) == ["run_twice"]
    (alarm,) = stand(gateway)
    assert alarm.figures == {"twice": 1}


def test_what_may_still_come_is_no_gap(gateway: Gateway) -> None:
    have(gateway, 1, Meter.GATEWAY, 3600, days_ago=0)
    assert tick(gateway) == []
    assert tick(gateway, in_hours=48) == ["gap"]


def test_a_meter_that_nobody_could_read_for_a_day_is_told(gateway: Gateway) -> None:
    with gateway.services.db.write() as conn:
        conn.execute(update(SITES).values(collected_until=gateway.services.clock()))
    assert tick(gateway, in_hours=23) == []
    assert tick(gateway, in_hours=25) == ["not_read"]


@pytest.mark.parametrize("rule", ["missing", "apart"])
def test_without_its_rule_nobody_is_told(gateway: Gateway, monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    have(gateway, 1, Meter.GATEWAY, 3600)
    if rule == "apart":
        have(gateway, 1, Meter.CENTRE, 36)
        monkeypatch.setattr(meters_watch.DayTotals, "apart", 0)
    else:
        found = meters_watch.totals
        monkeypatch.setattr(meters_watch, "totals", lambda jobs, slack_s: found(
            [j for j in jobs if j.centre_core_seconds is not None], slack_s=slack_s))  # fmt: skip
    assert tick(gateway) == []


def test_the_operator_sees_them_in_api_and_shell_and_others_do_not(
    gateway: Gateway, client: httpx.Client, operator: dict[str, str]
) -> None:
    have(gateway, 1, Meter.GATEWAY, 3600)
    tick(gateway)
    (alarm,) = client.get("billing/alarms", headers=operator).json()["items"]
    assert (alarm["site"], alarm["kind"], alarm["state"]) == ("local", "gap", "raised")
    (day,) = client.get("billing/meters/local", headers=operator).json()["items"]
    assert (day["jobs"], day["missing"], day["agrees"]) == (1, 1, False)
    assert client.get("billing/alarms").json()["items"] == []
    assert client.get("billing/meters/local").status_code == 404
    url, token = str(client.base_url).removesuffix("/api/v2/"), operator["Authorization"].removeprefix("Bearer ")
    env = {"PENSTOCK_URL": url, "PENSTOCK_TOKEN": token, "COLUMNS": "200"}
    shown = CliRunner().invoke(penstock, ["billing", "alarms"], env=env, standalone_mode=False).output
    assert "gap" in shown and "1 of 1 jobs" in shown
    shown = CliRunner().invoke(penstock, ["billing", "meters", "local"], env=env, standalone_mode=False).output
    assert "MISSING" in shown
