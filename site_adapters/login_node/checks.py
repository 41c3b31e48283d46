"""What `check` asks of every centre behind a login: how a probe is run, and the clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from site_adapters.config import SiteConfig
from site_adapters.errors import SiteError
from site_adapters.login_node.auth import clock
from site_adapters.transport import Connection
from site_adapters.types import CheckResult

_SKEW_MAX = timedelta(seconds=30)

Part = Callable[[SiteConfig, Connection], CheckResult]
Login = Callable[[], Connection | None]


def probes_of(
    parts: Sequence[Part], config: SiteConfig, login: Login, *, others: Mapping[Part, Login] | None = None
) -> tuple[Callable[[], CheckResult], ...]:
    """Each part as a probe named after it, run by this login or by the one that `others` has for it."""
    return tuple(partial(_probe, part, config, (others or {}).get(part, login)) for part in parts)


def _probe(part: Part, config: SiteConfig, login: Login) -> CheckResult:
    name = part.__name__.lstrip("_").replace("_", " ")
    try:
        connection = login()
        if connection is None:
            return CheckResult(name, True, "not asked: there is no login to ask with")
        return part(config, connection)
    except SiteError as exc:
        return CheckResult(name, False, str(exc), "Look at the site file and the login.")


def clock_skew(_config: SiteConfig, connection: Connection) -> CheckResult:
    """How far the login node's clock is from ours."""
    skew = abs(connection.run(clock()) - datetime.now(UTC))
    ok = skew <= _SKEW_MAX
    return CheckResult("clock", ok, f"{skew.total_seconds():.0f} s from ours", "" if ok else "Ask for NTP there.")
