"""Lines of the server's accounting log that end a run or a phase of it, each with what other lines say of the same run.

`S`: what it had since (the line that began it, or its last phase); `suspended_s`; where a line does not say it itself,
`from` and `until` in epoch seconds by the server's clock; `phases`: the `u` lines before (nodes given back while it
ran).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from site_adapters.types import RowProblem, SiteUsage, UsageBatch

LOG = "pbs-log/1"
_LINE = re.compile(r"(\d\d/\d\d/\d{4} \d\d:\d\d:\d\d);([A-Za-z]);([^;]*);(.*)\Z", re.DOTALL)
# Types that end nothing (PBS Professional Administrator's Guide, "Accounting"; acct.h): queued, deleted, resumed …
_OTHER = frozenset("QDAaLBCFTUYMPNKkveG")


@dataclass(slots=True)
class _Run:
    """What the lines so far say of a job's present run. `stopped`: since when it is suspended; `since`: its phase."""

    line: str = ""
    user: str = ""
    stopped: datetime | None = None
    suspended: int = 0
    since: str = ""
    phases: list[str] = field(default_factory=list)

    def resume(self, at: datetime, *, goes_on: bool = False) -> None:
        """It is suspended no more, or its run or phase is over; `goes_on`: the next phase begins suspended."""
        if self.stopped is not None:
            self.suspended += max(0, (at - self.stopped) // timedelta(seconds=1))
        self.stopped = at if goes_on and self.stopped is not None else None

    def fields(self, line: str, until: str) -> dict[str, str]:
        row = {"line": line, "S": self.line, "suspended_s": str(self.suspended)}
        if until:
            row["until"] = until
        if until or self.phases:
            row["from"] = self.since or _word(self.line, "start")
        if self.phases:
            row["phases"] = "\n".join(self.phases)
        return row


def frame_log(text: str, *, since: datetime, users: set[str], zone: str = "UTC") -> UsageBatch:
    """Lines that end a run (E, and R for one that is run again) or a phase (u) since then.

    A line is stamped by the server's own clock; without `users` everybody's lines are given.
    """
    runs: dict[str, _Run] = {}
    over: set[str] = set()  # jobs whose last word was an end
    usages: list[SiteUsage] = []
    problems: list[RowProblem] = []
    here = ZoneInfo(zone)
    for line in text.split("\n"):
        if not line.strip():
            continue
        match = _LINE.match(line)
        if match is None:
            problems.append(RowProblem(line, "no accounting line"))
            continue
        try:
            stamp = datetime.strptime(match[1], "%m/%d/%Y %H:%M:%S").replace(tzinfo=here).astimezone(UTC)
        except ValueError as exc:
            problems.append(RowProblem(line, str(exc)))
            continue
        kind, job, rest = match[2], match[3], match[4]
        found = _step(runs, over, kind, job, line, rest, stamp)
        if found is None:
            if kind not in _OTHER and kind not in "SsczrRE":
                problems.append(RowProblem(line, f"unknown type {kind!r}"))
            continue
        user, fields = found
        silent = not rest.strip()
        if stamp < since or (users and user not in users and not (silent and not user)):
            continue
        if silent and not user:
            problems.append(RowProblem(line, "it says nothing, and no S line says what ran"))
        else:
            usages.append(SiteUsage(LOG, fields))
    return UsageBatch(tuple(usages), tuple(problems))


def _step(
    runs: dict[str, _Run], over: set[str], kind: str, job: str, line: str, rest: str, stamp: datetime
) -> tuple[str, dict[str, str]] | None:
    """Keep what a line says; (user, row) where it ends a run or a phase."""
    run = runs.get(job) or _Run()
    epoch = str(int(stamp.timestamp()))
    if kind == "S":
        runs[job] = _Run(line, _word(rest, "user"))
        over.discard(job)
    elif kind in "sc":  # what was spare is given back; what is left for the next phase
        runs[job], run.line = run, line
    elif kind == "z":
        runs[job], run.stopped = run, stamp
    elif kind == "r":
        run.resume(stamp)
    elif kind == "u":
        run.resume(stamp, goes_on=True)
        row = run.fields(line, epoch)
        runs[job], run.suspended, run.since = run, 0, epoch
        run.phases.append(line)
        return _word(rest, "user"), row
    elif kind in "ER":
        silent = kind == "R" and not rest.strip()
        twice = silent and job in over  # Torque says twice that it is to run again
        runs.pop(job, None)
        over.add(job)
        if not twice:
            run.resume(stamp)
            return (run.user if silent else _word(rest, "user")), run.fields(line, epoch if silent else "")
    return None


def _word(text: str, name: str) -> str:
    match = re.search(rf"(?:^|[\s;]){name}=(\S+)", text)
    return match[1] if match else ""
