"""Slurm's commands: each builder beside the parser of its answer; states, errors and formats as tables.

Sources: the manuals of 22.05, and what a real 22.05.8 answered (tests/recorded/slurm/22.05).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from site_adapters.command import Command, Output
from site_adapters.errors import CommandFailed, Refused, SiteError, SiteUnreachable
from site_adapters.indices import expand
from site_adapters.login_node.errors import ErrorRule, busy, by_text, not_found, refused, rules, unreachable
from site_adapters.login_node.marks import FENCED, NOT_STARTED, manifest_in, tags_in
from site_adapters.slurm.reasons import reason_of
from site_adapters.states import ObservedState, Reason
from site_adapters.types import Accepted, Look, ObservedRun, Rejected, RowProblem, SubmitOutcome, Unknown

SEPARATOR = "\x1f"
# sbatch itself tries for up to 120 s before it gives up (src/sbatch/sbatch.c).
SUBMIT_DEADLINE_S = 150.0

_S = ObservedState
# One line for each word of `man squeue` and `man sacct`, JOB STATE CODES, and of the flags that newer releases show in
# their place (slurm.schedmd.com/job_state_codes.html). A flag is never final: what is requeued goes on.
STATE_MAP: dict[str, ObservedState] = {
    "BOOT_FAIL": _S.FAILED,  # the nodes did not boot
    "CANCELLED": _S.CANCELED,  # by the user or an administrator
    "COMPLETED": _S.COMPLETED,  # all processes ended with 0
    "COMPLETING": _S.ACTIVE,  # some processes may still be active
    "CONFIGURING": _S.QUEUED,  # resources are allocated, not yet ready
    "DEADLINE": _S.FAILED,  # ended at its deadline
    "EXPEDITING": _S.QUEUED,  # requeued, with the highest priority there is
    "FAILED": _S.FAILED,  # non-zero exit code
    "LAUNCH_FAILED": _S.HELD,  # its nodes could not start it (a prolog failed): requeued and held
    "NODE_FAIL": _S.FAILED,  # an allocated node failed
    "OUT_OF_MEMORY": _S.FAILED,
    "PENDING": _S.QUEUED,
    "POWER_UP_NODE": _S.QUEUED,  # its nodes are being powered up
    "PREEMPTED": _S.FAILED,  # a requeued one is seen as PENDING again
    "RECONFIG_FAIL": _S.HELD,  # its nodes could not be set up: requeued and held
    "RUNNING": _S.ACTIVE,
    "RESV_DEL_HOLD": _S.HELD,  # its reservation was deleted
    "REQUEUE_FED": _S.QUEUED,  # requeued by a federation
    "REQUEUE_HOLD": _S.HELD,  # requeued and held
    "REQUEUED": _S.REQUEUED,  # this run ended, the next one is queued
    "RESIZING": _S.ACTIVE,  # about to change size
    "REVOKED": _S.CANCELED,  # another cluster of the federation took it
    "SIGNALING": _S.ACTIVE,
    "SPECIAL_EXIT": _S.HELD,  # requeued in a special state
    "STAGE_OUT": _S.ACTIVE,
    "STOPPED": _S.SUSPENDED,  # stopped, keeps its cores
    "SUSPENDED": _S.SUSPENDED,  # suspended, its cores are free
    "TIMEOUT": _S.FAILED,
    "UPDATE_DB": _S.ACTIVE,  # the database is being told
}
# Flags of a job that waits again: a row of accounting with one of them, and with an end, is a run that is over.
_AGAIN = frozenset({"EXPEDITING", "LAUNCH_FAILED", "RECONFIG_FAIL", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"})
# After a row with one of these another row of the same task is its next run.
_REQUEUED = _AGAIN | {"REQUEUED", "PREEMPTED", "NODE_FAIL"}
_END_REASON: dict[str, Reason] = {
    "BOOT_FAIL": Reason.LAUNCH_FAILED,
    "DEADLINE": Reason.DEADLINE,
    "NODE_FAIL": Reason.NODE_FAIL,
    "OUT_OF_MEMORY": Reason.OUT_OF_MEMORY,
    "PREEMPTED": Reason.PREEMPTED,
    "TIMEOUT": Reason.TIME_LIMIT,
}
# sacct without explicit states leaves out jobs that never became eligible.
ALL_STATES = "BF,CA,CD,DL,F,NF,OOM,PD,PR,R,RQ,RS,RV,S,TO"


# In order; texts of src/common/slurm_errno.c and of the recordings.
ERRORS: tuple[ErrorRule, ...] = rules(
    (
        (r"Socket timed out on send/recv", unreachable),
        (r"Unable to contact slurm controller", unreachable),
        (r"Zero Bytes were transmitted", unreachable),
        (r"Munge|authentication error|Protocol authentication", unreachable),
        (r"Problem talking to the database|Unable to contact slurmdbd|DBD", unreachable),
        (r"Slurm temporarily unable to accept job", busy),
        (r"Resource temporarily unavailable", busy),
        (r"\b(QOS|Assoc)(Max|Min|Grp)\w*Limit|Job violates accounting/QOS policy", busy),
        (r"Required partition not available|partition .* (is )?(inactive|down|drain)", busy),
        (r"Invalid job id specified|Job/step already completing or completed|Job has already finished", not_found),
        (r"Invalid partition name|invalid partition specified", refused("queue")),
        (r"Invalid account or account/partition", refused("account")),
        (r"Invalid qos specification", refused("qos")),
        (r"Requested time limit is invalid", refused("duration")),
        (r"Node count specification invalid|More processors requested|node configuration is not available",
         refused("resources")),
        (r"Access/permission denied|User's group not permitted|Invalid user id", refused("permission")),
    )
)  # fmt: skip


def classify(output: Output, site_rules: Sequence[ErrorRule] = ()) -> SiteError:
    """The error that a failed command means: the centre's own texts first, then Slurm's, then its exit code."""
    text = output.error_text
    first = next((line for line in text.splitlines() if "error" in line.lower()), text.partition("\n")[0])
    message = first.strip() or f"exit code {output.exit_code} without a word"
    return by_text(text, message, (site_rules, ERRORS)) or CommandFailed(message, native_text=text)


# ---------------------------------------------------------------- submit

_PARSABLE = re.compile(r"^(\d+)(?:;(\S+))?$", re.MULTILINE)
_SENTENCE = re.compile(r"[Ss]ubmitted batch job (\d+)(?: on cluster (\S+))?")


def sbatch(argv: tuple[str, ...], script: str, site_rules: Sequence[ErrorRule]) -> Command[SubmitOutcome]:
    """Submit a script on stdin. An answer that was not seen whole is `OutcomeUnknown`, by the transport."""
    data = script.encode("utf-8", "surrogateescape")
    return Command(argv, lambda out: read_sbatch(out, site_rules), stdin=data, write=True, deadline_s=SUBMIT_DEADLINE_S)


def read_sbatch(output: Output, site_rules: Sequence[ErrorRule] = ()) -> SubmitOutcome:
    """The id, whatever banners stand around it; a time-out inside sbatch leaves the outcome unknown."""
    text = output.text
    match = _PARSABLE.search(text) or _SENTENCE.search(text)
    if match is not None and output.exit_code == 0:
        return Accepted(match[1], match[2] or "")
    error = classify(output, site_rules)
    match error:
        case SiteUnreachable():
            return Unknown(str(error))
        case CommandFailed() if output.exit_code == 0 or match is not None or not output.error_text:
            # Where it refuses it says so: an id, or no word at all, comes from a cut or a centre's own wrapper.
            return Unknown(f"sbatch said neither yes nor no (exit code {output.exit_code}): {output.error_text[:500]}")
        case Refused(code=code):
            return Rejected(str(error), code=code)
        case _ if output.exit_code >= 128 and output.exit_code != 255:
            return Unknown(f"sbatch was killed (exit code {output.exit_code})")
        case _:
            return Rejected(str(error), retryable=error.retryable, code="limit" if error.retryable else "refused")


# ---------------------------------------------------------------- look

# A field with a suffix is printed whole (without one it is cut to 20 characters). The free texts come last, and each
# row ends with a mark of its own: names and comments may hold separators and line breaks. The mark is drawn anew for
# each question, so that nobody can write a second row, about another person's job, into the name of their own.
_END = "\x1e"
_FIELDS = (
    "JobArrayID", "JobID", "ArrayJobID", "ArrayTaskID", "State", "Reason", "SubmitTime", "StartTime", "EndTime",
    "NumCPUs", "UserName", "RestartCnt", "exit_code", "Comment", "Name",
)  # fmt: skip
_SQUEUE_FORMAT = ",".join(f"{name}:{SEPARATOR}" for name in _FIELDS[:-1]) + f",{_FIELDS[-1]}:"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def squeue(program: str, *, user: str | None) -> Command[Look]:
    """All jobs that the controller still knows, finished ones included; of one user, or of everybody."""
    who = ("--user", user) if user is not None else ()
    end = _END + secrets.token_hex(8)
    argv = (program, "--noheader", "--all", "--states=all", *who, f"--Format={_SQUEUE_FORMAT}{end}")
    return Command(
        argv, lambda out: read_squeue(out, end), deadline_s=60.0, env=(("SLURM_TIME_FORMAT", "%s"), ("TZ", "UTC"))
    )


def read_squeue(output: Output, end: str = _END) -> Look:
    """One run for each row; an array's bracket row becomes one run for each waiting task."""
    if output.exit_code != 0:
        return Look(error=str(classify(output)))
    runs: list[ObservedRun] = []
    problems: list[RowProblem] = []
    for piece in output.text.split(end + "\n"):
        banner, row = _apart(piece, SEPARATOR)
        if banner:
            problems.append(RowProblem(banner, "it stands before a row"))
        if not row.strip():
            continue
        try:
            runs += _squeue_row(row)
        except (ValueError, OverflowError) as exc:
            problems.append(RowProblem(row, str(exc)))
    return Look(tuple(runs), tuple(problems))


