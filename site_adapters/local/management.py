"""Run jobs as processes on this machine, and ask what became of them."""

from __future__ import annotations

import json
import pwd
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

from site_adapters.config import SiteConfig
from site_adapters.errors import OutcomeUnknown, SiteError, Unsupported
from site_adapters.indices import expand
from site_adapters.local import commands
from site_adapters.login_node import fences
from site_adapters.quoting import quote
from site_adapters.script import output_paths, own_output, processes, staging_root
from site_adapters.script import render as render_script
from site_adapters.transport import Connection, Logins
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
    Rejected,
    RenderedJob,
    SiteAccount,
    Submission,
    SubmitOutcome,
    Unknown,
)


@dataclass(slots=True)
class LocalManagement:
    """A queue of processes for each account; `cores` is what one account may use at a time."""

    config: SiteConfig
    logins: Logins
    cores: int

    def health(self) -> Health:
        return Health(True, "processes on this machine", cluster="local")

    # ------------------------------------------------------------ submit

    def render(self, submission: Submission) -> RenderedJob:
        spec = submission.spec
        root = staging_root(self.config.staging_root, submission.account.home)
        stdin = f" <{quote(spec.stdin_path)}" if spec.stdin_path else ""
        stdout, stderr = output_paths(submission, root)
        script = render_script("local.sh.j2", submission, staging_root=root, stdin=stdin, ntasks=processes(submission),
                               output=own_output(spec, stdout, stderr))  # fmt: skip
        return RenderedJob(script, ("/bin/bash",), stdout, stderr)

    def assert_renders(self, submission: Submission) -> None:
        """A script of the shell says whatever a job says."""

    def submit(self, submissions: Sequence[Submission]) -> list[SubmitOutcome]:
        return [self._submit_one(submission) for submission in submissions]

    def _submit_one(self, submission: Submission) -> SubmitOutcome:
        cores = _cores(submission)
        if cores > self.cores:
            return Rejected(f"{cores} cores are more than this machine gives ({self.cores})", code="resources")
        try:
            connection = self.logins.actor(submission.account.username)
            root = staging_root(self.config.staging_root, submission.account.home)
            connection.run(fences.prepare(root))
            jobs = self._jobs(submission, cores)
            connection.run(self._call(submission.account, "submit", {"jobs": jobs}, write=True))
        except OutcomeUnknown as exc:
            return Unknown(str(exc))
        except SiteError as exc:
            return Rejected(str(exc), exc.retryable)
        return Accepted(submission.fence_name, "local")

    def _jobs(self, submission: Submission, cores: int) -> list[dict[str, Any]]:
        """One entry for each task; its key makes submitting it a second time impossible."""
        spec, rendered = submission.spec, self.render(submission)
        tasks: Sequence[int | None] = (None,) if spec.array is None else expand(spec.array.indices)
        common = {
            "id": submission.fence_name, "tag": submission.tag, "attempt": submission.attempt,
            "name": submission.site_name, "manifest": submission.manifest, "cores": cores, "script": rendered.script,
            "units": json.dumps(dict(spec.resources.units)) if spec.resources.units else None,
            "walltime_s": spec.attributes.duration, "login": spec.inherit_environment,
            "directory": spec.directory or submission.account.home, "held": spec.attributes.submit_as_hold,
            "max_parallel": spec.array.max_parallel if spec.array is not None else None,
        }  # fmt: skip
        return [
            common
            | {
                "task": task,
                "key": submission.fence_name + ("" if task is None else f"_{task}"),
                "stdout": rendered.stdout_path.replace("{task}", str(task)),
                "stderr": rendered.stderr_path.replace("{task}", str(task)),
            }
            for task in tasks
        ]

    # ------------------------------------------------------------ look

    def observe(self, jobs: Sequence[JobRef]) -> Observation:
        by_user: dict[str, list[str]] = defaultdict(list)
        for job in jobs:
            by_user[job.username].append(job.native_id)
        runs: list[Any] = []
        problems: list[Any] = []
        for username, ids in by_user.items():
            try:
                look = self._look(self._account(username), ids)
            except SiteError as exc:
                return Observation(Look(error=str(exc)), Look(error="not asked"), len(by_user))
            runs += look.runs
            problems += look.problems
        return Observation(Look(tuple(runs), tuple(problems)), Look(), len(by_user))

    def find(self, tags: Sequence[str], *, accounts: Sequence[SiteAccount], since: datetime) -> Look:
        runs: list[Any] = []
        for account in {a.username: a for a in accounts}.values():
            look = self._look(account, list(tags) or None)
            runs += [r for r in look.runs if not tags or set(tags).intersection(r.tags_seen)]
        return Look(tuple(runs))

    def _look(self, account: SiteAccount, ids: list[str] | None) -> Look:
        connection = self.logins.actor(account.username)
        answer = connection.run(self._call(account, "look", {"ids": ids}))
        return commands.read_runs(answer["runs"], account.username)

    # ------------------------------------------------------------ act

    def cancel(self, account: SiteAccount, jobs: Sequence[JobRef]) -> list[ActionOutcome]:
        return self._act("cancel", account, jobs)

    def hold(self, account: SiteAccount, jobs: Sequence[JobRef]) -> list[ActionOutcome]:
        return self._act("hold", account, jobs)

    def release(self, account: SiteAccount, jobs: Sequence[JobRef]) -> list[ActionOutcome]:
        return self._act("release", account, jobs)

    def modify(self, account: SiteAccount, job: JobRef, change: Change) -> NoReturn:
        raise Unsupported("a local job cannot be changed after it was submitted")

    def take_fences(self, account: SiteAccount, fence_names: Sequence[str]) -> list[FenceOutcome]:
        root = staging_root(self.config.staging_root, account.home)
        return self.logins.actor(account.username).run(fences.take(f"{root}/fence", fence_names))

    def _act(self, verb: str, account: SiteAccount, jobs: Sequence[JobRef]) -> list[ActionOutcome]:
        ids = [job.native_id for job in jobs]
        try:
            self.logins.actor(account.username).run(self._call(account, verb, {"ids": ids}, write=True))
        except SiteError as exc:
            return [NotDone(str(exc), retryable=True)] * len(jobs)
        return [Done()] * len(jobs)

    def _call(self, account: SiteAccount, verb: str, asked: dict[str, Any], *, write: bool = False) -> Any:
        root = staging_root(self.config.staging_root, account.home) + "/local"
        return commands.call(root, verb, asked | {"cores": self.cores}, write=write)

    def _account(self, username: str) -> SiteAccount:
        connection: Connection = self.logins.actor(username)
        return SiteAccount(connection.username, home_of(connection.username))


def home_of(username: str) -> str:
    """The home folder of a user of this machine."""
    return pwd.getpwnam(username).pw_dir


def _cores(submission: Submission) -> int:
    return processes(submission) * (submission.spec.resources.cpu_cores_per_process or 1)
