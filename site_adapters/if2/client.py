"""A centre that runs `penstock-site`, as the gateway sees it: the five interfaces, each method one call."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from site_adapters import errors
from site_adapters.config import SiteConfig
from site_adapters.errors import OutcomeUnknown, SiteError, SiteUnreachable
from site_adapters.if2 import keys, wire
from site_adapters.if2.channel import Channel, new_call
from site_adapters.if2.codec import Malformed, decode, encode
from site_adapters.if2.keys import TrustStore
from site_adapters.if2.profile import VERSIONS, LoadReport, Profile
from site_adapters.if2.verbs import VERBS
from site_adapters.interfaces import Management, SiteAdapter
from site_adapters.orders import Opening, Order
from site_adapters.policy import stricter
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
    NotDone,
    Observation,
    Queue,
    Rejected,
    RenderedJob,
    Reservation,
    SiteAccount,
    Submission,
    SubmitOutcome,
    Unknown,
    UsageBatch,
)

_FRESH_S = 30.0
# Builds the adapter of a profile's site file, of which only `render` is used.
Builder = Callable[[SiteConfig], SiteAdapter]


@dataclass(slots=True)
class Docked:
    """One docked centre: calls it, and keeps what it last told of itself (also over a restart of the gateway)."""

    site_id: str
    channel: Channel
    trust: TrustStore
    build: Builder
    kept: Path
    key_file: Path
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _profile: Profile | None = None
    _renderer: Management | None = None
    _asked: float = 0.0
    _closed: bool = False

    def call(self, name: str, *args: Any, **options: Any) -> Any:
        """One verb; raises the site's errors as if the site were here."""
        verb = VERBS[name]
        call = new_call(verb, verb.pack(*args, **options))
        return wire.read_answer(verb, call.id, self.channel.ask(verb, call))

    # ------------------------------------------------------------ what it tells of itself

    def profile(self) -> Profile | None:
        """What the centre last told; asked anew in the background when that is old. Never waits."""
        with self._lock:
            if self._profile is None:
                self._profile = _kept(self.kept)
            due = not self._closed and time.monotonic() - self._asked > _FRESH_S
            if due:
                self._asked = time.monotonic()
        if due:
            threading.Thread(target=self._refresh_quietly, name=f"describe-{self.site_id}", daemon=True).start()
        return self._profile

    def refresh(self) -> Profile:
        """Ask the centre who it is; raises `SiteError`."""
        told: Profile = self.call("docking.describe")
        if told.site != self.site_id:
            raise errors.SiteClosed(f"the centre calls itself {told.site!r}, not {self.site_id!r}")
        if not set(told.versions) & set(VERSIONS):
            raise errors.SiteClosed(f"the centre speaks IF2 {told.versions}, we speak {VERSIONS}: one side is too old")
        self.trust.learn(told.keys)
        with self._lock:
            if self._profile is None or self._profile.rendering != told.rendering:
                self._renderer = None
            self._profile, self._asked = told, time.monotonic()
        self.kept.write_text(json.dumps(encode(Profile, told)), "utf-8")
        self._hand_over_key()
        return told

    def _hand_over_key(self) -> None:
        """Let the centre trust our new key where there is one, then sign with it. A kill in between: both once more."""
        if not self.key_file.with_suffix(".next").exists():
            return
        self.call("docking.trust", keys.rotate(self.key_file).public)
        with contextlib.suppress(FileNotFoundError):  # another process of ours was as fast
            keys.promote(self.key_file)

    def _refresh_quietly(self) -> None:
        try:
            self.refresh()
        except (SiteError, OSError):
            return  # what was told before stands; ticks tell that the site does not answer
        except RuntimeError:
            if not self._closed:  # a client that is closed under a call says no more than this
                raise

    def renderer(self) -> Management:
        """Renders scripts as the centre does; raises `SiteUnreachable` until it has told how."""
        profile = self.profile()
        if profile is None:
            raise SiteUnreachable(f"{self.site_id} has not yet told how it renders scripts")
        with self._lock:
            if self._renderer is None:
                self._renderer = self.build(rendering_config(profile)).management
            return self._renderer

    def as_told(self, adapter: SiteAdapter) -> SiteAdapter:
        profile = self.profile()
        if profile is None:
            return adapter
        return replace(adapter, policy=stricter(adapter.policy, profile.policy), scheduler=profile.scheduler,
                       capabilities=profile.capabilities, title=profile.title)  # fmt: skip

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self.channel.close()


