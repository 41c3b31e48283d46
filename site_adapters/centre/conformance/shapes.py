"""Arrays, sizes, output paths: what is asked for is what is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from site_adapters.centre.conformance.kit import DURATION_S, Check, Judge, Ran, Skipped, Target, expect
from site_adapters.indices import expand
from site_adapters.states import ObservedState, Reason
from site_adapters.types import Array, Attributes, Rejected, Resources

_ARRAYS = {"a range": "0-3", "a step": "1-9:4", "one task": "5", "a list": "1,3,7", "a mixture": "0-1,8"}
_TASK = 'printf %s "$PENSTOCK_ARRAY_TASK"\n'


def checks(target: Target) -> Iterator[Check]:
    yield from _arrays(target)
    yield from _sizes(target)
    yield from _paths(target)
    yield from _refusals(target)


def _arrays(target: Target) -> Iterator[Check]:
    remedy = "One row for each task, each with its index and its own end."
    needs = frozenset({"arrays"})
    for name, indices in _ARRAYS.items():
        yield Check(f"array/{name}", "each task of an array runs once, with its index", remedy, _tasks(indices),
                    {"job": target.spec(_TASK, array=Array(indices))}, needs, may_refuse=True)  # fmt: skip
    yield Check("array/a few at a time", "no more tasks run together than were allowed", remedy, _tasks("0-3"),
                {"job": target.spec(f"sleep 1\n{_TASK}", array=Array("0-3", 1))}, needs, may_refuse=True)  # fmt: skip
    yield Check("array/tasks fail alone", "a task that fails leaves the others as they are", remedy, _one_fails,
                {"job": target.spec('exit "$PENSTOCK_ARRAY_TASK"\n', array=Array("0-2"))}, needs)  # fmt: skip
    yield Check("array/one fence", "all tasks of one copy share its fence", remedy, _tasks("0-1"),
                {"job": target.spec(_TASK, array=Array("0-1"))}, needs)  # fmt: skip


def _tasks(indices: str) -> Judge:
    def judge(target: Target, jobs: Mapping[str, Ran]) -> None:
        job, wanted = jobs["job"], set(expand(indices))
        _ = job.native_id
        seen = {run.task for run in job.runs}
        expect(seen == wanted, f"tasks {sorted(t for t in seen if t is not None)}, not {sorted(wanted)}")
        bad = [f"{r.task}: {r.native_state}" for r in job.runs if r.state is not ObservedState.COMPLETED]
        expect(not bad, f"tasks that did not complete: {bad}")
        for task in wanted:
            expect(target.output(job, task=task) == str(task).encode(), f"task {task} had another index")

    return judge


def _one_fails(_target: Target, jobs: Mapping[str, Ran]) -> None:
    codes = {run.task: run.exit_code for run in jobs["job"].runs}
    expect(codes == {0: 0, 1: 1, 2: 2}, f"exit codes {codes}")


def _sizes(target: Target) -> Iterator[Check]:
    remedy = "Pass the resources of the job spec through unchanged."
    for cores in (1, 2, 4):
        yield Check(f"size/{cores} cores", "a job gets the cores that it asked for", remedy, _cores(cores),
                    {"job": target.spec("sleep 1\n", resources=Resources(process_count=cores))},
                    may_refuse=cores > 1)  # fmt: skip
    threads = Resources(process_count=1, cpu_cores_per_process=3)
    yield Check("size/cores of a process", "cores of one process are counted", remedy, _cores(3),
                {"job": target.spec("sleep 1\n", resources=threads)}, may_refuse=True)  # fmt: skip


def _cores(wanted: int) -> Judge:
    def judge(_target: Target, jobs: Mapping[str, Ran]) -> None:
        run = jobs["job"].ended()
        expect(run.cores is not None and run.cores >= wanted, f"{run.cores} cores, not {wanted}")

    return judge


def _paths(target: Target) -> Iterator[Check]:
    home, remedy = (
        target.account.home,
        "Paths are quoted for the scheduler's own signs (%), and stored as they were asked.",
    )
    for name, path in {"absolute": f"{home}/penstock-check.out", "relative": "penstock-check.rel",
                       "with a blank": f"{home}/penstock check.out", "chinese": f"{home}/penstock-输出.out",
                       "with the job's id": f"{home}/penstock-%j.out"}.items():  # fmt: skip
        yield Check(f"output/{name}", "the output is where the job asked for it", remedy, _printed_there,
                    {"job": target.spec("printf there\n", stdout_path=path)}, may_refuse=True)  # fmt: skip
    yield Check("output/no such directory", "a job whose output cannot be opened has failed", remedy, _failed,
                {"job": target.spec(stdout_path="/no/such/directory/out")})  # fmt: skip
    yield Check("directory/there is none", "a job whose directory is missing has failed, and ran nothing", remedy,
                _failed, {"job": target.spec("printf ran\n", directory="/no/such/directory")})  # fmt: skip


def _printed_there(target: Target, jobs: Mapping[str, Ran]) -> None:
    jobs["job"].ended()
    expect(target.output(jobs["job"]).endswith(b"there"), "its output is not there")


def _failed(_target: Target, jobs: Mapping[str, Ran]) -> None:
    job = jobs["job"]
    if not isinstance(job.outcome, Rejected):
        job.ended(ObservedState.FAILED)


def _refusals(target: Target) -> Iterator[Check]:
    def asks(**attributes: object) -> Attributes:
        return Attributes(**{"duration": DURATION_S, **attributes})  # type: ignore[arg-type]

    cases = {
        "no such queue": target.spec(attributes=asks(queue_name="nosuchqueue")),
        "no such account": target.spec(attributes=asks(account="nosuchaccount")),
        "no such qos": target.spec(attributes=asks(qos="nosuchqos")),
        "no such reservation": target.spec(attributes=asks(reservation_id="nosuchreservation")),
        "too many nodes": target.spec(resources=Resources(node_count=100000)),
    }
    for name, spec in cases.items():
        yield Check(f"refused/{name}", "what the centre cannot run is refused, or shown as never to start",
                    "Refusals of the scheduler must come back as refusals, not as time-outs.", _refused,
                    {"doomed": spec}, frozenset({"scheduler"}))  # fmt: skip


def _refused(target: Target, jobs: Mapping[str, Ran]) -> None:
    job = jobs["doomed"]
    if isinstance(job.outcome, Rejected):
        expect(not job.outcome.retryable, f"the refusal says that it may pass: {job.outcome.message}")
        return
    target.look([job])
    run = job.only()
    target.cancel(job)
    if run.state is ObservedState.COMPLETED:
        raise Skipped("this scheduler does not look at such a name: it ran the job")
    expect(run.reason is Reason.WILL_NOT_START or run.state is ObservedState.FAILED,
           f"it waits as {run.native_state} {run.native_reason}")  # fmt: skip
