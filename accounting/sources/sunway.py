"""Sunway: `bjobs -l` event lines, and the report that a centre makes of them at month's end.

A block says neither year nor zone nor core groups, so the adapter gives them beside it. A core group is one management
core with 64 computing cores: `cores_per_cg` (65) cores are charged for each, unless the site's file says otherwise.
In the report `WallTime(sec)` is numProc × elapsed, and `ExitCode` a raw wait status.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from accounting.sources.figures import SECONDS_MAX, between, c_time, moment, whole
from accounting.sources.reading import Reading, read_rows
from accounting.usage import Kind, Meter, UsageRecord

BLOCK = "sunway-bjobs/1"
REPORT = "sunway-report/1"
CORES_PER_CG = 65

# sunway.md section 3: the words of STAT.
_STATES = {"DONE": "COMPLETED", "EXIT": "FAILED", "CANCELED": "CANCELLED", "TERM": "CANCELLED"}
_LIVE = frozenset({"PEND", "STARTING", "RUN", "EXITING", "PSUSP", "USUSP", "SSUSP", "ZOMBI", "UNKWN"})
_KEY = re.compile(r"(\w+)<([^<>]*)>")
_EVENT = re.compile(r"([A-Z][a-z]{2} +\d{1,2} \d\d:\d\d:\d\d): (.*)\Z")
_HEADING = ("JobID", "GIndex", "numProc", "numHosts", "WallTime(sec)", "HostTime(sec)", "ExitCode", "QueueName",
            "StartTime", "EndTime")  # fmt: skip
_TAG = re.compile(r"\bp[a-z0-9]{15}\.\d+\b")


def read_block(fields: Mapping[str, str], *, site_id: str, cpus_per_core: int = 1) -> UsageRecord | None:
    """One `bjobs -l` block; None while it has not ended.

    Beside `block`: `cgs` (core groups), and optionally `nodes`, `cgs_per_node` (exclusive nodes), `cores_per_cg`,
    `year`, `zone`, `name`. Without `cgs` nothing can be counted, and nothing is invented.
    """
    head, *lines = fields["block"].strip().split("\n")
    said = dict(_KEY.findall(head))
    state = said["Status"]
    if state in _LIVE:
        return None
    if state not in _STATES:
        raise ValueError(f"unknown state {state!r}")
    zone = _zone(fields.get("zone", "UTC"))
    submit, start, end = _events(lines, zone, int(fields["year"]))
    if end is None:
        raise ValueError("no event line says when it ended")
    if start is None and state == "DONE":
        raise ValueError("it is done, and no event line says when it started")
    nodes, cgs = _core_groups(fields, " ".join(lines))
    elapsed = between(start, end) if start is not None else 0
    cores = cgs * whole(fields.get("cores_per_cg", str(CORES_PER_CG))) if start is not None else 0
    tags = _TAG.findall(fields.get("name", ""))
    return UsageRecord(
        site_id=site_id,
        run_key=f"{said['Job']}:{int((start or end).timestamp())}",
        meter=Meter.CENTRE,
        kind=Kind.RUN if elapsed > 0 else Kind.NEVER_RAN,
        native_id=said["Job"],
        state=_STATES[state],
        username=said["User"],
        job_name=fields.get("name", ""),
        account="" if said.get("Project") in (None, "-") else said["Project"],
        queue=said.get("Queue", ""),
        submit_time=submit,
        start_time=start,
        end_time=end,
        cores=-(-cores // cpus_per_core),
        nodes=nodes,
        elapsed_s=elapsed,
        core_seconds=-(-cores // cpus_per_core) * elapsed,
        node_seconds=nodes * elapsed,
        tag=tags[0] if tags else "",
        raw=dict(fields),
    )


def read_report(
    fields: Mapping[str, str], *, site_id: str, cpus_per_core: int = 1, zone: tzinfo = UTC
) -> UsageRecord | None:
    """One row of a centre's report; None for headings, rules and sums. Its user comes from the report's head."""
    words = fields["line"].split()
    if not words or not words[0].isascii() or not words[0].isdigit():
        return None
    if len(words) != 12:
        raise ValueError(f"{len(words)} words instead of 12")
    job, index, processors, hosts, wall_sum, host_sum, status, queue = words[:8]
    start, end = moment(" ".join(words[8:10]), zone), moment(" ".join(words[10:12]), zone)
    if start is None or end is None:
        raise ValueError("it has no start or no end")
    cores, nodes = whole(processors), whole(hosts)
    elapsed = _quotient(wall_sum, cores, "WallTime(sec) is not numProc × elapsed")
    if nodes and _quotient(host_sum, nodes, "HostTime(sec) is not numHosts × elapsed") != elapsed:
        raise ValueError("WallTime and HostTime disagree")
    code = _exit_code(whole(status))
    task = whole(index)
    return UsageRecord(
        site_id=site_id,
        run_key=f"{job}[{task}]:{int(start.timestamp())}",
        meter=Meter.CENTRE,
        kind=Kind.RUN if elapsed > 0 else Kind.NEVER_RAN,
        native_id=job,
        task=task or None,
        state="COMPLETED" if code == 0 else "FAILED",
        username=fields.get("user", ""),
        queue=queue,
        start_time=start,
        end_time=end,
        cores=-(-cores // cpus_per_core),
        nodes=nodes,
        elapsed_s=elapsed,
        core_seconds=-(-cores // cpus_per_core) * elapsed,
        node_seconds=nodes * elapsed,
        estimated=abs(between(start, end) - elapsed) > 1,
        raw=dict(fields),
    )


def read_report_document(text: str, *, site_id: str, zone: tzinfo = UTC) -> Reading:
    """A whole report; only rows under the list's heading count (sums above it begin with numbers too)."""
    return read_rows(
        _report_rows(text), lambda row: read_report(row, site_id=site_id, zone=zone), site_id=site_id,
        format_name=REPORT,
    )  # fmt: skip


