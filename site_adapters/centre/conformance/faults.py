"""What can only be provoked in a laboratory: schedulers and databases that are down, slow, or forget; requeues."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

from site_adapters.centre.conformance.kit import Check, Failed, Ran, Skipped, Target, expect
from site_adapters.errors import SiteError
from site_adapters.states import ObservedState
from site_adapters.types import Accepted, Attributes, Rejected


def checks(_target: Target) -> Iterator[Check]:
    remedy = "A source that does not answer must be told as such, never as an empty answer."
    for name, proves, fault, act in (
        ("down/submit", "a submission while the scheduler is down is refused for now or unknown", "scheduler_down",
         _submit_down),
        ("down/look", "a look while the scheduler is down is not a good look", "scheduler_down", _look_down),
        ("down/find", "a search while the scheduler is down is not a good one", "scheduler_down", _find_down),
        ("down/health", "a scheduler that is down is told as down", "scheduler_down", _health_down),
        ("down/cancel", "a cancel while the scheduler is down is not done", "scheduler_down", _cancel_down),
        ("down/after", "jobs are seen again when the scheduler is back", "scheduler_down", _after),
        ("accounting down/usage", "records that cannot be read raise", "accounting_down", _usage_down),
        ("accounting down/live", "live jobs are seen without accounting", "accounting_down", _live_without),
        ("slow/submit", "a slow submission is waited for, and done once", "submit_slow", _slow),
        ("cut/submit", "a submission whose answer is cut is unknown, and found by its tag", "answer_cut", _cut),
    ):  # fmt: skip
        yield Check(name, proves, remedy, _within(fault, act), needs=frozenset({f"fault:{fault}"}))
    yield Check("requeue/two runs", "a job that is requeued is seen to run again", remedy, _requeued,
                needs=frozenset({"fault:requeue", "requeue"}))  # fmt: skip


def _within(fault: str, act: Callable[[Target, Ran], None]) -> Callable[[Target, Mapping[str, Ran]], None]:
    """One job runs before the fault; the act is within it; afterwards all is well again."""

    def judge(target: Target, _jobs: Mapping[str, Ran]) -> None:
        job = target.run(target.spec("sleep 20\n"))
        target.wait_state(job, ObservedState.ACTIVE)
        try:
            with target.faults[fault]():
                act(target, job)
            target.look([job])
            expect(job.runs, "the job is not seen any more when all is well again")
        finally:
            target.cancel(job)

    return judge


def _submit_down(target: Target, _job: Ran) -> None:
    outcome = target.adapter.management.submit([target.submission(target.spec())])[0]
    expect(not isinstance(outcome, Accepted), "it was accepted by a scheduler that is down")
    expect(not isinstance(outcome, Rejected) or outcome.retryable, f"it was refused for good: {outcome}")


def _look_down(target: Target, job: Ran) -> None:
    try:
        seen = target.adapter.management.observe([job.ref()])
    except SiteError:
        return
    expect(not seen.queue.good, "the look says that it is good")


def _find_down(target: Target, job: Ran) -> None:
    since = datetime.now(UTC) - timedelta(hours=1)
    look = target.adapter.management.find([job.submission.fence_name], accounts=[target.account], since=since)
    expect(not look.good, "the search says that it is good")


def _health_down(target: Target, _job: Ran) -> None:
    expect(not target.adapter.management.health().ok, "it is told as healthy")


def _cancel_down(target: Target, job: Ran) -> None:
    outcome = target.adapter.management.cancel(target.account, [job.ref()])[0]
    expect(getattr(outcome, "retryable", False), f"{outcome}")


def _after(target: Target, job: Ran) -> None:
    try:
        target.look([job])
    except SiteError:
        return


def _usage_down(target: Target, _job: Ran) -> None:
    now = datetime.now(UTC)
    try:
        batch = target.adapter.billing.usage(now - timedelta(hours=1), now, (target.account,))
    except SiteError:
        return
    raise Failed(f"{len(batch.usages)} records without accounting")


def _live_without(target: Target, job: Ran) -> None:
    seen = target.adapter.management.observe([job.ref()])
    expect(seen.queue.good and any(r.native_id == job.native_id for r in seen.queue.runs), f"{seen.queue.error}")


def _slow(target: Target, _job: Ran) -> None:
    job = target.run(target.spec("printf ran\n"))
    target.wait_ended([job])
    expect(target.output(job) == b"ran", "it did not run once")


def _cut(target: Target, _job: Ran) -> None:
    submission = target.submission(target.spec("printf ran\n"))
    outcome = target.adapter.management.submit([submission])[0]
    if isinstance(outcome, Accepted):
        raise Skipped("the answer came through")
    expect(not isinstance(outcome, Rejected), f"it was told as refused: {outcome}")


def _requeued(target: Target, _jobs: Mapping[str, Ran]) -> None:
    assert target.requeue is not None
    attributes = Attributes(duration=300, rerunnable=True)
    job = target.run(target.spec("sleep 3\n", attributes=attributes))
    target.wait_state(job, ObservedState.ACTIVE)
    time.sleep(1)
    target.requeue(job.native_id)
    target.wait([job], lambda j: any(r.restarts > 0 for r in j.runs), "its second run", 180)
    target.wait_ended([job], 240)
    expect(job.runs[-1].state is ObservedState.COMPLETED, f"it ended as {job.runs[-1].native_state}")
