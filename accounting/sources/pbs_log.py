"""The PBS server's accounting log: `E` ends a run, `R` ends one that is requeued, `S` says what was really taken.

One line is `MM/DD/YYYY HH:MM:SS;type;id;key=value …` (PBS Professional Administrator's Guide, "Accounting"). Cores are
those of `resource_assigned` in the `S` record (an exclusive job takes whole nodes), else of `exec_vnode`;
`exec_host` counts nothing there (`node/0*0` says so itself). Torque has no `exec_vnode`: its slots are those of
`exec_host` (`n1/0+n1/1`, `n1/0-7`), whatever `Resource_List.ncpus` says. Readers that take only `E` lose every requeued
run.

A job that gives nodes back while it runs (`pbs_release_nodes`) is *phased*: each `u` record ends a phase with what it
had, a `c` record begins the next one, and `E` names the nodes of the start again (openpbs src/server/accounting.c).
Each phase is a record of its own; the lines before it are beside it (`pbs_frame`). Torque writes `R` without a word:
what ran is in the `S` record, and when it ended in the stamp.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from accounting.sources.figures import between, epoch, mib, seconds, whole
from accounting.sources.pbs_frame import LINE as _LINE
from accounting.sources.pbs_frame import frame as frame
from accounting.sources.reading import Reading, read_rows
from accounting.usage import RESIZING, Kind, Meter, UsageRecord

FORMAT = "pbs-log/1"
FENCED_EXIT = 75
# The server writes `end` when it hears of it, a little after the last process: that much is no contradiction.
SKEW_S = 2

_PAIR = re.compile(r'\s*([A-Za-z_][A-Za-z0-9_.]*)=("(?:[^"\\]|\\.)*"|\S*)')
_ARRAY = re.compile(r"(\d+)\[(\d*)\](.*)\Z", re.DOTALL)
_TAG = re.compile(r"\bp[a-z0-9]{15}\.\d+\b")
# Events of a job that has no resources then, or keeps them (same guide, table of record types; src/include/acct.h).
_PASSED = frozenset("QDAaLBCFTUYMPNKkvceGSszr")
# What the server writes for ends of its own (src/include/job.h, JOB_EXEC_*; pbs-lsf-lab.md section 2.4).
_OWN_ENDS = {
    **dict.fromkeys((-1, -2, -7, -8, -9, -10, -13, -16, -17, -19, -21, -22, -23, -30), "FAILED"),
    **dict.fromkeys((-3, -4, -5, -6, -14, -15, -20), "NODE_FAIL"),  # a node's daemon restarted, or a sister was lost
    **dict.fromkeys((-11, -12, -18), "REQUEUED"),  # rerun, checkpointed, by a hook
    **dict.fromkeys((-24, -25), "OUT_OF_CPU"),
    **dict.fromkeys((-26, -27), "OUT_OF_MEMORY"),
    **dict.fromkeys((-28, -29), "TIMEOUT"),  # of CPU time, of walltime
}


@dataclass(frozen=True, slots=True)
class Taken:
    """What a run had: `exact` False where only the request is known; `requested_cores` None where nothing tells it."""

    cores: int
    nodes: int
    memory_mib: int
    gpus: int
    exact: bool
    exclusive: bool
    requested_cores: int | None

    def requested(self, cpus_per_core: int) -> int | None:
        return None if self.requested_cores is None else -(-self.requested_cores // cpus_per_core)


def read_document(text: str, *, site_id: str, cpus_per_core: int = 1, cores_per_node: int | None = None) -> Reading:
    """A day's file or several in a row."""
    lines = [line for line in text.split("\n") if line.strip()]
    return read_rows(
        frame(lines),
        lambda row: read(row, site_id=site_id, cpus_per_core=cpus_per_core, cores_per_node=cores_per_node),
        site_id=site_id,
        format_name=FORMAT,
    )


