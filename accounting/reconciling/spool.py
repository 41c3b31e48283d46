"""The lines of a statement as they are read: in memory a few thousand, on disk a million."""

from __future__ import annotations

import marshal
import weakref
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from tempfile import SpooledTemporaryFile
from typing import Any, Protocol

from accounting.json_text import json_text
from accounting.reconciling.statement import Line

# The columns of a stored line; `raw` last, as JSON text.
COLUMNS = ("line_no", "run_key", "native_id", "task", "username", "account", "queue", "state", "cores", "nodes",
           "started", "ended", "elapsed_s", "suspended_s", "core_seconds", "gpu_seconds", "amount_micro",
           "units", "raw")  # fmt: skip
_WIDTHS = {"run_key": 100, "native_id": 64, "username": 64, "account": 100, "queue": 64, "state": 32}
_LONG = tuple((COLUMNS.index(name), width) for name, width in _WIDTHS.items())
_USERNAME, _CORE_SECONDS, _AMOUNT = (COLUMNS.index(name) for name in ("username", "core_seconds", "amount_micro"))
_values_of = attrgetter(*COLUMNS)
_BATCH = 5_000
_NO_REFERENCES = 2  # marshal's format without a table of what was written before, in which each value is looked up
_IN_MEMORY = 8 * 2**20


class Keeper(Protocol):
    """What is kept of lines: whoever keeps people's names apart does so here."""

    def line(self, username: str, raw: Mapping[str, Any]) -> tuple[str, str]:
        """(the login, the raw line as JSON text) as they are kept."""
        ...

    def lines(
        self, usernames: Sequence[str], names: tuple[str, ...], cells: Sequence[Sequence[str]]
    ) -> tuple[list[str], list[str]]:
        """The same of many lines with the same columns: (logins, raw lines as JSON text)."""
        ...


class AsTheyCame:
    """Lines are kept as the centre wrote them."""

    def line(self, username: str, raw: Mapping[str, Any]) -> tuple[str, str]:
        return username, json_text(raw)

    def lines(
        self, usernames: Sequence[str], names: tuple[str, ...], cells: Sequence[Sequence[str]]
    ) -> tuple[list[str], list[str]]:
        return list(usernames), [json_text(dict(zip(names, row, strict=True))) for row in cells]


class Spool:
    """Written once, read as often as wanted; sums are kept beside. `amount_micro` None: no line has an amount."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self.lines = 0
        self.core_seconds = 0
        self.amount_micro: int | None = None
        self._waiting: list[tuple[Any, ...]] = []
        self._batches = 0
        self._kept = SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - it lives as long as the statement
        weakref.finalize(self, self._kept.close)

    def add(self, line: Line) -> None:
        *values, raw = _values_of(line)
        values[_USERNAME], text = self.keeper.line(line.username, raw)
        for at, width in _LONG:
            if len(values[at]) > width:
                values[at] = values[at][:width]
        self._waiting.append((*values, text))
        self._count([line.core_seconds], [line.amount_micro])
        if len(self._waiting) >= _BATCH:
            self._put()

    def extend(self, columns: Sequence[Sequence[Any]], names: tuple[str, ...], cells: Sequence[Sequence[str]]) -> None:
        """Many lines at once, column by column: those of `COLUMNS` but the last, and the cells that they stood in."""
        kept = list(columns)
        kept[_USERNAME], texts = self.keeper.lines(columns[_USERNAME], names, cells)
        for at, width in _LONG:
            if max(map(len, kept[at]), default=0) > width:
                kept[at] = [value[:width] for value in kept[at]]
        self._waiting += zip(*kept, texts, strict=True)
        self._count(columns[_CORE_SECONDS], columns[_AMOUNT])
        self._put()

    def _count(self, core_seconds: Sequence[int], amounts: Sequence[int | None]) -> None:
        self.lines += len(core_seconds)
        self.core_seconds += sum(core_seconds)
        if given := [amount for amount in amounts if amount is not None]:
            self.amount_micro = (self.amount_micro or 0) + sum(given)

    def _put(self) -> None:
        """A part of the file: its length, and its rows."""
        part = marshal.dumps(self._waiting, _NO_REFERENCES)
        self._kept.write(len(part).to_bytes(8))
        self._kept.write(part)
        self._batches += 1
        self._waiting = []

    def batches(self) -> Iterator[list[tuple[Any, ...]]]:
        """The lines in their order, as rows of `COLUMNS`."""
        self._kept.seek(0)
        for _ in range(self._batches):
            size = int.from_bytes(self._kept.read(8))
            yield marshal.loads(self._kept.read(size))  # noqa: S302 - our own file, which has no name
        if self._waiting:
            yield self._waiting
