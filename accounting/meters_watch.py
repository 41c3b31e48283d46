"""Watch two meters of one centre: day by day, does the centre account for what the gateway saw end there? Pure.

The gateway's figure is an observation (it looks every few seconds), the centre's governs: they may differ by so much
for each start and end. What differs by more, or is missing altogether, is told within a day, not at the month's end
(accounting.md, traps 19 and 29).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

# A centre's accounting may be behind by so long before anybody is woken.
LATE = timedelta(hours=24)


class AlarmKind(StrEnum):
    """What is wrong with a centre's meter."""

    NOT_READ = "not_read"  # nobody could read it for longer than a day
    GAP = "gap"  # runs that the gateway saw end have no record of the centre
    TOTAL = "control_total"  # the day's core-seconds differ by more than two clocks may
    TWICE = "run_twice"  # the centre tells one run under two keys: both are charged


@dataclass(frozen=True, slots=True)
class SeenJob:
    """A job that ended, by both meters; `centre_core_seconds` None: the centre has given no record of it.

    `untold`: tasks that the gateway saw end, and of which the centre has no record. `twice`: runs of the centre's that
    began at the same moment as another one of the same task (its database was numbered anew, a day was given again).
    """

    ended_at: datetime
    cores: int
    runs: int
    gateway_core_seconds: int
    centre_core_seconds: int | None
    untold: int = 0
    twice: int = 0


@dataclass(frozen=True, slots=True)
class DayTotals:
    """A day's control totals. `missing`: jobs without a record of the centre, `partly` of them with one of some tasks
    only; the sums are of the others. `above`, `below`: what the centre metered more than the gateway saw, and less, job
    by job, since one makes the other no better. `slack`: core-seconds by which each may be off."""

    day: str
    jobs: int
    missing: int
    gateway_core_seconds: int
    centre_core_seconds: int
    slack: int
    above: int = 0
    below: int = 0
    partly: int = 0
    twice: int = 0

    @property
    def apart(self) -> int:
        return max(self.above, self.below)

    @property
    def agrees(self) -> bool:
        return not self.missing and not self.twice and self.apart <= self.slack


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that a person should look at."""

    kind: AlarmKind
    day: str
    text: str
    figures: Mapping[str, int]


def totals(jobs: Iterable[SeenJob], *, slack_s: int) -> list[DayTotals]:
    """The control totals of each day (UTC), oldest first. `slack_s`: how far apart two looks at one clock may be."""
    days: dict[str, list[SeenJob]] = {}
    for job in jobs:
        days.setdefault(job.ended_at.date().isoformat(), []).append(job)
    found = []
    for day, ended in sorted(days.items()):
        partly = [j for j in ended if j.centre_core_seconds is not None and j.untold]
        both = [j for j in ended if j.centre_core_seconds is not None and not j.untold]
        more = [(j.centre_core_seconds or 0) - j.gateway_core_seconds for j in both]
        found.append(DayTotals(
            day, len(ended), len(ended) - len(both), sum(j.gateway_core_seconds for j in both),
            sum(j.centre_core_seconds or 0 for j in both), sum(2 * slack_s * j.cores * j.runs for j in both),
            above=sum(x for x in more if x > 0), below=-sum(x for x in more if x < 0), partly=len(partly),
            twice=sum(j.twice for j in ended),
        ))  # fmt: skip
    return found


def alarms(days: Iterable[DayTotals], *, last_read: datetime | None, now: datetime) -> list[Alarm]:
    """What is wrong, as of now. `last_read`: when the centre's meter was read last (None: it was never asked)."""
    found = []
    if last_read is not None and now - last_read > LATE:
        hours = int((now - last_read).total_seconds()) // 3600
        found.append(Alarm(AlarmKind.NOT_READ, "", f"the centre's meter was not read for {hours} hours", {}))
    for d in days:
        if d.missing:
            text = f"{d.missing} of {d.jobs} jobs that ended have no record of the centre"
            if d.partly:
                text = (f"{d.missing} of {d.jobs} jobs that ended have no record of the centre, {d.partly} of them of "
                        "some tasks only")  # fmt: skip
            found.append(Alarm(AlarmKind.GAP, d.day, text, {"jobs": d.jobs, "missing": d.missing}))
        if d.apart > d.slack:
            text = (f"the gateway saw {d.gateway_core_seconds} core-seconds and the centre metered "
                    f"{d.centre_core_seconds}; {d.slack} apart would be two clocks")  # fmt: skip
            figures = {"gateway_core_seconds": d.gateway_core_seconds, "centre_core_seconds": d.centre_core_seconds}
            found.append(Alarm(AlarmKind.TOTAL, d.day, text, figures))
        if d.twice:
            text = f"{d.twice} runs are told once more by the centre under another key, and are charged once more"
            found.append(Alarm(AlarmKind.TWICE, d.day, text, {"twice": d.twice}))
    return found