def _apart(piece: str, separator: str) -> tuple[str, str]:
    """(what a login prints before a row, the row): no first field holds a line break."""
    if separator not in piece:
        return "", piece
    first, mark, rest = piece.partition(separator)
    banner, _, first = first.rpartition("\n")
    return banner.strip(), first + mark + rest


def _squeue_row(row: str) -> list[ObservedRun]:
    parts = row.split(SEPARATOR, len(_FIELDS) - 1)
    if len(parts) != len(_FIELDS):
        raise ValueError(f"{len(parts)} fields instead of {len(_FIELDS)}")
    full, raw, parent, task, word, native_reason, submit, start, end, cpus, user, restarts, status, comment, name = (
        parts
    )
    state = STATE_MAP.get(word, ObservedState.UNKNOWN)
    exit_code, signal = _wait_status(status) if state.final else (None, None)
    tags = tags_in(f"{name} {comment}")
    waits = state in (_S.QUEUED, _S.HELD)
    reason = reason_of(native_reason).reason if waits else _ended(word, exit_code, str(signal or 0), bool(tags))
    if state is _S.QUEUED and reason in (Reason.HELD_BY_USER, Reason.HELD_BY_CENTRE):
        state = _S.HELD
    if native_reason == "None":
        native_reason = ""
    started = None if state in (_S.QUEUED, _S.HELD) else _epoch(start)
    run = ObservedRun(
        native_id=parent if "_" in full else raw,
        state=state,
        native_state=word,
        username=user,
        name=name,
        tags_seen=tags,
        manifest=manifest_in(comment),
        reason=reason,
        native_reason=native_reason,
        exit_code=exit_code,
        signal=signal,
        submit_time=_epoch(submit),
        start_time=started,
        end_time=_epoch(end) if state.final else None,
        restarts=int(restarts) if restarts.isdigit() else 0,
        cores=int(cpus) if cpus.isdigit() and state is not _S.QUEUED else None,
    )
    return [_with_task(run, t) for t in _tasks(full, task)]


