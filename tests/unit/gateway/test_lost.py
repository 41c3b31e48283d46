"""Jobs that a centre does not show: lost only after good looks and some time, and found again where they return."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from gateway.db import table_of
from gateway.jobs.tables import DecisionRow
from site_adapters.states import ObservedState
from site_adapters.types import (
    Accepted,
    Array,
    FenceOwned,
    Look,
    Observation,
    ObservedRun,
    SiteUsage,
    UsageBatch,
)
from tests.builders import Altered, Gateway, local_site, make_gateway

BREAKS = table_of(DecisionRow)


@dataclass
class Centre:
    """One whose answers the test gives, and whose clock the test turns."""

    gateway: Gateway
    now: datetime
    shown: list[ObservedRun] = field(default_factory=list)
    good: bool = True
    names: dict[str, str] = field(default_factory=dict)  # native id -> tag and attempt

    def submit(self, submissions: Sequence[Any]) -> list[Accepted]:
        ids = [str(len(self.names) + n) for n in range(1, len(submissions) + 1)]
        self.names |= {native: one.fence_name for native, one in zip(ids, submissions, strict=True)}
        return [Accepted(native, "c") for native in ids]

    def observe(self, jobs: Sequence[Any]) -> Observation:
        look = Look(tuple(self.shown)) if self.good else Look(error="cut")
        return Observation(look, Look(), 1)

    def find(self, tags: Sequence[str], *, accounts: Any, since: datetime) -> Look:
        return Look(tuple(r for r in self.shown if set(tags) & set(r.tags_seen)))

    def take_fences(self, account: Any, names: Sequence[str]) -> list[FenceOwned]:
        return [FenceOwned("c:1") for _ in names]

    def run(self, native: str, state: ObservedState, **more: Any) -> ObservedRun:
        word = {ObservedState.ACTIVE: "RUNNING", ObservedState.COMPLETED: "COMPLETED"}[state]
        started = self.now if state is ObservedState.ACTIVE else None
        wanted: dict[str, Any] = {"tags_seen": (self.names[native],), "cores": 1, "start_time": started, **more}
        return ObservedRun(native, state, word, **wanted)

    def look(self, after: float = 2.0) -> None:
        self.now += timedelta(seconds=after)
        self.gateway.tick("watch")


@pytest.fixture
def centre_of(tmp_path: Path, db_url: str) -> Iterator[Callable[..., Centre]]:
    def make(**site: Any) -> Centre:
        gateway = make_gateway(tmp_path, db_url, local_site(tmp_path, **site))
        centre = Centre(gateway, datetime.now(UTC).replace(microsecond=0))
        gateway.services = replace(gateway.services, clock=lambda: centre.now)
        sites: Any = gateway.services.sites
        acts = {name: getattr(centre, name) for name in ("submit", "observe", "find", "take_fences")}
        sites["local"] = replace(sites["local"], management=Altered(sites["local"].management, **acts))
        return centre

    return make


@pytest.fixture
def centre(centre_of: Callable[..., Centre]) -> Centre:
    return centre_of()


def running(centre: Centre, **wanted: Any) -> str:
    """A job that was seen to run, and is shown no more."""
    job = centre.gateway.submit("local", **wanted)
    centre.gateway.tick("dispatch")
    native = centre.gateway.show(job)["native_job_id"]
    centre.shown = [centre.run(native, ObservedState.ACTIVE)]
    centre.look()
    assert centre.gateway.state(job) == "active"
    centre.shown = []
    return job


def breaks(centre: Centre, job: str) -> list[tuple[str, str]]:
    with centre.gateway.services.db.read() as conn:
        rows = conn.execute(select(BREAKS).where(BREAKS.c.job_id == job).order_by(BREAKS.c.opened_at, BREAKS.c.id))
        return [(row.kind, row.decision) for row in rows]


def test_a_job_that_many_looks_of_a_few_minutes_miss_is_not_lost_yet(centre: Centre) -> None:
    job = running(centre)

    for _ in range(10):  # 100 s: a controller that starts anew
        centre.look(after=10)

    assert centre.gateway.state(job) == "active"
    assert breaks(centre, job) == []


def test_a_job_that_good_looks_miss_for_five_minutes_is_lost(centre: Centre) -> None:
    job = running(centre)

    centre.look()  # misses it first
    centre.look(after=298)
    centre.look(after=1)
    assert centre.gateway.state(job) == "active"
    centre.look(after=1)

    assert centre.gateway.show(job)["status"]["reason"] == "lost"
    assert breaks(centre, job) == [("lost", "")]
    centre.gateway.check_books()


def test_one_look_after_a_long_pause_loses_nothing(centre: Centre) -> None:
    job = running(centre)

    centre.look()
    centre.look(after=86_400)

    assert centre.gateway.state(job) == "active"


def test_looks_that_failed_do_not_count_and_the_time_goes_on(centre: Centre) -> None:
    job = running(centre)
    centre.look()
    centre.good = False
    for _ in range(5):
        centre.look(after=100)
    assert centre.gateway.state(job) == "active"

    centre.good = True
    centre.look()
    assert centre.gateway.state(job) == "active"
    centre.look()

    assert centre.gateway.show(job)["status"]["reason"] == "lost"


def test_a_job_that_returns_unchanged_is_counted_from_none_again(centre: Centre) -> None:
    job = running(centre)
    shown = centre.gateway.show(job)
    again = [centre.run(shown["native_job_id"], ObservedState.ACTIVE, start_time=centre.now)]
    centre.shown = again
    centre.look()
    for _ in range(3):
        centre.shown = []
        centre.look(after=200)
        centre.look(after=50)
        centre.shown = again  # not a letter of it has changed
        centre.look()

    assert centre.gateway.state(job) == "active"
    assert breaks(centre, job) == []


def test_the_time_is_a_matter_of_the_centre(centre_of: Callable[..., Centre]) -> None:
    centre = centre_of(lost_after_s=3600)
    job = running(centre)

    for _ in range(6):
        centre.look(after=600)
    assert centre.gateway.state(job) == "active"
    centre.look(after=600)

    assert centre.gateway.show(job)["status"]["reason"] == "lost"


def test_a_task_that_an_array_does_not_show_is_given_the_same_time(centre: Centre) -> None:
    job = centre.gateway.submit("local", array=Array("0-1"))
    centre.gateway.tick("dispatch")
    native = centre.gateway.show(job)["native_job_id"]
    ended = centre.now + timedelta(seconds=1)
    centre.shown = [centre.run(native, ObservedState.COMPLETED, task=0, start_time=centre.now, end_time=ended)]

    for _ in range(10):
        centre.look(after=10)
    assert centre.gateway.show(job)["array"]["counts"] == {"completed": 1}
    for _ in range(3):
        centre.look(after=100)

    assert centre.gateway.show(job)["array"]["counts"] == {"completed": 1, "failed": 1}
    assert centre.gateway.show(job)["status"]["reason"] == "lost"


def lost(centre: Centre) -> str:
    job = running(centre)
    for _ in range(4):
        centre.look(after=120)
    assert centre.gateway.show(job)["status"]["reason"] == "lost"
    return job


def test_a_lost_job_that_a_later_look_shows_running_is_told_to_a_person(centre: Centre) -> None:
    job = lost(centre)
    other = running(centre)  # somebody else's look shows it
    native = centre.gateway.show(job)["native_job_id"]
    centre.shown = [centre.run(native, ObservedState.ACTIVE)]
    centre.look()
    centre.look()

    assert centre.gateway.state(job) == "failed"  # final is never left
    assert centre.gateway.events(job).count("found_again") == 1
    assert breaks(centre, job) == [("lost", "found_again"), ("returned", "")]
    assert "RUNNING" in centre.gateway.show(job)["status"]["message"]
    assert centre.gateway.state(other) == "active"


def test_a_stranger_with_the_id_of_a_lost_job_is_not_it(centre: Centre) -> None:
    job = lost(centre)
    running(centre)
    native = centre.gateway.show(job)["native_job_id"]
    centre.shown = [centre.run(native, ObservedState.ACTIVE, tags_seen=("pstranger000000.1",))]
    centre.look()

    assert breaks(centre, job) == [("lost", "")]


def test_a_lost_job_of_which_the_centre_gives_a_record_is_charged_and_found(centre: Centre) -> None:
    job = lost(centre)
    began = centre.now - timedelta(seconds=400)
    native = centre.gateway.show(job)["native_job_id"]
    sites: Any = centre.gateway.services.sites
    tag, _, attempt = centre.names[native].partition(".")
    row = {"run_key": f"{native}:1", "native_id": native, "username": getpass.getuser(), "state": "completed",
           "cores": "2", "tag": tag, "attempt": attempt, "start": f"{began.timestamp():.0f}000000000",
           "end": f"{began.timestamp() + 100:.0f}000000000"}  # fmt: skip
    usage = UsageBatch((SiteUsage("local/1", row),), ())
    billing = Altered(sites["local"].billing, usage=lambda *_: usage)
    sites["local"] = replace(sites["local"], billing=billing)
    centre.gateway.tick("collect")
    centre.gateway.tick("collect")

    assert centre.gateway.show(job)["usage"]["core_seconds"] == 200
    assert centre.gateway.events(job).count("found_again") == 1
    assert breaks(centre, job) == [("lost", "found_again")]
    centre.gateway.check_books()
