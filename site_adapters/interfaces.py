"""The five interfaces through which every centre docks (IF2), and the composition of them.

Every method may raise a `SiteError` (see errors.py); `Unsupported` for an ability that the centre lacks.
None of them holds a database transaction, and none repeats a write.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, cast

from site_adapters.orders import NoOrders, Ordering
from site_adapters.transport import FileChunk
from site_adapters.types import (
    AccountFacts,
    ActionOutcome,
    Capacity,
    Change,
    CheckResult,
    FenceOutcome,
    Health,
    JobRef,
    Limits,
    Look,
    Node,
    Observation,
    Policy,
    Queue,
    RenderedJob,
    Reservation,
    SiteAccount,
    Submission,
    SubmitOutcome,
    UsageBatch,
)


class Management(Protocol):
    """Run this; what became of it."""

    def health(self) -> Health:
        """Whether the scheduler answers; never raises for a site that is down."""
        ...

    def render(self, submission: Submission) -> RenderedJob:
        """The script and argv for a submission: pure, no I/O."""
        ...

    def assert_renders(self, submission: Submission) -> None:
        """Raise what `render` would raise, without the work of writing the script: pure, no I/O."""
        ...

    def submit(self, submissions: Sequence[Submission]) -> list[SubmitOutcome]:
        """Hand over attempts, one outcome each, in order; never raises for one of them.

        The caller has committed its intent before and gives each attempt once only.
        """
        ...

    def find(self, tags: Sequence[str], *, accounts: Sequence[SiteAccount], since: datetime) -> Look:
        """All runs in queue and accounting whose name, comment or submit line bears one of the tags.

        With an empty `tags`: every run that bears any tag of the form `Submission.tag` (used by `recover`).
        A good look covers both sources; where one could not be asked, `error` is set.
        """
        ...

    def observe(self, jobs: Sequence[JobRef]) -> Observation:
        """Ask once about all jobs: the queue first, accounting for those the queue does not show as live."""
        ...

    def cancel(self, account: SiteAccount, jobs: Sequence[JobRef]) -> list[ActionOutcome]:
        """Ask the site to end these jobs; `Done` means the wish was delivered, not that they have ended."""
        ...

    def hold(self, account: SiteAccount, jobs: Sequence[JobRef]) -> list[ActionOutcome]: ...

    def release(self, account: SiteAccount, jobs: Sequence[JobRef]) -> list[ActionOutcome]: ...

    def modify(self, account: SiteAccount, job: JobRef, change: Change) -> ActionOutcome:
        """Change a job that waits."""
        ...

    def take_fences(self, account: SiteAccount, fence_names: Sequence[str]) -> list[FenceOutcome]:
        """Try to own the fence of old attempts (`Submission.fence_name`): `FenceTaken` proves they never run."""
        ...


class Resource(Protocol):
    """What is there and how busy."""

    def queues(self) -> list[Queue]: ...

    def nodes(self) -> list[Node]: ...

    def capacity(self) -> Capacity: ...

    def software(self) -> list[str]: ...

    def limits(self, account: SiteAccount) -> Limits: ...

    def reservations(self) -> list[Reservation]: ...


class Auth(Protocol):
    """Who is this person there."""

    def probe(self, username: str) -> AccountFacts:
        """Log in as `username` with the credential we hold and say who the site thinks that is.

        Raises `CredentialRefused` where the site does not let us in: this is the proof that links an account.
        """
        ...

    def check(self) -> list[CheckResult]:
        """Probe each credential (observer, meter, provisioner, actors known) and what it may see."""
        ...

    def provision(self, username: str, project: str) -> AccountFacts: ...

    def suspend(self, username: str) -> None: ...

    def revoke(self, username: str) -> None: ...


class Billing(Protocol):
    """What did the centre meter."""

    def usage(self, since: datetime, until: datetime, accounts: tuple[SiteAccount, ...] = ()) -> UsageBatch:
        """Raw records of runs that were active or ended in [since, until), of these accounts (none: all we may see)."""
        ...


class Log(Protocol):
    """What did it print."""

    def read(self, account: SiteAccount, path: str, *, offset: int, limit: int) -> FileChunk:
        """Bytes of an output file; raises `NotFound` while there is none."""
        ...


def _nothing_to_close() -> None:
    """A site without open connections."""


def _no_keys() -> None:
    """A site to which no signed call goes."""


def _no_orders() -> Ordering:
    return cast(Ordering, NoOrders())


def _as_it_is(adapter: SiteAdapter) -> SiteAdapter:
    """A site that nobody describes but our own file."""
    return adapter


@dataclass(frozen=True, slots=True)
class SiteAdapter:
    """One docked centre: five small objects, and what it is called and allows. `close` gives back its connections."""

    site_id: str
    title: str
    scheduler: str
    policy: Policy
    capabilities: frozenset[str]
    management: Management
    resource: Resource
    auth: Auth
    billing: Billing
    log: Log
    closed_reason: str | None = None
    logins_by_key: bool = True  # False: reached without logging in, so that nothing proves whose a login is
    lost_after_s: float = 300.0  # no job is given up as lost before it was missed for so long
    close: Callable[[], None] = _nothing_to_close
    ordering: Ordering = field(default_factory=_no_orders)
    told: Callable[[SiteAdapter], SiteAdapter] = _as_it_is
    renew_keys: Callable[[], object] = _no_keys  # of a docked centre: a new key of ours is handed over now

    def as_told(self) -> SiteAdapter:
        """With what the centre's own service says of itself now: policy, capabilities, scheduler, title."""
        return self.told(self)
