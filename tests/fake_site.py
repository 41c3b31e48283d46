"""A site in memory: what was handed over, how often, by whom; for tests of what stands before it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from site_adapters.interfaces import SiteAdapter
from site_adapters.policy import Policy
from site_adapters.states import ObservedState
from site_adapters.types import (
    Accepted,
    AccountFacts,
    ActionOutcome,
    Done,
    Health,
    JobRef,
    JobSpec,
    Look,
    Observation,
    ObservedRun,
    Queue,
    SiteAccount,
    Submission,
    SubmitOutcome,
)

ALICE = SiteAccount("alice", "/home/alice", 1001)


def submission(number: int = 1, *, attempt: int = 1, person: str = "u1", spec: JobSpec | None = None) -> Submission:
    tag = f"pgate{number:011d}"
    return Submission(spec or JobSpec(script="true\n"), ALICE, tag, attempt, f"job-{tag}.{attempt}", "", person, "r1")


@dataclass(slots=True)
class FakeSite:
    """`delay_s` is how long a submission takes; jobs stay until `end` is called."""

    delay_s: float = 0.0
    handed: Counter[str] = field(default_factory=Counter)
    live: dict[str, Submission] = field(default_factory=dict)
    most_live: int = 0
    ended: dict[str, Submission] = field(default_factory=dict)
    reserved: list[Any] = field(default_factory=list)
    queue_list: tuple[Queue, ...] = ()
    calls: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def submit(self, submissions: Sequence[Submission]) -> list[SubmitOutcome]:
        time.sleep(self.delay_s)
        outcomes: list[SubmitOutcome] = []
        with self.lock:
            for one in submissions:
                self.handed[one.fence_name] += 1
                native = str(len(self.handed))
                self.live[native] = one
                outcomes.append(Accepted(native, "fake"))
            self.most_live = max(self.most_live, len(self.live))
        return outcomes

    def end(self, count: int) -> None:
        with self.lock:
            for native in list(self.live)[:count]:
                self.ended[native] = self.live.pop(native)

    def observe(self, jobs: Sequence[JobRef]) -> Observation:
        assert jobs, "a scheduler is asked about no job at all"
        with self.lock:
            runs = [self._run(n, s, ObservedState.ACTIVE) for n, s in self.live.items()]
            wanted = {job.native_id for job in jobs}
            runs += [self._run(n, s, ObservedState.COMPLETED) for n, s in self.ended.items() if n in wanted]
        return Observation(Look(tuple(runs)), Look(), 1)

    @staticmethod
    def _run(native: str, one: Submission, state: ObservedState) -> ObservedRun:
        return ObservedRun(native, state, state.value, username=one.account.username, tags_seen=(one.fence_name,))

    def health(self) -> Health:
        self.calls["health"] += 1
        return Health(True, "fine")

    def find(self, tags: Sequence[str], *, accounts: Sequence[SiteAccount], since: datetime) -> Look:
        return Look()

    def cancel(self, account: SiteAccount, jobs: Sequence[JobRef]) -> list[ActionOutcome]:
        return [Done() for _ in jobs]

    def probe(self, username: str) -> AccountFacts:
        return AccountFacts(username, 1001, f"/home/{username}")

    def check(self) -> list[Any]:
        return []

    def reservations(self) -> list[Any]:
        return self.reserved

    def queues(self) -> tuple[Queue, ...]:
        return self.queue_list

    def adapter(self, policy: Policy | None = None) -> SiteAdapter:
        me = cast(Any, self)
        return SiteAdapter("fake", "fake", "local", policy or Policy(), frozenset({"fence"}), me, me, me, me, me)