def rendering_config(profile: Profile) -> SiteConfig:
    """The centre's site file as far as scripts go: never a transport, a credential or a program to start."""
    content = json.loads(profile.rendering)
    content |= {"transport": {"kind": "local"}, "backend": "cli"}
    for word in ("dock", "rest", "credentials"):
        content.pop(word, None)
    return SiteConfig.model_validate(content)


def _kept(file: Path) -> Profile | None:
    try:
        found: Profile = decode(Profile, json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, Malformed):
        return None
    return found


# ---------------------------------------------------------------- the five interfaces


@dataclass(frozen=True, slots=True)
class RemoteManagement:
    """Three-valued submit: an answer that was lost is `Unknown`, never a second try."""

    docked: Docked

    def health(self) -> Health:
        try:
            found: Health = self.docked.call("management.health")
        except SiteError as exc:
            return Health(False, str(exc))
        return found

    def render(self, submission: Submission) -> RenderedJob:
        return self.docked.renderer().render(submission)

    def assert_renders(self, submission: Submission) -> None:
        self.docked.renderer().assert_renders(submission)

    def submit(self, submissions: Sequence[Submission]) -> list[SubmitOutcome]:
        try:
            outcomes: list[SubmitOutcome] = self.docked.call("management.submit", submissions)
        except OutcomeUnknown as exc:
            return [Unknown(str(exc)) for _ in submissions]
        except SiteUnreachable as exc:
            return [Rejected(str(exc), retryable=True, code="site_down") for _ in submissions]
        except SiteError as exc:
            closed = isinstance(exc, errors.SiteClosed | errors.CredentialRefused)
            return [Rejected(str(exc), exc.retryable or closed, "closed" if closed else "refused") for _ in submissions]
        if len(outcomes) != len(submissions):
            return [Unknown("the site answered for another number of jobs") for _ in submissions]
        return outcomes

    def find(self, tags: Sequence[str], *, accounts: Sequence[SiteAccount], since: datetime) -> Look:
        try:
            found: Look = self.docked.call("management.find", tags, accounts=accounts, since=since)
        except SiteError as exc:
            return Look(error=str(exc))
        return found

    def observe(self, jobs: Sequence[JobRef]) -> Observation:
        found: Observation = self.docked.call("management.observe", jobs)
        return found

    def cancel(self, account: SiteAccount, jobs: Sequence[JobRef]) -> list[ActionOutcome]:
        return self._act("management.cancel", account, jobs)

    def hold(self, account: SiteAccount, jobs: Sequence[JobRef]) -> list[ActionOutcome]:
        return self._act("management.hold", account, jobs)

    def release(self, account: SiteAccount, jobs: Sequence[JobRef]) -> list[ActionOutcome]:
        return self._act("management.release", account, jobs)

    def modify(self, account: SiteAccount, job: JobRef, change: Change) -> ActionOutcome:
        try:
            found: ActionOutcome = self.docked.call("management.modify", account, job, change)
        except SiteError as exc:
            return NotDone(str(exc), retryable=exc.retryable)
        return found

    def take_fences(self, account: SiteAccount, fence_names: Sequence[str]) -> list[FenceOutcome]:
        found: list[FenceOutcome] = self.docked.call("management.take_fences", account, fence_names)
        return found

    def _act(self, verb: str, account: SiteAccount, jobs: Sequence[JobRef]) -> list[ActionOutcome]:
        try:
            found: list[ActionOutcome] = self.docked.call(verb, account, jobs)
        except SiteError as exc:
            # Canceling, holding and releasing are idempotent: also an answer that was lost may be asked for again.
            again = exc.retryable or isinstance(exc, OutcomeUnknown)
            return [NotDone(str(exc), retryable=again) for _ in jobs]
        return found


