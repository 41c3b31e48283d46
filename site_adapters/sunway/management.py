"""Sunway's language, and what else it needs: exit codes from our wrapper, search by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import NoReturn

from site_adapters.command import Command, Output
from site_adapters.config import SiteConfig
from site_adapters.errors import CommandFailed, SiteError, Unsupported
from site_adapters.login_node.errors import ErrorRule
from site_adapters.login_node.management import LoginNodeManagement, guarded, merged
from site_adapters.login_node.marks import FENCED, NOT_STARTED
from site_adapters.script import staging_root
from site_adapters.states import ObservedState, Reason
from site_adapters.sunway import commands
from site_adapters.sunway.commands import End
from site_adapters.sunway.options import render, staged, words
from site_adapters.types import (
    ActionOutcome,
    Change,
    JobRef,
    Look,
    Observation,
    ObservedRun,
    RenderedJob,
    SiteAccount,
    Submission,
    SubmitOutcome,
)

FOLDERS = ("jobs", "rc", "kill", "usage", "ids", "work")


def _clock() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class SunwayDialect:
    """One Sunway centre; `rules` are its own error texts. Its times have no year, so it needs to know ours."""

    config: SiteConfig
    rules: tuple[ErrorRule, ...] = ()
    clock: Callable[[], datetime] = _clock
    ids_per_query: int = 50
    ids_per_act: int = 1
    ping_first: bool = True
    hangs_when_down: bool = False
    own_search: bool = True
    folders: tuple[str, ...] = FOLDERS

    def ping(self) -> Command[tuple[bool, str]]:
        return commands.ping(self.config.command("bjobs"))

    def words(self, submission: Submission) -> RenderedJob:
        return words(self.config, submission)

    def render(self, submission: Submission) -> RenderedJob:
        return render(self.config, submission)

    def submit(self, submission: Submission, rendered: RenderedJob) -> Command[SubmitOutcome]:
        return commands.bsub(rendered.argv, staged(self.config, submission, rendered), self.rules)

    def bjobs(self, *words: str) -> Command[Look]:
        program = self.config.command("bjobs")
        asked = commands.bjobs(program, words, zone=self.config.zone, now=self.clock())
        return asked.then(lambda answer: answer[1])

    def queue(self, user: str | None) -> Command[Look]:
        return self.bjobs(*(("-u", "all") if user is None else ()))

    def history(self, jobs: Sequence[JobRef], *, since: datetime, everybody: bool) -> Command[Look]:
        return self.bjobs(*(job.native_id for job in jobs)).then(_as_accounting)

    def search(self, users: Sequence[str], *, since: datetime) -> NoReturn:
        raise Unsupported("Sunway is searched by name")

    def cancel(self, ids: Sequence[str]) -> NoReturn:
        raise Unsupported("a Sunway job is ended with a mark beside it")

    def hold(self, ids: Sequence[str]) -> NoReturn:
        raise Unsupported("Sunway has no hold")

    def release(self, ids: Sequence[str]) -> NoReturn:
        raise Unsupported("Sunway has no hold")

    def modify(self, native_id: str, change: Change) -> NoReturn:
        raise Unsupported("a Sunway job cannot be changed")

    def error_of(self, output: Output) -> SiteError:
        return commands.classify(output, self.rules)


@dataclass(slots=True)
class SunwayManagement(LoginNodeManagement):
    """Looks are completed with what our wrapper wrote; jobs are found by their name, which is their token."""

    sunway: SunwayDialect | None = None

    def observe(self, jobs: Sequence[JobRef]) -> Observation:
        # super() without arguments does not work in a class with slots.
        seen = LoginNodeManagement.observe(self, jobs)
        refs = {job.native_id: job for job in jobs}
        return replace(seen, queue=self._with_ends(seen.queue, refs), accounting=self._with_ends(seen.accounting, refs))

    def _with_ends(self, look: Look, refs: dict[str, JobRef]) -> Look:
        """Ended runs with what stands beside them: what they asked for, and the exit code that the wrapper wrote."""
        pairs: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for run in look.runs:
            if run.state.final and run.native_id in refs:
                ref = refs[run.native_id]
                pairs[ref.username].append((ref.tag, run.native_id))
        ends: dict[str, End] = {}
        for username, wanted in pairs.items():
            try:
                read = self.logins.actor(username).run(commands.ends(self.config.staging_root, wanted))
                ends.update(read)
            except SiteError as exc:
                return replace(look, error=f"how jobs ended cannot be read: {exc}")
        return replace(look, runs=tuple(ended(run, ends.get(run.native_id)) for run in look.runs))

    def find(self, tags: Sequence[str], *, accounts: Sequence[SiteAccount], since: datetime) -> Look:
        looks: list[Look] = []
        for account in {account.username: account for account in accounts}.values():
            looks.append(guarded(partial(self._find, account, tags)))
        return merged(looks)

    def _find(self, account: SiteAccount, tags: Sequence[str]) -> Look:
        assert self.sunway is not None
        connection = self.logins.actor(account.username)
        names = list(tags) or connection.run(_names(staging_root(self.config.staging_root, account.home)))
        answers = connection.run_many([self.sunway.bjobs("-J", name) for name in names])
        look = merged(
            [
                _named(answer, name) if isinstance(answer, Look) else Look(error=str(answer))
                for name, answer in zip(names, answers, strict=True)
            ]
        )
        pairs = [(run.tags_seen[0], run.native_id) for run in look.runs]
        ends = connection.run(commands.ends(self.config.staging_root, pairs)) if pairs else {}
        return replace(look, runs=tuple(ended(run, ends.get(run.native_id)) for run in look.runs))

    def cancel(self, account: SiteAccount, jobs: Sequence[JobRef]) -> list[ActionOutcome]:
        root = staging_root(self.config.staging_root, account.home)
        program = self.config.command("bkill")
        return self._act(account, jobs, lambda ids: commands.bkill(program, root, ids[0]))


def _names(root: str) -> Command[list[str]]:
    """Every attempt that was ever staged there."""

    def read(output: Output) -> list[str]:
        if output.exit_code != 0:
            raise CommandFailed("the staging area cannot be read", native_text=output.error_text)
        return [name for name in output.text.split() if not name.endswith(".part")]

    return Command(("ls", f"{root}/usage"), read, deadline_s=30.0)


def _named(look: Look, name: str) -> Look:
    """What was asked for by its name bears that name."""
    return replace(look, runs=tuple(replace(run, tags_seen=(name,)) for run in look.runs))


def _as_accounting(look: Look) -> Look:
    return replace(look, runs=tuple(replace(run, source="accounting") for run in look.runs))


def ended(run: ObservedRun, end: End | None) -> ObservedRun:
    """A run with the wrapper's word about its end: exit code first, our own kill next, the scheduler's word last."""
    if end is None:
        return run
    code, cores = end.exit_code, end.asked.get("cores", "")
    run = replace(run, manifest=end.asked.get("manifest", ""), cores=int(cores) if cores.isdigit() else None)
    if not run.state.final:
        return run
    run = replace(run, exit_code=code, start_time=run.start_time or end.start, end_time=run.end_time or end.end)
    if end.killed and (code is None or code >= 128):
        return replace(run, state=ObservedState.CANCELED, reason=Reason.NONE)
    if code is None:
        return run
    if code == 0:
        return replace(run, state=ObservedState.COMPLETED, reason=Reason.NONE)
    reasons = {FENCED: Reason.FENCED, **dict.fromkeys(NOT_STARTED, Reason.LAUNCH_FAILED)}
    return replace(run, state=ObservedState.FAILED, reason=reasons.get(code, Reason.NONZERO_EXIT))
