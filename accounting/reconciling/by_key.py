"""Find each run's line by its key: one pass over the books, where they are kept, which brings numbers alone.

Of a large statement two connections walk half of it each, so that both processors work. The database hands over one row
for each half, in which all numbers stand: a row for each run takes longer to fetch than to find. A run that comes twice
is billed by two lines.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import compress, pairwise
from typing import Any

from msgspec import Struct, field, json
from sqlalchemy import Connection, String, and_, case, cast, false, func, null, or_, select

from accounting.reconciling.found import Tolerance
from accounting.reconciling.sides import LINES, Scope, governing, last_line
from accounting.store.schema import CHARGES, ENTRIES, USAGE
from accounting.store.views import two_views

# So many lines are worth a second connection.
_MANY = 50_000

# What is said of a run: a digit for each.
_DIFFERS, _IN_PERIOD, _ALONE = 1, 2, 4
_AGAIN = ord("8")  # billed by an earlier line


class Passed(Struct, gc=False):
    """Runs by what was found, by their readings' numbers; lines stand beside the runs that they are of."""

    in_period: int
    agreeing: array[int]
    agreeing_lines: array[int]
    different: array[int]
    different_lines: array[int]
    alone: array[int]  # of the period
    alone_beyond: array[int]  # of the months beside it
    again: dict[int, int] = field(default_factory=dict)  # lines whose run an earlier one bills, with that

    def joined(self, other: Passed) -> Passed:
        """Both halves; what stands in lists is appended to the first."""
        for name in ("agreeing", "agreeing_lines", "different", "different_lines", "alone", "alone_beyond"):
            getattr(self, name).extend(getattr(other, name))
        self.in_period += other.in_period
        self.again |= other.again
        return self


def by_key(conn: Connection, scope: Scope, tolerance: Tolerance) -> Passed:
    """Each run with the line that has its key, the first of several."""

    query = _query(scope, tolerance, units=_names_units(conn, scope))

    def walk(over: Connection, *span: Any) -> Passed:
        return _read(over.execute(query.where(*span)).one())

    if last_line(conn, scope.statement_id) < _MANY:
        return walk(conn)
    early, late = _halves(conn, scope)
    with (
        two_views(conn, (USAGE, CHARGES, ENTRIES)) as pair,
        ThreadPoolExecutor(1, thread_name_prefix="match") as thread,
    ):
        if pair is None:
            return walk(conn)
        other = thread.submit(walk, pair[1], late)
        return walk(pair[0], early).joined(other.result())


def _halves(conn: Connection, scope: Scope) -> tuple[Any, Any]:
    """Two conditions, of which each run meets one.

    SQLite walks an index by time. PostgreSQL merges readings and charges in the order of the readings' ids, which come
    much as the runs ended.
    """
    middle = scope.period.start + (scope.period.end - scope.period.start) / 2
    if conn.dialect.name != "postgresql":
        return USAGE.c.end_time < middle, USAGE.c.end_time >= middle
    of_site = select(USAGE.c.id).where(USAGE.c.site_id == scope.site_id, USAGE.c.end_time >= middle)
    first = conn.scalar(of_site.order_by(USAGE.c.end_time).limit(1)) or 0
    return USAGE.c.id < first, USAGE.c.id >= first


def _names_units(conn: Connection, scope: Scope) -> bool:
    named = select(LINES.c.line_no).where(LINES.c.statement_id == scope.statement_id, LINES.c.units.is_not(null()))
    return conn.scalar(named.limit(1)) is not None


def _query(scope: Scope, tolerance: Tolerance, *, units: bool) -> Any:
    # An amount that the line does not give (NULL) does not differ.
    differs = func.coalesce(_differs(scope, tolerance, units=units), false())
    found = case((LINES.c.line_no.is_(None), _ALONE), (differs, _DIFFERS), else_=0)
    code = found + case((scope.inside, _IN_PERIOD), else_=0)
    of_run = [LINES.c.statement_id == scope.statement_id, LINES.c.run_key == USAGE.c.run_key, LINES.c.run_key != ""]
    columns = (
        func.aggregate_strings(_text(USAGE.c.id), ","),
        func.aggregate_strings(_text(func.coalesce(LINES.c.line_no, 0)), ","),
        func.aggregate_strings(_text(code), ""),
    )
    return governing(scope, columns).outerjoin(LINES, and_(*of_run))


def _differs(scope: Scope, tolerance: Tolerance, *, units: bool) -> Any:
    """Names are compared as they are kept: of two that are one person's, the rows tell.

    A quantity may be what was metered, or what of it was billed; money what we billed, or where an order paid for the
    run what it had cost without. A line that names units is compared row by row.
    """
    billed = func.coalesce(CHARGES.c.core_seconds, USAGE.c.core_seconds)
    quantity = and_(_apart(USAGE.c.core_seconds, tolerance), _apart(billed, tolerance))
    ours = CHARGES.c[scope.basis]
    money = and_(*(func.abs(LINES.c.amount_micro - func.coalesce(*some, 0)) > tolerance.micro
                   for some in ((ours,), (scope.listed, ours))))  # fmt: skip
    person = and_(LINES.c.username != "", USAGE.c.username != "", LINES.c.username != USAGE.c.username)
    account = and_(LINES.c.account != "", USAGE.c.account != "", LINES.c.account != USAGE.c.account)
    found = [quantity, money, person]
    if tolerance.accounts:
        found.append(account)
    if units:  # no index has them: few centres name any
        found.append(LINES.c.units.is_not(null()))
    return or_(*found)


def _apart(ours: Any, tolerance: Tolerance) -> Any:
    apart = func.abs(LINES.c.core_seconds - ours)
    return and_(apart > tolerance.seconds * USAGE.c.cores, apart * 1_000_000 > tolerance.ppm * ours)


def _text(number: Any) -> Any:
    return cast(number, String)


def _numbers(text: str | None) -> array[int]:
    return array("q", json.decode(f"[{text or ''}]", type=list[int]))


def _read(row: Sequence[str | None]) -> Passed:
    runs, lines, codes = _numbers(row[0]), _numbers(row[1]), bytearray((row[2] or "").encode())
    again = dict[int, int]()
    for first, later in _several(runs, lines):
        for at in later:
            again[lines[at]] = lines[first]
            codes[at] = _AGAIN

    def where(numbers: array[int], *wanted: int) -> array[int]:
        digits = {ord(str(code)) for code in wanted}
        return array("q", compress(numbers, codes.translate(bytes(byte in digits for byte in range(256)))))

    differ = (_DIFFERS, _IN_PERIOD | _DIFFERS, 0)
    return Passed(
        in_period=len(where(runs, _IN_PERIOD, _IN_PERIOD | _DIFFERS, _IN_PERIOD | _ALONE)),
        agreeing=where(runs, _IN_PERIOD), agreeing_lines=where(lines, _IN_PERIOD),
        different=where(runs, *differ), different_lines=where(lines, *differ),
        alone=where(runs, _ALONE | _IN_PERIOD), alone_beyond=where(runs, _ALONE), again=again,
    )  # fmt: skip


def _several(runs: Sequence[int], lines: Sequence[int]) -> Iterable[tuple[int, list[int]]]:
    """Of each run that several lines bill, the place of the first line and those of the others."""
    several = {run for run, following in pairwise(sorted(runs)) if run == following}
    places: dict[int, list[int]] = defaultdict(list)
    for at, run in enumerate(runs if several else ()):
        if run in several:
            places[run].append(at)
    for found in places.values():
        first, *later = sorted(found, key=lines.__getitem__)
        yield first, later
