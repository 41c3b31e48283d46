"""Probes of a Sunway centre: whether it answers, how its clock stands, where jobs may be submitted from."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

from site_adapters.config import SiteConfig
from site_adapters.errors import SiteError
from site_adapters.login_node.auth import clock
from site_adapters.sunway import commands
from site_adapters.transport import Connection, Logins
from site_adapters.types import CheckResult

_SKEW_MAX = timedelta(seconds=30)


def probes(config: SiteConfig, logins: Logins) -> tuple[Callable[[], CheckResult], ...]:
    """What `check` asks of a Sunway centre, beside the logins themselves."""
    return tuple(partial(_probe, part, config, logins) for part in (_controller, _staging, _clock))


def _probe(part: Callable[[SiteConfig, Connection], CheckResult], config: SiteConfig, logins: Logins) -> CheckResult:
    name = part.__name__.lstrip("_").replace("_", " ")
    try:
        connection = logins.anyone()
        if connection is None:
            return CheckResult(name, True, "not asked: nobody has logged in yet")
        return part(config, connection)
    except SiteError as exc:
        return CheckResult(name, False, str(exc), "Look at the site file and the login.")


def _controller(config: SiteConfig, connection: Connection) -> CheckResult:
    ok, detail = connection.run(commands.ping(config.command("bjobs")))
    return CheckResult("controller", ok, detail, "" if ok else "Ask the centre: bjobs does not answer.")


def _staging(config: SiteConfig, _connection: Connection) -> CheckResult:
    """bsub submits nothing from the base file system, where homes are."""
    root = config.staging_root
    bad = root.startswith("{home}") and bool(config.sunway.refused_roots)
    bad = bad or any(root.startswith(base) for base in config.sunway.refused_roots)
    remedy = "Set staging_root to a folder of the online file systems."
    detail = f"{root} is on the base file system" if bad else root
    return CheckResult("staging area", not bad, detail, remedy if bad else "")


def _clock(_config: SiteConfig, connection: Connection) -> CheckResult:
    skew = abs(connection.run(clock()) - datetime.now(UTC))
    ok = skew <= _SKEW_MAX
    return CheckResult("clock", ok, f"{skew.total_seconds():.0f} s from ours", "" if ok else "Ask for NTP there.")
