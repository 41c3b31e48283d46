"""PBS's commands: each builder beside the parser of its answer; states, ends and errors as tables.

Sources: the OpenPBS sources (pbs_error.h, job.h), and what a real 23.06.06 answered (tests/recorded/pbs).
Exit codes are PBS error numbers modulo 256. One id goes to each `qdel`: an unknown one beside others crashed a server.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from site_adapters.command import Command, Garbled, Output
from site_adapters.errors import CommandFailed, SiteError
from site_adapters.login_node.errors import ErrorRule, busy, by_text, not_found, refusal, refused, rules, unreachable
from site_adapters.pbs.attributes import Records, from_json, from_text
from site_adapters.pbs.runs import run_of
from site_adapters.types import Accepted, Look, ObservedRun, Rejected, RowProblem, SubmitOutcome, Unknown

T = TypeVar("T")

ENV = (("TZ", "UTC"), ("LC_ALL", "C"))
SUBMIT_DEADLINE_S = 150.0

# Texts of src/lib/Liblog/pbs_messages.c and of the recordings, in order.
ERRORS: tuple[ErrorRule, ...] = rules(
    (
        (r"cannot connect to server|Couldn't connect to cluster|Unknown Host", unreachable),
        (r"Connection refused|timed out", unreachable),
        (r"Premature end of message|pbs_iff|parse_daemon_response|No Permission\. *$", unreachable),
        (r"Unknown Job Id|Unknown Job Id Error|Job has finished|finished array subjob", not_found),
        (r"Queue is not enabled|would exceed .*limit|Maximum number of jobs", busy),
        (r"Request invalid for state of job|Server could not connect to MOM|cannot modify", busy),
        (r"Unknown queue|rejected by all possible destinations|Access to queue is denied", refused("queue")),
        (r"Job violates queue and/or server resource limits|Unknown resource|Illegal attribute|Array job exceeds",
         refused("resources")),
        (r"Unauthorized Request|Bad UID for job execution", refused("permission")),
    )
)  # fmt: skip
# For an exit code whose text we do not know (pbs_error.h, code modulo 256).
_BY_EXIT: dict[int, Callable[[str, str], SiteError]] = {
    153: not_found,  # 15001 unknown job id
    35: not_found,  # 15139 job has finished
    55: not_found,  # 15159 array subjob has finished
    160: unreachable,  # 15008 unknown host
    162: unreachable,  # 15010 system error: cannot connect
    171: unreachable,  # 15019 bad credential (pbs_iff failed)
    183: unreachable,  # 15031 protocol error
    185: unreachable,  # 15033 no connection
    186: unreachable,  # 15034 no server
    212: unreachable,  # 15060 server is down
    167: busy,  # 15015 cannot be changed while it runs
    168: busy,  # 15016 not in this state
    173: busy,  # 15021 queue is not enabled
    196: busy,  # 15044 resources not available
    198: busy,  # 15046 maximum number of jobs
    222: busy,  # 15070 the node's daemon does not answer
    38: busy,  # 15142 limit of queued jobs
    32: refused("site_policy"),  # 15136 rejected by a hook of the centre
    159: refused("permission"),  # 15007 unauthorized
    166: refused("resources"),  # 15014 illegal value
    170: refused("queue"),  # 15018 unknown queue
    174: refused("queue"),  # 15022 queue access denied
    175: refused("permission"),  # 15023 bad uid
    187: refused("resources"),  # 15035 unknown resource
    188: refused("resources"),  # 15036 over a limit
    191: refused("queue"),  # 15039 rejected by all destinations
}


def classify(output: Output, site_rules: Sequence[ErrorRule] = ()) -> SiteError:
    """The error that a failed command means: the centre's own texts, PBS's, then its exit code."""
    text = output.error_text
    lines = [line.strip() for line in output.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    usage = next((i for i, line in enumerate(lines) if line.startswith("usage:")), len(lines))
    # The last line tells; before a usage text it is the one that says what is wrong with it.
    message = (lines[:usage] or lines or [f"exit code {output.exit_code} without a word"])[-1][:300]
    known = by_text(text, message, (site_rules, ERRORS))
    if known is not None:
        return known
    make = _BY_EXIT.get(output.exit_code)
    return make(message, text) if make is not None else CommandFailed(message, native_text=text)


# ---------------------------------------------------------------- submit

_ID = re.compile(r"^(\d+(?:\[\])?(?:\.[A-Za-z0-9_.-]+)?)\s*$", re.MULTILINE)
_NOT_SENT = re.compile(r"cannot connect to server|Unknown Host|Connection refused")


def qsub(argv: tuple[str, ...], script: str, site_rules: Sequence[ErrorRule]) -> Command[SubmitOutcome]:
    """Submit a script on stdin."""
    data = script.encode("utf-8", "surrogateescape")
    return Command(
        argv, lambda out: read_qsub(out, site_rules), data, write=True, deadline_s=SUBMIT_DEADLINE_S, env=ENV
    )


def read_qsub(output: Output, site_rules: Sequence[ErrorRule] = ()) -> SubmitOutcome:
    """`123.server` or `123[].server` on a line of its own, whatever banners stand around it."""
    match = _ID.search(output.text)
    if match is not None and output.exit_code == 0:
        return Accepted(match[1], match[1].partition(".")[2])
    error = classify(output, site_rules)
    if match is not None or output.exit_code == 0 or 129 <= output.exit_code < 152:  # PBS's own codes begin at 152
        return Unknown(f"qsub ended with {output.exit_code}, and says neither yes nor no: {output.error_text[:500]}")
    if _NOT_SENT.search(output.error_text):
        return Rejected(str(error), retryable=True, code="site_down")
    return refusal(output, error, "qsub")


# ---------------------------------------------------------------- look

_NO_HISTORY = "not configured to maintain job history"
_ABSENT = re.compile(
    r"(?:Unknown Job Id(?: Error)?|Job has finished|maintain job history)\s+(\S+)|(\S+) Job has finished"
)


@dataclass(frozen=True, slots=True)
class Qstat:
    """How this centre is asked about jobs: `torque` knows neither JSON nor history."""

    program: str
    torque: bool = False

    def live(self, *, user: str | None) -> Command[Look]:
        """Every job that has not ended, each array task on its own; with `user` only that login's."""
        return self._asked(("-t",), lambda out, records: _listed(out, records, user))

    def ended(self, *, user: str | None) -> Command[Look]:
        """Every job that the server still knows."""
        return self._asked(("-t",) if self.torque else ("-x", "-t"), lambda out, records: _listed(out, records, user))

    def of(self, ids: Sequence[str]) -> Command[Look]:
        """These jobs, ended or not; good only if the server tells of each id, if only that it knows it not."""
        history = () if self.torque else ("-x",)
        return self._asked((*history, "-t", *ids), lambda out, records: _named(out, records, ids))

    def among_all(self, ids: Sequence[str]) -> Command[Look]:
        """These jobs out of a listing of all that the server still knows: for many, cheaper than naming each."""
        return self._asked(("-t",) if self.torque else ("-x", "-t"), lambda out, records: _chosen(out, records, ids))

    def raw(self) -> Command[Records]:
        """Every job that the server still knows, as its attributes."""

        def read(output: Output, records: Records) -> Records:
            if output.exit_code != 0:
                raise classify(output)
            if _NO_HISTORY in output.error_text:
                raise CommandFailed("this server keeps no job history: its accounting log must be read")
            return records

        return self._asked(("-t",) if self.torque else ("-x", "-t"), read)

    def _asked(self, words: tuple[str, ...], read: Callable[[Output, Records], T]) -> Command[T]:
        text = Command((self.program, "-f", *(("-1",) if self.torque else ()), *words),
                       lambda out: read(out, from_text(out.text)), deadline_s=120.0, env=ENV)  # fmt: skip
        if self.torque:
            return text

        def by_json(output: Output) -> T:
            if not output.stdout.strip() and output.exit_code != 0:
                return read(output, Records())
            try:
                records = from_json(output.text, "Jobs")
            except (ValueError, RecursionError) as exc:
                raise Garbled(f"qstat's JSON is none: {exc}", native_text=output.error_text, instead=text) from exc
            return read(output, records)

        return Command((self.program, "-f", "-F", "json", *words), by_json, deadline_s=120.0, env=ENV)


