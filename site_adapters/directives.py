"""Directives inside a script (`#SBATCH`, `#PBS`) become fields of the job; left there they would beat our options.

Only lines that the scheduler itself would honour, those before the first command, are lifted. What has no field is a
problem: dropping it silently would run another job than the person wrote.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from site_adapters import directives_pbs
from site_adapters.types import Array


@dataclass(frozen=True, slots=True)
class DirectiveProblem:
    """A directive that cannot be lifted, by its line (from 1)."""

    line: int
    detail: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Lifted:
    """The script with its directives neutralised, and what they said: `resources.node_count` -> 2."""

    script: str
    fields: Mapping[str, Any]
    problems: tuple[DirectiveProblem, ...]


# Between the word and an option no space is needed.
_LINE = re.compile(r"#(SBATCH|PBS)(?:\s+|(?=-))(.*)")
_SHORT = {
    "-J": "job-name", "-N": "nodes", "-n": "ntasks", "-c": "cpus-per-task", "-t": "time", "-p": "partition",
    "-A": "account", "-q": "qos", "-o": "output", "-e": "error", "-a": "array", "-D": "chdir", "-i": "input",
    "-C": "constraint", "-H": "hold", "-b": "begin", "-G": "gpus",
}  # fmt: skip
# Options that carry no meaning for us or that every script of ours sets itself.
_IGNORED = frozenset({"parsable", "quiet", "export", "mail-type", "mail-user", "no-requeue", "get-user-env"})
# Options that go through as they are, as `slurm.<option>`.
PASSED = frozenset(
    {
        *("constraint", "gres", "licenses", "nice", "nodelist", "exclude", "mem-per-cpu", "mem-per-gpu", "tmp"),
        *(
            "hint",
            "distribution",
            "switches",
            "cpus-per-gpu",
            "gpus",
            "gpus-per-node",
            "gpus-per-task",
            "threads-per-core",
        ),
        *(
            "sockets-per-node",
            "cores-per-socket",
            "wckey",
            "signal",
            "oversubscribe",
            "contiguous",
            "ntasks-per-socket",
        ),
        *("network", "profile", "power", "core-spec", "thread-spec", "ntasks-per-core", "mincpus", "use-min-nodes"),
    }
)


def lift(script: str) -> Lifted:
    """Take the directives out of a script, whichever scheduler they are written for."""
    said: dict[str, dict[str, Any]] = {"SBATCH": {}, "PBS": {}}
    problems: list[DirectiveProblem] = []
    lines = script.split("\n")
    shell, last_pbs, commands_began = shell_of(lines[0]), 0, False
    for index, line in enumerate(lines):
        match = _LINE.match(line.rstrip("\r"))
        if match is None:
            stripped = line.strip()
            commands_began = commands_began or bool(stripped and not stripped.startswith("#"))
            continue
        lines[index] = f"## lifted by penstock: {line[1:]}"
        if commands_began:
            continue  # no scheduler reads directives after the first command
        kind, fields = match[1], said[match[1]]
        last_pbs = index + 1 if kind == "PBS" else last_pbs
        try:
            words = shlex.split(match[2], comments=True)
            directives_pbs.read_line(words, fields, shell) if kind == "PBS" else _read(words, fields)
        except ValueError as exc:
            problems.append(_problem(index + 1, exc))
    try:
        shell = directives_pbs.finish(said["PBS"])
        fields = _agreed(said["SBATCH"], said["PBS"])
    except ValueError as exc:
        return Lifted("\n".join(lines), {}, (*problems, _problem(last_pbs, exc)))
    lines = [f"#!{shell}", *lines] if shell else lines
    return Lifted("\n".join(lines), fields, tuple(problems))


def shell_of(first: str) -> str:
    """The program that a script's first line names; empty where it names none."""
    if not first.startswith("#!"):
        return ""
    words = first[2:].split()
    return words[1] if len(words) > 1 and words[0].endswith("/env") else "".join(words[:1])


def _problem(line: int, exc: ValueError) -> DirectiveProblem:
    return DirectiveProblem(line, str(exc), "Write it as a field of the job, or remove it.")


