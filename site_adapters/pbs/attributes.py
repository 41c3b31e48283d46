"""What `qstat -f` and `pbsnodes` say, in their two forms, as flat mappings: `Resource_List.ncpus` -> "8".

The JSON of real servers is not always JSON (values are not escaped, `005` is printed bare), so each parser has a text
twin. A record that does not frame is a problem, never skipped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from site_adapters.types import RowProblem

Attributes = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Records:
    """Records by name (a job's id, a queue's name), in the order printed, and what does not frame."""

    rows: tuple[tuple[str, Attributes], ...] = ()
    problems: tuple[RowProblem, ...] = ()


def from_json(text: str, member: str) -> Records:
    """The objects under `member` (`Jobs`, `Queue`, `nodes`); none at all where it is missing. Raises ValueError."""
    document = json.loads(text, object_pairs_hook=_once)
    if not isinstance(document, dict) or "timestamp" not in document:
        raise ValueError("no answer of PBS")
    records = document.get(member, {})
    if not isinstance(records, dict):
        raise ValueError(f"{member} is no object")
    rows: list[tuple[str, Attributes]] = []
    problems: list[RowProblem] = []
    for name, record in records.items():
        if isinstance(record, dict):
            rows.append((name, _flat(record)))
        else:
            problems.append(RowProblem(json.dumps({name: record}), "no object"))
    return Records(tuple(rows), tuple(problems))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are said once each: of two equal ones, one is forged."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is said twice")
    return found


def _flat(record: Mapping[str, Any]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": _word(v) for inner, v in value.items()}
        else:
            flat[name] = _word(value)
    return flat


def _word(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ", ".join(map(_word, value))
    return json.dumps(value)


_PAIR = re.compile(r"    ([A-Za-z_][\w.-]*) = (.*)", re.DOTALL)
_NAMED = re.compile(r"(?m)^    ([A-Za-z_][\w.-]*) = ")
# Torque writes these small.
_NAMES = {
    "exit_status": "Exit_status",
    "comp_time": "obittime",
    "start_time": "stime",
    "submit_args": "Submit_arguments",
}


def from_text(text: str, title: str = "Job Id") -> Records:
    """Blocks that begin with `title: name`; a line that does not begin like an attribute goes on the one before."""
    rows: list[tuple[str, Attributes]] = []
    problems: list[RowProblem] = []
    head, *blocks = re.split(rf"(?m)^{re.escape(title)}: ", text)
    if head.strip():
        problems.append(RowProblem(head.strip(), f"nothing that begins with {title!r}"))
    for block in blocks:
        name, _, body = block.partition("\n")
        if title == "Job Id":
            body, foreign = _own_lines(body)
            if foreign:
                problems.append(RowProblem(foreign, "it belongs to no job"))
            elif not body.endswith("\n\n"):  # each job ends with an empty line
                problems.append(RowProblem(f"{title}: {block}", "it was cut"))
                continue
        try:
            rows.append((name.strip(), _pairs(body)))
        except ValueError as exc:
            problems.append(RowProblem(f"{title}: {block}", str(exc)))
    return Records(tuple(rows), tuple(problems))


def _own_lines(body: str) -> tuple[str, str]:
    """A job's own text, and what follows it that is another job's which has lost its head.

    An empty line alone ends no job: a value of several lines may hold one. What then begins like an attribute that the
    job has named already is another's.
    """
    for end in re.finditer(r"\n\n+", body):
        rest = body[end.end() :]
        attribute = _NAMED.match(rest)
        named = {"Job_Name", *_NAMED.findall(body[: end.end()])}
        if rest and not rest.startswith("\t") and (attribute is None or attribute[1] in named):
            return body[: end.end()], rest
    return body, ""


def _pairs(body: str) -> dict[str, str]:
    found: dict[str, str] = {}
    name = ""
    for line in body.split("\n"):
        match = _PAIR.fullmatch(line)
        if match is not None:
            name = _NAMES.get(match[1], match[1])
            if name in found:
                raise ValueError(f"{name} is said twice")
            found[name] = match[2]
        elif line.startswith("\t") and name:
            found[name] += line[1:]
        elif line.strip() and name:
            found[name] += "\n" + line  # a value of several lines, like a shell function in the environment
        elif line.strip():
            raise ValueError(f"{line!r} belongs to no attribute")
    return found


def moment(text: str) -> datetime | None:
    """`Mon Nov 23 06:34:36 2026` (asked with TZ=UTC) or epoch seconds; None for nothing. Raises ValueError."""
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return from_epoch(int(text))
    return datetime.strptime(text, "%a %b %d %H:%M:%S %Y").replace(tzinfo=UTC)


def from_epoch(seconds: int) -> datetime:
    """Epoch seconds as a time; raises ValueError for what no calendar holds."""
    if seconds > 253_402_300_799:
        raise ValueError(f"{seconds} is no time")
    return datetime.fromtimestamp(seconds, UTC)


def seconds(text: str) -> int | None:
    """`HH:MM:SS`, `MM:SS` or seconds; None for nothing."""
    if not text:
        return None
    parts = text.split(":")
    if len(parts) > 3 or not all(p.isascii() and p.isdigit() for p in parts):
        raise ValueError(f"{text!r} is no duration")
    total = 0
    for part in parts:
        total = total * 60 + int(part)
    return total


def size_bytes(text: str) -> int | None:
    """`256gb`, `5824kb`, `8w`: PBS counts in powers of 1024, a bare number is bytes."""
    match = re.fullmatch(r"(\d+)([kmgtp]?)([bw]?)", text.lower())
    if match is None:
        return None
    unit = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4, "p": 1024**5}[match[2]]
    return int(match[1]) * unit * (8 if match[3] == "w" else 1)
