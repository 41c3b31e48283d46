"""Both sides of a comparison where they are kept: the governing reading of each run, and the lines of a statement.

Nothing is copied. One pass over the books (by_key.py) tells which differ, in numbers alone; whole rows are read here,
of the few that do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any

from msgspec import Struct, structs
from sqlalchemy import Connection, Select, and_, case, func, or_, select

from accounting.calendar import Period
from accounting.reconciling.statement import Line
from accounting.reports.usage_by_period import epoch_of
from accounting.store.schema import CHARGES, REVERSALS, USAGE, among, core
from accounting.tables import StatementLineRow, StatementRow

LINES, _STATEMENTS = core(StatementLineRow), core(StatementRow)
_NEWER = USAGE.alias("newer")
_AT_ONCE = 1000  # rows that are asked for by their numbers in one statement

# The site where others tell which rows: SQLite takes the index on sites for the better one, and walks all of a site.
_NO_INDEX = USAGE.c.site_id.concat("")


@dataclass(frozen=True, slots=True)
class Scope:
    """Which runs are compared with which lines. `basis` is the column of a charge that the centre bills.

    `logins`: by what stands for them on either side; an erased person's pseudonym stays, the same on both.
    Our side reaches `margin_s` beyond the period: what the centre counts elsewhere is a cut-off, not an unknown run.
    """

    statement_id: int
    site_id: str
    period: Period
    basis: str
    margin_s: int
    logins: Mapping[str, str]

    @property
    def listed(self) -> Any:
        """The column of what the centre bills where an order paid for a run, and it bills the run by its prices."""
        return CHARGES.c[f"list_{self.basis}"]

    @property
    def inside(self) -> Any:
        return and_(USAGE.c.end_time >= self.period.start, USAGE.c.end_time < self.period.end)


class Run(Struct, frozen=True, gc=False):
    """The governing reading of a run. `amount_micro` None: not priced. Times are epoch seconds in UTC."""

    id: int
    site_id: str
    run_key: str
    meter: str
    revision: int
    native_id: str
    task: int | None
    username: str
    account: str
    queue: str
    state: str
    cores: int
    requested_cores: int | None
    nodes: int
    started: int | None
    ended: int
    elapsed_s: int
    suspended_s: int
    core_seconds: int
    amount_micro: int | None
    job_id: str | None
    project_id: str | None
    in_period: int
    billed_core_seconds: int  # as they were priced by the agreement's policy
    units: dict[str, int] | None = None
    list_micro: int | None = None  # had no order paid for it; None: none did


def governing(scope: Scope, columns: Sequence[Any], *, site: Any = USAGE.c.site_id) -> Select[Any]:
    """`columns` of each run's reading whose charge nothing has replaced, or of a centre's without a price."""
    margin = timedelta(seconds=scope.margin_s)
    older = select(_NEWER.c.supersedes).where(_NEWER.c.supersedes.is_not(None))
    return (
        select(*columns)
        .select_from(USAGE)
        .outerjoin(CHARGES, CHARGES.c.usage_record_id == USAGE.c.id)
        .outerjoin(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id)
        .where(
            site == scope.site_id, USAGE.c.kind == "run", REVERSALS.c.charge_id.is_(None),
            or_(CHARGES.c.id.is_not(None), USAGE.c.meter == "centre"), USAGE.c.id.not_in(older),
            USAGE.c.end_time >= scope.period.start - margin, USAGE.c.end_time < scope.period.end + margin,
        )
    )  # fmt: skip


def runs_of(conn: Connection, scope: Scope, ids: Sequence[int]) -> Iterator[Run]:
    """The runs of these readings as they were when they were found: another reading may have replaced them since."""
    priced = USAGE.outerjoin(CHARGES, CHARGES.c.usage_record_id == USAGE.c.id)
    query = select(*_run(scope)).select_from(priced)
    for at in range(0, len(ids), _AT_ONCE):
        yield from _runs(conn, scope, query.where(USAGE.c.id.in_(ids[at : at + _AT_ONCE])))


def _run(scope: Scope) -> Sequence[Any]:
    """What a `Run` is made of."""
    return (
        USAGE.c.id, USAGE.c.site_id, USAGE.c.run_key, USAGE.c.meter, USAGE.c.revision, USAGE.c.native_id, USAGE.c.task,
        USAGE.c.username, USAGE.c.account, USAGE.c.queue, USAGE.c.state, USAGE.c.cores, USAGE.c.requested_cores,
        USAGE.c.nodes, epoch_of(USAGE.c.start_time), epoch_of(USAGE.c.end_time), USAGE.c.elapsed_s, USAGE.c.suspended_s,
        USAGE.c.core_seconds, CHARGES.c[scope.basis], USAGE.c.job_id, USAGE.c.project_id,
        case((scope.inside, 1), else_=0), func.coalesce(CHARGES.c.core_seconds, USAGE.c.core_seconds),
        USAGE.c.units,
        scope.listed,
    )  # fmt: skip


def _runs(conn: Connection, scope: Scope, query: Select[Any]) -> Iterator[Run]:
    for row in conn.execute(query.order_by(USAGE.c.id)):
        run = Run(*row)
        yield structs.replace(run, username=scope.logins.get(run.username, run.username))


def lines_of(conn: Connection, scope: Scope, numbers: Sequence[int]) -> Iterator[Line]:
    """These lines of the statement, without their raw text."""
    query = select(
        LINES.c.line_no, LINES.c.core_seconds, LINES.c.run_key, LINES.c.native_id, LINES.c.task, LINES.c.username,
        LINES.c.account, LINES.c.queue, LINES.c.state, LINES.c.cores, LINES.c.nodes, LINES.c.started, LINES.c.ended,
        LINES.c.elapsed_s, LINES.c.suspended_s, LINES.c.gpu_seconds, LINES.c.amount_micro, LINES.c.units,
    )  # fmt: skip
    query = query.where(LINES.c.statement_id == scope.statement_id).order_by(LINES.c.line_no)
    for at in range(0, len(numbers), _AT_ONCE):
        some = query.where(LINES.c.line_no.in_(numbers[at : at + _AT_ONCE]))
        for row in conn.execute(some):
            line = Line(*row)
            yield structs.replace(line, username=scope.logins.get(line.username, line.username))


def last_line(conn: Connection, statement_id: int) -> int:
    """The highest number of a line."""
    return int(conn.scalar(select(func.max(LINES.c.line_no)).where(LINES.c.statement_id == statement_id)) or 0)


def line_count(conn: Connection, statement_id: int) -> int:
    """How many lines there are, as they were counted when the statement was received."""
    return int(conn.scalar(select(_STATEMENTS.c.lines).where(_STATEMENTS.c.id == statement_id)) or 0)


class Summed:
    """Our sums by queue, account and person, of the whole period or of a time; each time is summed once."""

    def __init__(self, conn: Connection, scope: Scope) -> None:
        self._conn, self._scope = conn, scope
        self._of = lru_cache(maxsize=64)(self._grouped)

    def like(self, line: Line) -> tuple[int, int | None, int | None]:
        """(core-seconds, micro-units, micro-units had no order paid for runs) of what a line sums up; None: nothing of
        it is priced."""
        whole = line.started is None or line.ended is None
        when = (None, None) if whole else (line.started, line.ended)
        quantity, money, listed = 0, None, None
        for queue, account, username, seconds, micro, at_list in self._of(*when):
            same = (line.queue in ("", queue), line.account in ("", account), line.username in ("", username))
            if all(same):
                quantity += seconds
                money = money if micro is None else (money or 0) + micro
                listed = listed if at_list is None else (listed or 0) + at_list
        return quantity, money, listed

    def _grouped(self, start: int | None, end: int | None) -> list[tuple[str, str, str, int, int | None, int | None]]:
        by = (USAGE.c.queue, USAGE.c.account, USAGE.c.username)
        billed = CHARGES.c[self._scope.basis]
        sums = (func.sum(USAGE.c.core_seconds), func.sum(billed), func.sum(func.coalesce(self._scope.listed, billed)))
        ended = epoch_of(USAGE.c.end_time)
        when = self._scope.inside if start is None else and_(ended >= start, ended < end)
        found = self._conn.execute(governing(self._scope, (*by, *sums)).where(when).group_by(*by))
        logins = self._scope.logins
        return [(queue, account, logins.get(username, username), int(seconds), None if micro is None else int(micro),
                 None if at_list is None else int(at_list))
                for queue, account, username, seconds, micro, at_list in found]  # fmt: skip


def runs_named(conn: Connection, scope: Scope, native_ids: Collection[str]) -> Iterator[Run]:
    """Every run with one of these numbers at the centre."""
    if native_ids:
        of_these = among(conn, USAGE.c.native_id, native_ids)
        yield from _runs(conn, scope, governing(scope, _run(scope), site=_NO_INDEX).where(of_these))


def billed_by_key(conn: Connection, scope: Scope, run_keys: Collection[str]) -> dict[str, int]:
    """The first line that bills each of these runs by its key."""
    found: dict[str, int] = {}
    keys = sorted(run_keys)
    query = select(LINES.c.run_key, func.min(LINES.c.line_no)).where(LINES.c.statement_id == scope.statement_id)
    for at in range(0, len(keys), _AT_ONCE):
        some = query.where(LINES.c.run_key.in_(keys[at : at + _AT_ONCE])).group_by(LINES.c.run_key)
        found |= {run_key: int(line_no) for run_key, line_no in conn.execute(some)}
    return found


def same_jobs(conn: Connection, scope: Scope, found: Collection[Run]) -> Iterator[Run]:
    """Every run of the jobs that these are of; where a run is of no job of ours, of its number at the centre."""
    query = governing(scope, _run(scope), site=_NO_INDEX)
    jobs = sorted({run.job_id for run in found if run.job_id is not None})
    for at in range(0, len(jobs), _AT_ONCE):
        yield from _runs(conn, scope, query.where(USAGE.c.job_id.in_(jobs[at : at + _AT_ONCE])))
    strange = sorted({run.native_id for run in found if run.job_id is None})
    for at in range(0, len(strange), _AT_ONCE):
        some = USAGE.c.native_id.in_(strange[at : at + _AT_ONCE])
        yield from _runs(conn, scope, query.where(USAGE.c.job_id.is_(None), some))