def _listed(output: Output, records: Records, user: str | None) -> Look:
    """A listing without ids: only exit code 0 is an answer. With the server down, the JSON looks like no jobs."""
    if output.exit_code != 0:
        return Look(error=str(classify(output)))
    if _NO_HISTORY in output.error_text:
        return Look(error="this server keeps no job history: say `accounting: {kept: false}` in its site file")
    look = _look(records)
    runs = look.runs if user is None else tuple(r for r in look.runs if r.username == user)
    return Look(runs, look.problems)


def _named(output: Output, records: Records, ids: Sequence[str]) -> Look:
    """Jobs that were asked for by id: one that is neither shown nor said to be unknown is hidden from this login.

    Or it was asked for beside an unknown one: then a real server answers about the first only.
    """
    said = {a or b for a, b in _ABSENT.findall(output.stderr.decode("utf-8", "replace"))}
    if output.exit_code not in (0, 35, 153) or (output.exit_code and not said):
        return Look(error=str(classify(output)))
    shown = {_plain(name) for name, _ in records.rows} | {_plain(name) for name in said}
    hidden = tuple(asked for asked in ids if _plain(asked) not in shown)
    look = _look(records)
    if hidden:
        what = f"{len(hidden)} of {len(ids)} jobs are hidden from this login: is query_other_jobs off?"
        return Look(look.runs, look.problems, error=what, unanswered=hidden)
    return look


