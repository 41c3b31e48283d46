"""Slurm's `sacct -X -D -P`: one row per run, with `TZ=UTC` (man sacct; how it is metered: docs/metering-rules.md).

Without `-D` earlier runs of a requeued job are missing. Job ids are used again, so the key is DBIndex. A resized job's
second row keeps the first Start, so each row is clipped to begin no earlier than its own Submit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from functools import lru_cache

from accounting.sources.figures import SECONDS_MAX, mib, moment, seconds, whole
from accounting.sources.reading import Reading, read_rows
from accounting.usage import RESIZING, UNIT, Kind, Meter, UsageRecord

# Every word of `man sacct`, JOB STATE CODES; one that is missing here is quarantined, never dropped.
LIVE = frozenset({"PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "STOPPED"})
# Flags that newer releases show in place of a state (slurm.schedmd.com/job_state_codes.html). They do not say whether
# the run is over: its end does.
FLAGS = frozenset(
    {
        *("EXPEDITING", "LAUNCH_FAILED", "POWER_UP_NODE", "RECONFIG_FAIL", "REQUEUE_FED", "REQUEUE_HOLD"),
        *("RESV_DEL_HOLD", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "UPDATE_DB"),
    }
)
# Whatever it is called, the scheduler runs it again. LAUNCH_FAILED and RECONFIG_FAIL keep their names: a contract may
# say who bears what the centre's own nodes failed at.
REQUEUED = frozenset({"EXPEDITING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"})
STATES = LIVE | FLAGS | REQUEUED
STATES |= {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"}
STATES |= {"RESIZING", "REVOKED", "TIMEOUT"}
# Whole seconds of three columns, each cut by itself.
SKEW_S = 2
# Our fence ends a second copy with this code before anything of the user's runs.
FENCED_EXIT = "75:0"

_TAG = re.compile(r"\bp[a-z0-9]{15}\.\d+\b")
_TASK = re.compile(r"\d+_(\d+)\Z")
_COMPONENT = re.compile(r"\+\d+\Z")  # `123+1` of a heterogeneous job
# Rows that are no run: a step of one (`.batch`), and the tasks of an array that were canceled before they started.
_NO_RUN = re.compile(r"\.|_\[")


# What `gres/…` counts as an accelerator: GPUs, Hygon's DCU, Ascend's NPU, Cambricon's MLU, Enflame's GCU. Shares of one
# (`mps`, `shard`) are none of their own.
ACCELERATORS = ("gpu", "dcu", "npu", "mlu", "gcu")

# sacct's other names of what is read here, in lower case.
_ALIASES = {"jobid": "JobID", "jobidraw": "JobIDRaw", "cluster": "Cluster", "dbindex": "DBIndex", "user": "User",
            "account": "Account", "partition": "Partition", "qos": "QOS", "submit": "Submit", "start": "Start",
            "end": "End", "elapsed": "Elapsed", "elapsedraw": "ElapsedRaw", "state": "State", "exitcode": "ExitCode",
            "ncpus": "AllocCPUS", "alloccpus": "AllocCPUS", "nnodes": "AllocNodes", "allocnodes": "AllocNodes",
            "alloctres": "AllocTRES", "suspended": "Suspended", "jobname": "JobName", "comment": "Comment",
            "submitline": "SubmitLine", "nodelist": "NodeList", "reqcpus": "ReqCPUS"}  # fmt: skip
LINE = "sacct-line"


def read_document(
    text: str, *, site_id: str, columns: Sequence[str] = (), zone: tzinfo = UTC, cpus_per_core: int = 1,
    separator: str = "|",
) -> Reading:  # fmt: skip
    """`sacct -P` as text. Without `columns` the first line names them. A name that holds the separator may be last."""
    lines = text.split("\n")
    if not columns and lines:
        columns = lines.pop(0).strip().split(separator)
    return read_rows(
        frame(lines, [_ALIASES.get(name.lower(), name) for name in columns], separator),
        lambda row: read(row, site_id=site_id, cpus_per_core=cpus_per_core, zone=zone),
        site_id=site_id,
        format_name="sacct/1",
    )


def frame(lines: Sequence[str], names: Sequence[str], separator: str) -> Iterator[dict[str, str]]:
    """Each line by the columns' names; one with too few words is kept as it is, and is a problem then."""
    for line in lines:
        if not line.strip():
            continue
        words = line.split(separator, len(names) - 1)
        if len(words) == len(names):
            yield dict(zip(names, words, strict=True))
        else:
            yield {LINE: line}


