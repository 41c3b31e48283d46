"""The local centre's own meter: one line for each run, written by its shim."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from site_adapters.config import SiteConfig
from site_adapters.local import commands
from site_adapters.script import staging_root
from site_adapters.transport import Logins
from site_adapters.types import RowProblem, SiteAccount, SiteUsage, UsageBatch


@dataclass(frozen=True, slots=True)
class LocalBilling:
    """Usage of the accounts that are asked for."""

    config: SiteConfig
    logins: Logins
    cores: int

    def usage(self, since: datetime, until: datetime, accounts: tuple[SiteAccount, ...] = ()) -> UsageBatch:
        usages: list[SiteUsage] = []
        problems: list[RowProblem] = []
        for account in {a.username: a for a in accounts}.values():
            root = staging_root(self.config.staging_root, account.home) + "/local"
            asked = {
                "since_ns": int(since.timestamp()) * 1_000_000_000,
                "until_ns": int(until.timestamp() + 1) * 1_000_000_000,
            }
            answer = self.logins.actor(account.username).run(commands.call(root, "usage", asked))
            batch = commands.read_usage(answer["lines"])
            usages += batch.usages
            problems += batch.problems
        return UsageBatch(tuple(usages), tuple(problems))
