"""The centre's own meter: sacct's rows, framed, not interpreted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from site_adapters.config import SiteConfig
from site_adapters.errors import Unsupported
from site_adapters.slurm.commands import AccountingRows, sacct
from site_adapters.transport import Logins
from site_adapters.types import RowProblem, SiteAccount, SiteUsage, UsageBatch


@dataclass(frozen=True, slots=True)
class SlurmBilling:
    """Usage by the meter's login; without one, by the logins of the accounts we know."""

    config: SiteConfig
    logins: Logins

    def usage(self, since: datetime, until: datetime, accounts: tuple[SiteAccount, ...] = ()) -> UsageBatch:
        if not self.config.accounting.kept:
            raise Unsupported(f"{self.config.site} keeps no accounting")
        program = self.config.command("sacct")
        meter = self.logins.meter()
        if meter is not None:
            users = tuple(sorted({account.username for account in accounts}))
            command = sacct(program, since=since, until=until, users=users, everybody=not users)
            return _batch([meter.run(command)])
        names = sorted({account.username for account in accounts})
        return _batch([self.logins.actor(n).run(sacct(program, since=since, until=until, users=(n,))) for n in names])


def _batch(found: list[AccountingRows]) -> UsageBatch:
    usages: list[SiteUsage] = []
    problems: list[RowProblem] = []
    for rows in found:
        usages += (SiteUsage("sacct/1", row) for row in rows.rows)
        problems += rows.problems
    return UsageBatch(tuple(usages), tuple(problems))
