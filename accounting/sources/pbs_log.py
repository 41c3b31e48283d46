"""The PBS server's accounting log: `E` ends a run, `R` ends one that is requeued, `S` says what was really taken.

One line is `MM/DD/YYYY HH:MM:SS;type;id;key=value …` (PBS Professional Administrator's Guide, "Accounting"). Cores are
those of `resource_assigned` in the `S` record (an exclusive job takes whole nodes), else of `exec_vnode`;
`exec_host` counts nothing there (`node/0*0` says so itself). Torque has no `exec_vnode`: its slots are those of
`exec_host` (`n1/0+n1/1`, `n1/0-7`), whatever `Resource_List.ncpus` says. Readers that take only `E` lose every requeued
run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from accounting.sources.figures import between, epoch, mib, seconds, whole
from accounting.sources.reading import Reading, read_rows
from accounting.usage import Kind, Meter, UsageRecord

FORMAT = "pbs-log/1"
FENCED_EXIT = 75
# The server writes `end` when it hears of it, a little after the last process: that much is no contradiction.
SKEW_S = 2

_LINE = re.compile(r"\d\d/\d\d/\d{4} \d\d:\d\d:\d\d;([A-Za-z]);([^;]*);(.*)\Z", re.DOTALL)
_PAIR = re.compile(r'\s*([A-Za-z_][A-Za-z0-9_.]*)=("(?:[^"\\]|\\.)*"|\S*)')
_ARRAY = re.compile(r"(\d+)\[(\d*)\](.*)\Z", re.DOTALL)
_TAG = re.compile(r"\bp[a-z0-9]{15}\.\d+\b")
# Events of a job that has no resources then, or keeps them (same guide, table of record types; src/include/acct.h).
_PASSED = frozenset("QDAaLBCFTUYMPNKkuvceGSszr")
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


def frame(lines: Sequence[str]) -> Iterator[dict[str, str]]:
    """Each line with what other lines say of the same run: its `S` line, and how long it was suspended."""
    started: dict[tuple[str, str], str] = {}
    stopped: dict[str, datetime | None] = {}
    suspended: dict[str, int] = {}
    for line in lines:
        row = {"line": line}
        match = _LINE.match(line)
        if match is not None:
            kind, job = match[1], match[2]
            start = _word(match[3], "start")
            if kind == "S":
                started[job, start] = line
                stopped.pop(job, None)
                suspended.pop(job, None)
            elif kind == "s":  # what was spare is given back
                started[job, start] = line
            elif kind == "z":
                stopped[job] = _clock(line)
            elif kind == "r" and job in stopped:
                suspended[job] = suspended.get(job, 0) + _pause(stopped.pop(job), _clock(line))
            elif kind in "ER":
                if job in stopped:  # deleted, or run again, while it was suspended
                    suspended[job] = suspended.get(job, 0) + _pause(stopped.pop(job), _clock(line))
                row |= {"S": started.pop((job, start), ""), "suspended_s": str(suspended.pop(job, 0))}
        yield row


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
    if kind in _PASSED:
        return None
    if kind not in "ER":
        raise ValueError(f"unknown record type {kind!r}")
    native_id, task = job_and_task(job)
    said = pairs(match[3])
    if task is None and "[" in job:
        return None
    start = epoch(said.get("start", ""))
    end = epoch(said["end"])
    if end is None:
        raise ValueError("it has no end")
    status = _status(said["Exit_status"])
    if start is None:
        if kind == "E" and "exec_vnode" not in said and "exec_host" not in said:
            return None  # deleted before it had anything
        raise ValueError("it has no start")
    took = taken(said, _assigned(fields.get("S", "")), cores_per_node=cores_per_node)
    suspended = whole(fields.get("suspended_s", ""))
    elapsed, doubtful = _elapsed(said, between(start, end), suspended)
    cores = -(-took.cores // cpus_per_core)
    tags = _TAG.findall(f"{said.get('jobname', '')} {said.get('account', '')}")
    fenced = bool(tags) and status == FENCED_EXIT
    held = elapsed + suspended
    return UsageRecord(
        site_id=site_id,
        run_key=f"{job}:{whole(said.get('run_count', '0'))}:{said['start']}",
        meter=Meter.CENTRE,
        kind=Kind.FENCED_COPY if fenced else Kind.RUN if elapsed > 0 else Kind.NEVER_RAN,
        native_id=native_id,
        task=task,
        state=state_of(status, requeued=kind == "R"),
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


def _elapsed(said: Mapping[str, str], span: int, suspended: int) -> tuple[int, bool]:
    """The server's own walltime; where it is 0 though the run lasted, its span. True: the two contradict each other."""
    walltime = seconds(said.get("resources_used.walltime", ""))
    doubtful = abs(span - suspended - walltime) > SKEW_S
    if (walltime == 0 and doubtful) or "resources_used.walltime" not in said:
        return max(0, span - suspended), True
    return walltime, doubtful


def _assigned(line: str) -> dict[str, str]:
    match = _LINE.match(line)
    return pairs(match[3]) if match is not None else {}


def _status(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,5}", text):
        raise ValueError(f"{text!r} is no Exit_status")
    return int(text)


def _word(text: str, name: str) -> str:
    match = re.search(rf"(?:^|\s){name}=(\S*)", text)
    return match[1] if match is not None else ""


def _pause(stopped: datetime | None, resumed: datetime | None) -> int:
    return between(stopped, resumed) if stopped is not None and resumed is not None and resumed > stopped else 0


def _clock(line: str) -> datetime | None:
    """The line's own stamp: the server's wall clock, of which only differences are used."""
    try:
        return datetime.strptime(line[:19], "%m/%d/%Y %H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return None