def _chosen(output: Output, records: Records, ids: Sequence[str]) -> Look:
    """Some jobs out of a listing; of those that it lacks nothing is said: unknown, or hidden."""
    wanted = {_plain(asked) for asked in ids}
    rows = tuple((name, a) for name, a in records.rows if _plain(name) in wanted)
    look = _listed(output, replace(records, rows=rows), None)
    if not look.good:
        return look
    shown = {_plain(name) for name, _ in rows}
    left = tuple(asked for asked in ids if _plain(asked) not in shown)
    return replace(look, error="some are not among the jobs that this login sees", unanswered=left) if left else look


def _plain(native_id: str) -> str:
    """`12[3].pbs01` and `12[]` belong to `12[]`: what is asked with `-t` is answered by tasks."""
    return re.sub(r"\[\d*\]", "[]", native_id.partition(".")[0])


def _look(records: Records) -> Look:
    runs: list[ObservedRun] = []
    problems = list(records.problems)
    for native_id, attributes in records.rows:
        try:
            run = run_of(native_id, attributes)
        except (ValueError, OverflowError, KeyError) as exc:
            problems.append(RowProblem(f"{native_id}: {dict(attributes)}", f"{type(exc).__name__}: {exc}"))
            continue
        if run is not None:
            runs.append(run)
    return Look(tuple(runs), tuple(problems))


# ---------------------------------------------------------------- act


def act(program: str, *words: str) -> Command[Output]:
    """qdel, qhold, qrls, qalter, qmove: one id each."""
    return Command((program, *words), lambda out: out, write=True, deadline_s=60.0, env=ENV)


def server(program: str) -> Command[Records]:
    """The server's own attributes: `query_other_jobs`, `job_history_enable` …"""

    def read(output: Output) -> Records:
        if output.exit_code != 0:
            raise classify(output)
        return from_text(output.text, "Server")

    return Command((program, "-B", "-f"), read, deadline_s=30.0, env=ENV)


def ping(program: str) -> Command[tuple[bool, str]]:
    """Whether the server answers."""

    def read(output: Output) -> tuple[bool, str]:
        detail = "the server answers" if output.exit_code == 0 else str(classify(output))
        return output.exit_code == 0, detail

    return Command((program, "-B"), read, deadline_s=15.0, env=ENV)
