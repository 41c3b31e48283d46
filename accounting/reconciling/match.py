"""Match a statement with our books: one pass over the books, which finds each run's line by its key.

T0 the run key; T1 the scheduler's id (also without its server) and start; T2 person, shape and time (a
proposal for a person to accept); T3 sums, where the centre gives nothing else. What agrees is known by its numbers
alone.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from msgspec import structs
from sqlalchemy import Connection

from accounting.reconciling import sides
from accounting.reconciling.by_key import Passed, by_key
from accounting.reconciling.found import Agreed, Matched, Pair, Tolerance, differs
from accounting.reconciling.sides import Run, Scope
from accounting.reconciling.statement import Line
from accounting.store.views import memory_for_hashes

_ROWS = 5_000


def match(conn: Connection, scope: Scope, tolerance: Tolerance) -> Matched:
    """Compare what is kept of a statement with the books."""
    with memory_for_hashes(conn):
        return _match(conn, scope, tolerance)


def _match(conn: Connection, scope: Scope, tolerance: Tolerance) -> Matched:
    found = Matched()
    passed = by_key(conn, scope, tolerance)
    found.runs, found.lines = passed.in_period, sides.line_count(conn, scope.statement_id)
    found.agreeing.add(passed.agreeing, passed.agreeing_lines)
    rest_theirs, once_more = _alone(conn, scope, passed)
    again = passed.again | once_more
    found.duplicates = [(line, again[line.line_no]) for line in sides.lines_of(conn, scope, sorted(again))]
    found.pairs += _really_different(conn, scope, tolerance, passed, found.agreeing)
    single = [line for line in rest_theirs if not line.is_sum]
    rest_ours = [*sides.runs_of(conn, scope, passed.alone), *_like(conn, scope, single, passed.alone_beyond)]
    single = _named_in_full(single, rest_ours)
    found.agreed = found.lines - len(found.duplicates) - len(found.pairs) - len(rest_theirs)
    second = list(_by_id_and_start(single, rest_ours, tolerance))
    found.pairs += [pair for pair in second if differs(pair, tolerance)]
    alike = [pair for pair in second if not differs(pair, tolerance)]
    found.agreed += len(alike)
    _agree(found.agreeing, alike)
    single, rest_ours = _without(second, single, rest_ours)
    before = _billed_before(conn, scope, single, tolerance, second)
    found.duplicates += before
    billed = {line.line_no for line, _ in before}
    single = [line for line in single if line.line_no not in billed]
    found.proposals = list(_by_person_and_time(single, rest_ours, tolerance))
    found.unknown, rest_ours = _without(found.proposals, single, rest_ours)
    summed = sides.Summed(conn, scope)
    found.sums = [(line, *summed.like(line)) for line in rest_theirs if line.is_sum]
    found.missing = [] if found.sums else [run for run in rest_ours if run.in_period]
    return found


def _alone(conn: Connection, scope: Scope, passed: Passed) -> tuple[list[Line], dict[int, int]]:
    """Lines whose key no run has; and those whose key an earlier one of these has, with that."""
    numbers = range(1, sides.last_line(conn, scope.statement_id) + 1)
    alone = set(numbers).difference(passed.agreeing_lines, passed.different_lines, passed.again)
    first: dict[str, int] = {}
    rest, again = [], {}
    for line in sides.lines_of(conn, scope, sorted(alone)):
        if line.run_key and (before := first.setdefault(line.run_key, line.line_no)) != line.line_no:
            again[line.line_no] = before
        else:
            rest.append(line)
    return rest, again


def _really_different(
    conn: Connection, scope: Scope, tolerance: Tolerance, passed: Passed, agreeing: Agreed
) -> Iterator[Pair]:
    """Pairs in the order of the lines; `agreeing` gets those that differed in nothing but how a person is kept."""
    pairs = sorted(zip(passed.different_lines, passed.different, strict=True))
    for at in range(0, len(pairs), _ROWS):
        some = pairs[at : at + _ROWS]
        ours = {run.id: run for run in sides.runs_of(conn, scope, [run for _, run in some])}
        theirs = {line.line_no: line for line in sides.lines_of(conn, scope, [line for line, _ in some])}
        for line, run in some:
            pair = Pair("T0", theirs[line], ours[run])
            if differs(pair, tolerance):
                yield pair
            else:
                _agree(agreeing, [pair])


def _agree(agreeing: Agreed, pairs: Sequence[Pair]) -> None:
    agreeing.add([pair.ours.id for pair in pairs], [pair.theirs.line_no for pair in pairs])


def _named_in_full(lines: Sequence[Line], ours: Sequence[Run]) -> list[Line]:
    """Lines whose id leaves the server out (`7`, `8[]` for `7.pbs01`, `8[].pbs01`) with the id that our runs have;
    a number that runs of two servers have stays as it is."""
    full: dict[str, set[str]] = defaultdict(set)
    for run in ours:
        full[run.native_id.partition(".")[0]].add(run.native_id)
    return [structs.replace(line, native_id=next(iter(named)))
            if len(named := full.get(line.native_id, set())) == 1 else line for line in lines]  # fmt: skip


def _like(conn: Connection, scope: Scope, lines: Sequence[Line], beyond: array[int]) -> Iterator[Run]:
    """Runs of other months that may be one of these lines: nobody asks for all of theirs."""
    ids = {(line.native_id, line.task) for line in lines}
    sizes = {(line.username, line.cores) for line in lines}
    for run in sides.runs_of(conn, scope, beyond) if lines else ():
        short = run.native_id.partition(".")[0]
        if (run.native_id, run.task) in ids or (short, run.task) in ids or (run.username, run.cores) in sizes:
            yield run


def _by_id_and_start(theirs: Sequence[Any], ours: Sequence[Any], tolerance: Tolerance) -> Iterator[Pair]:
    """The same job and task at nearly the same time; of several runs the nearest in time."""
    runs: dict[tuple[str, int | None], list[Any]] = defaultdict(list)
    for run in ours:
        runs[run.native_id, run.task].append(run)
    taken: set[int] = set()
    for line in theirs:
        near = [
            (abs(run.started - line.started), run.id, run)
            for run in runs.get((line.native_id, line.task), ())
            if line.native_id and run.id not in taken and _starts_as(line, run, tolerance)
        ]  # fmt: skip
        if near:
            _, run_id, run = min(near, key=lambda item: item[:2])
            taken.add(run_id)
            yield Pair("T1", line, run)


def _billed_before(
    conn: Connection, scope: Scope, lines: Sequence[Line], tolerance: Tolerance, second: Sequence[Pair]
) -> list[tuple[Line, int]]:
    """Lines without the run's key about a run that another line bills already, with the number of that."""
    asked = [line for line in lines if line.native_id and line.started is not None]
    runs: dict[tuple[str, int | None], list[Run]] = defaultdict(list)
    for run in sides.runs_named(conn, scope, {line.native_id for line in asked}):
        runs[run.native_id, run.task].append(run)
    billed = sides.billed_by_key(conn, scope, {run.run_key for some in runs.values() for run in some})
    billed |= {pair.ours.run_key: pair.theirs.line_no for pair in second}
    found = []
    for line in asked:
        before = [
            billed[run.run_key] for run in runs.get((line.native_id, line.task), ())
            if run.run_key in billed and _starts_as(line, run, tolerance)
        ]  # fmt: skip
        if before:
            found.append((line, min(before)))
    return found


