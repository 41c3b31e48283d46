"""`#PBS` lines of a person's script as fields of the job: OpenPBS's `select` and Torque's `nodes=:ppn=` forms.

What has a word of ours is honoured at every centre; what only PBS knows goes through as `pbs.<name>`; what neither can
say is a `ValueError` that tells what to write instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from site_adapters.types import Array

CUSTOM, ENVIRONMENT = "attributes.custom_attributes", "environment"
_UNITS = {"": 1, "b": 1, "kb": 1024, "mb": 1024**2, "gb": 1024**3, "tb": 1024**4,
          "w": 8, "kw": 8 * 1024, "mw": 8 * 1024**2, "gw": 8 * 1024**3}  # fmt: skip
# Mail, what is kept where, quiet, the submitter's environment (ours is the login's): our own scripts settle these.
_IGNORED = frozenset("mMkzVc")
_JOIN, _SHELL, _MEMORY, _PLACE = "-j", "-S", "mem", "place"  # kept until all lines are read: order means nothing
_NO_VALUE = frozenset("hzVIX")


def read_line(words: list[str], fields: dict[str, Any], shell: str) -> None:
    """One directive line into `fields`; `shell` is what the script's first line names. Raises `ValueError` in words."""
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if not re.fullmatch(r"-[A-Za-z].*", word):
            raise ValueError(f"{word!r} is no option of qsub")
        letter, value = word[1], word[2:]
        if not value and letter not in _NO_VALUE:
            if position >= len(words):
                raise ValueError(f"-{letter} has no value")
            value = words[position]
            position += 1
        _set(letter, value, fields, shell)


def finish(fields: dict[str, Any]) -> str:
    """What can only be said when all lines are read; the shell that a script without a first line (`#!`) asks for."""
    join = fields.pop(_JOIN, "n")
    if join != "n":
        if "stdout_path" not in fields:
            raise ValueError(f"-j {join}: name the file that both go to (#PBS -o FILE)")
        fields["stderr_path"] = fields["stdout_path"]
    if _PLACE in fields:
        _place(fields.pop(_PLACE), fields)
    if (of_all := fields.pop(_MEMORY, None)) is not None:
        if fields.get("resources.node_count", 1) != 1:
            raise ValueError("-l mem is of the whole job: write what each node needs (memory, select=1:mem=)")
        fields.setdefault("resources.memory", of_all)
    return str(fields.pop(_SHELL, ""))


def _set(letter: str, value: str, fields: dict[str, Any], shell: str) -> None:
    if letter in _IGNORED:
        return
    if letter == "S":
        if not shell:
            fields[_SHELL] = value
        elif value.rpartition("/")[2] != shell.rpartition("/")[2]:
            raise ValueError(f"-S {value}: the script's first line names the shell here (#!{value})")
    elif letter == "l":
        _resources(value, fields)
    elif letter == "v":
        fields.setdefault(ENVIRONMENT, {}).update(_variables(value))
    elif letter == "j":
        fields[_JOIN] = value
    elif letter == "W":
        _additional(value, fields)
    elif letter == "P":
        fields.setdefault(CUSTOM, {})["pbs.project"] = value
    elif letter in _FIELDS:
        field, read = _FIELDS[letter]
        fields[field] = read(value)
    else:
        raise ValueError(f"-{letter} has no field in a job of ours")


# ---------------------------------------------------------------- -l


def _resources(text: str, fields: dict[str, Any]) -> None:
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"-l {part}: a resource has a value")
        match name:
            case "select":
                _select(value, fields)
            case "nodes":
                _nodes(value, fields)
            case "walltime":
                fields["attributes.duration"] = seconds(value)
            case "ncpus" | "procs":
                fields["resources.process_count"] = 1 if name == "ncpus" else _count(value)
                fields["resources.cpu_cores_per_process"] = _count(value) if name == "ncpus" else 1
            case "mem":
                fields[_MEMORY] = memory(value)
            case "place":
                fields[_PLACE] = value
            case "qos":
                fields["attributes.qos"] = value
            case _:
                fields.setdefault(CUSTOM, {})[f"pbs.resource.{name}"] = value


def _select(text: str, fields: dict[str, Any]) -> None:
    """`2:ncpus=8:mpiprocs=4:mem=16gb`: a chunk of several ranks, or with memory, is a node of its own."""
    if "+" in text:
        raise ValueError(f"select={text}: chunks of several kinds have no field; write one kind, or two jobs")
    first, *rest = text.split(":")
    if not first.isdigit():
        first, rest = "1", [first, *rest]
    count, asked = _count(first), dict(_pair(word, "select") for word in rest)
    ranks = _count(asked.pop("mpiprocs", "1"))
    cores, gpus = _count(asked.pop("ncpus", "1")), int(asked.pop("ngpus", "0"))
    if cores % ranks or gpus % ranks:
        raise ValueError(f"select={text}: ncpus and ngpus must be multiples of mpiprocs")
    alone = ranks == 1 and not gpus and "mem" not in asked and count > 1
    fields |= {"resources.process_count": count} if alone else {
        "resources.node_count": count, "resources.processes_per_node": ranks}  # fmt: skip
    fields["resources.cpu_cores_per_process"] = cores // ranks
    if gpus:
        fields["resources.gpu_cores_per_process"] = gpus // ranks
    if "mem" in asked:
        fields["resources.memory"] = memory(asked.pop("mem"))
    if threads := asked.pop("ompthreads", ""):
        fields.setdefault(ENVIRONMENT, {})["OMP_NUM_THREADS"] = str(_count(threads))
    if asked:
        fields.setdefault(CUSTOM, {})["pbs.chunk"] = ":".join(f"{k}={v}" for k, v in asked.items())


