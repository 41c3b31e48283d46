"""Run jobs through a scheduler's commands on a login node: what every dialect shares.

A `Dialect` only builds commands and reads their answers; whose login runs them, in what order and how many at once is
decided here.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol, TypeVar

from site_adapters.command import Command, Garbled, Output
from site_adapters.config import SiteConfig
from site_adapters.errors import CredentialRefused, NotFound, OutcomeUnknown, Refused, SiteError, SiteUnreachable
from site_adapters.login_node import fences
from site_adapters.script import staging_root
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

T = TypeVar("T")

# A serial loop over one channel reaches what a local loop reaches; two use both sides' time.
LANES = 2
ACTS_PER_TRIP = 100
_PING_FRESH_S = 1.0
_SIGHT_FRESH_S = 60.0


class Dialect(Protocol):
    """One scheduler's language: pure, without I/O."""

    @property
    def ids_per_query(self) -> int:
        """How many ids one question may name."""
        ...

    @property
    def ids_per_act(self) -> int:
        """How many ids one cancel, hold or release may name; 1 where one bad id spoils the others."""
        ...

    @property
    def ping_first(self) -> bool:
        """Whether a write that fails does not prove that nobody took it, so that the scheduler is pinged before it."""
        ...

    @property
    def hangs_when_down(self) -> bool:
        """Whether questions hang while the scheduler is down, so that it is pinged before them."""
        ...

    @property
    def own_search(self) -> bool:
        """Whether each person's login searches for its own jobs: others' may be hidden without a word."""
        ...

    @property
    def folders(self) -> tuple[str, ...]:
        """Folders of its own in the staging area."""
        ...

    def ping(self) -> Command[tuple[bool, str]]:
        """Whether the scheduler answers, and what it says."""
        ...

    def words(self, submission: Submission) -> RenderedJob:
        """What is said beside the script (argv, output paths); raises `Refused` for what cannot be said."""
        ...

    def render(self, submission: Submission) -> RenderedJob:
        """The same words, and the script."""
        ...

    def submit(self, submission: Submission, rendered: RenderedJob) -> Command[SubmitOutcome]: ...

    def queue(self, user: str | None) -> Command[Look]:
        """All live jobs: of everybody (None), or of the login that asks."""
        ...

    def history(self, jobs: Sequence[JobRef], *, since: datetime, everybody: bool) -> Command[Look]:
        """What became of jobs that the queue does not show."""
        ...

    def search(self, users: Sequence[str], *, since: datetime) -> Command[Look]:
        """All jobs of these people, ended ones included."""
        ...

    def cancel(self, ids: Sequence[str]) -> Command[Output]: ...

    def hold(self, ids: Sequence[str]) -> Command[Output]: ...

    def release(self, ids: Sequence[str]) -> Command[Output]: ...

    def modify(self, native_id: str, change: Change) -> Command[Output]: ...

    def error_of(self, output: Output) -> SiteError:
        """The error that a failed command means."""
        ...