def read(
    fields: Mapping[str, str], *, site_id: str, cpus_per_core: int = 1, cores_per_node: int | None = None
) -> UsageRecord | None:
    """One framed line as a usage record; None for an event that ends no run, and for an array's parent."""
    match = _LINE.match(fields["line"])
    if match is None:
        raise ValueError("no accounting line")
    kind, job = match[1], match[2]
    if kind in _PASSED or "again" in fields:
        return None
    if kind not in "ERu":
        raise ValueError(f"unknown record type {kind!r}")
    native_id, task = job_and_task(job)
    said, phase = pairs(match[3]), _phases(fields)
    if task is None and "[" in job:
        return None
    began = _assigned(fields.get("S", ""))
    silent = kind == "R" and not said
    if silent and not began:
        raise ValueError("it says nothing, and no S record says what ran")
    said = began if silent else said
    if not (span := _span(kind, fields, said, tells_its_end=not silent and kind != "u")):
        return None
    start, end, status = span
    took = taken(began if phase and kind != "u" else said, began, cores_per_node=cores_per_node)
    suspended = whole(fields.get("suspended_s", ""))
    before = sum(map(_walltime, phase)) if kind != "u" else 0  # only the end counts all phases
    elapsed, doubtful = _elapsed(said, between(start, end), suspended, before=before)
    cores = -(-took.cores // cpus_per_core)
    tags = _TAG.findall(f"{said.get('jobname', '')} {said.get('account', '')}")
    fenced = bool(tags) and status == FENCED_EXIT
    held = elapsed + suspended
    part = f":{len(phase)}{RESIZING}" if kind == "u" else ""
    return UsageRecord(
        site_id=site_id,
        run_key=f"{job}:{whole(said.get('run_count', '0'))}:{said['start']}{part}",
        meter=Meter.CENTRE,
        kind=Kind.FENCED_COPY if fenced else Kind.RUN if elapsed > 0 else Kind.NEVER_RAN,
        native_id=native_id,
        task=task,
        state="RESIZING" if kind == "u" else state_of(status, requeued=kind == "R"),
        username=said["user"],
        job_name=said.get("jobname", ""),
        account=said.get("account", ""),
        queue=said.get("queue", ""),
        submit_time=epoch(said.get("ctime", "")),
        start_time=start,
        end_time=end,
        cores=cores,
        nodes=took.nodes,
        exclusive=took.exclusive,
        requested_cores=took.requested(cpus_per_core),
        cpus=took.cores,
        threads_per_core=cpus_per_core,
        elapsed_s=elapsed,
        suspended_s=suspended,
        core_seconds=cores * elapsed,
        node_seconds=took.nodes * elapsed,
        gpu_seconds=took.gpus * held,
        memory_mib_seconds=took.memory_mib * held,
        tag=tags[0] if tags else "",
        estimated=doubtful or not took.exact,
        raw=dict(fields),
    )


def pairs(text: str) -> dict[str, str]:
    """`key=value` words; a quoted value may hold blanks. A key that is said twice is refused: one of them is forged."""
    found: dict[str, str] = {}
    at = 0
    while match := _PAIR.match(text, at):
        key, value = match[1], match[2]
        if key in found:
            raise ValueError(f"{key} is said twice")
        found[key] = (
            re.sub(r"\\(.)", r"\1", value[1:-1]) if value[:1] == '"' == value[-1:] and len(value) > 1 else value
        )
        at = match.end()
    if text[at:].strip():
        raise ValueError(f"not understood from {text[at : at + 40]!r} on")
    return found


def job_and_task(job: str) -> tuple[str, int | None]:
    """`21[4].pbs01` is task 4 of `21[].pbs01`."""
    if not re.match(r"\d+(\[\d*\])?(\.|\Z)", job):
        raise ValueError(f"{job!r} is no job id")
    match = _ARRAY.match(job)
    if match is None:
        return job, None
    return f"{match[1]}[]{match[3]}", int(match[2]) if match[2] else None


def taken(said: Mapping[str, str], assigned: Mapping[str, str], *, cores_per_node: int | None) -> Taken:
    """What the run held: by the `S` record, else by its vnodes, else (only then) by what was asked."""
    chunks = re.findall(r"\(([^()]*)\)", said.get("exec_vnode", ""))
    parts = [part for chunk in chunks for part in chunk.split("+")]
    hosts = {part.partition(":")[0].partition("[")[0] for part in parts}
    sums = {"ncpus": 0, "ngpus": 0, "mem": 0}
    for part in parts:
        for item in part.split(":")[1:]:
            name, _, value = item.partition("=")
            if name in sums:
                sums[name] += mib(value, unit="K") if name == "mem" else whole(value)
    slots, torque_hosts = ({}, set()) if parts else _torque_slots(said)
    asked = said.get("Resource_List.ncpus", "")
    exclusive = bool(re.search(r"\bexcl(host)?\b", said.get("Resource_List.place", "")))
    nodes = len(hosts or torque_hosts) or whole(said.get("Resource_List.nodect", ""))
    cores, exact = sums["ncpus"] or slots.get("cores", 0) or whole(asked), True
    if "resource_assigned.ncpus" in assigned:
        cores = whole(assigned["resource_assigned.ncpus"])
    elif exclusive and cores_per_node is not None:
        cores = max(cores, nodes * cores_per_node)
    elif exclusive or not (parts or slots):
        exact = False
    if cores == 0 and not asked and "resource_assigned.ncpus" not in assigned:
        raise ValueError("nothing says how many cores it had")
    memory = assigned.get("resource_assigned.mem", said.get("Resource_List.mem", ""))
    gpus = assigned.get("resource_assigned.ngpus", said.get("Resource_List.ngpus", ""))
    return Taken(
        cores, nodes, mib(memory, unit="K") if memory else sums["mem"],
        whole(gpus) if gpus else sums["ngpus"] + slots.get("gpus", 0), exact, exclusive,
        whole(asked) if asked and not slots else None,
    )  # fmt: skip


def _torque_slots(said: Mapping[str, str]) -> tuple[dict[str, int], set[str]]:
    """Torque's slots: `n1/0+n1/1` (before 5), `n1/0-7,9` (since then), and `exec_gpus=n1-gpu/0+n1-gpu/1`; the hosts.

    Nothing for `n1/0*4`, which is PBS's own and counts nothing.
    """
    found = _indices(said.get("exec_host", ""))
    if found is None:
        return {}, set()
    gpus = _indices(said.get("exec_gpus", "")) or {}
    return {"cores": sum(found.values()), "gpus": sum(gpus.values())}, set(found)


def _indices(text: str) -> dict[str, int] | None:
    """How many indices each host has; None where a word has no such form."""
    found: dict[str, int] = {}
    for word in filter(None, text.split("+")):
        host, slash, indices = word.partition("/")
        if not slash or not re.fullmatch(r"\d{1,7}(-\d{1,7})?(,\d{1,7}(-\d{1,7})?)*", indices, re.ASCII):
            return None
        for part in indices.split(","):
            first, _, last = part.partition("-")
            found[host] = found.get(host, 0) + int(last or first) - int(first) + 1
    return found or None


def state_of(status: int, *, requeued: bool) -> str:
    """The end in common words; the manual's exit statuses are in pbs-lsf-lab.md section 2.4."""
    if status < 0:
        if status not in _OWN_ENDS:
            raise ValueError(f"unknown Exit_status {status}")
        return _OWN_ENDS[status]
    if requeued:
        return "REQUEUED"
    return "COMPLETED" if status == 0 else "CANCELLED" if status == 271 else "FAILED"


def _elapsed(said: Mapping[str, str], span: int, suspended: int, *, before: int) -> tuple[int, bool]:
    """The server's own walltime; where it is 0 though the run lasted, its span. True: the two contradict each other.

    `before`: walltime of the phases before, which the end of a phased run counts too; never more than its own span.
    """
    ran = max(0, span - suspended)
    if "resources_used.walltime" not in said:
        return ran, True
    walltime = seconds(said["resources_used.walltime"])
    if before:
        walltime = min(max(0, walltime - before), ran + SKEW_S)
    doubtful = abs(ran - walltime) > SKEW_S
    return (ran, True) if walltime == 0 and doubtful else (walltime, doubtful)


def _span(
    kind: str, fields: Mapping[str, str], said: Mapping[str, str], *, tells_its_end: bool
) -> tuple[datetime, datetime, int] | None:
    """Start, end and exit status of a run or a phase; None where it was deleted before it had anything."""
    start = epoch(fields.get("from") or said.get("start", ""))
    end = epoch(said["end"] if tells_its_end else fields.get("until", ""))
    if end is None:
        raise ValueError("it has no end")
    status = _status(said["Exit_status"]) if tells_its_end else 0
    if start is not None:
        return start, end, status
    if kind == "E" and "exec_vnode" not in said and "exec_host" not in said:
        return None
    raise ValueError("it has no start")


def _phases(fields: Mapping[str, str]) -> list[str]:
    return [line for line in fields.get("phases", "").split("\n") if line]


def _walltime(line: str) -> int:
    """Of one phase: in its `u` record the server says what is new since the record before."""
    return seconds(_assigned(line).get("resources_used.walltime", ""))


def _assigned(line: str) -> dict[str, str]:
    match = _LINE.match(line)
    return pairs(match[3]) if match is not None else {}


def _status(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,5}", text):
        raise ValueError(f"{text!r} is no Exit_status")
    return int(text)
