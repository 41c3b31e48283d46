"""Requests of one moment share a thread, a connection and a commit; what one of them does wrong is its own."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence

import pytest

from accounting import store as books
from accounting.errors import CreditExhausted
from gateway.api.lanes import Lane
from gateway.api.submitting import Posted, submit
from gateway.errors import IdempotencyMismatch, Invalid
from tests.builders import MICRO, Gateway


def _body(name: str = "", seconds: int = 60) -> bytes:
    wanted = {"name": name, "script": "#!/bin/sh\ntrue\n", "attributes": {"duration": seconds}}
    return json.dumps(wanted).encode()


class _Gate:
    """A lane's work that waits until the test lets it go on, and keeps what it was given."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.begun, self.open = threading.Event(), threading.Event()

    def __call__(self, items: Sequence[str]) -> list[str | Exception]:
        self.batches.append(list(items))
        self.begun.set()
        assert self.open.wait(20)
        return [ValueError(item) if item.startswith("bad") else item.upper() for item in items]


def test_what_gathers_while_a_lane_works_is_its_next_batch() -> None:
    gate = _Gate()
    lane: Lane[str, str] = Lane("t", gate, most=3)

    async def ask() -> list[str]:
        first = asyncio.create_task(lane.ask("a"))
        await asyncio.to_thread(gate.begun.wait, 20)
        others = [asyncio.create_task(lane.ask(item)) for item in ("b", "c", "d", "e")]
        await asyncio.sleep(0)  # they have asked
        gate.open.set()
        return list(await asyncio.gather(first, *others))

    try:
        assert asyncio.run(ask()) == ["A", "B", "C", "D", "E"]
    finally:
        lane.close()
    assert gate.batches == [["a"], ["b", "c", "d"], ["e"]]


def test_an_error_goes_to_the_one_who_asked_for_it() -> None:
    gate = _Gate()
    gate.open.set()
    lane: Lane[str, str] = Lane("t", gate, most=9)

    async def ask() -> list[str | BaseException]:
        return await asyncio.gather(lane.ask("bad"), lane.ask("good"), return_exceptions=True)

    try:
        found = asyncio.run(ask())
    finally:
        lane.close()
    assert isinstance(found[0], ValueError)
    assert found[1] == "GOOD"


def test_a_lane_answers_what_was_asked_before_it_is_closed() -> None:
    gate = _Gate()
    lane: Lane[str, str] = Lane("t", gate, most=1)

    async def ask() -> list[str]:
        tasks = [asyncio.create_task(lane.ask(item)) for item in ("a", "b")]
        await asyncio.to_thread(gate.begun.wait, 20)
        closing = asyncio.create_task(asyncio.to_thread(lane.close))
        gate.open.set()
        await closing
        return list(await asyncio.gather(*tasks))

    assert asyncio.run(ask()) == ["A", "B"]


def test_jobs_of_one_batch_are_each_refused_for_their_own_mistakes_only(gateway: Gateway) -> None:
    posts = [_body("first"), b'{"script": 7}', _body("third")]
    answers = submit(gateway.services, [Posted(gateway.person, body, None) for body in posts])
    assert [a["name"] for a in answers if isinstance(a, dict)] == ["first", "third"]
    assert isinstance(answers[1], Invalid)
    gateway.check_books()


def test_of_a_batch_that_costs_too_much_those_are_accepted_that_fit(gateway: Gateway) -> None:
    # Credit for 1000.00 at 0.36 a core-hour: a job of 1,000 hours is held at 360.00, so that two fit.
    body = _body(seconds=3_600_000)
    answers = submit(gateway.services, [Posted(gateway.person, body, None) for _ in range(4)])
    assert [isinstance(a, dict) for a in answers] == [True, True, False, False]
    assert all(isinstance(a, CreditExhausted) for a in answers[2:])
    with gateway.services.db.read() as conn:
        held = {e.commodity: e.committed for e in books.exposure(conn, gateway.project_id)}
    assert held["CNY"] == 720 * MICRO
    gateway.check_books()


def test_one_key_twice_in_a_batch_makes_one_job(gateway: Gateway) -> None:
    body, other = _body("a"), _body("b")
    answers = submit(gateway.services, [Posted(gateway.person, body, "k"), Posted(gateway.person, body, "k")])
    ids = {a["id"] for a in answers if isinstance(a, dict)}
    assert len(ids) == 1
    again = submit(gateway.services, [Posted(gateway.person, other, "n"), Posted(gateway.person, body, "n")])
    assert isinstance(again[0], dict)
    assert isinstance(again[1], IdempotencyMismatch)


def test_jobs_of_one_batch_stand_in_line_in_the_order_they_came(gateway: Gateway) -> None:
    answers = submit(gateway.services, [Posted(gateway.person, _body(str(n)), None) for n in range(20)])
    ids = [a["id"] for a in answers if isinstance(a, dict)]
    assert len(ids) == 20
    assert ids == sorted(ids)


@pytest.mark.parametrize("count", [1, 5])
def test_an_accepted_job_is_committed_when_it_is_answered(gateway: Gateway, count: int) -> None:
    answers = submit(gateway.services, [Posted(gateway.person, _body(), None) for _ in range(count)])
    for answer in answers:
        assert isinstance(answer, dict)
        assert gateway.show(answer["id"])["status"]["state"] == "new"
        assert gateway.events(answer["id"]) == ["accepted_by_gateway"]
