"""What `check` asks of every centre behind a login: how a probe is run, and the clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from site_adapters.config import SiteConfig
from site_adapters.errors import SiteError
from site_adapters.login_node.auth import clock
from site_adapters.transport import Connection, Logins
from site_adapters.types import CheckResult

_SKEW_MAX = timedelta(seconds=30)

Part = Callable[[SiteConfig, Connection], CheckResult]
Login = Callable[[], Connection | None]

NOBODY = "nobody's login has been let in yet: link and verify an account, or configure an observer"
NO_OBSERVER = "no observer is configured: each account is asked on its own, and sees at least its own jobs"


@dataclass(frozen=True, slots=True)
class Asked:
    """One part of a check, the login that asks, and why it is not asked where there is no such login."""

    part: Part
    login: Login
    without: str = NOBODY


def probes_of(config: SiteConfig, asked: Sequence[Asked]) -> tuple[Callable[[], CheckResult], ...]:
    """Each part as a probe named after it."""
    return tuple(partial(_probe, one, config) for one in asked)


def meter_or_anyone(logins: Logins) -> Login:
    """The meter's login; where none is configured, whoever may at least read the own records."""
    return lambda: logins.meter() or logins.anyone()


def _probe(asked: Asked, config: SiteConfig) -> CheckResult:
    name = asked.part.__name__.lstrip("_").replace("_", " ")
    try:
        connection = asked.login()
        if connection is None:
            return CheckResult(name, True, f"not asked: {asked.without}")
        return asked.part(config, connection)
    except SiteError as exc:
        return CheckResult(name, False, str(exc), "Look at the site file and the login.")


def clock_skew(_config: SiteConfig, connection: Connection) -> CheckResult:
    """How far the login node's clock is from ours."""
    skew = abs(connection.run(clock()) - datetime.now(UTC))
    ok = skew <= _SKEW_MAX
    return CheckResult("clock skew", ok, f"{skew.total_seconds():.0f} s from ours", "" if ok else "Ask for NTP there.")
