"""Holds, releases, cancels, changes and fences, tried on live jobs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from site_adapters.centre.conformance.kit import HELD, Check, Ran, Skipped, Target, expect, is_over
from site_adapters.errors import NotFound
from site_adapters.states import ObservedState
from site_adapters.types import (
    Accepted,
    ActionOutcome,
    Array,
    Change,
    Done,
    FenceOwned,
    FenceTaken,
    NotDone,
    Rejected,
    Unfenced,
)

_S = ObservedState
_HOLD = frozenset({"hold"})
Try = Callable[[Target], None]


def checks(_target: Target) -> Iterator[Check]:
    hold = "Holding, releasing and cancelling are idempotent; what is over needs no more."
    for name, proves, needs, act in (
        ("hold/at submission", "a job that is to be held waits as held", _HOLD, _held),
        ("hold/release", "a held job runs when it is released", _HOLD, _released),
        ("hold/twice", "holding what is held is done", _HOLD, _held_twice),
        ("hold/release twice", "releasing what is released is done", _HOLD, _released_twice),
        ("hold/what has ended", "holding what has ended raises nothing", _HOLD, _held_after),
        ("cancel/waiting", "a waiting job that is cancelled ends as canceled", _HOLD, _cancel_waiting),
        ("cancel/running", "a running job that is cancelled ends as canceled", frozenset[str](), _cancel_running),
        ("cancel/twice", "cancelling twice is done twice", frozenset[str](), _cancel_twice),
        ("cancel/what has ended", "cancelling what has ended is done", frozenset[str](), _cancel_ended),
        ("cancel/at once", "a job cancelled right after its submission never stays", frozenset[str](), _cancel_race),
        ("cancel/many", "one call cancels many, known and unknown", frozenset[str](), _cancel_many),
        ("cancel/an array", "an array is cancelled whole", frozenset({"arrays"}), _cancel_array),
        ("cancel/stubborn", "a job that ignores TERM ends as well", frozenset({"slow"}), _cancel_stubborn),
        ("modify/duration", "a waiting job can be given another duration", frozenset({"modify", "hold"}), _modified),
        ("modify/to nonsense", "a change that cannot be is refused in words", frozenset({"modify", "hold"}), _nonsense),
        ("modify/what has ended", "what has ended is not changed", frozenset({"modify"}), _modify_ended),
    ):
        yield Check(name, proves, hold, _judge(act), needs=needs)
    fence = "The fence is one atomic link in the shared staging area; look at staging_root."
    for name, proves, act in (
        ("fence/free", "a fence that nobody owns can be taken", _fence_free),
        ("fence/again", "a fence that we took stays ours", _fence_again),
        ("fence/owner", "the fence of a job that runs names its owner", _fence_owner),
        ("fence/many", "many fences are taken in one call, in order", _fence_many),
        ("fence/late landing", "a copy that lands after its fence was taken runs nothing", _late_landing),
        ("fence/two copies", "of two copies of one attempt one runs", _two_copies),
        ("fence/next attempt", "the next attempt is not held up by the fence of the last", _next_attempt),
    ):
        yield Check(name, proves, fence, _judge(act), needs=frozenset({"fence"}))


def _judge(act: Try) -> Callable[[Target, Mapping[str, Ran]], None]:
    return lambda target, _jobs: act(target)


def _done(outcomes: Sequence[ActionOutcome]) -> None:
    bad = [o.message for o in outcomes if isinstance(o, NotDone)]
    expect(not bad, f"not done: {bad}")


def _hold_one(target: Target) -> Ran:
    job = target.run(target.spec("printf ran\n", attributes=HELD))
    target.wait_state(job, _S.HELD)
    return job


def _held(target: Target) -> None:
    job = _hold_one(target)
    time.sleep(1)
    target.look([job])
    expect(job.only().state is _S.HELD, f"it is {job.only().state.value} a second later")
    target.cancel(job)


def _released(target: Target) -> None:
    job = _hold_one(target)
    _done(target.adapter.management.release(target.account, [job.ref()]))
    target.wait_ended([job])
    job.ended()
    expect(target.output(job) == b"ran", "it did not run")


def _held_twice(target: Target) -> None:
    job = _hold_one(target)
    _done(target.adapter.management.hold(target.account, [job.ref()]))
    target.cancel(job)


def _released_twice(target: Target) -> None:
    job = _hold_one(target)
    for _ in range(2):
        _done(target.adapter.management.release(target.account, [job.ref()]))
    target.wait_ended([job])


def _held_after(target: Target) -> None:
    job = target.run(target.spec())
    target.wait_ended([job])
    target.adapter.management.hold(target.account, [job.ref()])
    target.look([job])
    expect(job.only().state.final, "it is not over any more")


def _cancel_waiting(target: Target) -> None:
    job = _hold_one(target)
    _done(target.adapter.management.cancel(target.account, [job.ref()]))
    target.wait_ended([job])
    job.ended(_S.CANCELED)


def _running(target: Target, script: str = "sleep 120\n") -> Ran:
    job = target.run(target.spec(script))
    target.wait_state(job, _S.ACTIVE)
    return job


def _cancel_running(target: Target) -> None:
    job = _running(target)
    _done(target.adapter.management.cancel(target.account, [job.ref()]))
    target.wait_ended([job])
    job.ended(_S.CANCELED)


def _cancel_twice(target: Target) -> None:
    job = _running(target)
    for _ in range(2):
        _done(target.adapter.management.cancel(target.account, [job.ref()]))
    target.wait_ended([job])


def _cancel_ended(target: Target) -> None:
    job = target.run(target.spec())
    target.wait_ended([job])
    _done(target.adapter.management.cancel(target.account, [job.ref()]))
    target.look([job])
    job.ended()


def _cancel_race(target: Target) -> None:
    jobs = target.submit([target.submission(target.spec("sleep 60\n"), name="race") for _ in range(5)])
    target.cancel(*jobs)
    target.wait_ended(jobs)
    for job in jobs:
        job.ended(_S.CANCELED)


def _cancel_many(target: Target) -> None:
    jobs = target.submit([target.submission(target.spec("sleep 60\n"), name="many") for _ in range(3)])
    stranger = replace(jobs[0].ref(), native_id="999999999")
    outcomes = target.adapter.management.cancel(target.account, [*(j.ref() for j in jobs), stranger])
    expect(len(outcomes) == 4, f"{len(outcomes)} answers for 4 jobs")
    _done(outcomes[:3])
    target.wait_ended(jobs)


def _cancel_array(target: Target) -> None:
    job = target.run(target.spec("sleep 120\n", array=Array("0-3")))
    target.wait([job], lambda j: any(r.state is _S.ACTIVE for r in j.runs), "a task that runs")
    _done(target.adapter.management.cancel(target.account, [job.ref()]))
    target.wait([job], lambda j: bool(j.runs) and all(r.state.final for r in j.runs), "the end of all tasks")


def _cancel_stubborn(target: Target) -> None:
    job = _running(target, "trap '' TERM\nwhile true; do sleep 1; done\n")
    target.cancel(job)
    target.wait_ended([job], 120)
    expect(job.only().state in (_S.CANCELED, _S.FAILED), f"it is {job.only().state.value}")


def _modified(target: Target) -> None:
    job = _hold_one(target)
    outcome = target.adapter.management.modify(target.account, job.ref(), Change(duration=120))
    target.cancel(job)
    expect(isinstance(outcome, Done), f"not done: {outcome}")


def _nonsense(target: Target) -> None:
    job = _hold_one(target)
    outcome = target.adapter.management.modify(target.account, job.ref(), Change(queue_name="nosuchqueue"))
    target.cancel(job)
    expect(isinstance(outcome, NotDone) and outcome.message, f"it was taken: {outcome}")


def _modify_ended(target: Target) -> None:
    job = target.run(target.spec())
    target.wait_ended([job])
    target.adapter.management.modify(target.account, job.ref(), Change(duration=120))
    target.look([job])
    job.ended()


# ---------------------------------------------------------------- fences


def _fence_free(target: Target) -> None:
    name = target.submission(target.spec()).fence_name
    outcome = target.adapter.management.take_fences(target.account, [name])
    expect(outcome == [FenceTaken()], f"{outcome}")


def _fence_again(target: Target) -> None:
    name = target.submission(target.spec()).fence_name
    for _ in range(2):
        outcome = target.adapter.management.take_fences(target.account, [name])
        expect(outcome == [FenceTaken()], f"{outcome}")


def _fence_owner(target: Target) -> None:
    submission = target.submission(target.spec('echo runs >"$HOME/penstock-check.$PENSTOCK_JOB_TAG"; sleep 120\n'))
    job = target.submit([submission])[0]
    _ = job.native_id  # raises where it was refused
    target.read_when_there(f"~/penstock-check.{submission.tag}")  # its script is past its first line, the fence
    outcome = target.adapter.management.take_fences(target.account, [submission.fence_name])[0]
    target.cancel(job)
    if isinstance(outcome, Unfenced):
        raise Skipped("this centre's jobs look at no fence")
    owned = isinstance(outcome, FenceOwned) and outcome.owner.endswith(f":{job.native_id}")
    expect(owned, f"the fence of job {job.native_id} that runs: {outcome}")


def _fence_many(target: Target) -> None:
    names = [target.submission(target.spec()).fence_name for _ in range(30)]
    outcome = target.adapter.management.take_fences(target.account, names)
    expect(outcome == [FenceTaken()] * 30, f"{len(outcome)} answers, {outcome[:2]}")


def _late_landing(target: Target) -> None:
    submission = target.submission(target.spec("printf ran\n"), name="late")
    target.adapter.management.take_fences(target.account, [submission.fence_name])
    job = target.submit([submission])[0]
    if job.submission.attempt != 1 or not isinstance(job.outcome, Accepted):
        return  # the site itself would not take it any more
    target.wait_ended([job])
    run = job.ended(_S.FAILED)
    expect(run.exit_code in (75, None), f"exit code {run.exit_code}")
    try:
        printed = target.read_all(job.stdout)
    except NotFound:
        return  # where the script opens its own output, a copy that was turned away does not even do that
    expect(b"ran" not in printed, "it ran")


def _two_copies(target: Target) -> None:
    script = 'echo ran >>"$HOME/penstock-check.$PENSTOCK_JOB_TAG"; sleep 1; echo said; echo complained >&2\n'
    submission = target.submission(target.spec(script), name="twice")
    first = target.submit([submission])[0]
    second = target.adapter.management.submit([submission])[0]
    target.wait_ended([first])
    ids = {first.native_id}
    if isinstance(second, Accepted) and second.native_id not in ids:
        copy = target._ran(submission, second)
        target.wait([copy], is_over, "the end of the second copy")
    expect(not isinstance(second, Rejected) or second.message, "the refusal has no words")
    count = target.read_all(f"~/penstock-check.{submission.tag}").count(b"ran")
    expect(count == 1, f"it ran {count} times")
    printed = (target.output(first), target.output(first, stderr=True))
    expect(printed == (b"said\n", b"complained\n"), f"the second copy changed what the first had printed: {printed}")


def _next_attempt(target: Target) -> None:
    first = target.submission(target.spec("printf one\n"), name="again")
    target.adapter.management.take_fences(target.account, [first.fence_name])
    job = target.submit([target.submission(first.spec, name="again", attempt=2, tag=first.tag)])[0]
    target.wait_ended([job])
    job.ended()