def _wait_status(text: str) -> tuple[int | None, int | None]:
    """squeue shows the status of wait(2): exit code in the upper byte, signal in the lower seven bits."""
    if not text.isdigit():
        return None, None
    status = int(text)
    return status >> 8, (status & 0x7F) or None


def _tasks(full: str, task: str) -> tuple[int | None, ...]:
    if "_" not in full:
        return (None,)
    text = full.partition("_")[2]
    if not text.startswith("["):
        return (int(text),)
    listed = task if task not in ("", "N/A") else text
    return expand(listed.strip("[]").partition("%")[0])


def _with_task(run: ObservedRun, task: int | None) -> ObservedRun:
    return run if task is None else replace(run, task=task)


def _epoch(text: str) -> datetime | None:
    if not (text.isascii() and text.isdigit()) or text == "0":
        return None
    if int(text) > 253_402_300_799:
        raise ValueError(f"{text} is no time")
    return _EPOCH + timedelta(seconds=int(text))


# ---------------------------------------------------------------- account

# Free text last: a job's name may hold a separator or a line break.
SACCT_FIELDS = (
    "DBIndex", "Cluster", "JobID", "JobIDRaw", "User", "UID", "Account", "QOS", "Partition", "State", "ExitCode",
    "Submit", "Eligible", "Start", "End", "ElapsedRaw", "Suspended", "AllocCPUS", "AllocNodes", "AllocTRES",
    "ReqTRES", "Reason", "NodeList", "SubmitLine", "Comment", "JobName",
)  # fmt: skip
# The fixed fields of a row: its database index, cluster, job id, raw id, and all that follow up to the free texts.
_BEGINS = rf"\d*{SEPARATOR}[\w.-]+{SEPARATOR}[\d_\[\]%,:+.-]+{SEPARATOR}\d+{SEPARATOR}"
_NUMBER = re.compile(r"\d{1,19}", re.ASCII)
_WIDE = {"State": "%40", "AllocTRES": "%200", "ReqTRES": "%200", "SubmitLine": "%4000", "Comment": "%4000"}


