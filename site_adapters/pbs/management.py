"""PBS's language: which command does what `login_node/management.py` asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from site_adapters.command import Command, Output
from site_adapters.config import SiteConfig
from site_adapters.errors import Refused, SiteError
from site_adapters.login_node.errors import ErrorRule
from site_adapters.pbs import commands
from site_adapters.pbs.commands import Qstat
from site_adapters.pbs.options import render, words
from site_adapters.types import Change, JobRef, Look, RenderedJob, Submission, SubmitOutcome

# Each id is a request of its own to the server; more of them are cheaper picked out of a listing.
NAMED_MAX = 5


@dataclass(frozen=True, slots=True)
class PbsDialect:
    """One centre's PBS; `rules` are its own error texts."""

    config: SiteConfig
    rules: tuple[ErrorRule, ...] = ()
    ids_per_query: int = 100_000
    ids_per_act: int = 1  # a bad id beside others has crashed a server
    ping_first: bool = False  # qstat tells at once when nobody listens, and hangs no less than a ping
    hangs_when_down: bool = False
    own_search: bool = True  # others' jobs may be hidden: empty, exit code 0
    folders: tuple[str, ...] = ()

    def ping(self) -> Command[tuple[bool, str]]:
        return commands.ping(self.config.command("qstat"))

    def words(self, submission: Submission) -> RenderedJob:
        return words(self.config, submission)

    def render(self, submission: Submission) -> RenderedJob:
        return render(self.config, submission)

    def submit(self, submission: Submission, rendered: RenderedJob) -> Command[SubmitOutcome]:
        return commands.qsub(rendered.argv, rendered.script, self.rules)

    def queue(self, user: str | None) -> Command[Look]:
        return self._qstat.live(user=user)

    def history(self, jobs: Sequence[JobRef], *, since: datetime, everybody: bool) -> Command[Look]:
        ids = [job.native_id for job in jobs]
        asked = self._qstat.of(ids) if len(ids) <= NAMED_MAX else self._qstat.among_all(ids)
        return asked.then(as_accounting)

    def search(self, users: Sequence[str], *, since: datetime) -> Command[Look]:
        return self._qstat.ended(user=users[0]).then(as_accounting)

    def cancel(self, ids: Sequence[str]) -> Command[Output]:
        return commands.act(self.config.command("qdel"), *ids)

    def hold(self, ids: Sequence[str]) -> Command[Output]:
        return commands.act(self.config.command("qhold"), *ids)

    def release(self, ids: Sequence[str]) -> Command[Output]:
        return commands.act(self.config.command("qrls"), *ids)

    def modify(self, native_id: str, change: Change) -> Command[Output]:
        words: list[str] = []
        words += ["-l", f"walltime={change.duration}"] if change.duration is not None else []
        words += ["-A", change.account] if change.account is not None else []
        words += ["-p", str(change.priority)] if change.priority is not None else []
        if change.qos is not None:
            raise Refused("PBS has no QOS", code="qos")
        if change.queue_name is None:
            return commands.act(self.config.command("qalter"), *words, native_id)
        if words:
            raise Refused("PBS moves a job to another queue on its own: change the rest separately", code="queue")
        queue = self.config.native_queue(change.queue_name)
        return commands.act(self.config.command("qmove"), queue, native_id)

    def error_of(self, output: Output) -> SiteError:
        return commands.classify(output, self.rules)

    @property
    def _qstat(self) -> Qstat:
        return Qstat(self.config.command("qstat"), torque=self.config.pbs.flavour == "torque")


def as_accounting(look: Look) -> Look:
    """The server's history is the second source: what it shows of ended jobs is final."""
    return replace(look, runs=tuple(replace(run, source="accounting") for run in look.runs))
