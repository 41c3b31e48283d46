"""From a PBS job's attributes to what became of the run: states, substates and exit statuses as tables."""

from __future__ import annotations

import re

from site_adapters.login_node.marks import FENCED, NOT_STARTED, manifest_in, tags_in
from site_adapters.pbs.attributes import Attributes, moment
from site_adapters.pbs.reasons import reason_of
from site_adapters.states import ObservedState, Reason
from site_adapters.types import ObservedRun

_S, _R = ObservedState, Reason
# One line for each letter of `man qstat`, job_state; ended ones (F, X, C) go by `end_of`.
STATE_MAP: dict[str, ObservedState] = {
    "B": _S.ACTIVE,  # an array of which a subjob has started
    "E": _S.ACTIVE,  # exiting: its output is being delivered
    "H": _S.HELD,
    "M": _S.UNKNOWN,  # moved to another server
    "Q": _S.QUEUED,
    "R": _S.ACTIVE,
    "S": _S.SUSPENDED,  # by the server, for a more important job
    "T": _S.QUEUED,  # in transit between queues
    "U": _S.SUSPENDED,  # by the workstation's owner
    "W": _S.QUEUED,  # its start time has not come
}
ENDED = frozenset({"F", "X", "C"})  # finished; array subjob that ended; Torque's completed
# Negative exit statuses: why PBS itself ended or did not start a run (src/include/job.h, JOB_EXEC_*).
OWN_ENDS: dict[int, Reason] = {
    -1: _R.LAUNCH_FAILED, -2: _R.LAUNCH_FAILED,  # before and after its files were staged
    -3: _R.NODE_FAIL,  # JOB_EXEC_RETRY
    -4: _R.NODE_FAIL, -5: _R.NODE_FAIL, -6: _R.NODE_FAIL,  # the node's daemon restarted
    -7: _R.LAUNCH_FAILED,  # restart failed
    -10: _R.LAUNCH_FAILED,  # bad uid
    -11: _R.PREEMPTED,  # rerun
    -12: _R.PREEMPTED,  # checkpointed
    -13: _R.LAUNCH_FAILED,  # password
    -14: _R.NODE_FAIL,  # a sister node could not start it
    -15: _R.NODE_FAIL,
    -16: _R.LAUNCH_FAILED, -17: _R.LAUNCH_FAILED, -18: _R.PREEMPTED, -19: _R.LAUNCH_FAILED,  # a hook's wish
    -20: _R.NODE_FAIL,  # its first node was lost
    -21: _R.LAUNCH_FAILED, -22: _R.LAUNCH_FAILED, -23: _R.LAUNCH_FAILED,  # security, hook error, Kerberos
    -24: _R.LIMIT, -25: _R.LIMIT,  # more cores than asked
    -26: _R.OUT_OF_MEMORY, -27: _R.OUT_OF_MEMORY,  # vmem, mem
    -28: _R.TIME_LIMIT, -29: _R.TIME_LIMIT,  # cput, walltime
    -30: _R.LAUNCH_FAILED,  # its output streams could not be joined
}  # fmt: skip
_DELETED, _FINISHED, _FAILED = "91", "92", "93"  # substates of history (src/include/job.h)
_TASK = re.compile(r"(\d+)\[(\d*)\](.*)", re.DOTALL)


