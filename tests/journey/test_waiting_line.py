"""500 jobs of three people against a centre's policy: it is never exceeded, everybody gets on, nothing stays behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select

from gateway.errors import Invalid
from gateway.identity import service
from gateway.identity.access import Person
from gateway.jobs import pending, share
from gateway.jobs.repository import ACCOUNTS, JOBS
from gateway.jobs.sentence import said
from gateway.web.texts import translator
from site_adapters.policy import Policy
from site_adapters.states import ObservedState
from site_adapters.types import (
    Accepted,
    Array,
    JobRef,
    Look,
    Observation,
    ObservedRun,
    Resources,
    Submission,
    SubmitOutcome,
)
from tests.builders import Altered, Gateway, local_site, make_gateway

POLICY = {
    "queued_jobs_max": 20, "queued_jobs_per_person_max": 10, "submits_per_minute": 60, "cores_max": 64,
    "hours": [["09:00", "17:00"]],
}  # fmt: skip


@dataclass(slots=True)
class Centre:
    """A centre that starts a few of what waits with every look, and keeps a record of every moment."""

    clock: Clock
    waiting: dict[str, Submission] = field(default_factory=dict)
    running: dict[str, Submission] = field(default_factory=dict)
    ended: dict[str, Submission] = field(default_factory=dict)
    submitted_at: list[datetime] = field(default_factory=list)
    looked_at: list[datetime] = field(default_factory=list)
    most_waiting: int = 0
    most_of_one: int = 0

    def submit(self, submissions: Sequence[Submission]) -> list[SubmitOutcome]:
        for submission in submissions:
            assert submission.fence_name not in {*self.waiting, *self.running, *self.ended}
            self.waiting[submission.fence_name] = submission
            self.submitted_at.append(self.clock.now)
        places = Counter[str]()
        for waits in self.waiting.values():
            places[waits.account.username] += 1 if waits.spec.array is None else 2
        self.most_waiting = max(self.most_waiting, places.total())
        self.most_of_one = max(self.most_of_one, *places.values())
        return [Accepted(s.fence_name, "sim") for s in submissions]

    def observe(self, jobs: Sequence[JobRef]) -> Observation:
        self.looked_at.append(self.clock.now)
        self.ended |= self.running
        self.running = {key: self.waiting.pop(key) for key in list(self.waiting)[:6]}
        runs = [run for job in jobs for run in self._runs(job)]
        return Observation(Look(tuple(runs)), Look())

    def _runs(self, job: JobRef) -> list[ObservedRun]:
        states = ((self.waiting, ObservedState.QUEUED), (self.running, ObservedState.ACTIVE),
                  (self.ended, ObservedState.COMPLETED))  # fmt: skip
        state = next(state for place, state in states if job.native_id in place)
        started = None if state is ObservedState.QUEUED else self.clock.now - timedelta(seconds=2)
        return [
            ObservedRun(job.native_id, state, state.value, task=task, tags_seen=(job.tag,), username=job.username,
                        start_time=started, end_time=self.clock.now if state.final else None)
            for task in ((0, 1) if job.is_array else (None,))
        ]  # fmt: skip


@dataclass(slots=True)
class Clock:
    now: datetime

    def __call__(self) -> datetime:
        return self.now


def people(gateway: Gateway, count: int) -> list[Gateway]:
    """The gateway as each of several researchers sees it, with a login of their own at the centre."""
    services, now = gateway.services, gateway.services.clock()
    seen = [gateway]
    for number in range(1, count):
        with services.db.write() as conn:
            user_id = service.create_user(conn, name=f"person{number}", now=now)
            service.add_member(conn, project_id=gateway.project_id, user_id=user_id, role="researcher", now=now)
            like = conn.execute(select(ACCOUNTS)).mappings().first()
            assert like is not None
            mine = {"id": f"a{number}", "user_id": user_id, "username": f"login{number}"}
            conn.execute(insert(ACCOUNTS).values({**like, **mine}))
        person = replace(gateway.person, user_id=user_id, name=f"person{number}")
        assert isinstance(person, Person)
        seen.append(Gateway(services, person, gateway.project_id, gateway.secret))
    return seen


@pytest.fixture
def clock(gateway: Gateway) -> Clock:
    now = gateway.services.clock()
    return Clock(now.replace(hour=10, minute=0) + timedelta(days=1))


@pytest.fixture
def gateway(tmp_path: Path, db_url: str) -> Gateway:
    return make_gateway(tmp_path, db_url, local_site(tmp_path, policy=POLICY), credit=1_000_000)


def test_five_hundred_jobs_trickle_in_within_the_centres_policy(gateway: Gateway, clock: Clock) -> None:
    centre = Centre(clock)
    sites: Any = gateway.services.sites
    real = sites["local"]
    sites["local"] = replace(
        real, management=Altered(real.management, submit=centre.submit, observe=centre.observe),
    )  # fmt: skip
    everyone = people(gateway, 3)
    hog, second, third = everyone
    for number in range(380):
        hog.submit("local", None, executable="/bin/true", array=Array("0-1") if number % 10 == 0 else None)
    for _ in range(60):
        second.submit("local", None, executable="/bin/true", resources=Resources(process_count=4))
        third.submit("local", None, executable="/bin/true")
    gateway.services = replace(gateway.services, clock=clock)

    ended_of: dict[str, int] = {}
    for step in range(3000):
        gateway.tick("dispatch", "watch")
        clock.now += timedelta(seconds=2)
        if _ended(gateway, third.person) == 60 and "third" not in ended_of:
            ended_of["third"] = step
        if _ended(gateway, hog.person) == 380:
            ended_of["hog"] = step
            break

    assert len(centre.ended) + len(centre.running) == len(centre.submitted_at) == 500  # each once, none left behind
    assert centre.most_waiting <= 20
    assert centre.most_of_one <= 10
    assert _most_within(centre.submitted_at, timedelta(seconds=60)) <= 60
    assert all(9 <= at.hour < 17 for at in centre.submitted_at)
    assert ended_of["third"] < ended_of["hog"] / 2  # one person's 380 jobs do not stand in the others' way


def test_outside_the_centres_hours_nothing_is_handed_over_and_the_page_says_so(gateway: Gateway, clock: Clock) -> None:
    centre = Centre(clock)
    sites: Any = gateway.services.sites
    sites["local"] = replace(sites["local"], management=Altered(sites["local"].management, submit=centre.submit))
    job_id = gateway.submit("local")
    clock.now = clock.now.replace(hour=17, minute=0, second=0)
    gateway.services = replace(gateway.services, clock=clock)

    gateway.tick("dispatch")

    assert centre.submitted_at == []
    assert gateway.show(job_id)["status"]["reason"] == "waiting_line"


def why(gateway: Gateway, job_id: str, language: str = "en") -> str:
    with gateway.services.db.read() as conn:
        job = conn.execute(select(JOBS).where(JOBS.c.id == job_id)).one()
        sentence = pending.why(gateway.services, conn, job, gateway.services.clock()).sentence
    return said(sentence, translator(language).gettext)


def limited(gateway: Gateway, clock: Clock, centre: Centre, **policy: Any) -> None:
    """The gateway with this policy of the centre, and the test's clock in all of it."""
    sites: Any = gateway.services.sites
    real = dict.__getitem__(sites, "local")
    management = Altered(real.management, submit=centre.submit, observe=centre.observe)
    dict.__setitem__(sites, "local", replace(real, management=management, policy=Policy(**policy)))
    gateway.services = replace(gateway.services, clock=clock)
    gateway.services.paces.clock = clock


