"""The waiting line reads every limit of a centre's policy, and a storm of 10,000 jobs exceeds none of them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from gateway.jobs.line import Load, Waiter, choose
from gateway.pace import Pace, Paced, Use, calls_left, paced, part
from site_adapters.policy import Policy
from site_adapters.types import Rejected
from tests.fake_site import ALICE, FakeSite, submission

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


@dataclass(slots=True)
class Clock:
    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now


def load(**more: Any) -> Load:
    return Load(places={}, cores={}, submits_last_minute=0, **more)


def test_no_more_is_begun_than_the_contracted_share_holds() -> None:
    waiters = [Waiter(f"j{n}", "u", cores=2, duration_s=100) for n in range(10)]
    chosen = choose(waiters, Policy(), load(share_left=700), now=NOW, most=100)
    assert [w.job_id for w in chosen] == ["j0", "j1", "j2"]


def test_after_the_contracts_end_nothing_is_handed_over() -> None:
    policy = Policy(share_until=NOW)
    assert choose([Waiter("j", "u")], policy, load(), now=NOW, most=100) == []
    assert choose([Waiter("j", "u")], policy, load(), now=NOW - timedelta(seconds=1), most=100) != []


def test_no_more_is_handed_over_than_calls_are_left() -> None:
    waiters = [Waiter(f"j{n}", "u") for n in range(10)]
    assert len(choose(waiters, Policy(), load(calls_left=4), now=NOW, most=100)) == 4


def test_our_jobs_take_no_more_nodes_than_is_allowed() -> None:
    waiters = [Waiter(f"j{n}", "u", nodes=3) for n in range(10)]
    chosen = choose(waiters, Policy(nodes_in_use_max=10), load(nodes=2), now=NOW, most=100)
    assert len(chosen) == 2


def test_the_parts_of_a_minute_add_up_to_the_limit_and_none_is_empty() -> None:
    for limit in range(6, 500):
        parts = [part(limit, use) for use in Use]
        assert sum(parts) == limit and min(parts) >= 1


def test_what_is_too_much_for_the_minute_is_not_asked() -> None:
    site, clock = FakeSite(), Clock()
    adapter = paced(site.adapter(Policy(calls_per_minute=12)), Pace(clock))

    outcomes = adapter.management.submit([submission(n) for n in range(20)])
    assert sum(isinstance(o, Rejected) and o.retryable for o in outcomes) == 14 and len(site.handed) == 6
    for _ in range(2):
        adapter.management.health()
    with pytest.raises(Paced):
        adapter.management.health()
    assert site.calls["health"] == 2

    clock.now += timedelta(seconds=60)
    adapter.management.health()
    assert site.calls["health"] == 3


def test_a_look_that_costs_more_than_its_part_is_done_where_the_minute_has_room() -> None:
    pace = Pace(Clock())
    pace.look_cost = 5
    assert pace.left(Use.LOOK, 6) == 5
    pace.take(Use.OTHER, 6)
    pace.take(Use.HAND_OVER, 6)
    assert pace.left(Use.LOOK, 6) == 4
    with pytest.raises(Paced):
        pace.take(Use.LOOK, 6, 5)


def test_what_a_process_before_this_one_handed_over_counts_as_well() -> None:
    assert calls_left(Pace(Clock()), Policy(calls_per_minute=60), 30) == 0
    assert calls_left(Pace(Clock()), Policy(calls_per_minute=60), 12) == 18
    assert calls_left(Pace(Clock()), Policy(), 1000) is None


def test_wishes_beyond_the_minute_are_asked_again_later() -> None:
    site = FakeSite()
    adapter = paced(site.adapter(Policy(calls_per_minute=10)), Pace(Clock()))
    refs = cast(Any, [object()] * 8)
    outcomes = adapter.management.cancel(ALICE, refs)
    assert [getattr(o, "retryable", None) for o in outcomes] == [None] * 5 + [True] * 3


@dataclass(slots=True)
class Storm:
    """A centre with everything in its policy, and what it saw of us at every moment."""

    policy: Policy
    clock: Clock = field(default_factory=Clock)
    there: deque[tuple[datetime, Waiter]] = field(default_factory=deque)
    used: int = 0
    submitted: list[datetime] = field(default_factory=list)
    calls: list[datetime] = field(default_factory=list)
    most_share: int = 0

    def step(self, waiting: list[Waiter], pace: Pace) -> None:
        """One tick: look, hand over what may go, end what is old."""
        limit = self.policy.calls_per_minute
        assert limit is not None and self.policy.share_core_seconds is not None
        try:
            pace.take(Use.LOOK, limit, 2)
            self.calls += [self.clock.now] * 2
        except Paced:
            pass
        promised = sum(w.core_seconds for _, w in self.there)
        lately = sum(at > self.clock.now - timedelta(minutes=1) for at in self.submitted[-400:])
        people: dict[str, int] = {}
        for _, waiter in self.there:
            people[waiter.user_id] = people.get(waiter.user_id, 0) + waiter.weight
        state = Load(people, {}, lately, calls_left=calls_left(pace, self.policy, lately),
                     share_left=self.policy.share_core_seconds - self.used - promised)  # fmt: skip
        for waiter in choose(waiting[:400], self.policy, state, now=self.clock.now, most=100):
            pace.take(Use.HAND_OVER, limit)
            waiting.remove(waiter)
            self.there.append((self.clock.now, waiter))
            self.submitted.append(self.clock.now)
            self.calls.append(self.clock.now)
        self.most_share = max(self.most_share, self.used + sum(w.core_seconds for _, w in self.there))
        while self.there and self.there[0][0] < self.clock.now - timedelta(seconds=20):
            self.used += self.there.popleft()[1].core_seconds // 2
        self.clock.now += timedelta(seconds=2)


def test_a_storm_of_10000_jobs_exceeds_neither_the_share_nor_the_calls_a_minute() -> None:
    policy = Policy(queued_jobs_max=60, submits_per_minute=150, calls_per_minute=240, share_core_seconds=500_000)
    storm = Storm(policy)
    pace = Pace(storm.clock)
    waiting = [Waiter(f"j{n:05}", f"u{n % 7}", cores=1 + n % 3, duration_s=60) for n in range(10_000)]
    quiet = 0
    while waiting and quiet < 60:  # two minutes in which nothing may go any more
        before = len(waiting)
        storm.step(waiting, pace)
        quiet = 0 if len(waiting) < before else quiet + 1

    assert storm.most_share <= 500_000
    assert storm.used > 490_000 and waiting  # the share is used to its end, and what is over it waits
    assert most_within_a_minute(storm.calls) <= 240
    assert most_within_a_minute(storm.submitted) <= part(240, Use.HAND_OVER)
    assert len(storm.submitted) > 8000


def most_within_a_minute(moments: list[datetime]) -> int:
    most, start = 0, 0
    for end, at in enumerate(moments):
        while moments[start] <= at - timedelta(minutes=1):
            start += 1
        most = max(most, end - start + 1)
    return most
