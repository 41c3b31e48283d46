"""Sunway's commands: each builder beside the parser of its answer; states and errors as tables.

Source: what is public about TaihuLight and its successor (shared facts, sunway.md); not yet verified at a centre.
`bsub` takes words only: no -W, no -e, no script on stdin, no #BSUB. `bjobs -l` tells no year, zone or exit code, and
answers "No match record found!" with exit code 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from site_adapters.command import Command, Output
from site_adapters.errors import CommandFailed, Refused, SiteError
from site_adapters.login_node.errors import ErrorRule, busy, by_text, not_found, refusal, refused, rules, unreachable
from site_adapters.login_node.marks import tags_in
from site_adapters.states import ObservedState, Reason
from site_adapters.sunway.reasons import reason_of
from site_adapters.types import Accepted, Look, ObservedRun, RowProblem, SubmitOutcome, Unknown

SUBMIT_DEADLINE_S = 150.0

_S = ObservedState
# The words of STAT and Status<…>.
STATE_MAP: dict[str, ObservedState] = {
    "PEND": _S.QUEUED,
    "STARTING": _S.QUEUED,  # chosen, not yet on its nodes
    "RUN": _S.ACTIVE,
    "EXITING": _S.ACTIVE,  # being cleared away
    "DONE": _S.COMPLETED,
    "EXIT": _S.FAILED,  # or canceled: only our own mark tells
    "CANCELED": _S.CANCELED,
    "TERM": _S.CANCELED,
    "PSUSP": _S.SUSPENDED,
    "USUSP": _S.SUSPENDED,
    "SSUSP": _S.SUSPENDED,
    "ZOMBI": _S.UNKNOWN,
    "UNKWN": _S.UNKNOWN,
}
ERRORS: tuple[ErrorRule, ...] = rules(
    (
        (r"fs base", refused("path")),
        (r"Access/permission denied", refused("permission")),
        (r"Queue is closed", refused("queue")),
        (r"ret = -40|resource quota", busy),
        (r"ret = -19|No enough compute nodes", refused("resources")),
        (r"Disk quota exceeded", refused("disk")),
        (r"wrong prog name|execvp\(", refused("option")),
        (r"No match record found", not_found),
        (r"already (been )?(finished|terminated)|has been finished", not_found),
        (r"[Cc]onnect(ion)? (refused|timed out)|not responding|plugin_load_from_file", unreachable),
    )
)
_NO_STAGING, _NO_DIRECTORY = 74, 73


def classify(output: Output, site_rules: Sequence[ErrorRule] = ()) -> SiteError:
    """The error that a failed command means: the centre's own texts first."""
    text = output.error_text
    said = [line.strip() for line in text.splitlines() if line.strip() and "setlocale" not in line]
    message = (said or [f"exit code {output.exit_code} without a word"])[-1][:300]
    return by_text(text, message, (site_rules, ERRORS)) or CommandFailed(message, native_text=text)


# ---------------------------------------------------------------- submit

# Before bsub, in the same round trip and never failing silently: the script (for a bare program, the mark that no fence
# stands there) and the record of what was asked. After it the record is bound to the id.
_SUBMIT = """umask 077
root=$1 name=$2 kind=$3 record=$4 dir=$5; shift 5
if [ "$kind" = script ]; then
  cat >"$root/jobs/$name.part" && mv -f "$root/jobs/$name.part" "$root/jobs/$name.sh" || exit 74
else
  ln -s direct:unfenced "$root/fence/$name" || exit 74
fi
printf '%s\\n' "$record" >"$root/usage/$name" || exit 74
cd "$dir" || exit 73
answer=$("$@" </dev/null 2>&1)
code=$?
printf '%s\\n' "$answer"
id=$(printf '%s\\n' "$answer" | sed -n 's/.*Job *<\\([0-9][0-9]*\\)>.*submitted.*/\\1/p' | sed -n 1p)
[ -z "$id" ] || ln -s "$name" "$root/ids/$id" 2>/dev/null
exit "$code"
"""
# IBM's LSF says "is submitted", Sunway "has been submitted".
_ID = re.compile(r"Job\s*<(\d+)>\s+(?:has been|is)\s+submitted")


@dataclass(frozen=True, slots=True)
class Staged:
    """What is put beside a submission: its staging root, name, record for the meter, directory and script (or none)."""

    root: str
    name: str
    record: str
    directory: str
    script: str | None


def bsub(argv: tuple[str, ...], staged: Staged, site_rules: Sequence[ErrorRule]) -> Command[SubmitOutcome]:
    """Stage and submit in one round trip."""
    kind = "direct" if staged.script is None else "script"
    words = (staged.root, staged.name, kind, staged.record, staged.directory)
    data = (staged.script or "").encode("utf-8", "surrogateescape")
    return Command(("/bin/sh", "-c", _SUBMIT, "bsub", *words, *argv), lambda out: read_bsub(out, site_rules), data,
                   write=True, deadline_s=SUBMIT_DEADLINE_S)  # fmt: skip


