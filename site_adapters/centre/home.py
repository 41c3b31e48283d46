"""The centre's folder: `site.yaml` (adapter and policy), `docking.yaml` (who may call, orders), and its state."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from site_adapters import registry
from site_adapters.centre.audit import AuditLog
from site_adapters.centre.desk import Desk, Rules
from site_adapters.centre.gate import Gate
from site_adapters.centre.journal import Journal, Store
from site_adapters.centre.opening import NoProvisioner, OrderDesk, Provisioner
from site_adapters.config import BrokenSite, SiteConfig, load_site
from site_adapters.errors import CredentialRefused, SiteClosed
from site_adapters.if2 import keys
from site_adapters.if2.keys import TrustStore
from site_adapters.if2.profile import VERSIONS, LoadReport, Profile, PublicKey
from site_adapters.interfaces import SiteAdapter
from site_adapters.orders import OrderKind
from site_adapters.policy import admitted
from site_adapters.slurm.accounts import SlurmProvisioner
from site_adapters.transport.pool import SiteLogins, read_key


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OrdersConfig(_Strict):
    """What may be ordered here."""

    approve_unasked: tuple[OrderKind, ...] = Field(default=(), description="Kinds that need no word of the staff")
    parent_account: str = "root"
    login_command: tuple[str, ...] = Field(
        default=(), description="argv of the centre's own command that makes a login; {username} and {project}"
    )


class DockingConfig(_Strict):
    """The docking itself."""

    listen: str = Field(default="127.0.0.1:8650", pattern=r"^[^\s]+:\d+$")
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    gateway_url: str = Field(default="", description="For the agent: wss://gateway.example/if2/agent")
    gateway_ca: Path | None = Field(
        default=None, description="CA of the gateway's certificate, where it is no public one"
    )
    accounts: tuple[str, ...] = Field(
        default=(),
        description="Logins, or patterns of them, that the gateway may act as, beside those that orders opened",
    )
    keys_dir: Path | None = Field(default=None, description="Private keys of logins, one file each (ssh transport)")
    orders: OrdersConfig = OrdersConfig()
    stop_after_s: Annotated[float, Field(gt=0)] = 3.0


@dataclass(frozen=True, slots=True)
class Home:
    """The folder and what is in it."""

    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def key_file(self) -> Path:
        return self.state / "centre.key"

    @property
    def stop_file(self) -> Path:
        return self.state / "stopped"

    @property
    def trust(self) -> TrustStore:
        return TrustStore(self.state / "gateway-keys.json")

    @property
    def audit(self) -> AuditLog:
        return AuditLog(self.state / "audit.jsonl")

    def site(self) -> SiteConfig:
        """The site file; raises `SiteClosed` with everything that is wrong."""
        found = load_site(self.folder / "site.yaml")
        if isinstance(found, BrokenSite):
            raise SiteClosed("; ".join(found.reasons))
        return found

    def docking(self) -> DockingConfig:
        file = self.folder / "docking.yaml"
        try:
            content = yaml.safe_load(file.read_text("utf-8")) if file.exists() else {}
            return DockingConfig.model_validate(content or {})
        except (OSError, ValueError, ValidationError, yaml.YAMLError) as exc:
            raise SiteClosed(f"docking.yaml: {exc}") from exc

    def page_password(self) -> str:
        """For the page with the load, which names people: made once, readable by this login only."""
        file = self.state / "page.password"
        if not file.exists():
            draft = file.with_name(f"page.password.{os.getpid()}")
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as made:
                made.write(secrets.token_urlsafe(24) + "\n")
            with suppress(FileExistsError):  # another command was first: its password stands
                os.link(draft, file)
            draft.unlink()
        return file.read_text("utf-8").strip()

    def stopped(self) -> str | None:
        """Why the docking is stopped; None while it is not."""
        try:
            return self.stop_file.read_text("utf-8").strip() or "without a reason"
        except FileNotFoundError:
            return None

    def stop(self, reason: str) -> None:
        self.state.mkdir(parents=True, exist_ok=True)
        with self.stop_file.open("w") as file:
            file.write(reason + "\n")
            file.flush()
            os.fsync(file.fileno())

    def resume(self) -> None:
        self.stop_file.unlink(missing_ok=True)


@dataclass(slots=True)
class Centre:
    """Everything composed: what `serve`, `connect`, and the commands of staff work with."""

    home: Home
    site: SiteConfig
    docking: DockingConfig
    adapter: SiteAdapter
    logins: SiteLogins
    store: Store
    gate: Gate
    orders: OrderDesk
    desk: Desk

    def close(self) -> None:
        self.desk.close()
        self.adapter.close()
        self.logins.close()
        self.store.close()


def utc_now() -> datetime:
    return datetime.now(UTC)


def compose(
    home: Home, *, clock: Callable[[], datetime] = utc_now, adapter: SiteAdapter | None = None,
    provisioner: Provisioner | None = None,
) -> Centre:  # fmt: skip
    """The centre from its folder; raises `SiteError` for what cannot be used."""
    site, docking = home.site(), home.docking()
    key_source = _keys(docking.keys_dir)
    adapter = adapter or registry.build(site, keys=key_source)
    if adapter.closed_reason is not None:
        raise SiteClosed(adapter.closed_reason)
    logins = SiteLogins(site, key_source)
    store = Store(home.state / "site.sqlite")
    gate = Gate(store, site.binding_policy(), adapter, clock)
    made = provisioner or _provisioner(site, docking, logins)
    orders = OrderDesk(store, made, home.audit, clock, adapter.auth.probe, frozenset(docking.orders.approve_unasked))
    keys.load_or_create(home.key_file)
    told = Told(home, site, adapter, gate)
    rules = Rules(home.stopped, lambda username: _may_act_as(username, docking, orders))
    desk = Desk(site=site.site, key=lambda: keys.load(home.key_file), trust=home.trust, adapter=_with(adapter, orders),
                ordering=orders, docking=told, gate=gate, journal=Journal(store, clock), audit=home.audit, rules=rules,
                clock=clock)  # fmt: skip
    return Centre(home, site, docking, adapter, logins, store, gate, orders, desk)


def _keys(folder: Path | None) -> Callable[[str], str | None]:
    def key(username: str) -> str | None:
        if folder is None:
            return None
        try:
            return read_key(folder / username)
        except CredentialRefused:
            return None

    return key


def _provisioner(site: SiteConfig, docking: DockingConfig, logins: SiteLogins) -> Any:
    if site.scheduler != "slurm" or site.credentials.provisioner is None:
        return NoProvisioner()
    return SlurmProvisioner(site, logins.provisioner(), docking.orders.parent_account, docking.orders.login_command)


def _with(adapter: SiteAdapter, orders: OrderDesk) -> SiteAdapter:
    """Accounts are opened by the order desk, whatever the adapter says of a login node."""
    return replace(adapter, auth=_AuthAtCentre(adapter, orders))


class _AuthAtCentre:
    """Who one is there is the adapter's to say; opening and revoking is the order desk's."""

    def __init__(self, adapter: SiteAdapter, orders: OrderDesk) -> None:
        self.probe, self.check = adapter.auth.probe, adapter.auth.check
        self.provision, self.suspend, self.revoke = orders.provision, orders.suspend, orders.revoke


def _may_act_as(username: str, docking: DockingConfig, orders: OrderDesk) -> bool:
    given = orders.given(username)
    if given is not None:
        return given
    return bool(docking.accounts) and admitted(username, docking.accounts)


# What a gateway needs to render a script as this centre does; never credentials, never the way in.
_RENDERING = {"site", "title", "scheduler", "staging_root", "commands", "environment", "submit", "queues", "zone",
              "pbs", "sunway", "policy", "enforce_walltime", "accounting"}  # fmt: skip


@dataclass(slots=True)
class Told:
    """What the centre tells about itself."""

    home: Home
    site: SiteConfig
    adapter: SiteAdapter
    gate: Gate

    def describe(self) -> Profile:
        content = self.site.model_dump(mode="json", include=_RENDERING, exclude_defaults=True)
        capabilities = self.adapter.capabilities - ({"hold"} if self._refuses("management.hold") else set())
        return Profile(
            self.site.site, self.site.title.get("en", self.site.site), self.site.scheduler, VERSIONS, software(),
            self.gate.policy, frozenset(capabilities), json.dumps(content), self._keys(), utc_now(),
        )  # fmt: skip

    def load(self) -> LoadReport:
        return self.gate.load(self.home.stopped())

    def trust(self, key: PublicKey) -> tuple[PublicKey, ...]:
        try:
            good = keys.read_public(keys.public_text(key))
        except ValueError as exc:
            raise CredentialRefused(str(exc)) from exc
        self.home.audit.append("trust", sync=True, key=good.kid)
        return self.home.trust.take(good, utc_now())

    def _keys(self) -> tuple[PublicKey, ...]:
        following = self.home.key_file.with_suffix(".next")
        own = (keys.load(self.home.key_file).public,)
        return (*own, keys.load(following).public) if following.exists() else own

    def _refuses(self, verb: str) -> bool:
        return bool(self.gate.policy.verbs_refused) and admitted(verb, self.gate.policy.verbs_refused)


def software() -> str:
    """Name and version of what runs here."""
    for name in ("penstock-site", "penstock-gateway"):
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return "penstock-site"
