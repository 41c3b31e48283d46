"""Slurm's `sacct -X -D -P`: one row per run, with `TZ=UTC` (man sacct; traps in docs/accounting.md).

Without `-D` earlier runs of a requeued job are missing. Job ids are used again, so the key is DBIndex. A resized job's
second row keeps the first Start, so each row is clipped to begin no earlier than its own Submit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from accounting.usage import Kind, Meter, UsageRecord

# Every word of `man sacct`, JOB STATE CODES; one that is missing here is quarantined, never dropped.
STATES = frozenset(
    {
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "COMPLETING", "CONFIGURING", "DEADLINE", "FAILED", "NODE_FAIL"),
        *("OUT_OF_MEMORY", "PENDING", "PREEMPTED", "RUNNING", "REQUEUED", "RESIZING", "REVOKED", "SUSPENDED"),
        *("STOPPED", "TIMEOUT"),
    }
)
LIVE = frozenset({"PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "STOPPED"})
# Our fence ends a second copy with this code before anything of the user's runs.
FENCED_EXIT = "75:0"

_NEVER = frozenset({"", "None", "Unknown", "N/A"})
_TAG = re.compile(r"\bp[a-z0-9]{15}\.\d+\b")
_TASK = re.compile(r"\d+_(\d+)\Z")
_BRACKET = re.compile(r"_\[")


def read(fields: Mapping[str, str], *, site_id: str, cpus_per_core: int = 1) -> UsageRecord | None:
    """One row as a usage record; None for a step, a bracket row and a run that has not ended."""
    job_id = fields["JobID"]
    if "." in job_id or _BRACKET.search(job_id):
        return None
    state = fields["State"].split()[0] if fields["State"].split() else ""
    if state not in STATES:
        raise ValueError(f"unknown state {fields['State']!r}")
    if state in LIVE:
        return None
    submit, start, end = (_time(fields[name]) for name in ("Submit", "Start", "End"))
    elapsed = _whole(fields["ElapsedRaw"])
    cpus, nodes = _whole(fields["AllocCPUS"]), _whole(fields.get("AllocNodes", ""))
    if start is not None and submit is not None and end is not None and submit > start:
        elapsed = min(elapsed, max(0, int((end - submit).total_seconds())))  # resized: the row before has the rest
        start = submit
    ran = start is not None and elapsed > 0 and cpus > 0
    cores = -(-cpus // cpus_per_core)
    tres = _tres(fields.get("AllocTRES", ""))
    suspended = _seconds(fields.get("Suspended", ""))
    # Nobody can change a submit line later; its first tag is the job name's, whatever paths follow.
    tags = _TAG.findall(" ".join(fields.get(name, "") for name in ("SubmitLine", "JobName", "Comment")))
    fenced = bool(tags) and fields.get("ExitCode") == FENCED_EXIT
    task = _TASK.search(job_id)
    return UsageRecord(
        site_id=site_id,
        run_key=f"{fields['Cluster']}:{_whole(fields['DBIndex'])}" + (":resizing" if state == "RESIZING" else ""),
        meter=Meter.CENTRE,
        kind=Kind.FENCED_COPY if fenced else Kind.RUN if ran else Kind.NEVER_RAN,
        native_id=job_id.partition("_")[0],
        task=int(task[1]) if task else None,
        state=state,
        username=fields["User"],
        job_name=fields.get("JobName", ""),
        account=fields.get("Account", ""),
        queue=fields.get("Partition", ""),
        qos=fields.get("QOS", ""),
        submit_time=submit,
        start_time=start if ran else None,
        end_time=end,
        cores=cores,
        nodes=nodes,
        elapsed_s=elapsed if ran else 0,
        suspended_s=suspended,
        core_seconds=cores * elapsed if ran else 0,
        node_seconds=nodes * elapsed if ran else 0,
        # Suspension frees the CPUs only: accelerators and memory stay with the job (accounting.md, trap 10).
        gpu_seconds=tres.get("gres/gpu", 0) * (elapsed + suspended) if ran else 0,
        memory_mib_seconds=tres.get("mem", 0) * (elapsed + suspended) if ran else 0,
        tag=tags[0] if tags else "",
        raw=dict(fields),
    )


def _time(text: str) -> datetime | None:
    if text in _NEVER:
        return None
    if text.isdigit():
        return datetime.fromtimestamp(int(text), UTC)
    parsed = datetime.fromisoformat(text)
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)


def _whole(text: str) -> int:
    if text == "":
        return 0
    if not text.isdigit():
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


def _seconds(text: str) -> int:
    """`[D-]HH:MM:SS` or `MM:SS[.mmm]`."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)(?:\.\d+)?", text)
    if match is None:
        if text in _NEVER:
            return 0
        raise ValueError(f"{text!r} is no duration")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _tres(text: str) -> dict[str, int]:
    """`cpu=4,mem=400M,gres/gpu=2`: memory in MiB, others counted; unknown names are kept out."""
    found: dict[str, int] = {}
    for item in filter(None, text.split(",")):
        name, _, value = item.partition("=")
        if name == "mem":
            match = re.fullmatch(r"(\d+)(?:\.(\d+))?([KMGT]?)[nc]?", value)
            if match is None:
                raise ValueError(f"{item!r} is no amount of memory")
            kib = {"K": 1, "M": 1024, "": 1024, "G": 1024**2, "T": 1024**3}[match[3]]
            scale = 10 ** len(match[2] or "")
            found["mem"] = int(match[1] + (match[2] or "")) * kib // (1024 * scale)
        elif name in ("cpu", "node", "billing", "gres/gpu"):
            found[name] = _whole(value)
    return found