def read_bsub(output: Output, site_rules: Sequence[ErrorRule] = ()) -> SubmitOutcome:
    """The id in "Job <N> has been submitted to queue <Q>", whatever stands around it."""
    match = _ID.search(output.text)
    if match is not None:
        return Accepted(match[1], "sunway")
    if output.exit_code == _NO_DIRECTORY:
        return refusal(output, Refused("its directory is not there", code="path"), "bsub")
    if output.exit_code == _NO_STAGING:
        return refusal(output, Refused("the staging area cannot be written", code="staging"), "bsub")
    if output.exit_code == 0 and by_text(output.error_text, "", (site_rules, ERRORS)) is None:
        return Unknown(f"bsub said neither yes nor no: {output.error_text[:500]}")
    if output.exit_code >= 129 and output.exit_code != 255:
        return Unknown(f"bsub was killed (exit code {output.exit_code})")
    return refusal(output, classify(output, site_rules), "bsub")


# ---------------------------------------------------------------- look

_NONE = "No match record found"
# What may stand there without a job: "nothing found", and the shell's own complaint that public notes tell of.
_NOISE = re.compile(rf"(?:\s*(?:{_NONE}.*|.*setlocale.*)?\n?)*")
_BLOCK = re.compile(r"(?m)^(?=Job ?<)")
_PAIR = re.compile(r"(\w[\w ]*?) ?<([^<>]*)>")
_EVENT = re.compile(r"([A-Z][a-z]{2}) +(\d{1,2}) (\d\d:\d\d:\d\d): (.*)")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True, slots=True)
class Block:
    """One job of `bjobs -l`: its head, its event lines with times in UTC, and its text as printed."""

    native_id: str
    user: str
    status: str
    queue: str
    command: str
    events: tuple[tuple[datetime, str], ...]
    pend_reason: str
    text: str


def bjobs(program: str, words: Sequence[str], *, zone: str, now: datetime) -> Command[tuple[list[Block], Look]]:
    """`bjobs -l …`: the blocks, and the same as a look."""

    def read(output: Output) -> tuple[list[Block], Look]:
        return read_bjobs(output, zone=zone, now=now)

    return Command((program, "-l", *words), read, deadline_s=60.0)


def read_bjobs(output: Output, *, zone: str, now: datetime) -> tuple[list[Block], Look]:
    """Every block of an answer. Nothing found is no error, and says so with exit code 0; a silent answer is one."""
    text = _ANSI.sub("", output.text)
    blocks: list[Block] = []
    problems: list[RowProblem] = []
    before, *wholes = _BLOCK.split(text)
    if before.strip() and not _NOISE.fullmatch(before):
        problems.append(RowProblem(before, "it belongs to no job"))
    for whole in wholes:
        # A head, an empty line, its events; what follows another empty line has lost its own head.
        pieces = re.split(r"\n\n+", whole, maxsplit=2)
        part = "\n\n".join(pieces[:2])
        if len(pieces) == 3 and pieces[2].strip():
            problems.append(RowProblem(pieces[2], "it belongs to no job"))
        try:
            blocks.append(_block(part, zone=zone, now=now))
        except (ValueError, KeyError, OverflowError) as exc:
            problems.append(RowProblem(part, f"{type(exc).__name__}: {exc}"))
    if not blocks and not problems and _NONE not in output.error_text:
        error = classify(output) if output.exit_code else CommandFailed("bjobs said nothing")
        return [], Look(error=str(error))
    return blocks, Look(tuple(run_of(block) for block in blocks), tuple(problems))


def _block(part: str, *, zone: str, now: datetime) -> Block:
    head, _, events = part.partition("\n\n")
    # The command is the person's own text: whatever it says stands behind it.
    told, _, command = head.partition("Command<")
    said: dict[str, str] = {}
    for key, value in _PAIR.findall(told):
        if key in said:
            raise ValueError(f"{key} is said twice")
        said[key] = value
    pend = re.search(r"Pend reason<([^<>]*)>", part)
    return Block(
        native_id=_number(said["Job"]),
        user=said["User"],
        status=said["Status"],
        queue=said.get("Queue", ""),
        command=command.rstrip().removesuffix(">").rstrip(),
        events=tuple(_events(events, zone=zone, now=now)),
        pend_reason=pend[1] if pend else "",
        text=part.rstrip(),
    )


def _number(text: str) -> str:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r} is no job id")
    return text


def _events(text: str, *, zone: str, now: datetime) -> list[tuple[datetime, str]]:
    found = []
    for line in text.splitlines():
        match = _EVENT.match(line.strip())
        if match is not None and match[1] in _MONTHS:
            found.append((moment(match[1], int(match[2]), match[3], zone=zone, now=now), match[4]))
    return found


