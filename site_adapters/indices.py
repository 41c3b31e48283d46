"""Array indices as people and Slurm write them: `0-9:2,12`."""

from __future__ import annotations

import re

_PART = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9})(?::([0-9]{1,9}))?)?\Z")


def expand(indices: str, *, count_max: int = 1_000_000) -> tuple[int, ...]:
    """All task numbers, ascending, each once; raises ValueError in words for what is no index list."""
    tasks: set[int] = set()
    for part in indices.split(","):
        match = _PART.match(part)  # as it stands: a scheduler takes neither blanks nor other digits
        if match is None:
            raise ValueError(f"{part!r} is no index, range (0-9) or stepped range (0-9:2)")
        first = int(match[1])
        last = int(match[2]) if match[2] else first
        step = int(match[3]) if match[3] else 1
        if last < first or step == 0:
            raise ValueError(f"{part!r} runs backwards or has a step of 0")
        span = range(first, last + 1, step)
        if len(tasks) + len(span) > count_max:
            raise ValueError(f"more than {count_max} tasks")
        tasks.update(span)
    return tuple(sorted(tasks))