def _starts_as(line: Line, run: Run, tolerance: Tolerance) -> bool:
    if line.started is None or run.started is None:
        return False
    return abs(run.started - line.started) <= (120 if run.meter == "gateway" else tolerance.start_s)


def _by_person_and_time(theirs: Sequence[Any], ours: Sequence[Any], tolerance: Tolerance) -> Iterator[Pair]:
    """The same id whatever the clock says, or one person's run of that size about then: where it is unique."""
    for key_of_line, key_of_run, near in (
        (lambda t: (t.native_id, t.task), lambda o: (o.native_id, o.task), None),
        (lambda t: (t.username, t.cores), lambda o: (o.username, o.cores), tolerance.person_s),
    ):
        lines, runs = _grouped(theirs, key_of_line), _grouped(ours, key_of_run)
        done = [pair for key, some in lines.items() if key[0] for pair in _unique(some, runs.get(key, ()), near)]
        yield from done
        theirs, ours = _without(done, theirs, ours)


def _unique(lines: Sequence[Any], runs: Sequence[Any], within_s: int | None) -> list[Pair]:
    """Lines and runs that have nobody but each other, within so many seconds of start; None: at any time.

    By sorted starts: of one person there may be tens of thousands of either.
    """
    if within_s is None:
        return [Pair("T2", lines[0], runs[0])] if len(lines) == len(runs) == 1 else []
    timed = sorted((run for run in runs if run.started is not None), key=lambda run: int(run.started))
    run_starts = [run.started for run in timed]
    line_starts = sorted(line.started for line in lines if line.started is not None)
    found = []
    for line in lines:
        if line.started is not None and (near := _within(run_starts, line.started, within_s)) and len(near) == 1:
            run = timed[near[0]]
            if len(_within(line_starts, run.started, within_s)) == 1:
                found.append(Pair("T2", line, run))
    return found


def _within(starts: Sequence[int], at: int, seconds: int) -> range:
    """The places of the sorted starts that are so near."""
    return range(bisect_left(starts, at - seconds), bisect_right(starts, at + seconds))


def _grouped(rows: Iterable[Any], key: Any) -> dict[Any, list[Any]]:
    found: dict[Any, list[Any]] = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return found


def _without(pairs: Sequence[Pair], theirs: Sequence[Any], ours: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    lines, runs = {p.theirs.line_no for p in pairs}, {p.ours.id for p in pairs}
    return [t for t in theirs if t.line_no not in lines], [o for o in ours if o.id not in runs]
