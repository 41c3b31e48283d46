"""The centre's policy, tried on a copy of its gate: nothing opens or runs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from site_adapters.centre.conformance.kit import Check, Failed, Ran, Skipped, Target, expect
from site_adapters.centre.gate import Gate
from site_adapters.centre.journal import Store
from site_adapters.errors import Busy, Refused
from site_adapters.policy import Policy, admitted, open_at
from site_adapters.states import ObservedState, PermissionModel
from site_adapters.types import (
    Accepted,
    Array,
    Attributes,
    JobRef,
    Look,
    Observation,
    ObservedRun,
    Queue,
    Rejected,
    Reservation,
    Resources,
    SiteAccount,
    Submission,
)
from site_adapters.weight import weigh

_CENTRE = frozenset({"centre"})
_NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def checks(_target: Target) -> Iterator[Check]:
    remedy = "Read policy in site.yaml: each limit that is set there must bind."
    for name, proves, act in (
        ("policy/queued jobs", "no more jobs of ours wait and run than is allowed", _queued),
        ("policy/queued jobs of one", "nor of one person", _queued_of_one),
        ("policy/submissions a minute", "no more submissions in a minute than are allowed", _per_minute),
        ("policy/cores in use", "our jobs together take no more cores than is allowed", _cores_in_use),
        ("policy/nodes in use", "nor more nodes", _nodes_in_use),
        ("policy/cores of a job", "no job is larger than is allowed", _cores),
        ("policy/nodes of a job", "nor on more nodes", _nodes),
        ("policy/duration", "nor longer", _duration),
        ("policy/tasks", "no array has more tasks than is allowed", _tasks),
        ("policy/people", "only people who are admitted submit", _people),
        ("policy/projects", "only projects that are admitted submit", _projects),
        ("policy/qos", "only the QOS that are allowed are used", _qos),
        ("policy/hours", "outside the hours nothing is submitted", _hours),
        ("policy/share", "no more is begun than the contracted share holds", _share),
        ("policy/calls a minute", "no more calls in a minute than are allowed", _calls),
        ("policy/verbs", "verbs that are not allowed are refused", _verbs),
        ("policy/log interval", "an output is shown no more often than is allowed", _log_interval),
        ("policy/log bytes", "no more of an output is shown at a time than is allowed", _log_bytes),
        ("policy/referral", "under referral nothing is submitted", _referral),
        ("policy/free again", "what has ended takes no place any more", _free_again),
        ("policy/known attempts", "an attempt that was here gets the outcome that it had", _known),
    ):
        yield Check(name, proves, remedy, _with_gate(act), needs=_CENTRE)


@dataclass(slots=True)
class _Gate:
    """The centre's gate, with its policy, over an empty store and a clock of ours."""

    gate: Gate
    target: Target
    now: list[datetime]

    @property
    def policy(self) -> Policy:
        return self.gate.policy

    def job(self, **changes: Any) -> Submission:
        """A submission that the policy admits, as small as it can be."""
        p = self.policy
        attributes = Attributes(duration=min(60, p.duration_max or 60), qos=next(iter(p.qos_allowed), None))
        spec = replace(self.target.spec(), attributes=changes.pop("attributes", attributes),
                       array=changes.pop("array", None), resources=changes.pop("resources", Resources()))  # fmt: skip
        person, project = _fits(p.people_admitted), _fits(p.projects_admitted)
        return replace(self.target.submission(spec), **{"person": person, "project": project, **changes})

    def enter(self, *jobs: Submission) -> list[Rejected | None]:
        outcomes = [o for _, o in self.gate.enter(jobs)]
        return [o if isinstance(o, Rejected) else None for o in outcomes]

    def accept(self, job: Submission, native_id: str) -> None:
        self.gate.leave(job, Accepted(native_id))


def _fits(patterns: Sequence[str]) -> str:
    """A name that the patterns admit."""
    return next(iter(patterns), "somebody").replace("*", "x").replace("?", "x")


def _with_gate(act: Callable[[_Gate], None]) -> Callable[[Target, Mapping[str, Ran]], None]:
    def judge(target: Target, _jobs: Mapping[str, Ran]) -> None:
        with _gate(target) as gate:
            act(gate)

    return judge


