"""HTCondor's history: job ads (totals over all runs), or epoch ads (one for each run).

`RemoteWallClockTime` of a job ad sums every run, suspension and evicted runs with it, while `CommittedTime` leaves
evicted runs out; in an epoch ad it is the total *before* that run, so there the run is its own end minus its start.
An attribute may be an expression that nothing was put into (`RequestCpus = ifThenElse(…)`), or undefined: no figure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from accounting.sources.figures import COUNT_MAX, SECONDS_MAX, between
from accounting.sources.reading import Reading, read_rows
from accounting.usage import Kind, Meter, UsageRecord

FORMAT = "condor/1"
FENCED_EXIT = 75

# HTCondor manual, "Job ClassAd Attributes", JobStatus.
_STATES = {1: "IDLE", 2: "RUNNING", 3: "REMOVED", 4: "COMPLETED", 5: "HELD", 6: "TRANSFERRING_OUTPUT", 7: "SUSPENDED"}
_ENDED = frozenset({3, 4})
_NUMBER = re.compile(r"(\d{1,17})(?:\.(\d*))?(?:[eE]\+?(\d{1,2}))?", re.ASCII)
_ATTRIBUTE = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s*(.*?)\s*\Z", re.DOTALL)
# A blank line (`condor_history -long`), or the banner that the history file has behind each ad.
_BETWEEN = re.compile(r"\n\s*\n|^\*\*\* .*$", re.MULTILINE)
_UNDEFINED = frozenset({"undefined", "error"})
# Two daemons' clocks, and what a shadow needs to say that it is done.
SKEW_S = 2
_TAG = re.compile(r"\bp[a-z0-9]{15}\.\d+\b")


def read_document(text: str, *, site_id: str, cpus_per_core: int = 1) -> Reading:
    """JSON (a list, one ad, or one ad a line) or the long form of `condor_history -long`."""
    return read_rows(
        frame(text),
        lambda row: read(row, site_id=site_id, cpus_per_core=cpus_per_core),
        site_id=site_id,
        format_name=FORMAT,
    )


def frame(text: str) -> Iterator[dict[str, str]]:
    """One row for each ad, its values as JSON words."""
    if not re.search(r"(?m)^\s*[\[{]", text):
        for block in _BETWEEN.split(text):
            if block.strip():
                yield _long_form(block)
        return
    try:
        found = json.loads(text)
        ads = found if isinstance(found, list) else [found]
    except (ValueError, RecursionError):
        yield from (_line(line) for line in text.split("\n") if line.strip())
        return
    yield from (_words(ad) for ad in ads)


def read(fields: Mapping[str, str], *, site_id: str, cpus_per_core: int = 1) -> UsageRecord | None:
    """One ended job, or one run of it where the ad is an epoch ad; None while a job has not ended."""
    if "line" in fields:
        raise ValueError("no ClassAd")
    if fields.get("ProcId") == "-1":
        return None  # a cluster whose jobs are made later (late materialization): no job of its own
    status = _whole(fields["JobStatus"])
    if status not in _STATES:
        raise ValueError(f"unknown JobStatus {status}")
    is_epoch = "EpochWriteDate" in fields or "RunInstanceID" in fields
    if not is_epoch and status not in _ENDED:
        return None
    start = _moment(fields.get("JobCurrentStartDate" if is_epoch else "JobStartDate", "0"))
    end = _moment(fields["EpochWriteDate" if is_epoch else "EnteredCurrentStatus"])
    if end is None:
        raise ValueError("it has no end")
    suspended = 0 if is_epoch else _whole(fields.get("CumulativeSuspensionTime", "0"))
    wall = _wall(fields, start, end, is_epoch=is_epoch)
    if suspended > wall:
        raise ValueError("it was suspended longer than it ran")
    elapsed, several = wall - suspended, _whole(fields.get("NumShadowStarts", "0")) > 1
    span = 0 if start is None else between(start, end)
    asked = _count(fields, "RequestCpus")
    cores = -(-_whole(fields.get("CpusProvisioned", fields.get("RequestCpus", "1"))) // cpus_per_core)
    gpus = _whole(fields.get("GPUsProvisioned", "0"))
    memory = _whole(fields.get("MemoryProvisioned", "0"))
    tags = _TAG.findall(" ".join(fields.get(name, "") for name in ("JobBatchName", "GatewayJobId", "AcctGroup")))
    fenced = bool(tags) and fields.get("ExitCode") == str(FENCED_EXIT)
    run = _whole(fields.get("RunInstanceID", fields.get("NumShadowStarts", "0")))
    return UsageRecord(
        site_id=site_id,
        run_key=f"{_text(fields['GlobalJobId'])}:{run if is_epoch else 'all'}",
        meter=Meter.CENTRE,
        kind=Kind.FENCED_COPY if fenced else Kind.RUN if elapsed > 0 else Kind.NEVER_RAN,
        native_id=f"{_whole(fields['ClusterId'])}.{_whole(fields['ProcId'])}",
        state=_STATES[status],
        username=_text(fields["Owner"]),
        job_name=_text(fields.get("JobBatchName", '""')),
        account=_text(fields.get("AcctGroup", '""')),  # AccountingGroup names the person too
        queue=_text(fields.get("AcctGroup", '""')),
        submit_time=_moment(fields.get("QDate", "0")),
        start_time=start,
        end_time=end,
        cores=cores,
        nodes=1 if elapsed > 0 else 0,
        requested_cores=None if asked is None else -(-asked // cpus_per_core),
        threads_per_core=cpus_per_core,
        elapsed_s=elapsed,
        suspended_s=suspended,
        core_seconds=cores * elapsed if is_epoch else _core_seconds(fields, cores, elapsed, suspended, cpus_per_core),
        node_seconds=elapsed,
        gpu_seconds=gpus * wall,
        memory_mib_seconds=memory * wall,
        tag=tags[0] if tags else "",
        # More than there was time for; or accelerators of the last match, where there were others before.
        estimated=(start is not None and wall > span + SKEW_S) or (several and not is_epoch and gpus > 0),
        raw=dict(fields),
    )


def _wall(fields: Mapping[str, str], start: datetime | None, end: datetime, *, is_epoch: bool) -> int:
    if is_epoch:
        return 0 if start is None else between(start, end)
    return _whole(fields["RemoteWallClockTime"], SECONDS_MAX)


def _core_seconds(fields: Mapping[str, str], cores: int, elapsed: int, suspended: int, cpus_per_core: int) -> int:
    """`CpusProvisioned` is that of the last match: of several runs only `CumulativeSlotTime` knows what each had."""
    if _whole(fields.get("NumShadowStarts", "0")) < 2 or "CumulativeSlotTime" not in fields:
        return cores * elapsed
    slots = _whole(fields["CumulativeSlotTime"], SECONDS_MAX * 10**6)
    return max(0, -(-slots // cpus_per_core) - cores * suspended)


def _words(ad: Any) -> dict[str, str]:
    if not isinstance(ad, dict):
        return {"line": json.dumps(ad)}
    return {name: json.dumps(value) for name, value in ad.items() if value is not None}


def _line(line: str) -> dict[str, str]:
    try:
        return _words(json.loads(line))
    except (ValueError, RecursionError):
        return {"line": line}


def _long_form(block: str) -> dict[str, str]:
    row: dict[str, str] = {}
    for line in block.split("\n"):
        match = _ATTRIBUTE.match(line)
        if match is None:
            if line.strip():
                return {"line": block}
            continue
        if match[1] in row:
            return {"line": block}
        if match[2].lower() not in _UNDEFINED:
            row[match[1]] = match[2]
    return row or {"line": block}


def _whole(text: str, limit: int = COUNT_MAX) -> int:
    """ClassAds say `8`, `8.0` or `8.000000000000000E+00`; part of a second is cut off, as the daemons do."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no whole number")
    shift = int(match[3] or 0)
    found = int(match[1] + (match[2] or "").ljust(shift, "0")[:shift])
    if found > limit:
        raise ValueError(f"{text!r} is no whole number")
    return found


def _count(fields: Mapping[str, str], name: str) -> int | None:
    """A figure that may be an expression; None where it is."""
    text = fields.get(name, "")
    return _whole(text) if _NUMBER.fullmatch(text) else None


def _text(word: str) -> str:
    try:
        found = json.loads(word)
    except ValueError:
        found = None
    if not isinstance(found, str):
        raise ValueError(f"{word[:60]!r} is no string")
    return found


def _moment(text: str) -> datetime | None:
    value = _whole(text, SECONDS_MAX)
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=value) if value else None
