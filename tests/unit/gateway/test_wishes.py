"""What people wish of a job while it is on its way: no wish is lost, and none keeps a job from running for ever."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from accounting import store as books
from accounting.tariff import PriceRule
from gateway.errors import Invalid
from gateway.jobs import service
from gateway.jobs.repository import JOBS, SITES
from site_adapters.types import ActionOutcome, Attributes, Budget, Change, Done, NotDone, Rejected, Submission, Unknown
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
    change(gateway, job, duration=600)
    with pytest.raises(Invalid):
        change(gateway, job, duration=601)


def test_a_change_to_a_dearer_queue_is_refused_as_nobody_checked_the_credit_for_it(gateway: Gateway) -> None:
    services = gateway.services
    with services.db.write() as conn:
        start = datetime(2020, 1, 1, tzinfo=UTC)
        books.add_tariff(conn, PriceRule(0, "CNY", 36_000_000, start, queue="dear"), now=services.clock())
    with services.db.write() as conn:
        conn.execute(update(SITES).values(facts=None))  # a centre whose queues are not known yet
    job = gateway.submit("local")

    with pytest.raises(Invalid) as told:
        change(gateway, job, queue_name="dear")

    assert {p.pointer for p in told.value.problems} == {"/attributes/queue_name"}


def test_a_most_cost_in_another_currency_is_refused(gateway: Gateway) -> None:
    with pytest.raises(Invalid) as told:
        gateway.submit("local", budget=Budget(5_000_000, "USD"))

    assert {p.pointer for p in told.value.problems} == {"/budget/max_cost/currency"}
