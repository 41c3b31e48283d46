"""Slurm's language: which command does what `login_node/management.py` asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from site_adapters.command import Command, Output
from site_adapters.config import SiteConfig
from site_adapters.errors import SiteError
from site_adapters.login_node.errors import ErrorRule
from site_adapters.slurm import commands
from site_adapters.slurm.options import render, words
from site_adapters.types import Change, JobRef, Look, RenderedJob, Submission, SubmitOutcome


@dataclass(frozen=True, slots=True)
class SlurmDialect:
    """One centre's Slurm; `rules` are its own error texts."""

    config: SiteConfig
    rules: tuple[ErrorRule, ...] = ()
    ids_per_query: int = 500
    ids_per_act: int = 500
    ping_first: bool = True
    hangs_when_down: bool = True
    own_search: bool = False
    folders: tuple[str, ...] = ()

    def ping(self) -> Command[tuple[bool, str]]:
        return commands.ping(self.config.command("scontrol"))

    def words(self, submission: Submission) -> RenderedJob:
        return words(self.config, submission)

    def render(self, submission: Submission) -> RenderedJob:
        return render(self.config, submission)

    def submit(self, submission: Submission, rendered: RenderedJob) -> Command[SubmitOutcome]:
        return commands.sbatch(rendered.argv, rendered.script, self.rules)

    def queue(self, user: str | None) -> Command[Look]:
        return commands.squeue(self.config.command("squeue"), user=user)

    def history(self, jobs: Sequence[JobRef], *, since: datetime, everybody: bool) -> Command[Look]:
        ids = [job.native_id for job in jobs]
        program = self.config.command("sacct")
        return commands.sacct(program, since=since, ids=ids, everybody=everybody).then(commands.runs_of)

    def search(self, users: Sequence[str], *, since: datetime) -> Command[Look]:
        return commands.sacct(self.config.command("sacct"), since=since, users=users).then(commands.runs_of)

    def cancel(self, ids: Sequence[str]) -> Command[Output]:
        return commands.scancel(self.config.command("scancel"), ids)

    def hold(self, ids: Sequence[str]) -> Command[Output]:
        return commands.scontrol(self.config.command("scontrol"), "hold", ",".join(ids))

    def release(self, ids: Sequence[str]) -> Command[Output]:
        return commands.scontrol(self.config.command("scontrol"), "release", ",".join(ids))

    def modify(self, native_id: str, change: Change) -> Command[Output]:
        words = [f"JobId={native_id}"]
        if change.duration is not None:
            words.append(f"TimeLimit={-(-change.duration // 60)}")
        if change.queue_name is not None:
            words.append(f"Partition={self.config.native_queue(change.queue_name)}")
        words += [f"Account={change.account}"] if change.account is not None else []
        words += [f"QOS={change.qos}"] if change.qos is not None else []
        words += [f"Priority={change.priority}"] if change.priority is not None else []
        return commands.scontrol(self.config.command("scontrol"), "update", *words)

    def error_of(self, output: Output) -> SiteError:
        return commands.classify(output, self.rules)
