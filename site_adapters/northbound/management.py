"""Run jobs through a northbound API, and ask what became of them: by lists of a hundred, never job by job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NoReturn

from site_adapters.config import SiteConfig
from site_adapters.errors import NotFound, OutcomeUnknown, SiteError, SiteUnreachable, Unsupported
from site_adapters.login_node.management import guarded, merged
from site_adapters.northbound.commands import PAGE, Api
from site_adapters.northbound.options import job_info, render, words
from site_adapters.transport.http import HttpConnection
from site_adapters.types import (
    Accepted,
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
    Unfenced,
    Unknown,
)


@dataclass(slots=True)
class NorthboundManagement:
    """One centre's API under the operator's own user there."""

    config: SiteConfig
    connection: HttpConnection
    api: Api
    _manager: list[str] = field(default_factory=list)

    def health(self) -> Health:
        try:
            return Health(True, "the API answers", cluster=self.connection.run(self.api.clusters()))
        except SiteError as exc:
            return Health(False, str(exc))

    def manager(self) -> str:
        """The id of the centre's scheduler, asked for once."""
        if not self._manager:
            self._manager.append(self.connection.run(self.api.clusters()))
        return self._manager[0]

    # ------------------------------------------------------------ submit

    def render(self, submission: Submission) -> RenderedJob:
        return render(submission)

    def assert_renders(self, submission: Submission) -> None:
        words(submission)

    def submit(self, submissions: Sequence[Submission]) -> list[SubmitOutcome]:
        return [self._submit_one(submission) for submission in submissions]

    def _submit_one(self, submission: Submission) -> SubmitOutcome:
        try:
            info = job_info(self.config, submission, self.render(submission))
            request = self.api.submit(self.manager(), info)
            return Accepted(self.connection.run(request), self.api.config.cluster)
        except OutcomeUnknown as exc:
            return Unknown(str(exc))
        except SiteUnreachable as exc:
            return Rejected(str(exc), retryable=True, code="site_down")  # nothing was sent
        except SiteError as exc:
            return Rejected(str(exc), retryable=exc.retryable)

    # ------------------------------------------------------------ look

    def observe(self, jobs: Sequence[JobRef]) -> Observation:
        queue, asked = self._listed("active-job")
        if not queue.good:
            return Observation(queue, Look(error="not asked"), asked)
        shown = {run.native_id for run in queue.runs}
        absent = [job for job in jobs if job.native_id not in shown]
        looks = [guarded(lambda job=job: self._one(job)) for job in absent]  # type: ignore[misc]
        return Observation(queue, merged(looks), asked + len(absent))

    def _one(self, job: JobRef) -> Look:
        try:
            run = self.connection.run(self.api.job(self.manager(), job.native_id))
        except NotFound:
            return Look()
        return Look((replace(run, source="accounting"),))

    def _listed(self, which: str, name: str = "") -> tuple[Look, int]:
        """Every page of a list; a list that changed while it was read is read as it was."""
        runs: dict[str, ObservedRun] = {}
        problems: list[RowProblem] = []
        page = total = 0
        try:
            while page == 0 or page * PAGE < total:
                page += 1
                found = self.connection.run(self.api.listed(which, self.manager(), page, name))
                runs |= {run.native_id: run for run in found.runs}
                problems += found.problems
                total = found.total
        except SiteError as exc:
            return Look(error=str(exc)), page
        return Look(tuple(runs.values()), tuple(problems)), page

    def find(self, tags: Sequence[str], *, accounts: Sequence[SiteAccount], since: datetime) -> Look:
        names = tags or [""]
        looks = [self._listed(which, name)[0] for name in names for which in ("active-job", "history-job")]
        found = merged(looks)
        wanted = set(tags)
        runs = {r.native_id: r for r in found.runs if r.tags_seen and (not wanted or wanted.intersection(r.tags_seen))}
        return replace(found, runs=tuple(runs.values()))

    # ------------------------------------------------------------ act

    def cancel(self, account: SiteAccount, jobs: Sequence[JobRef]) -> list[ActionOutcome]:
        return self._act(jobs, lambda ids: self.connection.run(self.api.delete(self.manager(), ids)))

    def hold(self, account: SiteAccount, jobs: Sequence[JobRef]) -> NoReturn:
        raise Unsupported("this centre's API has no hold")

    def release(self, account: SiteAccount, jobs: Sequence[JobRef]) -> NoReturn:
        raise Unsupported("this centre's API has no hold")

    def modify(self, account: SiteAccount, job: JobRef, change: Change) -> NoReturn:
        raise Unsupported("this centre's API changes no job")

    def take_fences(self, account: SiteAccount, fence_names: Sequence[str]) -> list[FenceOutcome]:
        return [Unfenced() for _ in fence_names]

    def _act(self, jobs: Sequence[JobRef], act: Callable[[Sequence[str]], None]) -> list[ActionOutcome]:
        try:
            act([job.native_id for job in jobs])
        except NotFound:
            return [Done()] * len(jobs)
        except SiteError as exc:
            return [NotDone(str(exc), retryable=True)] * len(jobs)
        return [Done()] * len(jobs)
