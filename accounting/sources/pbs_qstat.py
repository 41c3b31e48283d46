"""`qstat -x -f` of PBS, as JSON (also the JSON that is none: values are not always escaped) and as text.

It knows a job's last run only: earlier runs of a requeued job are in the server's log alone (`pbs_log`). Torque's
`qstat -f` is read as well: state `C`, other names of times and exit status, `exec_host` in place of `exec_vnode`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, tzinfo
from typing import Any

from accounting.sources.figures import between, c_time, seconds, whole
from accounting.sources.pbs_log import FENCED_EXIT, SKEW_S, job_and_task, state_of, taken
from accounting.sources.reading import Reading, read_rows
from accounting.usage import Kind, Meter, UsageRecord

FORMAT = "pbs-qstat/1"

_JOB = re.compile(r'\t\t"([^"\t]+)":\t\{\s*\Z')
_MEMBER = re.compile(r'(\t{3,4})"([^"\t]+)":\t(.*?),?\s*\Z')
_HOSTS = frozenset({"exec_vnode", "exec_host"})
# Torque's words for the same (site_adapters.pbs gives them renamed already).
_NAMES = {"exit_status": "Exit_status", "comp_time": "obittime", "start_time": "stime"}
_TAG = re.compile(r"\bp[a-z0-9]{15}\.\d+\b")


def read_document(text: str, *, site_id: str, zone: tzinfo = UTC, cores_per_node: int | None = None) -> Reading:
    """Every job of one answer; `zone` is the client's (the adapter asks with TZ=UTC)."""
    return read_rows(
        frame(text),
        lambda row: read(row, site_id=site_id, zone=zone, cores_per_node=cores_per_node),
        site_id=site_id,
        format_name=FORMAT,
    )


def frame(text: str) -> Iterator[dict[str, str]]:
    """One flat row for each job: `Job_Id`, and members as `Resource_List.ncpus`."""
    if not text.lstrip().startswith("{"):
        yield from _from_text(text)
        return
    try:
        jobs = json.loads(text).get("Jobs", {})
    except (ValueError, AttributeError, RecursionError):
        yield from _from_broken_json(text)
        return
    for job_id, members in jobs.items() if isinstance(jobs, dict) else ():
        yield {"Job_Id": job_id, **_flat(members)} if isinstance(members, dict) else {"Job_Id": job_id}


def read(
    fields: Mapping[str, str], *, site_id: str, cpus_per_core: int = 1, zone: tzinfo = UTC,
    cores_per_node: int | None = None,
) -> UsageRecord | None:  # fmt: skip
    """One finished job; None while it has not ended, for an array's parent, and for one that never ran."""
    native_id, task = job_and_task(fields["Job_Id"])
    if fields["job_state"] not in ("F", "X", "C") or (task is None and "[" in native_id):
        return None
    if "Exit_status" not in fields or "stime" not in fields or not _HOSTS & fields.keys():
        return None
    status = int(fields["Exit_status"])
    start, end = c_time(fields["stime"], zone), c_time(fields.get("obittime") or fields["mtime"], zone)
    runs = whole(fields.get("run_count", "0"))  # as in the log, whose runs have the same keys
    took = taken(fields, {}, cores_per_node=cores_per_node)
    walltime, span = seconds(fields.get("resources_used.walltime", "")), between(start, end)
    elapsed = walltime if walltime or span <= SKEW_S else span
    cores = -(-took.cores // cpus_per_core)
    tags = _TAG.findall(f"{fields.get('Job_Name', '')} {fields.get('Account_Name', '')}")
    fenced = bool(tags) and status == FENCED_EXIT
    return UsageRecord(
        site_id=site_id,
        run_key=f"{fields['Job_Id']}:{runs}:{int(start.timestamp())}",
        meter=Meter.CENTRE,
        kind=Kind.FENCED_COPY if fenced else Kind.RUN if elapsed > 0 else Kind.NEVER_RAN,
        native_id=native_id,
        task=task,
        state=state_of(status, requeued=False),
        username=fields["Job_Owner"].partition("@")[0],
        job_name=fields.get("Job_Name", ""),
        account=fields.get("Account_Name", ""),
        queue=fields.get("queue", ""),
        submit_time=c_time(fields["ctime"], zone) if "ctime" in fields else None,
        start_time=start,
        end_time=end,
        cores=cores,
        nodes=took.nodes,
        exclusive=took.exclusive,
        requested_cores=took.requested(cpus_per_core),
        cpus=took.cores,
        threads_per_core=cpus_per_core,
        elapsed_s=elapsed,
        core_seconds=cores * elapsed,
        node_seconds=took.nodes * elapsed,
        gpu_seconds=took.gpus * elapsed,
        memory_mib_seconds=took.memory_mib * elapsed,
        tag=tags[0] if tags else "",
        estimated=not took.exact or runs > 1 or abs(span - elapsed) > SKEW_S,
        raw=dict(fields),
    )


def _flat(members: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in members.items():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": str(v) for inner, v in value.items() if name != "Variable_List"}
        else:
            found[name] = str(value)
    return found


def _from_broken_json(text: str) -> Iterator[dict[str, str]]:
    """PBS prints one member a line, indented by tabs: what breaks one value need not cost the others.

    A job ends where its own indentation closes, so that a value cannot pretend to be the next job.
    """
    row: dict[str, str] | None = None
    group = ""
    for line in text.split("\n"):
        if opened := _JOB.match(line):
            if row is not None:
                yield row
            row, group = {"Job_Id": opened[1]}, ""
        elif row is not None and (member := _MEMBER.match(line)):
            depth, name, value = len(member[1]), member[2], member[3]
            if depth == 3:
                group = name if value == "{" else ""
            if value != "{" and group != "Variable_List":
                row.setdefault(f"{group}.{name}" if depth == 4 and group else name, _value(value))
        elif row is not None and re.match(r"\t\t\}", line):
            yield row
            row = None
    if row is not None:
        yield row


def _value(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def _from_text(text: str) -> Iterator[dict[str, str]]:
    """`Job Id: …`, then ` name = value`; a line that begins with a tab goes on the one before."""
    unfolded = text.replace("\n\t", "")
    for block in re.split(r"(?m)^Job Id: ", unfolded)[1:]:
        head, *lines = block.split("\n")
        row = {"Job_Id": head.strip()}
        for line in lines:
            match = re.match(r"    ([A-Za-z_][\w.]*) = (.*)\Z", line)
            if match is not None:
                row.setdefault(_NAMES.get(match[1], match[1]), match[2])
        yield row
