"""What the centre metered: rows of its history, framed, not read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from site_adapters.northbound.commands import PAGE, Api
from site_adapters.transport.http import HttpConnection
from site_adapters.types import RowProblem, SiteAccount, SiteUsage, UsageBatch

FORMAT = "northbound-job/1"


@dataclass(frozen=True, slots=True)
class NorthboundBilling:
    """Ended jobs of our user, page by page."""

    connection: HttpConnection
    api: Api

    def usage(self, since: datetime, until: datetime, accounts: tuple[SiteAccount, ...] = ()) -> UsageBatch:
        usages: list[SiteUsage] = []
        problems: list[RowProblem] = []
        users = {account.username for account in accounts}
        manager = self.connection.run(self.api.clusters())
        page = total = 0
        while page == 0 or page * PAGE < total:
            page += 1
            found = self.connection.run(self.api.listed("history-job", manager, page))
            total = found.total
            problems += found.problems
            for run, row in zip(found.runs, found.rows, strict=True):
                ended = run.end_time
                if ended is not None and since <= ended < until and (not users or run.username in users):
                    fields = {k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()}
                    usages.append(SiteUsage(FORMAT, {**fields, "zone": self.api.zone}))
        return UsageBatch(tuple(usages), tuple(problems))
