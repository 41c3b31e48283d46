"""Usage by period, summed by the database: what ran in each day or month, and what started and ended in it.

A run that crosses a boundary is divided so that its parts sum to it exactly, in whole resource-seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    Table,
    and_,
    case,
    func,
    literal,
    select,
    union_all,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction
from sqlalchemy.types import Text

from accounting import tables
from accounting.calendar import Period

USAGE = cast(Table, tables.UsageRecordRow.__table__)


class epoch_of(GenericFunction[int]):
    """Whole seconds since 1970 of a time column."""

    type = BigInteger()
    inherit_cache = True


@compiles(epoch_of, "sqlite")
def _epoch_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    return f"CAST(strftime('%s', {compiler.process(element.clauses, **kw)}) AS INTEGER)"


@compiles(epoch_of, "postgresql")
def _epoch_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    return f"CAST(floor(EXTRACT(EPOCH FROM {compiler.process(element.clauses, **kw)})) AS BIGINT)"


@dataclass(frozen=True, slots=True)
class PeriodUsage:
    """What runs took inside one period, in resource-seconds; `wall_seconds` counts each run's time once."""

    period: str
    core_seconds: int
    node_seconds: int
    wall_seconds: int
    runs_started: int
    runs_ended: int


def usage_by_period(conn: Connection, site_id: str, periods: Sequence[Period]) -> list[PeriodUsage]:
    """The centre's readings of one site, newest revision of each run."""
    if not periods:
        return []
    runs = current_runs(site_id)
    p = _periods(periods)
    overlaps = and_(runs.c.started < p.c.t1, runs.c.ended > p.c.t0)
    starts = and_(runs.c.started >= p.c.t0, runs.c.started < p.c.t1)
    ends = and_(runs.c.ended >= p.c.t0, runs.c.ended < p.c.t1)
    query = (
        select(
            p.c.name,
            *(func.coalesce(func.sum(case((overlaps, share(q, runs, p)), else_=0)), 0)
              for q in (runs.c.core_seconds, runs.c.node_seconds, runs.c.elapsed_s)),
            func.coalesce(func.sum(case((starts, 1), else_=0)), 0),
            func.coalesce(func.sum(case((ends, 1), else_=0)), 0),
        )
        .select_from(p.outerjoin(runs, and_(runs.c.started < p.c.t1, runs.c.ended >= p.c.t0)))
        .group_by(p.c.name)
        .order_by(p.c.name)
    )  # fmt: skip
    return [PeriodUsage(row[0], *(int(value) for value in row[1:])) for row in conn.execute(query)]


def current_runs(site_id: str) -> FromClause:
    """Runs that had resources, by the newest revision of the centre's reading; computed once, whatever joins it."""
    place = func.row_number().over(partition_by=USAGE.c.run_key, order_by=USAGE.c.revision.desc()).label("place")
    readings = (
        select(
            USAGE.c.core_seconds, USAGE.c.node_seconds, USAGE.c.elapsed_s, USAGE.c.kind, place,
            epoch_of(USAGE.c.start_time).label("started"), epoch_of(USAGE.c.end_time).label("ended"),
        )
        .where(USAGE.c.site_id == site_id, USAGE.c.meter == "centre")
        .subquery("readings")
    )  # fmt: skip
    newest = select(readings).where(readings.c.place == 1, readings.c.kind == "run")
    return newest.cte("runs").prefix_with("MATERIALIZED", dialect="postgresql")


def share(quantity: ColumnElement[int], runs: FromClause, p: FromClause) -> ColumnElement[int]:
    """The part of a run's quantity that falls into a period: a difference of two running totals, so parts sum up."""
    span = func.nullif(runs.c.ended - runs.c.started, 0)
    until = case((runs.c.ended < p.c.t1, runs.c.ended), else_=p.c.t1) - runs.c.started
    before = case((runs.c.started > p.c.t0, runs.c.started), else_=p.c.t0) - runs.c.started
    return _running(quantity, until, span) - _running(quantity, before, span)


def _running(quantity: ColumnElement[int], t: ColumnElement[int], span: ColumnElement[int]) -> ColumnElement[int]:
    """floor(quantity × t / span) without overflow: whole cores first, the rest (smaller than span) after."""
    return _div(quantity, span) * t + _div((quantity % span) * t, span)


def _div(a: ColumnElement[int], b: ColumnElement[int]) -> ColumnElement[int]:
    return a.op("/", return_type=BigInteger())(b)


def _periods(periods: Sequence[Period]) -> FromClause:
    """The periods as a small table: SQLite gives the columns of VALUES no names."""
    rows = [
        select(literal(p.name, Text()).label("name"), literal(p.epochs[0], BigInteger()).label("t0"),
               literal(p.epochs[1], BigInteger()).label("t1"))
        for p in periods
    ]  # fmt: skip
    return (union_all(*rows) if len(rows) > 1 else rows[0]).subquery("p")


def span_of(conn: Connection, site_id: str) -> tuple[datetime, datetime] | None:
    """From the first start to the last end; None where nothing ran."""
    query = select(func.min(USAGE.c.start_time), func.max(USAGE.c.end_time)).where(
        USAGE.c.site_id == site_id, USAGE.c.kind == "run"
    )
    first, last = conn.execute(query).one()
    return None if first is None else (first, last)