def _nodes(text: str, fields: dict[str, Any]) -> None:
    """`2:ppn=8:gpus=1`, as Torque has it."""
    count, *rest = text.split(":")
    if "+" in text or not count.isdigit():
        raise ValueError(f"nodes={text}: only a number of nodes has a field, no names and no several kinds")
    asked = dict(_pair(word, "nodes") for word in rest)
    each = _count(asked.pop("ppn", "1"))
    fields |= {"resources.node_count": _count(count), "resources.processes_per_node": each}
    gpus = int(asked.pop("gpus", "0"))
    if gpus % each:
        raise ValueError(f"nodes={text}: gpus must be a multiple of ppn")
    if gpus:
        fields["resources.gpu_cores_per_process"] = gpus // each
    if asked:
        raise ValueError(f"nodes={text}: {', '.join(asked)} has no field")


def _place(text: str, fields: dict[str, Any]) -> None:
    words = text.split(":")
    if {"excl", "exclhost"} & set(words):
        fields["resources.exclusive_node_use"] = True
        words = [word for word in words if word not in ("excl", "exclhost")]
    if not set(words) <= {"scatter", "free"}:
        fields.setdefault(CUSTOM, {})["pbs.place"] = ":".join(words)
    elif "scatter" in words and "resources.node_count" not in fields and "resources.process_count" in fields:
        fields["resources.node_count"] = fields["resources.process_count"]


def _pair(word: str, what: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise ValueError(f"{what}: {word!r} has no value")
    return name, value


# ---------------------------------------------------------------- other options


def _variables(text: str) -> dict[str, str]:
    found = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"-v {name}: there is no submitting shell to take it from; write -v {name}=value")
        found[name] = value
    return found


def _additional(text: str, fields: dict[str, Any]) -> None:
    name, _, value = text.partition("=")
    if name == "depend":
        raise ValueError("-W depend: the gateway keeps dependencies; write them as `dependencies` of the job")
    if name not in ("umask", "group_list", "sandbox"):
        raise ValueError(f"-W {name} has no field in a job of ours")
    fields.setdefault(CUSTOM, {})[f"pbs.{name}"] = value


def _path(text: str) -> str:
    host, colon, path = text.partition(":")
    if colon and host:
        raise ValueError(f"{text}: outputs stay on the centre's own storage; write the path without a host")
    return path if colon else text


def _queue(text: str) -> str:
    if "@" in text:
        raise ValueError(f"-q {text}: the centre is chosen by `placement`; write the queue's name alone")
    return text


def _array(text: str) -> Array:
    indices, percent, most = text.partition("%")
    return Array(indices, _count(most) if percent else None)


def _rerunnable(text: str) -> bool:
    if text not in ("y", "n"):
        raise ValueError(f"-r is y or n, not {text!r}")
    return text == "y"


def _begin(text: str) -> Any:
    raise ValueError(f"-a {text} names no time zone; write attributes.start_time")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise ValueError(f"{text!r} is no positive number")
    return int(text)


def seconds(text: str) -> int:
    """PBS's time: seconds, MM:SS, HH:MM:SS (a fraction is cut)."""
    parts = text.partition(".")[0].split(":")
    if not 1 <= len(parts) <= 3 or not all(part.isascii() and part.isdigit() for part in parts):
        raise ValueError(f"walltime={text} is no time")
    total = 0
    for part in parts:
        total = total * 60 + int(part)
    return total


def memory(text: str) -> int:
    """PBS's size in bytes; bytes where no unit is given."""
    match = re.fullmatch(r"(\d+)([a-z]*)", text.lower())
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{text!r} is no amount of memory")
    return int(match[1]) * _UNITS[match[2]]


_FIELDS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "N": ("name", str), "q": ("attributes.queue_name", _queue), "A": ("attributes.account", str),
    "o": ("stdout_path", _path), "e": ("stderr_path", _path), "d": ("directory", str), "w": ("directory", str),
    "J": ("array", _array), "t": ("array", _array), "p": ("attributes.priority", _count),
    "h": ("attributes.submit_as_hold", lambda _text: True), "r": ("attributes.rerunnable", _rerunnable),
    "a": ("attributes.start_time", _begin),
}  # fmt: skip
