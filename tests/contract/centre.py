"""A docked centre as the contract suite knows it, and a piece of work to give it."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.jobs.ids import Manifest, site_name, tag_of
from site_adapters import registry
from site_adapters.config import SiteConfig
from site_adapters.interfaces import SiteAdapter
from site_adapters.states import ObservedState
from site_adapters.transport.pool import KeySource, SiteLogins
from site_adapters.types import (
    Accepted,
    Attributes,
    JobRef,
    JobSpec,
    Observation,
    ObservedRun,
    SiteAccount,
    Submission,
)
from tests.contract.breakage import Breakage, LoginBreakage
from tests.lab.slurm import wait_for

Lasting = Callable[[], AbstractContextManager[Any]]


@dataclass(slots=True)
class Centre:
    """One centre with an account of ours, and what its lab can do to it (None: it cannot).

    `workplace`: a folder that jobs of `account` may write and this process may read. `refused`: what the centre will
    never take. `until_s`: the longest that a small job may take from submit to its accounting record.
    """

    name: str
    adapter: SiteAdapter
    account: SiteAccount
    workplace: Path
    breakage: Breakage
    refused: JobSpec
    until_s: float = 60.0
    shell: str = "/bin/bash"  # of the compute nodes
    queue_name: str | None = None  # where the centre has no default
    down: Lasting | None = None  # context: the scheduler does not answer
    busy: Lasting | None = None  # context: what is submitted waits for resources
    rename: Callable[[str, str], None] | None = None  # (native id, name): the owner renames a job at the site
    requeue: Callable[[str], None] | None = None  # (native id): the centre requeues a running job
    reserve: Lasting | None = None  # context, yields a reservation's name

    def ability(self, name: str) -> Any:
        """What the lab can do; skips the test where it cannot."""
        found = getattr(self, name)
        if found is None:
            pytest.skip(f"the lab of {self.name} cannot: {name}")
        return found

    def can(self, capability: str) -> bool:
        return capability in self.adapter.capabilities

    def work(self, **wanted: Any) -> Work:
        return Work(self, **wanted)


def centre_of(
    site: dict[str, Any], *, name: str, account: SiteAccount, workplace: Path, keys: KeySource, **more: Any
) -> Centre:
    """A centre from a site file's content, with logins that can be broken."""
    breakage = LoginBreakage()
    config = SiteConfig.model_validate(site)
    adapter = registry.dock(config, breakage.around(SiteLogins(config, keys)))
    adapter.auth.probe(account.username)  # as every account proves itself when it is linked
    workplace.mkdir(parents=True, exist_ok=True)
    if account.uid is not None:
        shutil.chown(workplace, account.uid)
    more.setdefault("breakage", breakage)
    return Centre(name=name, adapter=adapter, account=account, workplace=workplace, **more)


@dataclass(slots=True)
class Work:
    """One attempt of a job of the test's own; each run of it leaves a line in a file."""

    centre: Centre
    seconds: float = 0.0
    then: str = ""
    attempt: int = 1
    spec: dict[str, Any] = field(default_factory=dict)
    job_id: str = field(default_factory=lambda: f"j{secrets.token_hex(8)}")
    native_id: str = ""
    submitted_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def tag(self) -> str:
        return tag_of("test", self.job_id)

    @property
    def mark(self) -> Path:
        return self.centre.workplace / f"{self.job_id}.ran"

    @property
    def script(self) -> str:
        return (f"#!{self.centre.shell}\necho \"ran $PENSTOCK_ARRAY_TASK\" >>'{self.mark}'\n"
                f"{f'sleep {self.seconds:g}' if self.seconds else ''}\n{self.then}\n")  # fmt: skip

    @property
    def submission(self) -> Submission:
        spec = {"script": self.script, "inherit_environment": False, "attributes": Attributes(duration=300),
                "name": "contract", **self.spec}  # fmt: skip
        if spec.get("executable") is not None:
            del spec["script"]
        if spec["attributes"].queue_name is None:
            spec["attributes"] = replace(spec["attributes"], queue_name=self.centre.queue_name)
        manifest = str(Manifest(self.job_id, "p1", "u1", self.attempt))
        name = site_name(spec["name"], self.tag, self.attempt)
        return Submission(JobSpec(**spec), self.centre.account, self.tag, self.attempt, name, manifest)

    @property
    def ref(self) -> JobRef:
        account = self.centre.account.username
        return JobRef(self.native_id, "", account, f"{self.tag}.{self.attempt}", self.submitted_at,
                      is_array=self.spec.get("array") is not None)  # fmt: skip

    def runs(self) -> list[str]:
        """The lines that runs left."""
        return self.mark.read_text().splitlines() if self.mark.exists() else []

    def printed(self, name: str) -> bytes:
        return (self.centre.workplace / f"{self.job_id}.{name}").read_bytes()

    def path(self, name: str) -> Path:
        """A file for the job to write."""
        return self.centre.workplace / f"{self.job_id}.{name}"

    # ------------------------------------------------------------ act and wait

    def submit(self) -> Work:
        submit_all([self])
        return self

    def look(self) -> Observation:
        return self.centre.adapter.management.observe([self.ref])

    def rows(self) -> list[ObservedRun]:
        """What both sources show of this job's id, the queue's word last."""
        seen = self.look()
        assert seen.queue.good and seen.accounting.good, seen
        return [r for r in (*seen.accounting.runs, *seen.queue.runs) if r.native_id == self.native_id]

    def until(self, *states: ObservedState, tasks: int = 1) -> list[ObservedRun]:
        """Wait until each of `tasks` runs is in one of the states; those rows, one for each task."""
        found: dict[int | None, ObservedRun] = {}

        def there() -> bool:
            found.clear()
            found.update({r.task: r for r in self.rows() if r.state in states})
            return len(found) >= tasks

        try:
            wait_for(there, f"{self.native_id} to be {states}", self.centre.until_s, every=0.2)
        except TimeoutError as exc:
            raise AssertionError(f"{exc}: {self.look()}") from exc
        return [found[task] for task in sorted(found, key=lambda t: -1 if t is None else t)]

    def end(self, tasks: int = 1) -> list[ObservedRun]:
        return self.until(ObservedState.COMPLETED, ObservedState.FAILED, ObservedState.CANCELED, tasks=tasks)

    def found(self) -> list[ObservedRun]:
        """Every job (or task) that bears this attempt's tag, in a good look; queue and accounting may both show it."""
        look = self.centre.adapter.management.find(
            [self.submission.fence_name], accounts=[self.centre.account], since=self.submitted_at
        )
        assert look.good, look
        return list({(run.native_id, run.task): run for run in look.runs}.values())

    def found_ids(self) -> list[str]:
        """The jobs among what was found: queue and accounting may each have a row of the same one."""
        return sorted({run.native_id for run in self.found()})

    def cancel(self) -> None:
        self.centre.adapter.management.cancel(self.centre.account, [self.ref])


def submit_all(works: Sequence[Work]) -> None:
    """Hand over several at once; all are accepted."""
    outcomes = works[0].centre.adapter.management.submit([w.submission for w in works])
    for work, outcome in zip(works, outcomes, strict=True):
        assert isinstance(outcome, Accepted), outcome
        work.native_id = outcome.native_id
