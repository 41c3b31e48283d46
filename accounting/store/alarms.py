"""Read both meters' figures of a site, and keep which alarms stand. Nothing here commits."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Connection, func, select

from accounting import tables
from accounting.meters_watch import Alarm, SeenJob
from accounting.store.schema import USAGE, core, insert_all

ALARMS = core(tables.MeterAlarmRow)
RAISED, OVER = "raised", "over"


@dataclass(frozen=True, slots=True)
class AlarmNow:
    """An alarm as it stands; `since`: when it was raised or last changed."""

    site_id: str
    kind: str
    day: str
    state: str
    text: str
    figures: dict[str, Any]
    since: datetime


def seen_jobs(conn: Connection, site_id: str, since: datetime, until: datetime) -> list[SeenJob]:
    """Jobs whose end the gateway saw in [since, until), by its own meter and by the centre's: the newest readings."""
    newer = USAGE.alias("newer")
    newest = USAGE.outerjoin(newer, newer.c.supersedes == USAGE.c.id)
    of_site = (USAGE.c.site_id == site_id) & newer.c.id.is_(None)

    def total(column: Any) -> Any:
        return func.sum(column, type_=BigInteger)

    tasks = func.count(func.coalesce(USAGE.c.task, -1).distinct()).label("tasks")
    ours = (
        select(USAGE.c.job_id, func.max(USAGE.c.end_time, type_=tables.UtcTime()).label("ended"),
               func.max(USAGE.c.cores).label("cores"), func.count().label("runs"),
               tasks, total(USAGE.c.core_seconds).label("core_seconds"))
        .select_from(newest)
        .where(of_site, USAGE.c.meter == "gateway", USAGE.c.kind == "run", USAGE.c.end_time >= since,
               USAGE.c.end_time < until)
        .group_by(USAGE.c.job_id).subquery()
    )  # fmt: skip
    theirs = (
        select(USAGE.c.job_id, tasks, total(USAGE.c.core_seconds).label("core_seconds"))
        .select_from(newest)
        .where(of_site, USAGE.c.meter == "centre", USAGE.c.job_id.in_(select(ours.c.job_id)))
        .group_by(USAGE.c.job_id).subquery()
    )  # fmt: skip
    begun = (
        select(USAGE.c.job_id, (func.count() - 1).label("again"))
        .select_from(newest)
        .where(of_site, USAGE.c.meter == "centre", USAGE.c.kind == "run", USAGE.c.job_id.in_(select(ours.c.job_id)))
        .group_by(USAGE.c.job_id, USAGE.c.native_id, USAGE.c.task, USAGE.c.start_time)
        .having(func.count() > 1).subquery()
    )  # fmt: skip
    twice = select(begun.c.job_id, total(begun.c.again).label("twice")).group_by(begun.c.job_id).subquery()
    query = (
        select(ours, theirs.c.core_seconds.label("centre"), theirs.c.tasks.label("told"), twice.c.twice)
        .outerjoin(theirs, theirs.c.job_id == ours.c.job_id)
        .outerjoin(twice, twice.c.job_id == ours.c.job_id)
    )
    return [
        SeenJob(r.ended, int(r.cores), int(r.runs), int(r.core_seconds), None if r.centre is None else int(r.centre),
                max(0, int(r.tasks) - int(r.told or 0)), int(r.twice or 0))
        for r in conn.execute(query)
    ]  # fmt: skip


def keep(conn: Connection, site_id: str, found: Sequence[Alarm], *, now: datetime) -> list[Alarm]:
    """Raise what is new or says something else, end what is there no more; the alarms that were raised."""
    standing = {(a.kind, a.day): a for a in alarms(conn, site_ids=[site_id])}
    counts = {(r.kind, r.day): int(r.n) for r in conn.execute(_newest([site_id]))}
    fresh = [a for a in found if (key := (a.kind.value, a.day)) not in standing or standing[key].text != a.text]
    there = {(a.kind.value, a.day) for a in found}
    rows = [(a.kind.value, a.day, RAISED, a.text, dict(a.figures)) for a in fresh]
    rows += [(kind, day, OVER, a.text, a.figures) for (kind, day), a in standing.items() if (kind, day) not in there]
    insert_all(conn, ALARMS, [
        {"site_id": site_id, "kind": kind, "day": day, "n": counts.get((kind, day), 0) + 1, "state": state,
         "text": text[:500], "figures": figures, "at": now}
        for kind, day, state, text, figures in rows
    ])  # fmt: skip
    return fresh


def alarms(conn: Connection, *, site_ids: Collection[str] | None = None, over: bool = False) -> list[AlarmNow]:
    """The alarms that stand (with `over` also those that do not any more), the newest day first."""
    newest = _newest(site_ids).subquery()
    query = (
        select(ALARMS)
        .join(newest, (newest.c.site_id == ALARMS.c.site_id) & (newest.c.kind == ALARMS.c.kind)
              & (newest.c.day == ALARMS.c.day) & (newest.c.n == ALARMS.c.n))
        .order_by(ALARMS.c.day.desc(), ALARMS.c.site_id, ALARMS.c.kind)
    )  # fmt: skip
    rows = conn.execute(query if over else query.where(ALARMS.c.state == RAISED))
    return [AlarmNow(r.site_id, r.kind, r.day, r.state, r.text, dict(r.figures), r.at) for r in rows]


def _newest(site_ids: Collection[str] | None) -> Any:
    query = select(ALARMS.c.site_id, ALARMS.c.kind, ALARMS.c.day, func.max(ALARMS.c.n).label("n"))
    if site_ids is not None:
        query = query.where(ALARMS.c.site_id.in_(sorted(site_ids)))
    return query.group_by(ALARMS.c.site_id, ALARMS.c.kind, ALARMS.c.day)