@contextmanager
def _gate(target: Target, **changes: Any) -> Iterator[_Gate]:
    assert target.centre is not None  # the check needs `centre`
    policy = target.centre.gate.policy
    if policy.permission_model is PermissionModel.REFERRAL:
        policy = replace(policy, permission_model=PermissionModel.OWN_ACCOUNT)
    now = [_open_hour(policy)]
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "gate.sqlite")
        try:
            everything = _AllThere()
            adapter = replace(target.adapter, management=cast(Any, everything), resource=cast(Any, everything))
            yield _Gate(Gate(store, replace(policy, **changes), adapter, lambda: now[0]), target, now)
        finally:
            store.close()


class _AllThere:
    """A scheduler in which all that was let in waits: the gate takes what no scheduler shows for lost, in time."""

    def observe(self, jobs: Sequence[JobRef]) -> Observation:
        return Observation(Look(tuple(_waiting(j.native_id, j.username) for j in jobs)), Look())

    def find(self, tags: Sequence[str], *, accounts: Sequence[SiteAccount], since: datetime) -> Look:
        return Look(tuple(replace(_waiting(tag, ""), tags_seen=(tag,)) for tag in tags))

    def reservations(self) -> list[Reservation]:
        return []

    def queues(self) -> tuple[Queue, ...]:
        return ()


def _waiting(native_id: str, username: str) -> ObservedRun:
    return ObservedRun(native_id, ObservedState.QUEUED, "queued", username=username)


def _open_hour(policy: Policy) -> datetime:
    return next((t for t in (_NOW + timedelta(minutes=15 * i) for i in range(96)) if open_at(policy, t)), _NOW)


def _set(value: Any, name: str) -> Any:
    if value in (None, (), 0.0):
        raise Skipped(f"{name} is not set at this centre")
    return value


