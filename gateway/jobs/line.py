"""The waiting line of one site: who is handed over next, pure.

The centre's policy comes first (how many may be queued there, by whom, how often, at what hours); within it people
take turns, those with the least work at the site first. 500 jobs against a limit of 20 trickle in.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from site_adapters.policy import Policy, open_at


@dataclass(frozen=True, slots=True)
class Waiter:
    """One job in the line. `weight` is the number of queue places it takes (tasks of an array), each of them with its
    `cores` and `nodes` for at most `duration_s`.
    """

    job_id: str
    user_id: str
    priority: int = 0
    weight: int = 1
    cores: int = 1
    nodes: int = 1
    duration_s: int = 0

    @property
    def core_seconds(self) -> int:
        """The most that it can use of the contracted share."""
        return self.weight * self.cores * self.duration_s


@dataclass(frozen=True, slots=True)
class Load:
    """What we have at the site now: places taken there per person, cores in use per person, hand-overs lately.

    `calls_left` and `share_left` (core-seconds) are what the policy leaves of the minute and of the contracted share;
    None: it sets no such limit. `nodes` are those of all our jobs there.
    """

    places: Mapping[str, int]
    cores: Mapping[str, int]
    submits_last_minute: int
    nodes: int = 0
    calls_left: int | None = None
    share_left: int | None = None

    @property
    def places_total(self) -> int:
        return sum(self.places.values())


def choose(waiters: Iterable[Waiter], policy: Policy, load: Load, *, now: datetime, most: int) -> list[Waiter]:
    """The jobs to hand over now, in order; empty outside the centre's hours, and when the contracted share is over."""
    if not open_at(policy, now) or share_over(policy, now):
        return []
    if policy.submits_per_minute is not None:
        most = min(most, policy.submits_per_minute - load.submits_last_minute)
    if load.calls_left is not None:
        most = min(most, load.calls_left)
    room = _Room.of(policy, load)
    lines = _lines_by_person(waiters)
    cores, places = defaultdict(int, load.cores), defaultdict(int, load.places)
    turns = [(cores[user], user) for user in lines]
    heapq.heapify(turns)
    chosen: list[Waiter] = []
    while turns and len(chosen) < most:
        _, user = heapq.heappop(turns)
        first = lines[user][-1]
        own_max = policy.queued_jobs_per_person_max
        if own_max is not None and places[user] + first.weight > own_max:
            continue  # this person's places are taken: their line rests until one is free
        if not room.take(first):
            continue
        chosen.append(lines[user].pop())
        places[user] += first.weight
        cores[user] += first.cores * first.weight
        if lines[user]:
            heapq.heappush(turns, (cores[user], user))
    return chosen


def share_over(policy: Policy, now: datetime) -> bool:
    """Whether the time for which a share was contracted has passed."""
    return policy.share_until is not None and now >= policy.share_until


@dataclass(slots=True)
class _Room:
    """What all of us together may still take there: places, cores, nodes, core-seconds of the share; None: no limit."""

    free: list[int | None]

    @classmethod
    def of(cls, policy: Policy, load: Load) -> _Room:
        limits = (
            (policy.queued_jobs_max, load.places_total), (policy.cores_in_use_max, sum(load.cores.values())),
            (policy.nodes_in_use_max, load.nodes), (load.share_left, 0),
        )  # fmt: skip
        return cls([None if most is None else most - taken for most, taken in limits])

    def take(self, waiter: Waiter) -> bool:
        """Take what the job needs; False, and nothing is taken, where some of it is not there."""
        weight = waiter.weight
        needs = (weight, waiter.cores * weight, waiter.nodes * weight, waiter.core_seconds)
        if any(free is not None and need > free for free, need in zip(self.free, needs, strict=True)):
            return False
        self.free = [None if f is None else f - need for f, need in zip(self.free, needs, strict=True)]
        return True


def _lines_by_person(waiters: Iterable[Waiter]) -> dict[str, list[Waiter]]:
    """Each person's own line, the next one last (so that `pop` takes it): by priority, then by age."""
    lines: dict[str, list[Waiter]] = defaultdict(list)
    for waiter in waiters:
        lines[waiter.user_id].append(waiter)
    for line in lines.values():
        line.sort(key=lambda w: (-w.priority, w.job_id), reverse=True)
    return lines
