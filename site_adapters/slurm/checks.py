"""Probes of a Slurm centre: what our logins may see there, and what to do where they may not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from site_adapters.command import Command, Output
from site_adapters.config import SiteConfig
from site_adapters.login_node.checks import NO_OBSERVER, Asked, clock_skew, meter_or_anyone, probes_of
from site_adapters.slurm import commands
from site_adapters.states import CredentialKind
from site_adapters.transport import Connection, Logins
from site_adapters.types import CheckResult


def probes(config: SiteConfig, logins: Logins) -> tuple[Callable[[], CheckResult], ...]:
    """What `check` asks of a Slurm centre, beside the logins themselves."""
    anyone = logins.anyone
    return probes_of(config, (
        Asked(_controller, anyone), Asked(_hidden_jobs, logins.observer, NO_OBSERVER),
        Asked(_accounting, meter_or_anyone(logins)), Asked(clock_skew, anyone), Asked(_limits_enforced, anyone),
    ))  # fmt: skip


def _controller(config: SiteConfig, connection: Connection) -> CheckResult:
    ok, detail = connection.run(commands.ping(config.command("scontrol")))
    return CheckResult("controller", ok, detail, "" if ok else "Ask the centre: slurmctld does not answer.")


def _hidden_jobs(config: SiteConfig, connection: Connection) -> CheckResult:
    seen, detail = sees_everybody(config, connection)
    remedy = "Give the observer AdminLevel=Operator; until then each account is asked on its own."
    return CheckResult("hidden jobs", seen, detail, "" if seen else remedy, CredentialKind.OBSERVER)


def sees_everybody(config: SiteConfig, connection: Connection) -> tuple[bool, str]:
    """A centre with PrivateData=jobs answers *empty, exit 0* to a login that may not see others' jobs."""
    text = connection.run(_show_config(config))
    if not any("jobs" in line.lower() for line in text.splitlines() if line.startswith("PrivateData")):
        return True, "everybody's jobs are visible"
    admin = connection.run(_admin_level(config, connection.username))
    return admin in ("Operator", "Administrator"), f"PrivateData=jobs, the observer is {admin or 'nobody'}"


def _accounting(config: SiteConfig, connection: Connection) -> CheckResult:
    since = datetime.now(UTC) - timedelta(hours=1)
    found = connection.run(commands.sacct(config.command("sacct"), since=since, everybody=True))
    runs = len(found.rows)
    detail = f"{runs} runs in the last hour"
    if config.credentials.meter is None:
        detail = f"{runs} runs in the last hour, as {connection.username} may see them: no meter is configured"
    return CheckResult("accounting", True, detail, credential=CredentialKind.METER)


def _limits_enforced(config: SiteConfig, connection: Connection) -> CheckResult:
    text = connection.run(_show_config(config))
    line = next((li for li in text.splitlines() if li.startswith("EnforcePartLimits")), "")
    enforced = "ALL" in line or "ANY" in line
    detail = line.replace(" ", "") or "EnforcePartLimits is not set"
    if not enforced:
        detail = f"{detail}: Slurm accepts what can never run, so the gateway checks limits itself"
    return CheckResult("limits enforced", True, detail)


def _show_config(config: SiteConfig) -> Command[str]:
    return Command((config.command("scontrol"), "show", "config"), _text, deadline_s=30.0)


def _admin_level(config: SiteConfig, username: str) -> Command[str]:
    argv = (config.command("sacctmgr"), "-nP", "show", "user", username, "format=adminlevel")
    return Command(argv, lambda out: _text(out).strip(), deadline_s=30.0)


def _text(output: Output) -> str:
    if output.exit_code != 0:
        raise commands.classify(output)
    return output.text
