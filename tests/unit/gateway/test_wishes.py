"""What people wish of a job while it is on its way: no wish is lost, and none keeps a job from running for ever."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import select, update

from accounting import store as books
from accounting.errors import CreditExhausted
from accounting.tariff import PriceRule
from gateway.errors import Invalid
from gateway.jobs import service
from gateway.jobs.repository import JOBS, SITES
from site_adapters.types import (
    Accepted,
    ActionOutcome,
    Attributes,
    Budget,
    Change,
    Done,
    NotDone,
    Rejected,
    Submission,
    Unknown,
)
from tests.builders import Altered, Gateway, submitting_by

NOT_NOW = Rejected("the queue is full", code="limit", retryable=True)


@pytest.fixture
def able(gateway: Gateway) -> Gateway:
    """The gateway, with a centre that can hold and change what waits there."""
    sites: Any = gateway.services.sites
    local = sites["local"]
    sites["local"] = replace(local, capabilities=local.capabilities | {"hold", "modify"})
    return gateway


def acting(gateway: Gateway, **methods: Any) -> None:
    """Replace methods of the centre's management."""
    sites: Any = gateway.services.sites
    sites["local"] = replace(sites["local"], management=Altered(sites["local"].management, **methods))


def refused_for_now(act: Callable[[], None]) -> Callable[[Sequence[Submission]], list[Rejected]]:
    """A centre that takes nothing now; somebody acts while it is asked."""

    def submit(submissions: Sequence[Submission]) -> list[Rejected]:
        act()
        return [NOT_NOW] * len(submissions)

    return submit


def later(gateway: Gateway, seconds: int = 30) -> None:
    """Turn the clock: what rests after a refusal is due again."""
    clock = gateway.services.clock
    gateway.services = replace(gateway.services, clock=lambda: clock() + timedelta(seconds=seconds))


def test_a_cancel_that_comes_while_the_centre_refuses_for_now_ends_the_job(able: Gateway) -> None:
    job = able.submit("local")

    with submitting_by(able, "local", refused_for_now(lambda: able.wish(job, "cancel"))):
        able.tick("dispatch")

    assert able.state(job) == "canceled"
    able.check_books()


def test_a_release_that_comes_while_the_centre_refuses_for_now_keeps_nothing_from_running(able: Gateway) -> None:
    job = able.submit("local")
    with submitting_by(able, "local", refused_for_now(lambda: able.wish(job, "release"))):
        able.tick("dispatch")
    later(able)

    assert able.until(job, "completed", "failed")["status"]["state"] == "completed"


def test_a_hold_that_comes_while_the_centre_refuses_for_now_is_shown_and_kept_until_released(able: Gateway) -> None:
    job = able.submit("local")
    with submitting_by(able, "local", refused_for_now(lambda: able.wish(job, "hold"))):
        able.tick("dispatch")
    later(able)

    able.tick("dispatch")
    assert able.state(job) == "held"
    able.wish(job, "release")
    assert able.until(job, "completed", "failed")["status"]["state"] == "completed"


def test_a_release_of_a_job_whose_answer_was_lost_keeps_the_next_attempt_from_nothing(able: Gateway) -> None:
    job = able.submit("local")
    with submitting_by(able, "local", lambda all_: [Unknown("cut")] * len(all_)):
        able.tick("dispatch")
    able.wish(job, "release")
    later(able)

    assert able.until(job, "completed", "failed")["status"]["state"] == "completed"


def test_a_cancel_that_comes_while_a_hold_is_refused_is_carried_out(able: Gateway) -> None:
    job = able.submit("local", script="#!/bin/sh\nexec sleep 120\n")
    able.until(job, "active", "queued")
    able.tick("watch")

    def hold(account: Any, jobs: Sequence[Any]) -> list[ActionOutcome]:
        able.wish(job, "cancel")
        return [NotDone("it runs already", retryable=False)] * len(jobs)

    acting(able, hold=hold)
    with able.services.db.write() as conn:
        service._set_wish(conn, job, "hold", able.services.clock())
    able.tick("dispatch")

    assert able.until(job, "canceled", "completed", seconds=30)["status"]["state"] == "canceled"


def change(gateway: Gateway, job: str, **what: Any) -> None:
    services = gateway.services
    with services.db.write() as conn:
        service.modify(services, conn, gateway.person, job, Change(**what), now=services.clock())


def at_the_centre(gateway: Gateway) -> str:
    """A job that a centre has in its queue."""
    job = gateway.submit("local", script="#!/bin/sh\nexec sleep 120\n")
    gateway.tick("dispatch")
    return job


