"""What queue, accounting and the centre's facts show; who one is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from site_adapters.centre.conformance.kit import Check, Failed, Ran, Skipped, Target, expect
from site_adapters.errors import SiteError, Unsupported
from site_adapters.types import Accepted

_SKEW = timedelta(seconds=60)


def checks(target: Target) -> Iterator[Check]:
    remedy = "Absent is not finished; a look that failed says so; times are told in UTC."
    job = {"job": target.spec("sleep 1\n")}
    for name, proves, judge in (
        ("look/by tag", "a job is found by its tag after its end", _found),
        ("look/all of ours", "a search without tags shows every job of ours", _all_ours),
        ("look/times in order", "submitted, started, ended: in this order", _times),
        ("look/clock", "the scheduler's clock is near ours", _clock),
        ("look/uid", "a row names the login that it ran as", _username),
        ("look/manifest", "what `recover` needs is kept with the job", _manifest),
        ("look/cluster", "its id stays the same in queue and accounting", _same_id),
        ("look/stays final", "what has ended stays ended", _stays),
    ):
        yield Check(name, proves, remedy, judge, job)
    for name, proves, act in (
        ("look/unknown tag", "a tag that nobody bears is not found, by a good look", _unknown_tag),
        ("look/unknown id", "an id that nobody has is absent, not ended", _unknown_id),
        ("look/nothing", "asking about nothing raises nothing", _nothing),
        ("look/many at once", "twenty jobs cost a handful of queries", _many),
        ("look/known at once", "a job is shown right after its submission", _at_once),
        ("facts/health", "the scheduler answers", _health),
        ("facts/queues", "there is a queue that is open", _queues),
        ("facts/queue names", "no two queues have one name", _queue_names),
        ("facts/one default", "at most one queue is the default", _one_default),
        ("facts/queue limits", "limits of queues are positive numbers", _queue_limits),
        ("facts/nodes", "nodes have cores, and no more are busy than there are", _nodes),
        ("facts/nodes have queues", "a node names queues that exist", _node_queues),
        ("facts/capacity", "the numbers of the whole fit together", _capacity),
        ("facts/limits", "the login's accounts are told", _limits),
        ("facts/reservations", "reservations end after they begin", _reservations),
        ("facts/software", "software is told, or said not to be known", _software),
        ("auth/who", "the login is who it says", _who),
        ("auth/nobody", "a login that does not exist is refused", _nobody),
        ("auth/root", "nobody becomes root", _root),
        ("auth/odd names", "a login name that is no name is refused", _odd_names),
        ("auth/probes", "each credential that fails comes with a remedy", _probes),
        ("auth/hidden jobs", "what is hidden from the observer is known to be", _hidden),
    ):
        yield Check(name, proves, remedy, _alone(act))


def _alone(act: Callable[[Target], None]) -> Callable[[Target, Mapping[str, Ran]], None]:
    return lambda target, _jobs: act(target)


def _found(target: Target, jobs: Mapping[str, Ran]) -> None:
    job = jobs["job"]
    job.ended()
    tag = job.submission.fence_name
    look = target.adapter.management.find([tag], accounts=[target.account], since=job.ref().submitted_at)
    expect(look.good and {r.native_id for r in look.runs} == {job.native_id}, f"{look.error} {len(look.runs)} rows")


def _all_ours(target: Target, jobs: Mapping[str, Ran]) -> None:
    job = jobs["job"]
    look = target.adapter.management.find((), accounts=[target.account], since=job.ref().submitted_at)
    expect(any(job.submission.fence_name in r.tags_seen for r in look.runs), "it is not among them")
    expect(all(r.tags_seen for r in look.runs), "a row without a tag of ours is among them")


def _times(_target: Target, jobs: Mapping[str, Ran]) -> None:
    run = jobs["job"].ended()
    expect(run.start_time is not None and run.end_time is not None, "start or end is missing")
    assert run.start_time is not None and run.end_time is not None
    expect(run.start_time <= run.end_time, f"it ended at {run.end_time}, before {run.start_time}")
    if run.submit_time is not None:
        expect(run.submit_time <= run.start_time, f"it was submitted at {run.submit_time}, after its start")


def _clock(_target: Target, jobs: Mapping[str, Ran]) -> None:
    run, now = jobs["job"].ended(), datetime.now(UTC)
    assert run.end_time is not None
    early = now - timedelta(hours=1)
    expect(early < run.end_time <= now + _SKEW, f"it ended at {run.end_time}, and now it is {now}: clock or zone")


def _username(target: Target, jobs: Mapping[str, Ran]) -> None:
    name = jobs["job"].ended().username
    expect(name in ("", target.account.username), f"it ran as {name}")


def _manifest(_target: Target, jobs: Mapping[str, Ran]) -> None:
    job = jobs["job"]
    run = job.ended()
    expect(job.submission.manifest in (run.manifest, "") or job.submission.fence_name in run.tags_seen,
           f"the manifest is {run.manifest!r}")  # fmt: skip


def _same_id(target: Target, jobs: Mapping[str, Ran]) -> None:
    job = jobs["job"]
    tag = job.submission.fence_name
    look = target.adapter.management.find([tag], accounts=[target.account], since=job.ref().submitted_at)
    expect({r.native_id for r in look.runs} <= {job.native_id}, "queue and accounting name different ids")


def _stays(target: Target, jobs: Mapping[str, Ran]) -> None:
    job = jobs["job"]
    before = job.ended().state
    target.look([job])
    expect(job.only().state is before, f"it was {before.value} and is {job.only().state.value}")


def _unknown_tag(target: Target) -> None:
    tag = target.submission(target.spec()).fence_name
    since = datetime.now(UTC) - timedelta(hours=1)
    look = target.adapter.management.find([tag], accounts=[target.account], since=since)
    expect(look.good and not look.runs, f"{look.error} {look.runs[:1]}")


def _stranger(target: Target) -> Ran:
    job = target.run(target.spec())
    target.wait_ended([job])
    return job


def _unknown_id(target: Target) -> None:
    ref = replace(_stranger(target).ref(), native_id="987654321")
    seen = target.adapter.management.observe([ref])
    runs = [r for r in (*seen.queue.runs, *seen.accounting.runs) if r.native_id == ref.native_id]
    expect(seen.queue.good, f"the look failed: {seen.queue.error}")
    expect(not runs, f"it is shown as {[r.native_state for r in runs]}")


def _nothing(target: Target) -> None:
    since = datetime.now(UTC) - timedelta(hours=1)
    expect(target.adapter.management.find((), accounts=(), since=since).runs == (), "rows of nobody")


def _many(target: Target) -> None:
    jobs = target.submit([target.submission(target.spec(), name="many") for _ in range(20)])
    target.wait_ended(jobs)
    seen = target.adapter.management.observe([job.ref() for job in jobs if isinstance(job.outcome, Accepted)])
    expect(seen.queue.good and seen.accounting.good, f"the look failed: {seen.queue.error or seen.accounting.error}")
    expect(seen.queries <= 5, f"{seen.queries} commands for 20 jobs")


def _at_once(target: Target) -> None:
    job = target.run(target.spec("sleep 2\n"))
    target.wait([job], lambda j: bool(j.runs), "its first row", 15)
    target.wait_ended([job])


def _health(target: Target) -> None:
    found = target.adapter.management.health()
    expect(found.ok, found.detail)


def _queues(target: Target) -> None:
    found = target.adapter.resource.queues()
    expect(any(q.open for q in found), f"{len(found)} queues, none of them open")
    if target.queue is not None:
        expect(target.queue in {q.name for q in found}, f"{target.queue} is not among them")


def _queue_names(target: Target) -> None:
    names = [q.name for q in target.adapter.resource.queues()]
    expect(len(names) == len(set(names)), f"{names}")


def _one_default(target: Target) -> None:
    names = [q.name for q in target.adapter.resource.queues() if q.default]
    expect(len(names) <= 1, f"{names}")


def _queue_limits(target: Target) -> None:
    for q in target.adapter.resource.queues():
        numbers = (q.duration_max, q.duration_default, q.nodes_max, q.cores_per_node_max, q.memory_per_node_max)
        expect(all(n is None or n > 0 for n in numbers), f"{q.name}: {numbers}")
        if q.duration_max is not None and q.duration_default is not None:
            expect(q.duration_default <= q.duration_max, f"{q.name}: its default is longer than its maximum")


def _nodes(target: Target) -> None:
    found = target.adapter.resource.nodes()
    expect(found, "no nodes")
    bad = [n.name for n in found if not 0 <= n.cores_busy <= n.cores]
    expect(not bad, f"{bad[:3]}")


def _node_queues(target: Target) -> None:
    known = {q.name for q in target.adapter.resource.queues()}
    lost = {q for n in target.adapter.resource.nodes() for q in n.queues} - known
    if lost and target.centre is not None and target.centre.site.queues:
        raise Skipped("the site file gives queues other names")
    expect(not lost, f"{sorted(lost)}")


def _capacity(target: Target) -> None:
    c = target.adapter.resource.capacity()
    expect(c.cores_total > 0 and 0 <= c.cores_busy <= c.cores_total and 0 <= c.cores_down <= c.cores_total, f"{c}")


def _limits(target: Target) -> None:
    found = target.adapter.resource.limits(target.account)
    expect(found.accounts is None or found.accounts, "the login may charge no account")


def _reservations(target: Target) -> None:
    try:
        found = target.adapter.resource.reservations()
    except Unsupported as exc:
        raise Skipped(str(exc)) from exc
    bad = [r.name for r in found if r.end < r.start]
    expect(not bad, f"{bad}")


def _software(target: Target) -> None:
    try:
        target.adapter.resource.software()
    except Unsupported as exc:
        expect(str(exc), "the refusal has no words")


def _who(target: Target) -> None:
    facts = target.adapter.auth.probe(target.account.username)
    expect(facts.username == target.account.username and facts.uid != 0 and facts.home.startswith("/"), f"{facts}")


def _refused(target: Target, username: str) -> None:
    try:
        facts = target.adapter.auth.probe(username)
    except SiteError as exc:
        expect(str(exc), "the refusal has no words")
        return
    raise Failed(f"it was let in as {facts.username} (uid {facts.uid})")


def _nobody(target: Target) -> None:
    _refused(target, "nosuchlogin")


def _root(target: Target) -> None:
    _refused(target, "root")


def _odd_names(target: Target) -> None:
    for name in ("", "a b", "../etc", "x;id", "-x", "名"):
        _refused(target, name)


def _probes(target: Target) -> None:
    bad = [r.name for r in target.adapter.auth.check() if not r.ok and not r.remedy]
    expect(not bad, f"without a remedy: {bad}")


def _hidden(target: Target) -> None:
    found = next((r for r in target.adapter.auth.check() if r.name == "hidden jobs"), None)
    if found is None:
        raise Skipped("this scheduler hides nobody's jobs")
    expect(found.ok or found.remedy, found.detail)