def _report_rows(text: str) -> Iterator[dict[str, str]]:
    user, listed = "", False
    for line in text.split("\n"):
        if match := re.search(r"submitted by users? (\S+)", line):
            user = match[1]
        if tuple(line.split()) == _HEADING:
            listed = True
        elif listed and line.strip():
            yield {"line": line, "user": user}


def _events(lines: list[str], zone: tzinfo, year: int) -> tuple[datetime | None, datetime | None, datetime | None]:
    """Submit, start and end. Events are in order, so a month that falls back has passed New Year, and an hour that
    falls back is the second of the two in the night that has it twice."""
    submit = start = end = before = None
    for line in lines:
        match = _EVENT.match(line.strip())
        if match is None:
            continue
        at = c_time(match[1], zone, year=year)
        if before is not None and at < before - timedelta(days=180):
            year += 1
            at = c_time(match[1], zone, year=year)
        if before is not None and at < before:
            second = at.astimezone(zone).replace(fold=1).astimezone(UTC)
            at = second if second >= before else at
        before, what = at, match[2]
        if what.startswith("Submitted"):
            submit = at
        elif what.startswith("Started"):
            start = at
        elif re.match(r"(End|Exit|Done|Cancel|Term)", what, re.IGNORECASE):
            end = at
    return submit, start, end


def _core_groups(fields: Mapping[str, str], events: str) -> tuple[int, int]:
    """Nodes and core groups: whole nodes where `cgs_per_node` says that nodes are exclusive."""
    match = re.search(r"using <(\d{1,7})> nodes", events)
    nodes = whole(fields["nodes"]) if fields.get("nodes") else int(match[1]) if match else 0
    cgs = whole(fields.get("cgs", ""))
    if fields.get("cgs_per_node") and nodes:
        cgs = max(cgs, nodes * whole(fields["cgs_per_node"]))
    if cgs == 0:
        raise ValueError("neither the block nor the adapter says how many core groups it had")
    return nodes, cgs


def _quotient(total: str, parts: int, why: str) -> int:
    if parts == 0 or whole(total, SECONDS_MAX * 10**6) % parts:
        raise ValueError(why)
    return int(total) // parts


def _exit_code(wait_status: int) -> int:
    """256 = exit code 1, 36608 = 143, 9 = killed by signal 9 (128 + 9)."""
    return wait_status >> 8 if wait_status >= 256 else 128 + wait_status if wait_status else 0


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as exc:
        raise ValueError(f"unknown zone {name!r}") from exc
