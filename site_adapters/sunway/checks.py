"""Probes of a Sunway centre: whether it answers, how its clock stands, where jobs may be submitted from."""

from __future__ import annotations

from collections.abc import Callable

from site_adapters.config import SiteConfig
from site_adapters.login_node.checks import Asked, clock_skew, probes_of
from site_adapters.sunway import commands
from site_adapters.transport import Connection, Logins
from site_adapters.types import CheckResult


def probes(config: SiteConfig, logins: Logins) -> tuple[Callable[[], CheckResult], ...]:
    """What `check` asks of a Sunway centre, beside the logins themselves."""
    return probes_of(config, [Asked(part, logins.anyone) for part in (_controller, _staging, clock_skew)])


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
