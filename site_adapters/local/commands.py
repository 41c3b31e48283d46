"""Calls of the shim: one program, JSON in and out; each builder beside its parser."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any

from site_adapters.command import Command, Output
from site_adapters.errors import CommandFailed, SiteUnreachable
from site_adapters.states import ObservedState, Reason
from site_adapters.types import Look, ObservedRun, RowProblem, SiteUsage, UsageBatch

# The shim's word -> what people see, and why.
STATE_MAP: dict[str, tuple[ObservedState, Reason]] = {
    "queued": (ObservedState.QUEUED, Reason.RESOURCES),
    "held": (ObservedState.HELD, Reason.HELD_BY_USER),
    "active": (ObservedState.ACTIVE, Reason.NONE),
    "completed": (ObservedState.COMPLETED, Reason.NONE),
    "failed": (ObservedState.FAILED, Reason.NONZERO_EXIT),
    "fenced": (ObservedState.FAILED, Reason.FENCED),
    "canceled": (ObservedState.CANCELED, Reason.NONE),
    "timeout": (ObservedState.FAILED, Reason.TIME_LIMIT),
    "node_fail": (ObservedState.FAILED, Reason.NODE_FAIL),
    "launch_failed": (ObservedState.FAILED, Reason.LAUNCH_FAILED),
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What the meter needs of a run, as text (see accounting/sources/local.py).
_USAGE = {
    "run_key": "key", "native_id": "id", "task": "task", "tag": "tag", "attempt": "attempt", "username": "username",
    "cores": "cores", "start": "start_ns", "end": "end_ns", "exit_code": "exit_code", "signal": "signal",
    "state": "state", "job_name": "name", "units": "units",
}  # fmt: skip


def call(root: str, verb: str, asked: dict[str, Any], *, write: bool = False) -> Command[dict[str, Any]]:
    """Run the shim's program under the account it is for."""
    program = str(files("site_adapters.local").joinpath("shim.py"))
    data = json.dumps(asked).encode()
    return Command((sys.executable, "-I", program, root, verb), _answer, stdin=data, write=write, deadline_s=60.0)


def _answer(output: Output) -> dict[str, Any]:
    if output.exit_code != 0:
        raise CommandFailed("the local runner failed", native_text=output.error_text)
    try:
        answer: dict[str, Any] = json.loads(output.stdout)
    except ValueError as exc:
        raise SiteUnreachable("the local runner's answer was cut") from exc
    return answer


def read_runs(rows: Sequence[dict[str, Any]], username: str) -> Look:
    """The shim's rows as observed runs."""
    runs: list[ObservedRun] = []
    problems: list[RowProblem] = []
    for row in rows:
        try:
            runs.append(_run(row, username))
        except (KeyError, TypeError, ValueError) as exc:
            problems.append(RowProblem(json.dumps(row), f"{type(exc).__name__}: {exc}"))
    return Look(tuple(runs), tuple(problems))


def _run(row: dict[str, Any], username: str) -> ObservedRun:
    state, reason = STATE_MAP.get(row["state"], (ObservedState.UNKNOWN, Reason.OTHER))
    return ObservedRun(
        native_id=row["id"],
        state=state,
        native_state=row["state"].upper(),
        task=row["task"],
        cluster="local",
        username=username,
        name=row["name"],
        tags_seen=(f"{row['tag']}.{row['attempt']}",),
        manifest=row.get("manifest", ""),
        reason=reason,
        native_reason=row.get("message", ""),
        exit_code=row.get("exit_code"),
        signal=row.get("signal"),
        submit_time=_time(row["submit_ns"]),
        start_time=_time(row["start_ns"]) if row.get("start_ns") else None,
        end_time=_time(row["end_ns"]) if row.get("end_ns") else None,
        cores=row["cores"],
    )


def read_usage(lines: Sequence[str]) -> UsageBatch:
    """Frame the meter's lines; their meaning is read by accounting."""
    usages: list[SiteUsage] = []
    problems: list[RowProblem] = []
    for line in lines:
        try:
            row = json.loads(line)
            fields = {ours: "" if row.get(theirs) is None else str(row[theirs]) for ours, theirs in _USAGE.items()}
            usages.append(SiteUsage("local/1", fields))
        except (ValueError, AttributeError) as exc:
            problems.append(RowProblem(line, f"{type(exc).__name__}: {exc}"))
    return UsageBatch(tuple(usages), tuple(problems))


def _time(nanoseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
