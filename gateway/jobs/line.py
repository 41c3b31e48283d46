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
    """One job in the line. `weight` is the number of queue places it takes (tasks of an array)."""

    job_id: str
    user_id: str
    priority: int = 0
    weight: int = 1
    cores: int = 1


@dataclass(frozen=True, slots=True)
class Load:
    """What we have at the site now: places taken there per person, cores in use per person, hand-overs lately."""

    places: Mapping[str, int]
    cores: Mapping[str, int]
    submits_last_minute: int

    @property
    def places_total(self) -> int:
        return sum(self.places.values())


def choose(waiters: Iterable[Waiter], policy: Policy, load: Load, *, now: datetime, most: int) -> list[Waiter]:
    """The jobs to hand over now, in order; empty outside the centre's hours."""
    if not open_at(policy, now):
        return []
    if policy.submits_per_minute is not None:
        most = min(most, policy.submits_per_minute - load.submits_last_minute)
    free = None if policy.queued_jobs_max is None else policy.queued_jobs_max - load.places_total
    cores_free = None if policy.cores_in_use_max is None else policy.cores_in_use_max - sum(load.cores.values())
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
        needed = first.cores * first.weight
        if (free is not None and first.weight > free) or (cores_free is not None and needed > cores_free):
            continue
        free = None if free is None else free - first.weight
        cores_free = None if cores_free is None else cores_free - needed
        chosen.append(lines[user].pop())
        places[user] += first.weight
        cores[user] += needed
        if lines[user]:
            heapq.heappush(turns, (cores[user], user))
    return chosen


def _lines_by_person(waiters: Iterable[Waiter]) -> dict[str, list[Waiter]]:
    """Each person's own line, the next one last (so that `pop` takes it): by priority, then by age."""
    lines: dict[str, list[Waiter]] = defaultdict(list)
    for waiter in waiters:
        lines[waiter.user_id].append(waiter)
    for line in lines.values():
        line.sort(key=lambda w: (-w.priority, w.job_id), reverse=True)
    return lines