def test_two_changes_before_the_centre_is_asked_are_both_made(able: Gateway) -> None:
    asked: list[Change] = []

    def modify(account: Any, job: Any, wanted: Change) -> ActionOutcome:
        asked.append(wanted)
        return Done()

    job = at_the_centre(able)
    acting(able, modify=modify)
    change(able, job, duration=300)
    change(able, job, priority=7)
    able.tick("dispatch")
    able.wish(job, "cancel")

    assert [(c.duration, c.priority) for c in asked] == [(300, 7)]


def test_a_change_that_comes_while_the_centre_is_asked_is_made_next(able: Gateway) -> None:
    asked: list[Change] = []

    def modify(account: Any, native: Any, wanted: Change) -> ActionOutcome:
        asked.append(wanted)
        if len(asked) == 1:
            change(able, job, priority=7)
        return Done()

    job = at_the_centre(able)
    acting(able, modify=modify)
    change(able, job, duration=300)
    able.tick("dispatch")
    able.tick("dispatch")
    able.wish(job, "cancel")

    assert [(c.duration, c.priority) for c in asked] == [(300, None), (None, 7)]


def test_a_change_to_what_a_submission_could_not_ask_is_refused(gateway: Gateway) -> None:
    job = gateway.submit("local")

    with pytest.raises(Invalid) as told:
        change(gateway, job, queue_name="no such\nqueue", account="")

    assert {p.pointer for p in told.value.problems} >= {"/attributes/queue_name", "/attributes/account"}


def test_a_shorter_duration_is_what_the_line_counts_and_what_was_held_for_stays_free(gateway: Gateway) -> None:
    job = gateway.submit("local", attributes=Attributes(duration=600))
    longest = select(JOBS.c.duration_max).where(JOBS.c.id == job)

    change(gateway, job, duration=1)
    with gateway.services.db.read() as conn:
        assert conn.scalar(longest) == 1
    assert held(gateway, job) == {"CNY": 60_000, "core-seconds": 600}
    change(gateway, job, duration=600)
    assert held(gateway, job) == {"CNY": 60_000, "core-seconds": 600}


def held(gateway: Gateway, job: str) -> dict[str, int]:
    with gateway.services.db.read() as conn:
        return books.held_for(conn, job)


def row_of(gateway: Gateway, job: str) -> Any:
    with gateway.services.db.read() as conn:
        return conn.execute(select(JOBS).where(JOBS.c.id == job)).one()


def dear_queue(gateway: Gateway, micro: int = 36_000_000) -> None:
    """A queue at a hundred times the usual price: 10,000 micro-units a core-second."""
    services = gateway.services
    with services.db.write() as conn:
        start = datetime(2020, 1, 1, tzinfo=UTC)
        books.add_tariff(conn, PriceRule(0, "CNY", micro, start, queue="dear"), now=services.clock())
    with services.db.write() as conn:
        conn.execute(update(SITES).values(facts=None))  # a centre whose queues are not known yet


def test_more_time_is_held_for_and_shown(gateway: Gateway) -> None:
    job = gateway.submit("local", attributes=Attributes(duration=600))

    change(gateway, job, duration=900)

    assert held(gateway, job) == {"CNY": 90_000, "core-seconds": 900}
    assert row_of(gateway, job).estimate["amount"] == {"micro": 90_000, "currency": "CNY"}
    gateway.wish(job, "cancel")
    gateway.check_books()


def test_a_change_to_a_dearer_queue_is_held_for_at_its_price(gateway: Gateway) -> None:
    dear_queue(gateway)
    job = gateway.submit("local")

    change(gateway, job, queue_name="dear")

    assert held(gateway, job) == {"CNY": 6_000_000, "core-seconds": 600}
    gateway.check_books()


def test_a_change_that_credit_does_not_cover_is_refused_and_changes_nothing(gateway: Gateway) -> None:
    dear_queue(gateway, micro=36_000_000_000)
    job = gateway.submit("local")
    before = row_of(gateway, job)

    with pytest.raises(CreditExhausted):
        change(gateway, job, queue_name="dear")  # 6,000 of 1,000

    assert held(gateway, job) == {"CNY": 60_000, "core-seconds": 600}
    assert row_of(gateway, job) == before
    gateway.check_books()


def test_more_time_in_a_dear_queue_is_not_covered_by_the_many_cores_of_a_cheap_one(gateway: Gateway) -> None:
    """What was held counts in money too: 600 core-seconds of the dear queue are worth 60,000 of the usual one."""
    dear_queue(gateway)
    job = gateway.submit("local", attributes=Attributes(duration=60_000))
    change(gateway, job, queue_name="dear", duration=600)
    assert held(gateway, job) == {"CNY": 6_000_000, "core-seconds": 60_000}

    change(gateway, job, duration=1200)

    assert held(gateway, job)["CNY"] == 12_000_000


