"""Calls to one centre, kept under the calls a minute that its policy allows: ours, before the centre's own gate counts.

The minute is shared out so that nothing starves: a third for looks at our jobs, half for what is handed over, canceled
or held, the rest for facts, usage and look-ups. Each job that is handed over is a call of its own.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, cast

from site_adapters.errors import Busy
from site_adapters.interfaces import SiteAdapter
from site_adapters.policy import Policy
from site_adapters.types import ActionOutcome, Look, NotDone, Observation, Rejected, Submission, SubmitOutcome

_MINUTE = timedelta(minutes=1)
# The queue and accounting: what a look costs as long as none has told.
_LOOK_COST = 2


class Paced(Busy):
    """Our own limit: the centre was not asked at all."""


class Use(StrEnum):
    """What a call is for."""

    LOOK = "look"
    HAND_OVER = "hand_over"
    OTHER = "other"


def part(limit: int, use: Use) -> int:
    """How many of a minute's calls are for this use; the parts add up to the limit."""
    looks, handed = max(1, limit // 3), max(1, limit // 2)
    return {Use.LOOK: looks, Use.HAND_OVER: handed, Use.OTHER: limit - looks - handed}[use]


class Pace:
    """What was asked of one centre in the last minute; one for each site of a process that serves it."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self.look_cost = _LOOK_COST
        self._lock = threading.Lock()
        self._calls: deque[tuple[datetime, Use]] = deque()

    def left(self, use: Use, limit: int) -> int:
        """How many more calls of this use may go out now."""
        with self._lock:
            return self._left(use, limit)

    def take(self, use: Use, limit: int, calls: int = 1) -> None:
        """Count calls that go out now; raises `Paced` where they are more than are left."""
        with self._lock:
            if self._left(use, limit) < calls:
                raise Paced(f"the centre allows {limit} calls a minute, and we have made them")
            self._count(use, calls)

    def take_up_to(self, use: Use, limit: int, calls: int) -> int:
        """Count as many of these calls as are left; how many that are."""
        with self._lock:
            taken = min(calls, self._left(use, limit))
            self._count(use, taken)
            return taken

    def correct(self, use: Use, calls: int) -> None:
        """A look cost this many calls more (or less) than was counted for it."""
        with self._lock:
            self._count(use, max(0, calls))
            for _ in range(-calls):
                last = max((i for i, (_, was) in enumerate(self._calls) if was is use), default=None)
                if last is not None:
                    del self._calls[last]

    def _left(self, use: Use, limit: int) -> int:
        before = self._clock() - _MINUTE
        while self._calls and self._calls[0][0] <= before:
            self._calls.popleft()
        lately = Counter(was for _, was in self._calls)
        own = part(limit, use) - lately[use]
        if use is Use.LOOK and not lately[use]:
            own = max(own, self.look_cost)  # a look that costs more than its part is done as one, if the rest has room
        return max(0, min(own, limit - lately.total()))

    def _count(self, use: Use, calls: int) -> None:
        self._calls.extend([(self._clock(), use)] * calls)


def calls_left(pace: Pace, policy: Policy, submits_last_minute: int) -> int | None:
    """How many more jobs may be handed over now; also those count that a process before this one handed over."""
    limit = policy.calls_per_minute
    if limit is None:
        return None
    return max(0, min(pace.left(Use.HAND_OVER, limit), part(limit, Use.HAND_OVER) - submits_last_minute))


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Paces:
    """The pace of each centre, for as long as this process serves it."""

    def __init__(self, clock: Callable[[], datetime] = _utc_now) -> None:
        self.clock = clock
        self._of: dict[str, Pace] = {}

    def of(self, site_id: str) -> Pace:
        """What was asked of this site lately."""
        return self._of.setdefault(site_id, Pace(lambda: self.clock()))


def paced(adapter: SiteAdapter, pace: Pace) -> SiteAdapter:
    """The same site; each question to its scheduler is counted, and what is too much is not asked."""
    limit = adapter.policy.calls_per_minute
    if limit is None or adapter.closed_reason is not None:
        return adapter
    resource, billing = _Asked(adapter.resource, pace, limit), _Asked(adapter.billing, pace, limit)
    management = _Management(adapter, pace, limit)
    return replace(adapter, management=cast(Any, management), resource=cast(Any, resource), billing=cast(Any, billing))


class _Asked:
    """An interface of which every method is one call for `OTHER`."""

    def __init__(self, real: Any, pace: Pace, limit: int) -> None:
        self._real, self._pace, self._limit = real, pace, limit

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._real, name)

        def asked(*args: Any, **options: Any) -> Any:
            self._pace.take(Use.OTHER, self._limit)
            return method(*args, **options)

        return asked


class _Management:
    """Looks, hand-overs and wishes by their own parts; rendering asks nobody."""

    def __init__(self, adapter: SiteAdapter, pace: Pace, limit: int) -> None:
        self._real, self._pace, self._limit = adapter.management, pace, limit
        self._one_for_all = adapter.scheduler == "slurm"  # `scancel` and its kin take many ids, others one each

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)  # rendering is pure, fences are files: no scheduler is asked

    def health(self) -> Any:
        self._pace.take(Use.OTHER, self._limit)
        return self._real.health()

    def find(self, tags: Sequence[str], **options: Any) -> Look:
        try:
            self._pace.take(Use.OTHER, self._limit)
        except Paced as exc:
            return Look(error=str(exc))
        return self._real.find(tags, **options)

    def observe(self, jobs: Sequence[Any]) -> Observation:
        counted = self._pace.look_cost
        self._pace.take(Use.LOOK, self._limit, counted)
        seen = self._real.observe(jobs)
        self._pace.look_cost = min(self._limit, max(1, seen.queries))
        self._pace.correct(Use.LOOK, self._pace.look_cost - counted)
        return seen

    def submit(self, submissions: Sequence[Submission]) -> list[SubmitOutcome]:
        fits = self._pace.take_up_to(Use.HAND_OVER, self._limit, len(submissions))
        done = self._real.submit(submissions[:fits]) if fits else []
        too_many = Rejected(f"the centre allows {self._limit} calls a minute", retryable=True, code="policy_limit")
        return [*done, *[too_many] * (len(submissions) - fits)]

    def cancel(self, account: Any, jobs: Sequence[Any]) -> list[ActionOutcome]:
        return self._act(self._real.cancel, account, jobs)

    def hold(self, account: Any, jobs: Sequence[Any]) -> list[ActionOutcome]:
        return self._act(self._real.hold, account, jobs)

    def release(self, account: Any, jobs: Sequence[Any]) -> list[ActionOutcome]:
        return self._act(self._real.release, account, jobs)

    def modify(self, account: Any, job: Any, change: Any) -> ActionOutcome:
        self._pace.take(Use.HAND_OVER, self._limit)
        return self._real.modify(account, job, change)

    def _act(self, act: Callable[..., list[ActionOutcome]], account: Any, jobs: Sequence[Any]) -> list[ActionOutcome]:
        calls = 1 if self._one_for_all else len(jobs)
        taken = self._pace.take_up_to(Use.HAND_OVER, self._limit, calls)
        fits = len(jobs) if taken == calls else taken * (not self._one_for_all)
        done = act(account, jobs[:fits]) if fits else []
        later = NotDone(f"the centre allows {self._limit} calls a minute", retryable=True)
        return [*done, *[later] * (len(jobs) - fits)]
