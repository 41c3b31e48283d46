"""Which charges a reading takes the place of: its own of before, and the gateway's of the same run.

Two meters' runs are the same where they overlap in time. Clocks may be further apart than a run is long, and a run
that had no resources by the centre has no time at all: what overlaps nothing goes by its number. The gateway numbers
the runs of a native job from 0; once the centre has told more runs of it than that, it has told that one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, func, or_, select

from accounting.store.readings import Assigned
from accounting.store.schema import CHARGES, REVERSALS, USAGE, among
from accounting.usage import RESIZING, Kind, Meter, whole_job

_SLACK = timedelta(seconds=1)
# The last word of a gateway's run key: `<tag>:<task>:<number of the run>`.
_NUMBER = re.compile(r":(\d{1,6})\Z", re.ASCII)

_LIVE = (
    select(CHARGES.c.id, CHARGES.c.job_id, CHARGES.c.meter, CHARGES.c.amount_micro, CHARGES.c.gross_micro,
           CHARGES.c.borne_micro, CHARGES.c.centre_micro, CHARGES.c.tax_micro, CHARGES.c.core_seconds,
           CHARGES.c.currency, CHARGES.c.payers, CHARGES.c.segments, CHARGES.c.project_id, CHARGES.c.agreement_id,
           USAGE.c.site_id, USAGE.c.run_key, USAGE.c.task, USAGE.c.start_time, USAGE.c.end_time, USAGE.c.kind,
           USAGE.c.native_id)
    .join(USAGE, USAGE.c.id == CHARGES.c.usage_record_id)
    .outerjoin(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id)
    .where(REVERSALS.c.charge_id.is_(None))
)  # fmt: skip


class Standing:
    """The charges that stand for the jobs of one call. `again`: the keys of runs that were read before.

    Readings are asked about in the order in which they are charged, the centres' first.
    """

    def __init__(self, conn: Connection, fresh: Mapping[int, Assigned], again: set[str]) -> None:
        self._conn = conn
        self._of_job = _live(conn, fresh, again)
        self._gone: set[int] = set()
        self._read: dict[str, list[Assigned]] = defaultdict(list)

    def is_read(self, item: Assigned) -> bool:
        """Whether the centre has told the run that this reading of the gateway's is of."""
        told = [
            c for c in self._of_job.get(item.job_id, ()) if c.meter == Meter.CENTRE and c.site_id == item.record.site_id
        ]
        told += (a.record for a in self._read.get(item.job_id, ()))
        if any(_same_run(c, item) for c in told):
            return True
        number = _number(item.record.run_key)
        return bool(told) and number is not None and number < self._told(item)

    def replaced(self, item: Assigned) -> list[Any]:
        """The charges that this reading takes the place of."""
        if item.record.meter is Meter.CENTRE:
            self._read[item.job_id].append(item)
        standing = [c for c in self._of_job.get(item.job_id, ()) if c.id not in self._gone]
        found = [c for c in standing if _replaces(item, c)]
        if item.record.meter is Meter.CENTRE and all(c.meter != Meter.GATEWAY for c in found):
            found += self._by_number(item, standing)
        return found

    def take(self, replaced: list[Any]) -> None:
        """These have been taken the place of."""
        self._gone.update(c.id for c in replaced)

    def _by_number(self, item: Assigned, standing: list[Any]) -> list[Any]:
        r = item.record
        # The gateway watches a heterogeneous job as a whole, the centre tells each of its components.
        here = (r.site_id, whole_job(r.native_id), r.task)
        ours = [(number, c) for c in standing
                if c.meter == Meter.GATEWAY and (c.site_id, c.native_id, c.task) == here
                and (number := _number(c.run_key)) is not None]  # fmt: skip
        if not ours or r.run_key.endswith(RESIZING):
            return []
        told = self._told(item)
        return [c for number, c in ours if number < told]

    def _told(self, item: Assigned) -> int:
        """How many runs of a native job's task the centre has told, with those of this call (they are kept already); of
        a heterogeneous job those of the component of which it has told most."""
        r, native_id = item.record, whole_job(item.record.native_id)
        of_job = or_(USAGE.c.native_id == native_id, USAGE.c.native_id.startswith(f"{native_id}+", autoescape=True))
        query = select(func.count(USAGE.c.run_key.distinct()).label("runs")).where(
            USAGE.c.job_id == item.job_id, USAGE.c.site_id == r.site_id, USAGE.c.meter == Meter.CENTRE.value,
            of_job, USAGE.c.task == r.task, USAGE.c.run_key.not_like(f"%{RESIZING}"),
        )  # fmt: skip
        told = query.group_by(USAGE.c.native_id).subquery()
        return int(self._conn.scalar(select(func.max(told.c.runs))) or 0)


def _live(conn: Connection, fresh: Mapping[int, Assigned], again: set[str]) -> dict[str, list[Any]]:
    """Charges that nothing has replaced and one of these readings may, by job: what a gateway's reading gives way to,
    what a centre's takes the place of (the gateway's of the job, its own of before). Not all of a job: an array of
    10,000 tasks comes in many calls."""
    found: dict[str, list[Any]] = defaultdict(list)
    query = _LIVE.where(among(conn, CHARGES.c.job_id, {a.job_id for a in fresh.values()}))
    if all(a.record.meter is Meter.CENTRE for a in fresh.values()):
        of_gateway = CHARGES.c.meter == Meter.GATEWAY.value
        query = query.where(or_(of_gateway, among(conn, USAGE.c.run_key, again)) if again else of_gateway)
    for row in conn.execute(query):
        found[row.job_id].append(row)
    return found


def _replaces(item: Assigned, live: Any) -> bool:
    """Whether this reading takes the place of a live charge: its own older revision, or the gateway's of the run."""
    r = item.record
    if live.site_id != r.site_id:
        return False
    if live.meter == r.meter.value:
        return bool(live.run_key == r.run_key)
    return live.meter == Meter.GATEWAY and _same_run(live, item)


def _same_run(live: Any, item: Assigned) -> bool:
    """The same task at the same time: runs of one task never overlap each other, but for a copy that was fenced."""
    r = item.record
    if live.task != r.task or None in (live.start_time, live.end_time, r.start_time, r.end_time):
        return False
    if (live.kind == Kind.FENCED_COPY) != (r.kind is Kind.FENCED_COPY) and live.native_id != r.native_id:
        return False
    assert r.start_time is not None and r.end_time is not None
    return bool(live.start_time < r.end_time + _SLACK and r.start_time < live.end_time + _SLACK)


def _number(run_key: str) -> int | None:
    found = _NUMBER.search(run_key)
    return int(found[1]) if found is not None else None
