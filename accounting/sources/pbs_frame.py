"""Bring lines of the PBS server's log together that speak of one run: what began it, its pauses, its earlier phases.

A row has the line that ends a run (or a phase of it), and beside it `S` (the line that says what it had since),
`suspended_s`, and where they are needed `from` and `until` (epoch seconds, reckoned from the stamps) and `phases` (the
`u` lines before). site_adapters/pbs/log_frame.py frames in the same way what it reads at a centre.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

LINE = re.compile(r"\d\d/\d\d/\d{4} \d\d:\d\d:\d\d;([A-Za-z]);([^;]*);(.*)\Z", re.DOTALL)


@dataclass(slots=True)
class _Run:
    """What the lines so far say of a job's present run. `stopped`: since when it is suspended; `since`: its phase."""

    start: str = ""
    line: str = ""
    began: datetime | None = None
    stopped: datetime | None = None
    suspended: int = 0
    since: str = ""
    phases: list[str] = field(default_factory=list)


def frame(lines: Sequence[str]) -> Iterator[dict[str, str]]:
    """Each line, with what other lines say of the same run."""
    runs: dict[str, _Run] = {}
    over: set[str] = set()  # jobs whose last word was an end
    for line in lines:
        match = LINE.match(line)
        if match is None:
            yield {"line": line}
            continue
        kind, job, rest, at = match[1], match[2], match[3], _clock(line)
        start = _word(rest, "start")
        run = runs.get(job)
        if run is None or (start and run.start and start != run.start):
            run = _Run(start)
        row = {"line": line}
        if kind == "S":
            runs[job] = _Run(start, line, at)
            over.discard(job)
        elif kind in "sc":  # what was spare is given back; what is left for the next phase
            runs[job], run.line = run, line
        elif kind == "z":
            runs[job], run.stopped = run, at
        elif kind == "r":
            _resume(run, at)
        elif kind == "u":
            _resume(run, at, goes_on=True)
            row |= _beside(run, _epoch(run, at))
            runs[job], run.suspended, run.since = run, 0, row.get("until", "")
            run.phases.append(line)
        elif kind in "ER":
            if kind == "R" and not rest.strip() and job in over:
                row["again"] = "yes"  # Torque says twice that it is to run again
            else:
                _resume(run, at)
                row |= _beside(run, _epoch(run, at) if not rest.strip() else "")
            runs.pop(job, None)
            over.add(job)
        yield row


def _beside(run: _Run, until: str) -> dict[str, str]:
    row = {"S": run.line, "suspended_s": str(run.suspended)}
    if until:
        row["until"] = until
    if until or run.phases:
        row["from"] = run.since or run.start
    if run.phases:
        row["phases"] = "\n".join(run.phases)
    return row


def _resume(run: _Run, at: datetime | None, *, goes_on: bool = False) -> None:
    """It is suspended no more, or its run or phase is over; `goes_on`: the next phase begins suspended."""
    if run.stopped is not None and at is not None and at > run.stopped:
        run.suspended += (at - run.stopped) // timedelta(seconds=1)
    run.stopped = at if goes_on and run.stopped is not None else None


def _epoch(run: _Run, at: datetime | None) -> str:
    """A stamp as epoch seconds: stamps are wall clock, so from the start, of which the line has both."""
    if at is None or run.began is None or not run.start.isdigit():
        return ""
    return str(int(run.start) + (at - run.began) // timedelta(seconds=1))


def _word(text: str, name: str) -> str:
    match = re.search(rf"(?:^|\s){name}=(\S*)", text)
    return match[1] if match is not None else ""


def _clock(line: str) -> datetime | None:
    """The line's own stamp: the server's wall clock, of which only differences are used."""
    try:
        return datetime.strptime(line[:19], "%m/%d/%Y %H:%M:%S")  # noqa: DTZ007
    except ValueError:
        return None