def test_the_contracted_share_is_never_exceeded_and_why_says_what_is_left(gateway: Gateway, clock: Clock) -> None:
    """600 s on one core each: three are promised, what ends early gives the rest of its promise back."""
    centre = Centre(clock)
    limited(gateway, clock, centre, share_core_seconds=3 * 600)
    jobs = [gateway.submit("local", None, executable="/bin/true") for _ in range(8)]

    gateway.tick("dispatch")
    assert len(centre.submitted_at) == 3
    last = next(job_id for job_id in jobs if gateway.state(job_id) == "new")
    assert "of our contracted share of local (1800) only 0 are neither used nor promised" in why(gateway, last)
    assert "合同份额（1800）" in why(gateway, last, "zh_Hans")

    for _ in range(20):
        clock.now += timedelta(seconds=2)
        gateway.tick("watch", "dispatch")
        with gateway.services.db.read() as conn:
            assert share.taken(conn, "local") <= 1800
        # What the first ones used stays used: three promises at a time do not fit any more.
        assert len(centre.waiting) + len(centre.running) <= 2 or not centre.ended
    assert len(centre.submitted_at) == len(centre.ended) == 8
    with gateway.services.db.read() as conn:
        assert share.taken(conn, "local") >= 8 * 2


def test_a_share_that_has_ended_lets_nothing_more_in_and_says_so(gateway: Gateway, clock: Clock) -> None:
    centre = Centre(clock)
    limited(gateway, clock, centre, share_until=clock.now + timedelta(hours=1))
    job_id = gateway.submit("local")
    clock.now += timedelta(hours=1)

    gateway.tick("dispatch")

    assert centre.submitted_at == []
    assert why(gateway, job_id).startswith("Our contracted share of local ended ")
    assert "到期" in why(gateway, job_id, "zh_Hans")


