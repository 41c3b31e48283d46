"""From a site file to a docked centre; what cannot be built becomes a closed site that carries its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

from site_adapters import local, northbound, pbs, slurm, sunway
from site_adapters.config import BrokenSite, DockConfig, SiteConfig
from site_adapters.errors import SiteClosed, SiteError
from site_adapters.if2.channel import Channel, HttpChannel, Seal
from site_adapters.if2.client import Docked, adapter_of
from site_adapters.interfaces import SiteAdapter
from site_adapters.local import reasons as _local
from site_adapters.northbound import reasons as _northbound
from site_adapters.pbs import reasons as _pbs
from site_adapters.slurm import reasons as _slurm
from site_adapters.states import Reason, Why
from site_adapters.sunway import reasons as _sunway
from site_adapters.transport import Logins
from site_adapters.transport.pool import KeySource, SiteLogins
from site_adapters.types import Policy

BUILDERS: dict[str, Callable[[SiteConfig, Logins], SiteAdapter]] = {
    "local": local.build, "slurm": slurm.build, "pbs": pbs.build, "sunway": sunway.build,
    "northbound": northbound.build,
}  # fmt: skip


# What each scheduler's own words for waiting mean: (native state, native reason) -> in our words.
WAITING: dict[str, Callable[[str, str], Why]] = {
    "slurm": lambda _state, reason: _slurm.reason_of(reason),
    "pbs": lambda state, comment: _pbs.reason_of(*_letter_and_substate(state), comment),
    "sunway": lambda _state, reason: _sunway.reason_of(reason),
    "northbound": _northbound.reason_of,
    "local": _local.reason_of,
}


def why_waiting(scheduler: str, native_state: str, native_reason: str) -> Why:
    """Why a job waits at a centre, for people; a word that we do not know is told as it is."""
    known = WAITING.get(scheduler)
    if known is not None:
        return known(native_state, native_reason)
    told = f"The scheduler says: {native_reason}." if native_reason else "The scheduler gives no reason."
    return Why(Reason.OTHER, told)


def _letter_and_substate(native_state: str) -> tuple[str, str]:
    letter, _, substate = native_state.partition("/")
    return letter, substate


# Where agents dial in: a channel to the agent of a site. The gateway gives it; at a centre there is none.
AgentChannels = Callable[[str, Seal], Channel]


def build(config: SiteConfig | BrokenSite, *, keys: KeySource, agents: AgentChannels | None = None) -> SiteAdapter:
    """The adapter of a centre; never raises: a gateway with one bad site file is still a gateway."""
    if isinstance(config, BrokenSite):
        return closed(config.site, "; ".join(config.reasons))
    if config.dock is not None:
        return _docked(config, config.dock, agents)
    logins = SiteLogins(config, keys)
    try:
        return dock(config, logins)
    except SiteError as exc:
        reason = str(exc)
    except Exception as exc:  # noqa: BLE001 - whatever one centre's file or extra does, the others are served
        reason = f"{type(exc).__name__}: {exc}"
    logins.close()
    return closed(config.site, reason, title=config.title.get("en", config.site), scheduler=config.scheduler)


def dock(config: SiteConfig, logins: Logins) -> SiteAdapter:
    """The adapter over these logins; raises `SiteError` where the site file asks for what cannot be had."""
    adapter = BUILDERS[config.scheduler](config, logins)

    def close() -> None:
        adapter.close()
        logins.close()

    return replace(adapter, close=close, logins_by_key=config.transport.kind == "ssh", lost_after_s=config.lost_after_s)


def _docked(config: SiteConfig, dock: DockConfig, agents: AgentChannels | None) -> SiteAdapter:
    """A centre that runs its own adapter."""
    try:
        seal = Seal.of(config.site, dock)
        if dock.kind == "service":
            channel: Channel = HttpChannel(seal)
        elif agents is not None:
            channel = agents(config.site, seal)
        else:
            raise SiteClosed("nothing here takes the calls of agents")
    except (SiteError, OSError, ValueError) as exc:
        return closed(config.site, str(exc), title=config.title.get("en", config.site), scheduler="if2")
    kept = dock.key_file.with_name(f"{dock.key_file.name}.{config.site}.profile")
    renderer = lambda profile: build(profile, keys=lambda _username: None)  # noqa: E731 - one line, used once
    return adapter_of(config, Docked(config.site, channel, seal.trust, renderer, kept, dock.key_file))


def closed(site_id: str, reason: str, *, title: str = "", scheduler: str = "") -> SiteAdapter:
    """A site on which every call raises `SiteClosed` with this reason."""
    shut: Any = _Shut(reason)
    return SiteAdapter(
        site_id=site_id, title=title or site_id, scheduler=scheduler, policy=Policy(), capabilities=frozenset(),
        management=shut, resource=shut, auth=shut, billing=shut, log=shut, closed_reason=reason,
    )  # fmt: skip


class _Shut:
    """Stands for each of the five interfaces of a closed site."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("_"):
            raise AttributeError(name)

        def refuse(*_args: object, **_options: object) -> NoReturn:
            raise SiteClosed(self._reason)

        return refuse