def run_of(native_id: str, a: Attributes) -> ObservedRun | None:
    """One job or array task; None for an array's parent, which runs nothing itself. Raises ValueError, KeyError."""
    parent, task = job_and_task(native_id)
    if task is None and parent.partition(".")[0].endswith("[]"):
        return None
    letter = a["job_state"]
    ours = tags_in(f"{a.get('Job_Name', '')} {_free_text(a)}")
    started, ended_at = moment(a.get("stime", "")), None
    runs = int(a.get("run_count", "0") or "0")
    exit_code = signal = None
    if letter in ENDED:
        state, reason, exit_code, signal = end_of(a, ours=bool(ours))
        ended_at = moment(a.get("obittime", "")) or moment(a.get("mtime", ""))
        started = started if "Exit_status" in a else None
    else:
        state = STATE_MAP.get(letter, ObservedState.UNKNOWN)
        why = reason_of(letter, a.get("substate", ""), a.get("comment", ""))
        reason = why.reason if state in (_S.QUEUED, _S.HELD) else Reason.NONE
        # A requeued job still carries the start and the exit status of the run before.
        started = started if state in (_S.ACTIVE, _S.SUSPENDED) else None
    waits = state in (_S.QUEUED, _S.HELD)
    return ObservedRun(
        native_id=parent,
        state=state,
        native_state=f"{letter}/{a['substate']}" if "substate" in a else letter,
        task=task,
        cluster=native_id.partition(".")[2],
        username=a.get("Job_Owner", "").partition("@")[0],
        name=a.get("Job_Name", ""),
        tags_seen=ours,
        manifest=manifest_in(_free_text(a)),
        has_submit_line="Submit_arguments" in a,
        reason=reason,
        native_reason=a.get("comment", "") if waits else "",
        exit_code=exit_code,
        signal=signal,
        submit_time=moment(a.get("ctime", "")),
        start_time=started,
        end_time=ended_at,
        restarts=runs if waits else max(0, runs - 1),
        cores=None if waits else _cores(a),
    )


def job_and_task(native_id: str) -> tuple[str, int | None]:
    """`21[4].pbs01` is task 4 of `21[].pbs01`."""
    if not re.match(r"\d+(\[\d*\])?(\.|\Z)", native_id):
        raise ValueError(f"{native_id!r} is no job id")
    match = _TASK.match(native_id)
    if match is None:
        return native_id, None
    return f"{match[1]}[]{match[3]}", int(match[2]) if match[2] else None


def end_of(a: Attributes, *, ours: bool) -> tuple[ObservedState, Reason, int | None, int | None]:
    """State, reason, exit code and signal of an ended run, from substate and Exit_status together."""
    substate, text = a.get("substate", ""), a.get("Exit_status", "")
    if not text:  # it never ran
        if substate == _FINISHED:
            return _S.FAILED, _R.DEPENDENCY_FAILED, None, None  # the scheduler removed it: a parent failed
        if substate == _FAILED:
            return _S.FAILED, _R.LAUNCH_FAILED, None, None
        return _S.CANCELED, _R.NONE, None, None
    status = int(text)
    code, signal = (None, status - 256) if status > 256 else (status, None) if status >= 0 else (None, None)
    if substate == _DELETED:
        return _S.CANCELED, _R.NONE, code, signal  # by qdel, even where it trapped the signal and exited 0
    if status == 0:
        return _S.COMPLETED, _R.NONE, 0, None
    if status < 0:
        return _S.FAILED, OWN_ENDS.get(status, _R.OTHER), None, None
    if signal is not None:
        return _S.FAILED, _R.USER_SIGNAL, None, signal
    if ours and code == FENCED:
        return _S.FAILED, _R.FENCED, code, None
    if ours and code in NOT_STARTED:
        return _S.FAILED, _R.LAUNCH_FAILED, code, None
    return _S.FAILED, _R.NONZERO_EXIT, code, None


def _free_text(a: Attributes) -> str:
    """Where our token stands beside the name: some centres cut names."""
    variables = (v for k, v in a.items() if k.startswith("Variable_List"))
    return " ".join((*variables, a.get("Submit_arguments", "")))


def _cores(a: Attributes) -> int | None:
    """What it asked for; None where it takes whole nodes, whose size only the accounting log tells."""
    count = a.get("Resource_List.ncpus", "")
    if "excl" in a.get("Resource_List.place", "") or not (count.isascii() and count.isdigit()):
        return None
    return int(count)
