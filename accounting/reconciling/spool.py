"""The lines of a statement as they are read: in memory a few thousand, on disk a million."""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Iterator
from operator import attrgetter
from tempfile import SpooledTemporaryFile
from typing import Any

from accounting.json_text import json_text
from accounting.reconciling.statement import Line

# The columns of a stored line; `raw` last, as JSON text.
COLUMNS = ("line_no", "run_key", "native_id", "task", "username", "account", "queue", "state", "cores", "nodes",
           "started", "ended", "elapsed_s", "suspended_s", "core_seconds", "gpu_seconds", "amount_micro",
           "raw")  # fmt: skip
_WIDTHS = {"run_key": 100, "native_id": 64, "username": 64, "account": 100, "queue": 64, "state": 32}
_LONG = tuple((COLUMNS.index(name), width) for name, width in _WIDTHS.items())
_values_of = attrgetter(*COLUMNS)
_BATCH = 5_000
_IN_MEMORY = 8 * 2**20


class Spool:
    """Written once, read as often as wanted; sums are kept beside. `amount_micro` None: no line has an amount."""

    def __init__(self) -> None:
        self.lines = 0
        self.core_seconds = 0
        self.amount_micro: int | None = None
        self._waiting: list[tuple[Any, ...]] = []
        self._kept = SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - it lives as long as the statement
        weakref.finalize(self, self._kept.close)

    def add(self, line: Line) -> None:
        self.lines += 1
        self.core_seconds += line.core_seconds
        if line.amount_micro is not None:
            self.amount_micro = (self.amount_micro or 0) + line.amount_micro
        *values, raw = _values_of(line)
        for at, width in _LONG:
            if len(values[at]) > width:
                values[at] = values[at][:width]
        self._waiting.append((*values, json_text(raw)))
        if len(self._waiting) == _BATCH:
            pickle.dump(self._waiting, self._kept, pickle.HIGHEST_PROTOCOL)
            self._waiting = []

    def batches(self) -> Iterator[list[tuple[Any, ...]]]:
        """The lines in their order, as rows of `COLUMNS`."""
        self._kept.seek(0)
        for _ in range(self.lines // _BATCH):
            yield pickle.load(self._kept)  # noqa: S301 - our own file, which has no name
        if self._waiting:
            yield self._waiting