def read(fields: Mapping[str, str], *, site_id: str, cpus_per_core: int = 1, zone: tzinfo = UTC) -> UsageRecord | None:
    """One row as a usage record; None for a step, a bracket row and a run that has not ended."""
    if LINE in fields:
        raise ValueError("the line has too few columns")
    job_id = fields["JobID"]
    if _NO_RUN.search(job_id):
        return None
    state = _state(fields["State"])
    if state not in STATES:
        raise ValueError(f"unknown state {fields['State']!r}")
    if state in LIVE or (state in FLAGS and moment(fields["End"], zone) is None):
        return None
    submit, start, end, elapsed = _times(fields, zone)
    cpus, nodes = whole(fields["AllocCPUS"]), whole(fields.get("AllocNodes", ""))
    ran = _ran(start, cpus, fields.get("NodeList", ""))
    if ran and end is None:
        raise ValueError("it has no end")
    cores = -(-cpus // cpus_per_core)
    tres = _tres(fields.get("AllocTRES", ""))
    suspended = _suspended(fields.get("Suspended", ""))
    # Nobody can change a submit line later; its first tag is the job name's, whatever paths follow.
    tags = _TAG.findall(" ".join(fields.get(name, "") for name in ("SubmitLine", "JobName", "Comment")))
    fenced = bool(tags) and fields.get("ExitCode") == FENCED_EXIT
    task = _TASK.search(job_id)
    return UsageRecord(
        site_id=site_id,
        run_key=_run_key(fields) + (RESIZING if state == "RESIZING" else ""),
        meter=Meter.CENTRE,
        kind=Kind.FENCED_COPY if fenced else Kind.RUN if ran else Kind.NEVER_RAN,
        native_id=job_id.partition("_")[0],
        task=int(task[1]) if task else None,
        state="REQUEUED" if state in REQUEUED else state,
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
        requested_cores=_requested(fields.get("ReqCPUS", ""), fields.get("ReqTRES", ""), cpus_per_core),
        cpus=cpus,
        threads_per_core=cpus_per_core,
        suspended_s=suspended,
        core_seconds=cores * elapsed if ran else 0,
        node_seconds=nodes * elapsed if ran else 0,
        # Suspension frees the CPUs only: accelerators and memory stay with the job (accounting.md, trap 10).
        gpu_seconds=tres.get("accelerators", 0) * (elapsed + suspended) if ran else 0,
        memory_mib_seconds=tres.get("mem", 0) * (elapsed + suspended) if ran else 0,
        units=_licences(fields.get("AllocTRES", "")) if ran else {},
        tag=tags[0] if tags else "",
        # Slurm's elapsed time is the span without suspension, to the second: another figure is doubtful (trap 26).
        estimated=ran
        and start is not None
        and end is not None
        and abs((end - start).total_seconds() - elapsed - suspended) > SKEW_S,
        raw=dict(fields),
    )


def _times(fields: Mapping[str, str], zone: tzinfo) -> tuple[datetime | None, datetime | None, datetime | None, int]:
    """Submission, start, end, and seconds that it ran; of a resized run's later rows, those since the row before."""
    submit, start, end = (moment(fields[name], zone) for name in ("Submit", "Start", "End"))
    elapsed = _elapsed(fields)
    if start is not None and submit is not None and end is not None and submit > start:
        elapsed = min(elapsed, max(0, int((end - submit).total_seconds())))
        start = submit
    if start is not None and end is not None and end < start:
        raise ValueError("it ends before it starts")
    return submit, start, end, elapsed


def _state(text: str) -> str:
    """The state without what follows it: `CANCELLED by 1000` (accounting.md, trap 16)."""
    words = text.split()
    return words[0] if words else ""


def _ran(start: object, cpus: int, nodes: str) -> bool:
    """Whether it had resources, whatever became of it.

    A run of 0 s had its nodes; one that was canceled while it waited has a start too in old releases, but no node.
    """
    return start is not None and cpus > 0 and nodes != "None assigned"


def _elapsed(fields: Mapping[str, str]) -> int:
    """Seconds without suspension. An empty column is no 0: whoever exported it left the figure out."""
    if "ElapsedRaw" not in fields:
        return seconds(fields["Elapsed"])
    if not fields["ElapsedRaw"]:
        raise ValueError("ElapsedRaw is empty")
    return whole(fields["ElapsedRaw"], SECONDS_MAX)


def _run_key(fields: Mapping[str, str]) -> str:
    """The database's own number; a centre that leaves it out is known by id and submission, which a requeue renews.

    The components of a heterogeneous job have a number each in the database, and are told apart by their names where
    an export gives all of them the number of the whole.
    """
    if fields.get("DBIndex", "0") not in ("", "0"):
        return f"{fields['Cluster']}:{whole(fields['DBIndex'], 2**63)}"
    component = _COMPONENT.search(fields["JobID"])
    number = fields["JobIDRaw"] if component is None else f"{fields['JobIDRaw'].partition('+')[0]}{component[0]}"
    return f"{fields['Cluster']}:{number}:{fields['Submit']}"


def _suspended(text: str) -> int:
    return 0 if text == "00:00:00" else seconds(text)  # as good as every row


@lru_cache(maxsize=4096)
def _requested(cpus: str, tres: str, cpus_per_core: int) -> int | None:
    """Cores asked for: by `ReqCPUS`, else by the `cpu` of `ReqTRES`; None where neither tells."""
    said = cpus or next((item[4:] for item in tres.split(",") if item.startswith("cpu=")), "")
    return -(-whole(said) // cpus_per_core) if said else None


@lru_cache(maxsize=4096)
def _tres(text: str) -> Mapping[str, int]:
    """`cpu=4,mem=400M,gres/dcu=2`: memory in MiB, `accelerators` counted; unknown names are kept out."""
    found: dict[str, int] = {}
    gres: dict[str, dict[str, int]] = {}
    for item in filter(None, text.split(",")):
        name, _, value = item.partition("=")
        if name == "mem":
            found["mem"] = mib(value)
        elif name.startswith("gres/"):
            kind, _, model = name.removeprefix("gres/").partition(":")
            if kind in ACCELERATORS:
                gres.setdefault(kind, {})[model] = whole(value)
    found["accelerators"] = sum(_counted(models) for models in gres.values())
    return found


def _licences(text: str) -> Mapping[str, int]:
    """`license/shots=1000`: a centre sells what is counted, not timed, as Slurm's licences. What the run was given."""
    found = {}
    for item in filter(None, text.split(",")):
        name, _, value = item.partition("=")
        if name.startswith("license/") and UNIT.match(unit := name.removeprefix("license/")):
            found[unit] = whole(value)
    return found


def _counted(models: Mapping[str, int]) -> int:
    """A kind's own figure; a centre that tracks models only (`gres/gpu:a100`) has just their sum."""
    return models[""] if "" in models else sum(models.values())