@dataclass(frozen=True, slots=True)
class RemoteResource:
    docked: Docked

    def queues(self) -> list[Queue]:
        found: list[Queue] = self.docked.call("resource.queues")
        return found

    def nodes(self) -> list[Node]:
        found: list[Node] = self.docked.call("resource.nodes")
        return found

    def capacity(self) -> Capacity:
        found: Capacity = self.docked.call("resource.capacity")
        return found

    def software(self) -> list[str]:
        found: list[str] = self.docked.call("resource.software")
        return found

    def limits(self, account: SiteAccount) -> Limits:
        found: Limits = self.docked.call("resource.limits", account)
        return found

    def reservations(self) -> list[Reservation]:
        found: list[Reservation] = self.docked.call("resource.reservations")
        return found


@dataclass(frozen=True, slots=True)
class RemoteAuth:
    docked: Docked

    def probe(self, username: str) -> AccountFacts:
        found: AccountFacts = self.docked.call("auth.probe", username)
        return found

    def check(self) -> list[CheckResult]:
        found: list[CheckResult] = self.docked.call("auth.check")
        return found

    def provision(self, username: str, project: str) -> AccountFacts:
        found: AccountFacts = self.docked.call("auth.provision", username, project)
        return found

    def suspend(self, username: str) -> None:
        self.docked.call("auth.suspend", username)

    def revoke(self, username: str) -> None:
        self.docked.call("auth.revoke", username)


@dataclass(frozen=True, slots=True)
class RemoteBilling:
    docked: Docked

    def usage(self, since: datetime, until: datetime, accounts: tuple[SiteAccount, ...] = ()) -> UsageBatch:
        found: UsageBatch = self.docked.call("billing.usage", since, until, accounts)
        return found


@dataclass(frozen=True, slots=True)
class RemoteLog:
    docked: Docked
    _last: dict[tuple[str, str], float] = field(default_factory=dict)

    def read(self, account: SiteAccount, path: str, *, offset: int, limit: int) -> FileChunk:
        self._pace(account.username, path)
        found: FileChunk = self.docked.call("log.read", account, path, offset=offset, limit=limit)
        return found

    def _pace(self, username: str, path: str) -> None:
        """Keep the centre's log interval on our side, so that it need not turn us away."""
        profile = self.docked.profile()
        interval = profile.policy.log_interval_s if profile is not None else 0.0
        if not interval:
            return
        now = time.monotonic()
        due = self._last.get((username, path), 0.0) + interval
        self._last[username, path] = max(now, due)
        time.sleep(max(0.0, due - now))


@dataclass(frozen=True, slots=True)
class RemoteOrdering:
    docked: Docked

    def open(self, order: Order) -> Opening:
        return self._one("orders.open", order)

    def change(self, order: Order) -> Opening:
        return self._one("orders.change", order)

    def renew(self, order_id: str, *, valid_until: datetime, core_seconds: int | None = None) -> Opening:
        return self._one("orders.renew", order_id, valid_until=valid_until, core_seconds=core_seconds)

    def close(self, order_id: str, *, reason: str = "") -> Opening:
        return self._one("orders.close", order_id, reason=reason)

    def opening(self, order_id: str) -> Opening:
        return self._one("orders.opening", order_id)

    def openings(self) -> list[Opening]:
        found: list[Opening] = self.docked.call("orders.openings")
        return found

    def load(self) -> LoadReport:
        found: LoadReport = self.docked.call("docking.load")
        return found

    def _one(self, verb: str, *args: Any, **options: Any) -> Opening:
        found: Opening = self.docked.call(verb, *args, **options)
        return found


def adapter_of(config: SiteConfig, docked: Docked) -> SiteAdapter:
    """The docked centre as every other one."""
    return SiteAdapter(
        site_id=config.site, title=config.title.get("en", config.site), scheduler=config.scheduler,
        policy=config.binding_policy(), capabilities=frozenset(), management=RemoteManagement(docked),
        resource=RemoteResource(docked), auth=RemoteAuth(docked), billing=RemoteBilling(docked), log=RemoteLog(docked),
        logins_by_key=False, close=docked.close, ordering=RemoteOrdering(docked), told=docked.as_told,
        renew_keys=docked.refresh, lost_after_s=config.lost_after_s,
    )  # fmt: skip
