"""Find each run's line by its key: one pass over the books, where they are kept, which brings numbers alone.

Of a large statement two connections walk half the period each, so that both processors work. The database hands over
one row for each half, in which all numbers stand: a row for each run takes longer to fetch than to find.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import compress
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, String, and_, case, cast, false, func, or_, select

from accounting.reconciling.found import Tolerance
from accounting.reconciling.sides import LINES, Scope, governing
from accounting.store.schema import CHARGES, ENTRIES, USAGE, among
from accounting.store.views import two_views

# So many lines are worth a second connection.
_MANY = 50_000

# What is said of a run: a digit for each.
_DIFFERS, _IN_PERIOD, _ALONE = 1, 2, 4


class Passed(Struct, gc=False):
    """Runs by what was found, by their readings' numbers; lines stand beside the runs that they are of."""

    in_period: int
    agreeing: array[int]
    agreeing_lines: array[int]
    different: array[int]
    different_lines: array[int]
    alone: array[int]  # of the period
    alone_beyond: array[int]  # of the months beside it

    def __add__(self, other: Passed) -> Passed:
        return Passed(*(getattr(self, name) + getattr(other, name) for name in self.__struct_fields__))


def by_key(conn: Connection, scope: Scope, tolerance: Tolerance, again: Collection[int]) -> Passed:
    """Each run with the line that has its key; `again`: lines that are passed over, as an earlier one has their key."""

    def walk(over: Connection, *span: Any) -> Passed:
        return _read(over.execute(_query(over, scope, tolerance, again).where(*span)).one())

    last = conn.scalar(select(func.max(LINES.c.line_no)).where(LINES.c.statement_id == scope.statement_id)) or 0
    if last < _MANY:
        return walk(conn)
    middle = scope.period.start + (scope.period.end - scope.period.start) / 2
    with (
        two_views(conn, (USAGE, CHARGES, ENTRIES)) as pair,
        ThreadPoolExecutor(1, thread_name_prefix="match") as thread,
    ):
        if pair is None:
            return walk(conn)
        late = thread.submit(walk, pair[1], USAGE.c.end_time >= middle)
        return walk(pair[0], USAGE.c.end_time < middle) + late.result()


def line_numbers(conn: Connection, scope: Scope) -> array[int]:
    """The number of each line of the statement."""
    numbers = func.aggregate_strings(_text(LINES.c.line_no), " ")
    return _numbers(conn.scalar(select(numbers).where(LINES.c.statement_id == scope.statement_id)))


def _query(conn: Connection, scope: Scope, tolerance: Tolerance, again: Collection[int]) -> Any:
    # An amount that the line does not give (NULL) does not differ.
    found = case((LINES.c.line_no.is_(None), _ALONE), (func.coalesce(_differs(scope, tolerance), false()), _DIFFERS),
                 else_=0)  # fmt: skip
    code = found + case((scope.inside, _IN_PERIOD), else_=0)
    of_run = [LINES.c.statement_id == scope.statement_id, LINES.c.run_key == USAGE.c.run_key, LINES.c.run_key != ""]
    if again:
        of_run.append(~among(conn, LINES.c.line_no, again))
    columns = (
        func.aggregate_strings(_text(USAGE.c.id), " "),
        func.aggregate_strings(_text(func.coalesce(LINES.c.line_no, 0)), " "),
        func.aggregate_strings(_text(code), ""),
    )
    return governing(scope, columns).outerjoin(LINES, and_(*of_run))


def _differs(scope: Scope, tolerance: Tolerance) -> Any:
    """Names are compared as they are kept: of two that are one person's, the rows tell.

    A quantity may be what was metered, or what of it was billed; money what we billed, or where an order paid for the
    run what it had cost without.
    """
    billed = func.coalesce(CHARGES.c.core_seconds, USAGE.c.core_seconds)
    quantity = and_(_apart(USAGE.c.core_seconds, tolerance), _apart(billed, tolerance))
    ours = CHARGES.c[scope.basis]
    money = and_(*(func.abs(LINES.c.amount_micro - func.coalesce(*some, 0)) > tolerance.micro
                   for some in ((ours,), (scope.listed, ours))))  # fmt: skip
    person = and_(LINES.c.username != "", USAGE.c.username != "", LINES.c.username != USAGE.c.username)
    account = and_(LINES.c.account != "", USAGE.c.account != "", LINES.c.account != USAGE.c.account)
    return or_(quantity, money, person, account) if tolerance.accounts else or_(quantity, money, person)


def _apart(ours: Any, tolerance: Tolerance) -> Any:
    apart = func.abs(LINES.c.core_seconds - ours)
    return and_(apart > tolerance.seconds * USAGE.c.cores, apart * 1_000_000 > tolerance.ppm * ours)


def _text(number: Any) -> Any:
    return cast(number, String)


def _numbers(text: str | None) -> array[int]:
    return array("q", map(int, (text or "").split()))


def _read(row: Sequence[str | None]) -> Passed:
    runs, lines, codes = _numbers(row[0]), _numbers(row[1]), (row[2] or "").encode()

    def where(numbers: array[int], *wanted: int) -> array[int]:
        digits = {ord(str(code)) for code in wanted}
        return array("q", compress(numbers, codes.translate(bytes(byte in digits for byte in range(256)))))

    differ = (_DIFFERS, _IN_PERIOD | _DIFFERS, 0)
    return Passed(
        in_period=len(where(runs, _IN_PERIOD, _IN_PERIOD | _DIFFERS, _IN_PERIOD | _ALONE)),
        agreeing=where(runs, _IN_PERIOD), agreeing_lines=where(lines, _IN_PERIOD),
        different=where(runs, *differ), different_lines=where(lines, *differ),
        alone=where(runs, _ALONE | _IN_PERIOD), alone_beyond=where(runs, _ALONE),
    )  # fmt: skip