def moment(month: str, day: int, clock: str, *, zone: str, now: datetime) -> datetime:
    """A time without a year: the year that puts it nearest before now (a clock may be a day ahead of ours)."""
    here = ZoneInfo(zone)
    hours, minutes, seconds = map(int, clock.split(":"))
    latest = now + timedelta(days=1)
    for year in (now.year + 1, now.year, now.year - 1, now.year - 2, now.year - 3, now.year - 4):
        try:
            at = datetime(year, _MONTHS.index(month) + 1, day, hours, minutes, seconds, tzinfo=here)
        except ValueError:
            continue  # 29 February of another year
        if at <= latest:
            return at.astimezone(UTC)
    raise ValueError(f"{month} {day} {clock} is no time")


def run_of(block: Block) -> ObservedRun:
    """A block as an observed run; DONE and EXIT say no exit code, so none is given."""
    state = STATE_MAP.get(block.status, ObservedState.UNKNOWN)
    submitted = next((at for at, what in block.events if what.startswith("Submitted")), None)
    started = next((at for at, what in block.events if what.startswith("Started")), None)
    last = block.events[-1][0] if block.events else None
    reason = reason_of(block.pend_reason).reason if state is _S.QUEUED else Reason.NONE
    if state is _S.FAILED:
        reason = Reason.OTHER
    return ObservedRun(
        native_id=block.native_id,
        state=state,
        native_state=block.status,
        cluster="sunway",
        username=block.user,
        tags_seen=tags_in(block.command),
        reason=reason,
        native_reason=block.pend_reason,
        submit_time=submitted,
        start_time=started,
        end_time=last if state.final else None,
    )


# ---------------------------------------------------------------- act

# Before a kill our own mark: an EXIT tells nothing of who wished it.
_KILL = """root=$1 id=$2; shift 2; : >"$root/kill/$id" && exec "$@" """


def bkill(program: str, root: str, native_id: str) -> Command[Output]:
    """End one job, leaving a mark that it was our wish."""
    argv = ("/bin/sh", "-c", _KILL, "bkill", root, native_id, program, native_id)
    return Command(argv, lambda out: out, write=True, deadline_s=60.0)


def bsignal(program: str, number: int, native_id: str) -> Command[Output]:
    """A signal to one running job (`bsignal -s 30 ID`, Sunway's own help tool): only the switch sends KILL with it."""
    return Command((program, "-s", str(number), native_id), lambda out: out, write=True, deadline_s=20.0)


# The staging area as it stands in the site file: {home} and {user} are what the login itself says.
ROOT = """case $1 in "{home}"*) root=$HOME${1#"{home}"};; *) root=$1;; esac
case $root in *"{user}"*) root=${root%%"{user}"*}${HOME##*/}${root#*"{user}"};; esac
cd "$root" || exit 1; shift
"""
_ENDS = (
    ROOT
    + """
for pair in "$@"; do
  name=${pair%%:*} id=${pair#*:} rc= record= killed=-
  for f in "rc/$name.unknown" "rc/$name.$id"; do [ ! -f "$f" ] || read -r rc <"$f"; done
  [ ! -f "usage/$name" ] || read -r record <"usage/$name"
  [ ! -e "kill/$id" ] || killed=killed
  echo "$id|$killed|$rc|$record"
done"""
)


@dataclass(frozen=True, slots=True)
class End:
    """What the wrapper wrote at its end, whether we asked for that end, and what was submitted."""

    killed: bool
    asked: dict[str, str]  # the record of its submission
    exit_code: int | None = None
    start: datetime | None = None
    end: datetime | None = None


def ends(root: str, pairs: Sequence[tuple[str, str]]) -> Command[dict[str, End]]:
    """The wrappers' own words about (fence name, native id), by native id."""

    def read(output: Output) -> dict[str, End]:
        if output.exit_code != 0:
            raise CommandFailed("the staging area cannot be read", native_text=output.error_text)
        rows = [line.split("|") for line in output.text.splitlines()]
        return {row[0]: _end(row) for row in rows if len(row) == 4}

    argv = ("/bin/sh", "-c", _ENDS, "ends", root, *(f"{name}:{native_id}" for name, native_id in pairs))
    return Command(argv, read, deadline_s=30.0)


def _end(row: Sequence[str]) -> End:
    killed, asked, wrote = row[1] == "killed", record_of(row[3]), row[2].split()
    if len(wrote) != 3 or not all(word.isascii() and word.isdigit() for word in wrote):
        return End(killed, asked)
    start, end = (datetime.fromtimestamp(int(word), UTC) for word in wrote[1:])
    return End(killed, asked, int(wrote[0]), start, end)


def record_of(text: str) -> dict[str, str]:
    """`cgs=4 nodes=1 …`, as it was staged beside the submission."""
    return dict(word.partition("=")[::2] for word in text.split())


def ping(program: str) -> Command[tuple[bool, str]]:
    """Whether the resource manager answers: an empty list is an answer."""

    def read(output: Output) -> tuple[bool, str]:
        ok = output.exit_code == 0 and bool(output.text.strip())
        return ok, "bjobs answers" if ok else str(classify(output))

    return Command((program,), read, deadline_s=20.0)
