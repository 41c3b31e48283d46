"""The centre's own meter: the server's accounting log where the meter may read it, else `qstat -x`; framed, not read.

A log line comes with the line that began the same run and with how long it was stopped; `qstat -x` knows a job's last
run only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from site_adapters.command import Command, Output
from site_adapters.config import SiteConfig
from site_adapters.errors import CommandFailed, Unsupported
from site_adapters.login_node.management import ask
from site_adapters.pbs.attributes import Attributes, Records, moment
from site_adapters.pbs.commands import Qstat
from site_adapters.pbs.log_frame import frame_log as frame_log
from site_adapters.pbs.runs import ENDED
from site_adapters.transport import Logins
from site_adapters.types import SiteAccount, SiteUsage, UsageBatch

QSTAT = "pbs-qstat/1"
# Files of days on which nothing happened are missing; one that is there and cannot be read is an error.
_READ = """for f in "$@"; do [ ! -e "$f" ] || cat -- "$f" || exit 1; done"""
_DAYS_BEFORE = 35  # a run that ends today may have begun this long ago: its first line is there


@dataclass(frozen=True, slots=True)
class PbsBilling:
    """Usage of the accounts that are asked for."""

    config: SiteConfig
    logins: Logins

    def usage(self, since: datetime, until: datetime, accounts: tuple[SiteAccount, ...] = ()) -> UsageBatch:
        if not self.config.accounting.kept:
            raise Unsupported(f"{self.config.site} keeps no accounting")
        users = {account.username for account in accounts}
        meter = self.logins.meter()
        if self.config.pbs.accounting_log and meter is not None:
            text = meter.run(read_log(self.config.pbs.accounting_log, self._days(since, until)))
            return frame_log(text, since=since, users=users, zone=self.config.zone)
        qstat = Qstat(self.config.command("qstat"), torque=self.config.pbs.flavour == "torque")
        observer = self.logins.observer() or meter
        logins = [observer] if observer is not None else [self.logins.actor(user) for user in sorted(users)]
        batches = [frame_qstat(ask(login, qstat.raw()), users, since, until) for login in logins]
        return UsageBatch(tuple(u for b in batches for u in b.usages), tuple(p for b in batches for p in b.problems))

    def _days(self, since: datetime, until: datetime) -> list[str]:
        zone = ZoneInfo(self.config.zone)
        first = since.astimezone(zone).date() - timedelta(days=_DAYS_BEFORE)
        last = until.astimezone(zone).date()
        return [f"{first + timedelta(days=n):%Y%m%d}" for n in range((last - first).days + 1)]


def read_log(folder: str, days: Sequence[str]) -> Command[str]:
    """The log files of these days, one after the other."""

    def parse(output: Output) -> str:
        if output.exit_code != 0:
            raise CommandFailed("the meter may not read the accounting log", native_text=output.error_text)
        return output.text

    files = tuple(f"{folder}/{day}" for day in days)
    argv = ("/bin/sh", "-c", _READ, "read_log", *files)
    return Command(argv, parse, deadline_s=120.0, stdout_bytes_max=256 * 1024 * 1024)


def frame_qstat(records: Records, users: set[str], since: datetime, until: datetime) -> UsageBatch:
    """Jobs that ended in the window, as their flat attributes, without their environment (it may hold secrets).

    One whose end cannot be told is given in every window: whoever reads it says what is wrong with it.
    """
    usages = []
    for native_id, a in records.rows:
        owner = a.get("Job_Owner", "").partition("@")[0]
        ended = _end(a)
        in_window = ended is None or since <= ended < until
        if a.get("job_state") in ENDED and in_window and (not users or owner in users):
            kept = {name: value for name, value in a.items() if not name.startswith("Variable_List")}
            usages.append(SiteUsage(QSTAT, {"Job_Id": native_id, **kept}))
    return UsageBatch(tuple(usages), records.problems)


def _end(a: Attributes) -> datetime | None:
    try:
        return moment(a.get("obittime", "")) or moment(a.get("mtime", ""))
    except ValueError:
        return None