class SubmitBackend(Protocol):
    """Another way to submit than the command line."""

    def assert_takes(self, words: RenderedJob) -> None:
        """Raise `Refused` for an option that cannot be given this way."""
        ...

    def submit(self, jobs: Sequence[tuple[Submission, RenderedJob]]) -> list[SubmitOutcome]: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class LoginNodeManagement:
    """One centre's scheduler over its logins."""

    config: SiteConfig
    logins: Logins
    dialect: Dialect
    backend: SubmitBackend | None = None
    sees_everybody: Callable[[Connection], bool] = lambda _observer: True
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

    def _up_to_look(self, username: str) -> tuple[bool, str]:
        if not self.dialect.hangs_when_down:
            return True, "not asked: the question itself tells"
        return self._up(username=username)

    def _up(self, *, fresh: bool = False, username: str | None = None) -> tuple[bool, str]:
        """The dialect's ping, at most once a second: with the scheduler down other commands may hang."""
        at, ok, detail = self._ping
        if not (fresh or self.dialect.ping_first):
            return True, "not asked: every command tells"
        if not fresh and time.monotonic() - at < _PING_FRESH_S:
            return ok, detail
        try:
            connection = self._any_login(username)
            if connection is None:
                return True, "not asked: no login is known yet"
            ok, detail = connection.run(self.dialect.ping())
        except CredentialRefused as exc:
            return False, str(exc)  # says something of this login, nothing of the scheduler
        except SiteError as exc:
            ok, detail = False, str(exc)
        self._ping = (time.monotonic(), ok, detail)
        return ok, detail

    def _any_login(self, username: str | None) -> Connection | None:
        found = self.logins.anyone()
        return self.logins.actor(username) if found is None and username is not None else found

    # ------------------------------------------------------------ submit

    def render(self, submission: Submission) -> RenderedJob:
        rendered = self.dialect.render(submission)
        self._assert_taken(rendered)
        return rendered

    def assert_renders(self, submission: Submission) -> None:
        self._assert_taken(self.dialect.words(submission))

    def _assert_taken(self, words: RenderedJob) -> None:
        if self.backend is not None:
            self.backend.assert_takes(words)

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
        except SiteUnreachable as exc:
            return [Rejected(str(exc), True, "site_down")] * len(submissions)
        except SiteError as exc:
            return [Rejected(str(exc), exc.retryable)] * len(submissions)
        outcomes: dict[int, SubmitOutcome] = {}
        jobs: list[tuple[int, Submission, RenderedJob]] = []
        for index, submission in enumerate(submissions):
            try:
                jobs.append((index, submission, self.render(submission)))
            except SiteError as exc:  # what cannot be written in this dialect spoils no other
                outcomes[index] = Rejected(str(exc), exc.retryable)
        if jobs:
            hand_over = partial(self._submit_cli, connection) if self.backend is None else self.backend.submit
            answers = hand_over([(submission, rendered) for _, submission, rendered in jobs])
            outcomes |= {index: answer for (index, _, _), answer in zip(jobs, answers, strict=True)}
        return [outcomes[i] for i in range(len(submissions))]

    def _prepare(self, connection: Connection, account: SiteAccount) -> None:
        root = staging_root(self.config.staging_root, account.home)
        if root not in self._prepared:
            connection.run(fences.prepare(root, *self.dialect.folders))
            self._prepared.add(root)

    def _submit_cli(
        self, connection: Connection, jobs: Sequence[tuple[Submission, RenderedJob]]
    ) -> list[SubmitOutcome]:
        commands = [self.dialect.submit(s, r) for s, r in jobs]
        lanes = [commands[lane::LANES] for lane in range(LANES) if commands[lane::LANES]]
        with ThreadPoolExecutor(len(lanes)) as pool:
            answered = list(pool.map(connection.run_many, lanes))
        return [_as_outcome(answered[index % LANES][index // LANES]) for index in range(len(jobs))]

    # ------------------------------------------------------------ look

    def observe(self, jobs: Sequence[JobRef]) -> Observation:
        users = sorted({job.username for job in jobs})
        kept = self.config.accounting.kept
        up, detail = self._up_to_look(users[0])
        if not up:
            down = Look(error=f"the scheduler does not answer: {detail}")
            return Observation(down, down, queries=1, accounting_kept=kept)
        queue, asked = self._queue(users)
        if not queue.good:
            return Observation(queue, Look(error="not asked"), asked, kept)
        shown = {run.native_id for run in queue.runs}
        absent = [job for job in jobs if job.native_id not in shown]
        if not absent or not kept:
            return Observation(queue, Look(), asked, kept)
        accounting, more = self._history(absent)
        return Observation(queue, accounting, asked + more)

    def _queue(self, users: Sequence[str], *, fresh: bool = False) -> tuple[Look, int]:
        try:
            observer = self._observer(fresh=fresh)
        except SiteError as exc:
            return Look(error=str(exc)), 1
        if observer is not None:
            return guarded(lambda: ask(observer, self.dialect.queue(None))), 1
        looks = [guarded(partial(self._own_queue, user)) for user in users]
        return merged(looks), len(looks)

    def _observer(self, *, fresh: bool) -> Connection | None:
        """The observer, unless the centre hides other people's jobs from it: what is empty then proves nothing."""
        observer = self.logins.observer()
        if observer is None:
            return None
        at, sees = self._sees
        if fresh or at is None or time.monotonic() - at > _SIGHT_FRESH_S:
            sees = self.sees_everybody(observer)
            self._sees = (time.monotonic(), sees)
        return observer if sees else None

    def _own_queue(self, user: str) -> Look:
        return ask(self.logins.actor(user), self.dialect.queue(user))

    def _history(self, jobs: Sequence[JobRef]) -> tuple[Look, int]:
        since = min(job.submitted_at for job in jobs) - timedelta(days=1)
        meter = self.logins.meter() or self.logins.observer()
        by_login: dict[str, dict[str, JobRef]] = defaultdict(dict)
        for job in jobs:
            by_login["" if meter is not None else job.username][job.native_id] = job
        looks = []
        for username, asked in by_login.items():
            wanted = [asked[native_id] for native_id in sorted(asked)]
            for start in range(0, len(wanted), self.dialect.ids_per_query):
                part = wanted[start : start + self.dialect.ids_per_query]
                looks += self._ask_in_parts(username, part, since)
        return merged(looks), len(looks)

    def _ask_in_parts(self, username: str, jobs: Sequence[JobRef], since: datetime) -> list[Look]:
        """All in one question; one bad id may hide others' rows, so each that was left out is asked for alone."""
        look = guarded(partial(self._ask_history, username, jobs, since))
        if not look.unanswered or len(jobs) == 1:
            return [look]
        left = [job for job in jobs if job.native_id in look.unanswered]
        return [replace(look, error=None), *(guarded(partial(self._ask_history, username, [j], since)) for j in left)]

    def _ask_history(self, username: str, jobs: Sequence[JobRef], since: datetime) -> Look:
        meter = self.logins.meter() or self.logins.observer()
        connection = self.logins.actor(username) if username else meter
        assert connection is not None
        return ask(connection, self.dialect.history(jobs, since=since, everybody=not username))

    def find(self, tags: Sequence[str], *, accounts: Sequence[SiteAccount], since: datetime) -> Look:
        users = sorted({account.username for account in accounts})
        if not users:
            return Look()
        up, detail = self._up_to_look(users[0])
        if not up:
            return Look(error=f"the scheduler does not answer: {detail}")
        kept = self.config.accounting.kept
        # Where each login searches for its own jobs, it sees the live ones with them. From what is not found here much
        # may follow: whether the observer sees it is asked anew.
        looks = [] if kept and self.dialect.own_search else [self._queue(users, fresh=True)[0]]
        if kept and all(look.good for look in looks):
            looks.append(guarded(lambda: self._search(users, since)))
        found = merged(looks)
        wanted = set(tags)
        runs = tuple(r for r in found.runs if r.tags_seen and (not wanted or wanted.intersection(r.tags_seen)))
        return Look(runs, found.problems, found.error)

    def _search(self, users: Sequence[str], since: datetime) -> Look:
        meter = self.logins.meter() or self.logins.observer()
        if meter is not None and not self.dialect.own_search:
            return ask(meter, self.dialect.search(users, since=since))
        return merged([ask(self.logins.actor(u), self.dialect.search((u,), since=since)) for u in users])

    # ------------------------------------------------------------ act

    def cancel(self, account: SiteAccount, jobs: Sequence[JobRef]) -> list[ActionOutcome]:
        return self._act(account, jobs, self.dialect.cancel)

    def hold(self, account: SiteAccount, jobs: Sequence[JobRef]) -> list[ActionOutcome]:
        return self._act(account, jobs, self.dialect.hold)

    def release(self, account: SiteAccount, jobs: Sequence[JobRef]) -> list[ActionOutcome]:
        return self._act(account, jobs, self.dialect.release)

    def modify(self, account: SiteAccount, job: JobRef, change: Change) -> ActionOutcome:
        return self._act(account, [job], lambda _ids: self.dialect.modify(job.native_id, change))[0]

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
        most = self.dialect.ids_per_act
        ids = [job.native_id for job in jobs]
        parts = [ids[start : start + most] for start in range(0, len(ids), most)]
        outcomes: list[ActionOutcome] = []
        for part, outcome in zip(parts, self._acts(connection, [command(part) for part in parts]), strict=True):
            if isinstance(outcome, NotDone) and len(part) > 1:
                # One bad id fails the whole command: ask for each on its own.
                outcomes += self._acts(connection, [command([native_id]) for native_id in part])
            else:
                outcomes += [outcome] * len(part)
        return outcomes

    def _acts(self, connection: Connection, commands: Sequence[Command[Output]]) -> list[ActionOutcome]:
        outcomes: list[ActionOutcome] = []
        for start in range(0, len(commands), ACTS_PER_TRIP):
            answers = connection.run_many(commands[start : start + ACTS_PER_TRIP])
            outcomes += [self._acted(answer) for answer in answers]
        return outcomes

    def _acted(self, output: Output | SiteError) -> ActionOutcome:
        if isinstance(output, SiteError):
            return NotDone(str(output), retryable=True)
        if output.exit_code == 0:
            return Done()
        error = self.dialect.error_of(output)
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


def ask(connection: Connection, command: Command[T]) -> T:
    """Run a question; where its answer came in a form that cannot be read, the same question in another form."""
    try:
        return connection.run(command)
    except Garbled as exc:
        instead: Command[T] = exc.instead
        return connection.run(instead)


def guarded(look: Callable[[], Look]) -> Look:
    """A look, or the reason why there is none."""
    try:
        return look()
    except SiteError as exc:
        return Look(error=str(exc))


def merged(looks: Sequence[Look]) -> Look:
    """Several logins' looks as one; it is good only if each of them was."""
    runs: list[ObservedRun] = []
    problems: list[RowProblem] = []
    for look in looks:
        runs += look.runs
        problems += look.problems
    error = next((look.error for look in looks if look.error is not None), None)
    return Look(tuple(runs), tuple(problems), error)