def whole_nodes(gateway: Gateway) -> None:
    """The centre has a queue of whole nodes, of 8 cores each."""
    services = gateway.services
    queues = [{"name": "shared", "open": True, "cores_per_node_max": 8},
              {"name": "whole", "open": True, "cores_per_node_max": 8, "exclusive": True}]  # fmt: skip
    with services.db.write() as conn:
        conn.execute(update(SITES).values(facts={"queues": queues}))


def test_a_waiting_job_that_moves_to_whole_nodes_is_held_for_and_charged_for_them(able: Gateway) -> None:
    whole_nodes(able)
    job = able.submit("local", attributes=Attributes(duration=600, queue_name="shared"))
    assert row_of(able, job).cores_charged == 1

    change(able, job, queue_name="whole")

    assert row_of(able, job).cores_charged == 8
    assert held(able, job) == {"CNY": 480_000, "core-seconds": 4800}
    assert row_of(able, job).estimate["core_seconds"] == 4800
    able.wish(job, "cancel")
    able.check_books()


def test_a_job_in_the_centres_queue_is_charged_for_whole_nodes_once_the_centre_has_moved_it(able: Gateway) -> None:
    whole_nodes(able)
    job = able.submit("local", attributes=Attributes(duration=600, queue_name="shared"))
    with submitting_by(able, "local", lambda all_: [Accepted(str(n), "c") for n, _ in enumerate(all_, 17)]):
        able.tick("dispatch")
    answers: list[ActionOutcome] = [NotDone("busy", retryable=True), Done()]
    acting(able, modify=lambda account, job, wanted: answers.pop(0))
    change(able, job, queue_name="whole")

    assert held(able, job)["core-seconds"] == 4800  # before it is asked: it may do so at any time
    able.tick("dispatch")
    assert row_of(able, job).cores_charged == 1
    later(able)
    able.tick("dispatch")

    moved = row_of(able, job)
    assert (moved.cores_charged, moved.queue, moved.change) == (8, "whole", None)
    assert held(able, job) == {"CNY": 480_000, "core-seconds": 4800}


def test_a_change_that_a_centre_refuses_for_now_is_asked_again_ever_later(able: Gateway) -> None:
    asked: list[datetime] = []
    job = at_the_centre(able)
    now = [able.services.clock()]
    able.services = replace(able.services, clock=lambda: now[0])

    def modify(account: Any, native: Any, wanted: Change) -> ActionOutcome:
        asked.append(now[0])
        return NotDone("the controller is busy", retryable=True)

    acting(able, modify=modify)
    change(able, job, duration=300)
    able.tick("dispatch")
    for _ in range(10):
        due = row_of(able, job).change_due_at
        for now[0] in (due - timedelta(seconds=1), due):
            able.tick("dispatch")

    waits = [int((b - a).total_seconds()) for a, b in pairwise(asked)]
    assert waits == [5, 10, 20, 40, 80, 160, 320, 640, 900, 900]
    assert able.events(job).count("change_put_off") == 1
    assert row_of(able, job).change == {"duration": 300}
    change(able, job, priority=3)  # what a person asks anew is asked at once
    able.tick("dispatch")
    assert len(asked) == 12
    able.wish(job, "cancel")
    able.tick("dispatch")


def test_a_change_that_rests_keeps_no_wish_from_its_own_pace(able: Gateway) -> None:
    asked: list[str] = []
    job = at_the_centre(able)
    real = able.services.sites["local"].management.cancel

    def cancel(account: Any, jobs: Sequence[Any]) -> list[ActionOutcome]:
        asked.append("cancel")
        return [NotDone("busy", retryable=True)] * len(jobs)

    acting(able, modify=lambda *_: NotDone("busy", retryable=True), cancel=cancel)
    change(able, job, duration=300)
    able.wish(job, "cancel")
    for _ in range(3):
        able.tick("dispatch")

    assert asked == ["cancel"]
    acting(able, cancel=real)
    later(able)
    able.tick("dispatch")


def test_a_most_cost_in_another_currency_is_refused(gateway: Gateway) -> None:
    with pytest.raises(Invalid) as told:
        gateway.submit("local", budget=Budget(5_000_000, "USD"))

    assert {p.pointer for p in told.value.problems} == {"/budget/max_cost/currency"}
