"""The centre's policy binds whatever comes: a storm, a restart, an attempt that comes twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from site_adapters.centre.gate import Gate
from site_adapters.centre.journal import Store
from site_adapters.errors import Busy
from site_adapters.policy import NOBODY, Policy, admitted, stricter
from site_adapters.types import Accepted, Rejected, Reservation, SubmitOutcome, Unknown
from tests.fake_site import FakeSite, submission

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


@dataclass(slots=True)
class Clock:
    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now


Make = Callable[..., Gate]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    stores: list[Store] = []

    def one(policy: Policy, site: FakeSite | None = None, clock: Callable[[], datetime] | None = None) -> Gate:
        stores.append(Store(tmp_path / "site.sqlite"))
        return Gate(stores[-1], policy, (site or FakeSite()).adapter(policy), clock or Clock())

    yield one
    for store in stores:
        store.close()


def hand_over(gate: Gate, site: FakeSite, number: int, person: str = "u1") -> SubmitOutcome:
    """As the desk does: in at the gate, to the site, the outcome kept."""
    ((one, outcome),) = gate.enter([submission(number, person=person)])
    if outcome is not None:
        return outcome
    answer = site.submit([one])[0]
    gate.leave(one, answer)
    return answer


def test_a_storm_of_10000_submissions_never_exceeds_the_policy(make: Make) -> None:
    """Eight threads, jobs ending all the time: no moment shows more than is allowed."""
    site, clock = FakeSite(), Clock()
    policy = Policy(queued_jobs_max=40, queued_jobs_per_person_max=15, submits_per_minute=300)
    gate = make(policy, site, clock)
    per_minute: list[int] = []
    lock = threading.Lock()

    def one(number: int) -> bool:
        accepted = isinstance(hand_over(gate, site, number, f"u{number % 5}"), Accepted)
        with lock:
            if number % 20 == 0:
                site.end(10)
                clock.now += timedelta(seconds=3)
        return accepted

    with ThreadPoolExecutor(8) as pool:
        accepted = sum(pool.map(one, range(10_000)))

    assert accepted > 1000
    assert site.most_live <= 40
    assert max(site.handed.values()) == 1
    rows = gate._store.read("SELECT submitted_at FROM attempts ORDER BY submitted_at")
    times = [row[0] for row in rows]
    start = 0
    for end, at in enumerate(times):
        while times[start] <= at - 60:
            start += 1
        per_minute.append(end - start + 1)
    assert max(per_minute) <= 300


def test_a_storm_of_10000_calls_and_submissions_exceeds_neither_the_calls_a_minute_nor_the_share(make: Make) -> None:
    site, clock = FakeSite(), Clock()
    gate = make(Policy(queued_jobs_max=200, calls_per_minute=60, share_core_seconds=5000, duration_max=10), site, clock)
    committed = "SELECT sum(CASE WHEN ended_at IS NULL THEN max(used, reserve) ELSE used END) AS n FROM attempts"
    most_committed = 0
    lock = threading.Lock()

    def one(number: int) -> bool:
        nonlocal most_committed
        try:
            gate.call("management.submit")
        except Busy:
            accepted = False
        else:
            accepted = isinstance(hand_over(gate, site, number, f"u{number % 5}"), Accepted)
        if number % 40 == 0:
            with lock:
                most_committed = max(most_committed, gate._store.read(committed)[0]["n"] or 0)
                site.end(80)
                gate.refresh()
                clock.now += timedelta(seconds=8)
        return accepted

    with ThreadPoolExecutor(8) as pool:
        accepted = sum(pool.map(one, range(10_000)))

    assert 500 <= accepted == len(site.handed)
    assert most_committed <= 5000
    calls = [at for at, _ in gate._calls]
    minute = timedelta(minutes=1)
    assert max(sum(start <= at < start + minute for at in calls) for start in set(calls)) <= 60


def test_limits_survive_a_restart_of_the_service(make: Make) -> None:
    site = FakeSite()
    gate = make(Policy(queued_jobs_max=3), site)
    assert all(isinstance(hand_over(gate, site, n), Accepted) for n in range(3))

    again = make(Policy(queued_jobs_max=3), site)

    outcome = hand_over(again, site, 4)
    assert isinstance(outcome, Rejected) and outcome.retryable


def test_an_attempt_that_comes_twice_is_handed_over_once(make: Make) -> None:
    site = FakeSite()
    gate = make(Policy(), site)
    first, second = hand_over(gate, site, 1), hand_over(gate, site, 1)
    assert first == second and site.handed == {submission(1).fence_name: 1}


def test_an_attempt_whose_answer_was_lost_stays_unknown(make: Make) -> None:
    gate = make(Policy())
    ((one, _),) = gate.enter([submission(1)])
    gate.leave(one, Unknown("cut"))
    assert isinstance(gate.enter([submission(1)])[0][1], Unknown)


def test_nothing_is_let_in_during_maintenance(make: Make) -> None:
    site, clock = FakeSite(), Clock()
    site.reserved = [Reservation("m", NOW, NOW + timedelta(hours=2), "all", True)]
    gate = make(Policy(), site, clock)

    refused = hand_over(gate, site, 1)
    clock.now += timedelta(hours=3)

    assert isinstance(refused, Rejected) and refused.code == "maintenance" and refused.retryable
    assert isinstance(hand_over(gate, site, 2), Accepted)


def test_the_stricter_of_two_policies_binds() -> None:
    ours = Policy(queued_jobs_max=10, people_admitted=("a*",), duration_max=100, log_interval_s=1)
    theirs = Policy(queued_jobs_max=20, people_admitted=("ab", "c"), cores_max=4, log_interval_s=5)

    both = stricter(ours, theirs)

    assert (both.queued_jobs_max, both.duration_max, both.cores_max, both.log_interval_s) == (10, 100, 4, 5)
    assert admitted("ab", both.people_admitted)
    assert not admitted("c", both.people_admitted) and not admitted("ax", both.people_admitted)


def test_policies_that_admit_nobody_in_common_admit_nobody() -> None:
    both = stricter(Policy(projects_admitted=("a",)), Policy(projects_admitted=("b",)))
    assert both.projects_admitted == (NOBODY,)
    assert not admitted("a", both.projects_admitted)


def test_what_was_used_counts_against_the_share(make: Make) -> None:
    site = FakeSite()
    gate = make(Policy(share_core_seconds=3 * 60, duration_max=60), site)
    outcomes = [hand_over(gate, site, n) for n in range(5)]
    assert sum(isinstance(o, Accepted) for o in outcomes) == 3


def test_a_first_burst_beyond_a_limit_waits_while_none_of_it_has_an_id(make: Make) -> None:
    """Places are looked for where none may be free: about no job at all no scheduler is asked."""
    gate = make(Policy(queued_jobs_max=2))
    outcomes = [outcome for _, outcome in gate.enter([submission(n) for n in range(4)])]
    assert outcomes[:2] == [None, None]
    assert all(isinstance(o, Rejected) and o.code == "policy_limit" for o in outcomes[2:])