def test_a_job_larger_than_the_whole_share_is_refused_at_once(gateway: Gateway, clock: Clock) -> None:
    limited(gateway, clock, Centre(clock), share_core_seconds=599)
    with pytest.raises(Invalid, match="all of our share at local is 599"):
        gateway.submit("local")


def test_nodes_in_use_bind_in_the_line_and_why_says_so(gateway: Gateway, clock: Clock) -> None:
    centre = Centre(clock)
    limited(gateway, clock, centre, nodes_in_use_max=2)
    jobs = [gateway.submit("local", None, executable="/bin/true") for _ in range(3)]
    gateway.tick("dispatch")
    assert len(centre.submitted_at) == 2
    last = next(job_id for job_id in jobs if gateway.state(job_id) == "new")
    assert why(gateway, last) == "local lets our jobs there take 2 nodes together, and they take 2."
    assert why(gateway, last, "zh_Hans") == "local 允许我们的作业合计占用 2 个节点，目前已占用 2 个。"


def test_calls_a_minute_bind_looks_and_hand_overs_together_and_why_says_so(gateway: Gateway, clock: Clock) -> None:
    centre = Centre(clock)
    limited(gateway, clock, centre, calls_per_minute=12)
    jobs = [gateway.submit("local", None, executable="/bin/true") for _ in range(20)]
    gateway.tick("dispatch")
    assert len(centre.submitted_at) == 6  # half of the minute's calls
    last = next(job_id for job_id in jobs if gateway.state(job_id) == "new")
    assert why(gateway, last).startswith("local lets us ask its scheduler 12 times a minute")
    assert "每分钟调用其调度器 12 次" in why(gateway, last, "zh_Hans")

    for _ in range(95):
        clock.now += timedelta(seconds=2)
        gateway.tick("dispatch", "watch")
    assert len(centre.submitted_at) == 20
    assert _most_within(sorted(centre.submitted_at + centre.looked_at), timedelta(seconds=60)) <= 12
    assert gateway.show(jobs[0])["status"]["stale_since"] is None  # looks that we forgo make nothing stale


def _ended(gateway: Gateway, person: Person) -> int:
    query = select(JOBS.c.id).where(JOBS.c.user_id == person.user_id, JOBS.c.state == "completed")
    with gateway.services.db.read() as conn:
        return len(conn.execute(query).all())


def _most_within(moments: Sequence[datetime], span: timedelta) -> int:
    return max(sum(start <= at < start + span for at in moments) for start in moments)
