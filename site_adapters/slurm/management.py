"""Run jobs on a Slurm centre, and ask what became of them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

from site_adapters.command import Command, Output
from site_adapters.config import SiteConfig
from site_adapters.errors import NotFound, OutcomeUnknown, Refused, SiteError, SiteUnreachable
from site_adapters.login_node import fences
from site_adapters.script import staging_root
from site_adapters.slurm import commands
from site_adapters.slurm.checks import sees_everybody
from site_adapters.slurm.commands import ErrorRule, classify
from site_adapters.slurm.options import render
from site_adapters.transport import Connection, Logins
from site_adapters.types import (
    ActionOutcome,
    Change,
    Done,
    FenceOutcome,
    Health,
    JobRef,
    Look,
    NotDone,
    Observation,
    ObservedRun,
    Rejected,
    RenderedJob,
    RowProblem,
    SiteAccount,
    Submission,
    SubmitOutcome,
    Unknown,
)

# A serial loop over one channel reaches what a local loop reaches; two use both sides' time.
LANES = 2
_IDS_PER_COMMAND = 500
_PING_FRESH_S = 1.0
_SIGHT_FRESH_S = 60.0


class SubmitBackend(Protocol):
    """Another way to submit than the command line."""

    def submit(self, jobs: Sequence[tuple[Submission, RenderedJob]]) -> list[SubmitOutcome]: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class SlurmManagement:
    """One centre's Slurm over its logins."""

    config: SiteConfig
    logins: Logins
    rules: tuple[ErrorRule, ...] = ()
    backend: SubmitBackend | None = None
    _prepared: set[str] = field(default_factory=set)
    _ping: tuple[float, bool, str] = (0.0, False, "")
    _sees: tuple[float | None, bool] = (None, False)

    def close(self) -> None:
        """Give back the backend's connection; the logins are closed by whoever made them."""
        if self.backend is not None:
            self.backend.close()

    # ------------------------------------------------------------ health

    def health(self) -> Health:
        ok, detail = self._up(fresh=True)
        return Health(ok, detail)

    def _up(self, *, fresh: bool = False, username: str | None = None) -> tuple[bool, str]:
        """`scontrol ping`, at most once a second: with the controller down every other command hangs."""
        at, ok, detail = self._ping
        if not fresh and time.monotonic() - at < _PING_FRESH_S:
            return ok, detail
        try:
            connection = self._any_login(username)
            if connection is None:
                return True, "not asked: no login is known yet"
            ok, detail = connection.run(commands.ping(self.config.command("scontrol")))
        except SiteError as exc:
            ok, detail = False, str(exc)
        self._ping = (time.monotonic(), ok, detail)
        return ok, detail

    def _any_login(self, username: str | None) -> Connection | None:
        found = self.logins.anyone()
        return self.logins.actor(username) if found is None and username is not None else found

    # ------------------------------------------------------------ submit

    def render(self, submission: Submission) -> RenderedJob:
        return render(self.config, submission)

    def submit(self, submissions: Sequence[Submission]) -> list[SubmitOutcome]:
        groups: dict[str, list[int]] = defaultdict(list)
        for index, submission in enumerate(submissions):
            groups[submission.account.username].append(index)
        outcomes: dict[int, SubmitOutcome] = {}
        for username, indexes in groups.items():
            answers = self._submit_as(username, [submissions[i] for i in indexes])
            outcomes |= dict(zip(indexes, answers, strict=True))
        return [outcomes[i] for i in range(len(submissions))]

    def _submit_as(self, username: str, submissions: Sequence[Submission]) -> list[SubmitOutcome]:
        try:
            connection = self.logins.actor(username)
            up, detail = self._up(username=username)
            if not up:
                return [Rejected(f"the scheduler does not answer: {detail}", True, "site_down")] * len(submissions)
            self._prepare(connection, submissions[0].account)
            jobs = [(s, self.render(s)) for s in submissions]
        except SiteUnreachable as exc:
            return [Rejected(str(exc), True, "site_down")] * len(submissions)
        except SiteError as exc:
            return [Rejected(str(exc), exc.retryable)] * len(submissions)
        if self.backend is not None:
            return self.backend.submit(jobs)
        return self._submit_cli(connection, jobs)

    def _prepare(self, connection: Connection, account: SiteAccount) -> None:
        root = staging_root(self.config.staging_root, account.home)
        if root not in self._prepared:
            connection.run(fences.prepare(root))
            self._prepared.add(root)

    def _submit_cli(
        self, connection: Connection, jobs: Sequence[tuple[Submission, RenderedJob]]
    ) -> list[SubmitOutcome]:
        sbatches = [commands.sbatch(r.argv, r.script, self.rules) for _, r in jobs]
        lanes = [sbatches[lane::LANES] for lane in range(LANES) if sbatches[lane::LANES]]
        with ThreadPoolExecutor(len(lanes)) as pool:
            answered = list(pool.map(connection.run_many, lanes))
        outcomes: list[SubmitOutcome] = []
        for index in range(len(jobs)):
            outcomes.append(_as_outcome(answered[index % LANES][index // LANES]))
        return outcomes

    # ------------------------------------------------------------ look

    def observe(self, jobs: Sequence[JobRef]) -> Observation:
        users = sorted({job.username for job in jobs})
        up, detail = self._up(username=users[0])
        if not up:
            down = Look(error=f"the scheduler does not answer: {detail}")
            return Observation(down, down, queries=1, accounting_kept=self.config.accounting.kept)
        queue, asked = self._queue(users)
        if not queue.good:
            return Observation(queue, Look(error="not asked"), asked, self.config.accounting.kept)
        shown = {run.native_id for run in queue.runs}
        absent = [job for job in jobs if job.native_id not in shown]
        if not absent or not self.config.accounting.kept:
            return Observation(queue, Look(), asked, self.config.accounting.kept)
        since = min(job.submitted_at for job in absent) - timedelta(days=1)
        accounting, more = self._accounting(absent, since)
        return Observation(queue, accounting, asked + more)

    def _queue(self, users: Sequence[str], *, fresh: bool = False) -> tuple[Look, int]:
        program = self.config.command("squeue")
        try:
            observer = self._observer(fresh=fresh)
        except SiteError as exc:
            return Look(error=str(exc)), 1
        if observer is not None:
            return _guarded(lambda: observer.run(commands.squeue(program, user=None))), 1
        looks = [_guarded(partial(self._own_queue, program, user)) for user in users]
        return _merged(looks), len(looks)

    def _observer(self, *, fresh: bool) -> Connection | None:
        """The observer, unless the centre hides other people's jobs from it: what is empty then proves nothing."""
        observer = self.logins.observer()
        if observer is None:
            return None
        at, sees = self._sees
        if fresh or at is None or time.monotonic() - at > _SIGHT_FRESH_S:
            sees, _ = sees_everybody(self.config, observer)
            self._sees = (time.monotonic(), sees)
        return observer if sees else None

    def _own_queue(self, program: str, user: str) -> Look:
        return self.logins.actor(user).run(commands.squeue(program, user=user))

    def _accounting(self, jobs: Sequence[JobRef], since: datetime) -> tuple[Look, int]:
        meter = self.logins.meter() or self.logins.observer()
        by_login: dict[str, list[str]] = defaultdict(list)
        for job in jobs:
            by_login["" if meter is not None else job.username].append(job.native_id)
        looks = []
        for username, ids in by_login.items():
            wanted = sorted(set(ids))
            for start in range(0, len(wanted), _IDS_PER_COMMAND):
                part = wanted[start : start + _IDS_PER_COMMAND]
                looks.append(_guarded(partial(self._sacct, username, part, since)))
        return _merged(looks), len(looks)

    def _sacct(self, username: str, ids: Sequence[str], since: datetime) -> Look:
        meter = self.logins.meter() or self.logins.observer()
        connection = self.logins.actor(username) if username else meter
        assert connection is not None
        command = commands.sacct(self.config.command("sacct"), since=since, ids=ids, everybody=not username)
        return commands.runs_of(connection.run(command))

    def find(self, tags: Sequence[str], *, accounts: Sequence[SiteAccount], since: datetime) -> Look:
        users = sorted({account.username for account in accounts})
        if not users:
            return Look()
        up, detail = self._up(username=users[0])
        if not up:
            return Look(error=f"the scheduler does not answer: {detail}")
        # From what is not found here much may follow: whether the observer sees it is asked anew.
        queue, _ = self._queue(users, fresh=True)
        looks = [queue]
        if self.config.accounting.kept and queue.good:
            looks.append(_guarded(lambda: self._history(users, since)))
        found = _merged(looks)
        wanted = set(tags)
        runs = tuple(r for r in found.runs if r.tags_seen and (not wanted or wanted.intersection(r.tags_seen)))
        return Look(runs, found.problems, found.error)

    def _history(self, users: Sequence[str], since: datetime) -> Look:
        meter = self.logins.meter() or self.logins.observer()
        program = self.config.command("sacct")
        if meter is not None:
            return commands.runs_of(meter.run(commands.sacct(program, since=since, users=users)))
        return _merged(
            [
                commands.runs_of(self.logins.actor(user).run(commands.sacct(program, since=since, users=(user,))))
                for user in users
            ]
        )

    # ------------------------------------------------------------ act

    def cancel(self, account: SiteAccount, jobs: Sequence[JobRef]) -> list[ActionOutcome]:
        program = self.config.command("scancel")
        return self._act(account, jobs, lambda ids: commands.scancel(program, ids))

    def hold(self, account: SiteAccount, jobs: Sequence[JobRef]) -> list[ActionOutcome]:
        program = self.config.command("scontrol")
        return self._act(account, jobs, lambda ids: commands.scontrol(program, "hold", ",".join(ids)))

    def release(self, account: SiteAccount, jobs: Sequence[JobRef]) -> list[ActionOutcome]:
        program = self.config.command("scontrol")
        return self._act(account, jobs, lambda ids: commands.scontrol(program, "release", ",".join(ids)))

    def modify(self, account: SiteAccount, job: JobRef, change: Change) -> ActionOutcome:
        words = [f"JobId={job.native_id}"]
        if change.duration is not None:
            words.append(f"TimeLimit={-(-change.duration // 60)}")
        if change.queue_name is not None:
            queue = self.config.queues.get(change.queue_name)
            words.append(f"Partition={queue.native if queue else change.queue_name}")
        words += [f"Account={change.account}"] if change.account is not None else []
        words += [f"QOS={change.qos}"] if change.qos is not None else []
        words += [f"Priority={change.priority}"] if change.priority is not None else []
        program = self.config.command("scontrol")
        return self._act(account, [job], lambda _ids: commands.scontrol(program, "update", *words))[0]

    def take_fences(self, account: SiteAccount, fence_names: Sequence[str]) -> list[FenceOutcome]:
        root = staging_root(self.config.staging_root, account.home)
        return self.logins.actor(account.username).run(fences.take(f"{root}/fence", fence_names))

    def _act(
        self, account: SiteAccount, jobs: Sequence[JobRef], command: Callable[[Sequence[str]], Command[Output]]
    ) -> list[ActionOutcome]:
        up, detail = self._up(username=account.username)
        if not up:
            return [NotDone(f"the scheduler does not answer: {detail}", retryable=True)] * len(jobs)
        connection = self.logins.actor(account.username)
        outcomes: list[ActionOutcome] = []
        for start in range(0, len(jobs), _IDS_PER_COMMAND):
            part = jobs[start : start + _IDS_PER_COMMAND]
            outcome = self._one_act(connection, command([job.native_id for job in part]))
            if isinstance(outcome, NotDone) and len(part) > 1:
                # One bad id fails the whole command: ask for each on its own.
                outcomes += [self._one_act(connection, command([job.native_id])) for job in part]
            else:
                outcomes += [outcome] * len(part)
        return outcomes

    def _one_act(self, connection: Connection, command: Command[Output]) -> ActionOutcome:
        try:
            output = connection.run(command)
        except SiteError as exc:
            return NotDone(str(exc), retryable=True)
        if output.exit_code == 0:
            return Done()
        error = classify(output, self.rules)
        if isinstance(error, NotFound):
            return Done()  # it is over: nothing is left to cancel or to hold
        return NotDone(str(error), retryable=error.retryable and not isinstance(error, Refused))


def _as_outcome(answer: SubmitOutcome | SiteError) -> SubmitOutcome:
    match answer:
        case OutcomeUnknown():
            return Unknown(str(answer))
        case SiteUnreachable():
            return Rejected(str(answer), retryable=True, code="site_down")  # nothing of the program ran
        case SiteError():
            return Rejected(str(answer), retryable=answer.retryable)
        case _:
            return answer


def _guarded(look: Callable[[], Look]) -> Look:
    try:
        return look()
    except SiteError as exc:
        return Look(error=str(exc))


def _merged(looks: Sequence[Look]) -> Look:
    """Several logins' looks as one; it is good only if each of them was."""
    runs: list[ObservedRun] = []
    problems: list[RowProblem] = []
    for look in looks:
        runs += look.runs
        problems += look.problems
    error = next((look.error for look in looks if look.error is not None), None)
    return Look(tuple(runs), tuple(problems), error)