@dataclass(frozen=True, slots=True)
class AccountingRows:
    """Rows as mappings of sacct's own field names, and those that do not frame."""

    rows: tuple[dict[str, str], ...]
    problems: tuple[RowProblem, ...]


def sacct(
    program: str,
    *,
    since: datetime,
    until: datetime | None = None,
    ids: Sequence[str] = (),
    users: Sequence[str] = (),
    everybody: bool = False,
) -> Command[AccountingRows]:
    """Allocations, every run of them (`-D`), times as epoch seconds."""
    start = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    end = "now" if until is None else until.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    which: tuple[str, ...] = ("-j", ",".join(ids)) if ids else ()
    who: tuple[str, ...] = ("-a",) if everybody else ("-u", ",".join(users)) if users else ()
    names = ",".join(name + _WIDE.get(name, "") for name in SACCT_FIELDS)
    separator = SEPARATOR + secrets.token_hex(8) + SEPARATOR  # as with squeue: nobody can write a row into a name
    argv = (
        program, *who, *which, "-X", "-D", "--parsable", "--noheader", "--noconvert", f"--delimiter={separator}",
        "-s", ALL_STATES, "-S", start, "-E", end, "-o", names,
    )  # fmt: skip
    env = (("SLURM_TIME_FORMAT", "%s"), ("TZ", "UTC"))
    return Command(argv, lambda out: read_sacct(out, separator), deadline_s=120.0, env=env)


def read_sacct(output: Output, separator: str = SEPARATOR) -> AccountingRows:
    """Frame the rows: each ends with the separator and a line break (`--parsable`), whatever its free texts hold.

    What does not begin as a row goes on in the one before as long as that lacks fields: a comment or a name may begin
    with a line break.
    """
    if output.exit_code != 0:
        raise classify(output)
    begins = re.compile(_BEGINS.replace(SEPARATOR, re.escape(separator)))
    end, most = f"{separator}\n", len(SACCT_FIELDS) - 1
    *ended, cut = output.text.split(end)
    texts: list[str] = []
    problems: list[RowProblem] = []
    for piece in ended:
        banner, text = _apart(piece, separator)
        if banner and begins.match(text):
            problems.append(RowProblem(banner, "it stands before a row"))
        else:
            text = piece
        if texts and not begins.match(text) and texts[-1].count(separator) + 1 + text.count(separator) <= most:
            texts[-1] += end + text
        else:
            texts.append(text)
    rows: list[dict[str, str]] = []
    for text in texts:
        fields = text.split(separator)
        if len(fields) == len(SACCT_FIELDS) and _NUMBER.fullmatch(fields[0]):
            rows.append(dict(zip(SACCT_FIELDS, fields, strict=True)))
        else:
            why = f"no number in front, or {len(fields)} fields instead of {len(SACCT_FIELDS)}"
            problems.append(RowProblem(text, why))
    if cut:
        problems.append(RowProblem(cut, "it was cut"))
    return AccountingRows(tuple(rows), tuple(problems))


def runs_of(found: AccountingRows) -> Look:
    """Accounting rows as observed runs: the runs of one task are numbered in the order they were submitted."""
    runs: list[ObservedRun] = []
    problems = list(found.problems)
    ordered = sorted(found.rows, key=lambda r: (r["JobID"], int(r["Submit"]) if _NUMBER.fullmatch(r["Submit"]) else 0,
                                                int(r["DBIndex"])))  # fmt: skip
    restarts: dict[str, int] = {}
    last: dict[str, dict[str, str]] = {}
    for row in ordered:
        try:
            restart = 0
            before = last.get(row["JobID"])
            if before is not None and before["State"].partition(" ")[0] in _REQUEUED:
                restart = restarts[row["JobID"]] + 1
            restarts[row["JobID"]], last[row["JobID"]] = restart, row
            runs += _sacct_row(row, restart)
        except (ValueError, OverflowError) as exc:
            problems.append(RowProblem(SEPARATOR.join(row.values()), str(exc)))
    return Look(tuple(runs), tuple(problems))


