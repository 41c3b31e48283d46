"""Runs that the centre's log told under two keys, as a comparison finds them: which of the two is one too many.

They are looked for where the meters' watch has raised `run_twice` (meters_watch.py). Of the two the one stays that the
statement bills; where it bills both, the one that was told first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from accounting.meters_watch import AlarmKind
from accounting.reconciling.found import Matched
from accounting.reconciling.sides import Run, Scope, governing, runs_named
from accounting.store.alarms import ALARMS
from accounting.store.schema import USAGE


@dataclass(frozen=True, slots=True)
class Twin:
    """A run that is in the books a second time. `line_no` bills it, `before` the one that stays, as `other_key`."""

    run: Run
    other_key: str
    line_no: int | None
    before: int | None


def told_twice(conn: Connection, scope: Scope, matched: Matched) -> list[Twin]:
    """The runs of the period that are one too many."""
    if not _alarmed(conn, scope):
        return []
    own = (USAGE.c.native_id, USAGE.c.task, USAGE.c.start_time)
    again = governing(scope, own).where(scope.inside, USAGE.c.meter == "centre").group_by(*own)
    native_ids = {row.native_id for row in conn.execute(again.having(func.count() > 1))}
    groups: dict[tuple[str, int | None, int | None], list[Run]] = defaultdict(list)
    for run in runs_named(conn, scope, native_ids):
        if run.in_period and run.meter == "centre":
            groups[run.native_id, run.task, run.started].append(run)
    billed = _lines(matched, {run.id for runs in groups.values() for run in runs})
    missing = {run.id for run in matched.missing}
    return [twin for runs in groups.values() for twin in _of_one_run(runs, billed, missing)]


def _alarmed(conn: Connection, scope: Scope) -> bool:
    days = [f"{at:%Y-%m-%d}" for at in (scope.period.start, scope.period.end)]
    query = select(func.count()).where(ALARMS.c.site_id == scope.site_id, ALARMS.c.kind == AlarmKind.TWICE.value,
                                       ALARMS.c.day >= days[0], ALARMS.c.day <= days[1])  # fmt: skip
    return bool(conn.scalar(query))


def _lines(matched: Matched, ids: set[int]) -> dict[int, int]:
    """The line that bills each of these readings."""
    found = {pair.ours.id: pair.theirs.line_no for pair in matched.pairs if pair.ours.id in ids}
    agreed = matched.agreeing
    return found | {
        reading: line for reading, line in zip(agreed.readings, agreed.lines, strict=True) if reading in ids
    }


def _of_one_run(runs: list[Run], billed: Mapping[int, int], missing: set[int]) -> Iterator[Twin]:
    stays = next((run for run in sorted(runs, key=lambda run: run.id) if run.id in billed), None)
    if stays is None:
        return
    for run in runs:
        if run.id != stays.id and (run.id in billed or run.id in missing):
            yield Twin(run, stays.run_key, billed.get(run.id), billed[stays.id])
