"""Probes of a PBS centre: what our logins may see there, and what to do where they may not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from site_adapters.config import SiteConfig
from site_adapters.login_node.checks import NO_OBSERVER, NOBODY, Asked, clock_skew, meter_or_anyone, probes_of
from site_adapters.pbs import billing, commands
from site_adapters.pbs.attributes import Attributes
from site_adapters.states import CredentialKind
from site_adapters.transport import Connection, Logins
from site_adapters.types import CheckResult


def probes(config: SiteConfig, logins: Logins) -> tuple[Callable[[], CheckResult], ...]:
    """What `check` asks of a PBS centre, beside the logins themselves."""
    anyone = logins.anyone
    reads = logins.meter if config.pbs.accounting_log else meter_or_anyone(logins)
    return probes_of(config, (
        Asked(_controller, anyone), Asked(_hidden_jobs, logins.observer, NO_OBSERVER), Asked(_history, anyone),
        Asked(_accounting, reads, _NO_METER if config.pbs.accounting_log else NOBODY), Asked(clock_skew, anyone),
    ))  # fmt: skip


_NO_METER = "no meter is configured that could read the accounting log"


def _controller(config: SiteConfig, connection: Connection) -> CheckResult:
    ok, detail = connection.run(commands.ping(config.command("qstat")))
    return CheckResult("controller", ok, detail, "" if ok else "Ask the centre: pbs_server does not answer.")


def _hidden_jobs(config: SiteConfig, connection: Connection) -> CheckResult:
    """With `query_other_jobs` off the server answers *empty, exit code 0* about other people's jobs."""
    seen = _server(config, connection).get("query_other_jobs") == "True"
    remedy = "Make the observer an operator of the server, or remove it: then each account is asked on its own."
    detail = "everybody's jobs are visible" if seen else "query_other_jobs is off: others' jobs look like none"
    return CheckResult("hidden jobs", seen, detail, "" if seen else remedy, CredentialKind.OBSERVER)


def _history(config: SiteConfig, connection: Connection) -> CheckResult:
    """Without job history a job vanishes within a second of its end."""
    kept = _server(config, connection).get("job_history_enable") == "True"
    if kept or config.pbs.flavour == "torque":
        return CheckResult("history", True, "ended jobs are remembered")
    remedy = "Ask for job_history_enable=True, or set `accounting: {kept: false}`."
    return CheckResult("history", not config.accounting.kept, "ended jobs are forgotten at once", remedy)


def _accounting(config: SiteConfig, connection: Connection) -> CheckResult:
    kind = CredentialKind.METER
    if not config.pbs.accounting_log:
        detail = "no log is named: `qstat -x` is read, which knows only the last run of a requeued job"
        return CheckResult("accounting", True, detail, credential=kind)
    today = f"{datetime.now(UTC):%Y%m%d}"
    text = connection.run(billing.read_log(config.pbs.accounting_log, [today]))
    return CheckResult("accounting", True, f"{len(text.splitlines())} lines today", credential=kind)


def _server(config: SiteConfig, connection: Connection) -> Attributes:
    return next((a for _, a in connection.run(commands.server(config.command("qstat"))).rows), {})
