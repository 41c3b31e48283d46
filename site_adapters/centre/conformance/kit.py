"""A check, what it is judged on, and the centre that it runs against."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from site_adapters.centre.home import Centre
from site_adapters.errors import NotFound
from site_adapters.indices import expand
from site_adapters.interfaces import SiteAdapter
from site_adapters.states import ObservedState
from site_adapters.types import (
    Accepted,
    Attributes,
    JobRef,
    JobSpec,
    ObservedRun,
    Rejected,
    SiteAccount,
    Submission,
    SubmitOutcome,
)

_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
DURATION_S = 300


class Failed(Exception):
    """The centre does not keep this rule; the message says what was seen."""


class Skipped(Exception):
    """The check cannot be made here; the message says why."""


def expect(condition: object, seen: str) -> None:
    """Raises `Failed` with what was seen instead."""
    if not condition:
        raise Failed(seen)


@dataclass(slots=True)
class Ran:
    """One job of the kit: what was sent, what came of it."""

    submission: Submission
    outcome: SubmitOutcome
    stdout: str
    stderr: str
    runs: tuple[ObservedRun, ...] = ()

    @property
    def native_id(self) -> str:
        if not isinstance(self.outcome, Accepted):
            raise Failed(f"it was not accepted: {self.outcome}")
        return self.outcome.native_id

    def ref(self) -> JobRef:
        s = self.submission
        return JobRef(self.native_id, "", s.account.username, s.fence_name, datetime.now(UTC) - timedelta(minutes=30),
                      s.spec.array is not None)  # fmt: skip

    def only(self) -> ObservedRun:
        """Its one run."""
        _ = self.native_id
        expect(self.runs, "neither queue nor accounting showed it")
        return self.runs[-1]

    def ended(self, state: ObservedState = ObservedState.COMPLETED) -> ObservedRun:
        run = self.only()
        expect(
            run.state is state, f"it is {run.state.value} ({run.native_state}, {run.native_reason}), not {state.value}"
        )
        return run


@dataclass(frozen=True, slots=True)
class Check:
    """`jobs` are submitted with those of all other checks; `judge` is called when they have ended.

    `needs` are capabilities of the adapter, or `centre` (run at the centre), `slow`, `fault:<name>`.
    `may_refuse`: a scheduler that knows no such thing may say so, for good and in words; taking it wrongly is a fault.
    """

    name: str
    proves: str
    remedy: str
    judge: Callable[[Target, Mapping[str, Ran]], None]
    jobs: Mapping[str, JobSpec] = field(default_factory=dict)
    needs: frozenset[str] = frozenset()
    site_names: Mapping[str, str] = field(default_factory=dict)
    may_refuse: bool = False


@dataclass(slots=True)
class Target:
    """A docked centre with one login for the jobs of the checks. `faults` are what a laboratory can provoke."""

    adapter: SiteAdapter
    account: SiteAccount
    queue: str | None = None
    centre: Centre | None = None
    faults: Mapping[str, Callable[[], AbstractContextManager[None]]] = field(default_factory=dict)
    requeue: Callable[[str], None] | None = None
    slow: bool = True
    patience_s: float = 300.0

    @staticmethod
    def at_the_centre(centre: Centre, username: str, queue: str | None) -> Target:
        facts = centre.adapter.auth.probe(username)
        return Target(centre.adapter, SiteAccount(facts.username, facts.home, facts.uid), queue, centre)

    def spec(self, script: str = "true\n", **more: object) -> JobSpec:
        """A small job for the kit's queue."""
        attributes = more.pop("attributes", Attributes(duration=DURATION_S))
        assert isinstance(attributes, Attributes)
        if self.queue is not None and attributes.queue_name is None:
            attributes = replace(attributes, queue_name=self.queue)
        shell = "/bin/sh" if self.adapter.scheduler == "sunway" else "/bin/bash"  # its compute nodes have no bash
        base = JobSpec(script=None if "executable" in more else f"#!{shell}\n{script}", attributes=attributes,
                       inherit_environment=False)  # fmt: skip
        return replace(base, **more)  # type: ignore[arg-type]

    def submission(self, spec: JobSpec, *, name: str = "check", attempt: int = 1, tag: str = "") -> Submission:
        tag = tag or "pconf" + "".join(secrets.choice(_ALPHABET) for _ in range(11))
        manifest = f"pst1:{tag}:conformance:conformance:{attempt}:0:0"
        return Submission(spec, self.account, tag, attempt, f"{name}-{tag}.{attempt}", manifest, "conformance",
                          "conformance")  # fmt: skip

    def submit(self, submissions: Sequence[Submission]) -> list[Ran]:
        """Hand over; what is turned away for now is offered again as its next attempt, while patience lasts."""
        end = time.monotonic() + self.patience_s
        done: dict[int, Ran] = {}
        waiting = dict(enumerate(submissions))
        while waiting:
            outcomes = self.adapter.management.submit(list(waiting.values()))
            for (index, one), outcome in zip(list(waiting.items()), outcomes, strict=True):
                if isinstance(outcome, Rejected) and outcome.retryable and time.monotonic() < end:
                    waiting[index] = self.submission(one.spec, name=one.site_name.rpartition("-")[0],
                                                     attempt=one.attempt + 1, tag=one.tag)  # fmt: skip
                else:
                    done[index] = self._ran(waiting.pop(index), outcome)
            if waiting:
                time.sleep(1.0)
        return [done[i] for i in range(len(submissions))]

    def run(self, spec: JobSpec, *, name: str = "check") -> Ran:
        return self.submit([self.submission(spec, name=name)])[0]

    def _ran(self, submission: Submission, outcome: SubmitOutcome) -> Ran:
        if not isinstance(outcome, Accepted):
            return Ran(submission, outcome, "", "")
        rendered = self.adapter.management.render(submission)
        paths = [p.replace("{native}", outcome.native_id) for p in (rendered.stdout_path, rendered.stderr_path)]
        return Ran(submission, outcome, paths[0], paths[1])

    # ------------------------------------------------------------ look

    def look(self, jobs: Sequence[Ran]) -> None:
        """Ask once about all of them, and keep what is shown for each."""
        refs = [job.ref() for job in jobs if isinstance(job.outcome, Accepted)]
        if not refs:
            return
        seen = self.adapter.management.observe(refs)
        rows: dict[str, dict[tuple[int | None, int], ObservedRun]] = {}
        for run in (*seen.accounting.runs, *seen.queue.runs):
            rows.setdefault(run.native_id, {})[run.task, run.restarts] = run
        for job in jobs:
            if isinstance(job.outcome, Accepted):
                found = rows.get(job.outcome.native_id, {})
                ours = {k: r for k, r in found.items() if r.username in ("", self.account.username)}
                job.runs = tuple(ours[k] for k in sorted(ours, key=lambda k: (k[0] or 0, k[1]))) or job.runs

    def wait(self, jobs: Sequence[Ran], until: Callable[[Ran], bool], what: str, seconds: float = 90.0) -> None:
        """Until it holds for every job that was accepted; raises `Failed`."""
        end, open_jobs = time.monotonic() + seconds, [j for j in jobs if isinstance(j.outcome, Accepted)]
        while True:
            self.look(open_jobs)
            left = [job for job in open_jobs if not until(job)]
            if not left:
                return
            if time.monotonic() > end:
                states = {j.submission.site_name: [r.native_state for r in j.runs] for j in left[:5]}
                raise Failed(f"waited {seconds:g} s for {what}: {states}")
            time.sleep(0.5)

    def wait_ended(self, jobs: Sequence[Ran], seconds: float = 120.0) -> None:
        self.wait(jobs, is_over, "the end", seconds)

    def wait_state(self, job: Ran, *states: ObservedState) -> None:
        self.wait([job], lambda j: bool(j.runs) and j.runs[-1].state in states, " or ".join(s.value for s in states))

    def output(self, job: Ran, *, task: int | None = None, stderr: bool = False, seconds: float = 10.0) -> bytes:
        """The whole output; shared storage may show it a little later than the queue shows the end."""
        path = (job.stderr if stderr else job.stdout).replace("{task}", str(task))
        _ = job.native_id
        return self.read_when_there(path, seconds)

    def read_when_there(self, path: str, seconds: float = 90.0) -> bytes:
        """The whole file, once it is there; raises `Failed`."""
        end = time.monotonic() + seconds
        while True:
            try:
                return self.read_all(path)
            except NotFound as exc:
                if time.monotonic() > end:
                    raise Failed(f"there is no output {path}") from exc
                time.sleep(0.5)

    def read_all(self, path: str, page: int = 1 << 20) -> bytes:
        parts, offset = bytearray(), 0
        while True:
            chunk = self.adapter.log.read(self.account, path, offset=offset, limit=page)
            parts += chunk.data
            offset += len(chunk.data)
            if chunk.eof or not chunk.data:
                return bytes(parts)

    def cancel(self, *jobs: Ran) -> None:
        refs = [j.ref() for j in jobs if isinstance(j.outcome, Accepted)]
        if refs:
            self.adapter.management.cancel(self.account, refs)


def is_over(job: Ran) -> bool:
    """Every task of it has ended."""
    array = job.submission.spec.array
    if not job.runs or not all(run.state.final for run in job.runs):
        return False
    if array is None:
        return True
    canceled = any(run.state is ObservedState.CANCELED for run in job.runs)
    return canceled or {run.task for run in job.runs} >= set(expand(array.indices))


Judge = Callable[[Target, Mapping[str, Ran]], None]
HELD = Attributes(duration=DURATION_S, submit_as_hold=True)