def _fill(g: _Gate, most: int, job: Callable[[], Submission], *, step: int = 1) -> None:
    """Enter until the limit: each of the first is let in or meets another limit, none beyond."""
    inside = 0
    for _ in range(most // step + 3):
        (refusal,) = g.enter(job())
        inside += step if refusal is None else 0
        g.now[0] += timedelta(seconds=61 if g.policy.submits_per_minute else 0)
    expect(inside <= most, f"{inside} are in, {most} are allowed")
    expect(inside > 0, "not even one is let in")


def _queued(g: _Gate) -> None:
    most = min(500, _set(g.policy.queued_jobs_max, "queued_jobs_max"))
    people = iter(range(10**6))
    _fill(
        g,
        most,
        lambda: g.job(person=_fits(g.policy.people_admitted) if g.policy.people_admitted else f"p{next(people)}"),
    )


def _queued_of_one(g: _Gate) -> None:
    _fill(g, min(500, _set(g.policy.queued_jobs_per_person_max, "queued_jobs_per_person_max")), g.job)


def _per_minute(g: _Gate) -> None:
    most = _set(g.policy.submits_per_minute, "submits_per_minute")
    jobs = [g.job() for _ in range(min(most + 20, 2000))]
    inside = sum(r is None for r in g.enter(*jobs))
    expect(0 < inside <= most, f"{inside} in one minute, {most} are allowed")


def _cores_in_use(g: _Gate) -> None:
    most = _set(g.policy.cores_in_use_max, "cores_in_use_max")
    size = max(1, min(most // 3, g.policy.cores_max or most))
    _fill(g, most, lambda: g.job(resources=Resources(process_count=size)), step=size)


def _nodes_in_use(g: _Gate) -> None:
    most = _set(g.policy.nodes_in_use_max, "nodes_in_use_max")
    _fill(g, most, lambda: g.job(resources=Resources(node_count=1)))


def _refused_for_good(g: _Gate, job: Submission) -> None:
    (refusal,) = g.enter(job)
    expect(refusal is not None and not refusal.retryable and refusal.message, f"{refusal}")


def _cores(g: _Gate) -> None:
    most = _set(g.policy.cores_max, "cores_max")
    _refused_for_good(g, g.job(resources=Resources(process_count=most + 1)))


def _nodes(g: _Gate) -> None:
    most = _set(g.policy.nodes_max, "nodes_max")
    _refused_for_good(g, g.job(resources=Resources(node_count=most + 1)))


def _duration(g: _Gate) -> None:
    most = _set(g.policy.duration_max, "duration_max")
    job = g.job()
    _refused_for_good(g, g.job(attributes=replace(job.spec.attributes, duration=most + 1)))


def _tasks(g: _Gate) -> None:
    most = _set(g.policy.array_tasks_max, "array_tasks_max")
    _refused_for_good(g, g.job(array=Array(f"0-{most}")))


def _people(g: _Gate) -> None:
    patterns = _set(g.policy.people_admitted, "people_admitted")
    stranger = "nobody-at-all"
    if admitted(stranger, patterns):
        raise Skipped("everybody is admitted")
    _refused_for_good(g, g.job(person=stranger))


def _projects(g: _Gate) -> None:
    patterns = _set(g.policy.projects_admitted, "projects_admitted")
    if admitted("no-project", patterns):
        raise Skipped("every project is admitted")
    _refused_for_good(g, g.job(project="no-project"))


def _qos(g: _Gate) -> None:
    _set(g.policy.qos_allowed, "qos_allowed")
    _refused_for_good(g, g.job(attributes=Attributes(duration=60, qos="no-such-qos")))
    submission, outcome = g.gate.enter([g.job(attributes=Attributes(duration=60))])[0]
    expect(outcome is None and submission.spec.attributes.qos == g.policy.qos_allowed[0], "no QOS was given")


def _hours(g: _Gate) -> None:
    _set(g.policy.hours, "hours")
    quarters = (_NOW + timedelta(minutes=15 * i) for i in range(96))
    shut = next((t for t in quarters if not open_at(g.policy, t)), None)
    if shut is None:
        raise Skipped("every hour is open")
    g.now[0] = shut
    (refusal,) = g.enter(g.job())
    expect(refusal is not None and refusal.retryable, f"{refusal}")


def _share(g: _Gate) -> None:
    most = _set(g.policy.share_core_seconds, "share_core_seconds")
    job = g.job()
    each = weigh(job, g.policy).core_seconds
    size = max(1, min(most // (3 * each), g.policy.cores_max or 10**9, g.policy.cores_in_use_max or 10**9))
    inside = 0
    for _ in range(20):
        (refusal,) = g.enter(g.job(resources=Resources(process_count=size)))
        inside += each * size if refusal is None else 0
        g.now[0] += timedelta(seconds=61)
    expect(inside <= most, f"{inside} core-seconds were begun, {most} are contracted")


def _calls(g: _Gate) -> None:
    most = _set(g.policy.calls_per_minute, "calls_per_minute")
    inside = 0
    for _ in range(most + 10):
        try:
            g.gate.call("management.health")
            inside += 1
        except Busy:
            continue
    expect(inside <= most, f"{inside} calls in one minute, {most} are allowed")


def _verbs(g: _Gate) -> None:
    refused = _set(g.policy.verbs_refused, "verbs_refused")
    name = refused[0].replace("*", "x")
    try:
        g.gate.call(name)
    except Refused:
        return
    raise Failed(f"{name} was let through")


def _log_interval(g: _Gate) -> None:
    _set(g.policy.log_interval_s, "log_interval_s")
    g.gate.reading(g.target.account, "/x", 10)
    try:
        g.gate.reading(g.target.account, "/x", 10)
    except Busy:
        g.now[0] += timedelta(seconds=g.policy.log_interval_s)
        g.gate.reading(g.target.account, "/x", 10)
        return
    raise Failed("it was shown twice at once")


def _log_bytes(g: _Gate) -> None:
    most = _set(g.policy.log_bytes_max, "log_bytes_max")
    expect(g.gate.reading(g.target.account, "/y", most + 1) <= most, "more was allowed")


def _referral(g: _Gate) -> None:
    with _gate(g.target, permission_model=PermissionModel.REFERRAL) as other:
        _refused_for_good(other, other.job())


def _free_again(g: _Gate) -> None:
    job = g.job()
    g.enter(job)
    g.accept(job, "1")
    before = g.gate.load(None).places
    g.gate.fenced([job.fence_name])
    expect((before, g.gate.load(None).places) == (1, 0), f"{before} places, then {g.gate.load(None).places}")


def _known(g: _Gate) -> None:
    job = g.job()
    g.enter(job)
    g.accept(job, "4711")
    outcome = g.gate.enter([job])[0][1]
    expect(isinstance(outcome, Accepted) and outcome.native_id == "4711", f"{outcome}")