def _agreed(slurm: dict[str, Any], pbs: dict[str, Any]) -> dict[str, Any]:
    """The fields of a script that is written for both; raises `ValueError` where its halves disagree."""
    for name in slurm.keys() & pbs.keys():
        if slurm[name] != pbs[name]:
            raise ValueError(f"for {name} the #SBATCH lines say {slurm[name]!r}, the #PBS lines {pbs[name]!r}")
    return {**slurm, **pbs}


def _read(words: list[str], fields: dict[str, Any]) -> None:
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
        elif word[:2] in _SHORT:
            name, value = _SHORT[word[:2]], word[2:]
            equals = "=" if value else ""
        else:
            raise ValueError(f"{word!r} is no option that we know")
        if not equals and name not in FLAGS:
            if position >= len(words):
                raise ValueError(f"--{name} has no value")
            value = words[position]
            position += 1
        _set(name, value, fields)


def _set(name: str, value: str, fields: dict[str, Any]) -> None:
    if name in _IGNORED:
        return
    if name in PASSED:
        custom = fields.setdefault("attributes.custom_attributes", {})
        custom[f"slurm.{name}"] = value
        return
    if name not in _FIELDS:
        raise ValueError(f"--{name} has no field in a job of ours")
    field, read = _FIELDS[name]
    fields[field] = read(value)


def duration(text: str) -> int:
    """Slurm's time in seconds: minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None:
        raise ValueError(f"{text!r} is no time limit")
    days, *rest = match.groups()
    parts = [int(p) for p in rest if p is not None]
    if days is not None:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
        return int(days) * 86400 + hours * 3600 + minutes * 60 + seconds
    if len(parts) == 3:
        return parts[0] * 3600 + parts[1] * 60 + parts[2]
    return parts[0] * 60 + (parts[1] if len(parts) == 2 else 0)


def memory(text: str) -> int:
    """Slurm's memory size in bytes; MiB where no unit is given."""
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", text.upper())
    if match is None:
        raise ValueError(f"{text!r} is no amount of memory")
    return int(match[1]) * {"K": 1024, "": 1024**2, "M": 1024**2, "G": 1024**3, "T": 1024**4}[match[2]]


def _count(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise ValueError(f"{text!r} is no positive number")
    return int(text)


def _array(text: str) -> Array:
    indices, percent, most = text.partition("%")
    return Array(indices, _count(most) if percent else None)


def _begin(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"--begin={text}: only an absolute time with a zone can be lifted") from None
    if moment.tzinfo is None:
        raise ValueError(f"--begin={text} names no time zone")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"--begin={text} lies outside of all calendars") from None


def _yes(_text: str) -> bool:
    return True


def _whole_nodes(text: str) -> bool:
    if text:
        raise ValueError(f"--exclusive={text}: only whole nodes (--exclusive) have a field")
    return True


FLAGS = frozenset(
    {"exclusive", "hold", "requeue", "no-requeue", "parsable", "quiet", "contiguous", "oversubscribe", "use-min-nodes"}
)
_FIELDS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "job-name": ("name", str),
    "nodes": ("resources.node_count", _count),
    "ntasks": ("resources.process_count", _count),
    "ntasks-per-node": ("resources.processes_per_node", _count),
    "cpus-per-task": ("resources.cpu_cores_per_process", _count),
    "mem": ("resources.memory", memory),
    "exclusive": ("resources.exclusive_node_use", _whole_nodes),
    "time": ("attributes.duration", duration),
    "partition": ("attributes.queue_name", str),
    "account": ("attributes.account", str),
    "qos": ("attributes.qos", str),
    "reservation": ("attributes.reservation_id", str),
    "priority": ("attributes.priority", _count),
    "hold": ("attributes.submit_as_hold", _yes),
    "requeue": ("attributes.rerunnable", _yes),
    "begin": ("attributes.start_time", _begin),
    "output": ("stdout_path", str),
    "error": ("stderr_path", str),
    "input": ("stdin_path", str),
    "chdir": ("directory", str),
    "array": ("array", _array),
}
