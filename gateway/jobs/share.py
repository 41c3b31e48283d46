"""What our jobs together take of a centre beside places and cores: the contracted share in core-seconds, nodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, func, select

from accounting.store.reading import core_seconds_at
from gateway.jobs.line import Waiter
from gateway.jobs.repository import AT_OR_ON_THE_WAY, JOBS, spec_from_json
from site_adapters.policy import Policy
from site_adapters.weight import nodes_at_most


@dataclass(slots=True)
class ShareLeft:
    """What one tick may still hand over: read once, then counted along; None where no share was contracted.

    What ends early while the tick runs is given back by the next one.
    """

    core_seconds: int | None

    @classmethod
    def of(cls, conn: Connection, site_id: str, policy: Policy) -> ShareLeft:
        if policy.share_core_seconds is None:
            return cls(None)
        return cls(policy.share_core_seconds - taken(conn, site_id))

    def take(self, chosen: Iterable[Waiter]) -> None:
        if self.core_seconds is not None:
            self.core_seconds -= sum(w.core_seconds for w in chosen)


def taken(conn: Connection, site_id: str) -> int:
    """Used by runs that have ended, as the stricter of the two meters says, and promised to all that is there now.

    A job that is there is counted with the longest that it may run; its earlier runs come on top.
    """
    size = func.coalesce(JOBS.c.array_size, 1)
    promised = select(func.sum(JOBS.c.cores_charged * size * JOBS.c.duration_max)).where(
        JOBS.c.site_id == site_id, JOBS.c.phase.in_(AT_OR_ON_THE_WAY)
    )
    return core_seconds_at(conn, site_id) + int(conn.scalar(promised) or 0)


def nodes_in_use(conn: Connection, site_id: str) -> int:
    """Of all our jobs that are there or on the way, waiting ones included."""
    there = (JOBS.c.site_id == site_id) & JOBS.c.phase.in_(AT_OR_ON_THE_WAY)
    sizes = {row.id: row.array_size or 1 for row in conn.execute(select(JOBS.c.id, JOBS.c.array_size).where(there))}
    return sum(each * sizes[job_id] for job_id, each in nodes_of(conn, there).items())


def nodes_of(conn: Connection, which: ColumnElement[bool]) -> dict[str, int]:
    """The nodes of each of these jobs (of one task): only the spec says them."""
    rows = conn.execute(select(JOBS.c.id, JOBS.c.spec).where(which))
    return {r.id: nodes_at_most(spec_from_json(r.spec).resources) for r in rows}