def _sacct_row(row: dict[str, str], restart: int) -> list[ObservedRun]:
    word = (row["State"].split() or [""])[0]
    state = STATE_MAP.get(word, ObservedState.UNKNOWN)
    if state is _S.ACTIVE and word == "RESIZING":
        return []  # the row after it is the job's
    if word in _AGAIN and _epoch(row["End"]) is not None:
        state = _S.REQUEUED
    code, _, signal = row["ExitCode"].partition(":")
    free = " ".join((row["JobName"], row["Comment"], row["SubmitLine"]))
    tags = tags_in(free)
    manifest = manifest_in(row["Comment"]) or manifest_in(row["SubmitLine"])
    exit_code = int(code) if code.isdigit() and state.final else None
    run = ObservedRun(
        native_id=row["JobID"].partition("_")[0].partition("+")[0],
        state=state,
        native_state=row["State"],
        cluster=row["Cluster"],
        username=row["User"],
        name=row["JobName"],
        tags_seen=tags,
        manifest=manifest,
        has_submit_line=bool(row["SubmitLine"]),
        reason=_ended(word, exit_code, signal, bool(tags)),
        native_reason="" if row["Reason"] == "None" else row["Reason"],
        exit_code=exit_code,
        signal=int(signal) if signal.isdigit() and signal != "0" and state.final else None,
        submit_time=_epoch(row["Submit"]),
        start_time=_epoch(row["Start"]) if state not in (_S.QUEUED, _S.HELD) else None,
        end_time=_epoch(row["End"]),
        restarts=restart,
        cores=int(row["AllocCPUS"]) if row["AllocCPUS"].isdigit() else None,
        source="accounting",
    )
    if run.start_time is not None and run.end_time is not None and row["ElapsedRaw"] == "0" and state is _S.CANCELED:
        run = replace(run, start_time=None)  # canceled while it waited: Start repeats End
    task = row["JobID"].partition("_")[2]
    if not task:
        return [run]
    tasks = expand(task.strip("[]").partition("%")[0])
    return [replace(run, task=t) for t in tasks]


def _ended(word: str, exit_code: int | None, signal: str, ours: bool) -> Reason:
    if word in _END_REASON:
        return _END_REASON[word]
    if word != "FAILED":
        return Reason.NONE
    if exit_code == FENCED and ours:
        return Reason.FENCED
    if signal == "53" or exit_code in NOT_STARTED:
        return Reason.LAUNCH_FAILED  # no output file could be opened; no directory; no fence
    return Reason.USER_SIGNAL if signal not in ("", "0") else Reason.NONZERO_EXIT


# ---------------------------------------------------------------- act


def scancel(program: str, ids: Sequence[str]) -> Command[Output]:
    """Cancel many; silent and 0 for jobs that are over (only `-v` would tell)."""
    return Command((program, *ids), lambda out: out, write=True, deadline_s=60.0)


def cancel_waiting(program: str, ids: Sequence[str]) -> Command[Output]:
    """Cancel those of the jobs that have not begun."""
    return Command((program, "--state=PENDING", *ids), lambda out: out, write=True, deadline_s=60.0)


def signal(program: str, name: str, ids: Sequence[str]) -> Command[Output]:
    """A signal to all processes of running jobs, their batch shells too.

    Not for KILL: that is Slurm's word for canceling (TERM, then KillWait, 30 s by default), and what is being canceled
    takes no signal any more; with `--batch` it ends the shell, and leaves its children behind where Slurm follows
    processes without cgroups (all measured on 22.05).
    """
    return Command((program, f"--signal={name}", "--full", *ids), lambda out: out, write=True, deadline_s=20.0)


def scontrol(program: str, *words: str) -> Command[Output]:
    """hold, release, update: one command for many ids where Slurm takes a list."""
    return Command((program, *words), lambda out: out, write=True, deadline_s=60.0)


def ping(program: str) -> Command[tuple[bool, str]]:
    """Whether the controller answers: with it down, every other command hangs for MessageTimeout."""
    return Command((program, "ping"), _read_ping, deadline_s=15.0)


def _read_ping(output: Output) -> tuple[bool, str]:
    text = output.text.strip() or output.error_text
    return output.exit_code == 0 and " is UP" in output.text, text.partition("\n")[0]
