"""The read side: one job by one joined statement, pages of jobs by keyset, as plain values for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, and_, exists, false, func, or_, select, union_all

from accounting.money import format_micro
from accounting.store import CHARGES, REVERSALS
from gateway.db import table_of
from gateway.identity.access import Person, Verb, can
from gateway.identity.tables import ProjectRow, UserRow
from gateway.jobs.repository import JOBS, RUNS, SITES, Owner
from gateway.jobs.tables import EventRow, JobTagRow

_USERS, _PROJECTS, _TAGS, _EVENTS = (table_of(t) for t in (UserRow, ProjectRow, JobTagRow, EventRow))

_SHOW = (
    select(
        JOBS, SITES.c.stale_since, SITES.c.last_good_at, _USERS.c.name.label("user_name"),
        _PROJECTS.c.name.label("project_name"), _PROJECTS.c.currency,
    )
    .join(SITES, SITES.c.id == JOBS.c.site_id)
    .join(_USERS, _USERS.c.id == JOBS.c.user_id)
    .join(_PROJECTS, _PROJECTS.c.id == JOBS.c.project_id)
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class JobFilter:
    """What a list shows; None: no filter. Several states: any of them."""

    states: tuple[str, ...] = ()
    site: str | None = None
    project: str | None = None
    user: str | None = None
    name: str | None = None
    tag: tuple[str, str] | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


def show(conn: Connection, person: Person, job_id: str) -> dict[str, Any] | None:
    """One job as JSON values; None where it is not there or not this person's to see."""
    row = conn.execute(_SHOW.where(JOBS.c.id == job_id)).one_or_none()
    if row is None or not can(person, Verb.SEE_JOB, ("job", Owner(row.user_id, row.project_id, row.site_id))):
        return None
    return _job(row, *_extras(conn, row))


def show_many(conn: Connection, person: Person, job_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Jobs by id, those that may be seen."""
    rows = conn.execute(_SHOW.where(JOBS.c.id.in_(job_ids)))
    return {
        row.id: _job(row, None, None)
        for row in rows
        if can(person, Verb.SEE_JOB, ("job", Owner(row.user_id, row.project_id, row.site_id)))
    }


def page(
    conn: Connection, person: Person, wanted: JobFilter, *, before: str | None, limit: int
) -> tuple[list[dict[str, Any]], str | None]:
    """The newest jobs before an id, and the id to go on from; None where this was the last page.

    Each state is walked along its own index and merged, so that a rare state needs no scan.
    """
    filters = [_visible(person), *_conditions(wanted)]
    if before is not None:
        filters.append(JOBS.c.id < before)
    if len(wanted.states) > 1:
        walks = [
            select(JOBS.c.id)
            .where(*filters, JOBS.c.state == state)
            .order_by(JOBS.c.id.desc())
            .limit(limit + 1)
            .subquery()
            for state in wanted.states
        ]
        merged = union_all(*(select(walk.c.id) for walk in walks)).subquery()
        ids = select(merged.c.id).order_by(merged.c.id.desc()).limit(limit + 1)
    else:
        if wanted.states:
            filters.append(JOBS.c.state == wanted.states[0])
        ids = select(JOBS.c.id).where(*filters).order_by(JOBS.c.id.desc()).limit(limit + 1)
    found = list(conn.scalars(ids))
    rows = conn.execute(_SHOW.where(JOBS.c.id.in_(found[:limit])).order_by(JOBS.c.id.desc()))
    return [_job(row, None, None) for row in rows], found[limit - 1] if len(found) > limit else None


def events(conn: Connection, job_id: str, *, after: int, limit: int = 500) -> list[dict[str, Any]]:
    """What happened to a job after its n-th event, in order."""
    query = select(_EVENTS).where(_EVENTS.c.job_id == job_id, _EVENTS.c.n > after).order_by(_EVENTS.c.n).limit(limit)
    return [
        {"n": r.n, "at": stamp(r.at), "kind": r.kind, "state": r.state, "detail": r.payload}
        for r in conn.execute(query)
    ]


def runs(conn: Connection, job_id: str) -> list[dict[str, Any]]:
    """Every run of a job, requeues and tasks included."""
    query = select(RUNS).where(RUNS.c.job_id == job_id).order_by(RUNS.c.attempt, RUNS.c.task, RUNS.c.restart)
    return [
        {
            "attempt": r.attempt, "task": None if r.task < 0 else r.task, "restart": r.restart,
            "native_id": r.native_id, "state": r.state, "reason": r.reason, "native_state": r.native_state,
            "exit_code": r.exit_code, "signal": r.signal, "cores": r.cores, "submit_time": stamp(r.submit_time),
            "start_time": stamp(r.start_time), "end_time": stamp(r.end_time),
        }
        for r in conn.execute(query)
    ]  # fmt: skip


# ---------------------------------------------------------------- parts


def stamp(at: datetime | None) -> str | None:
    """RFC 3339 in UTC."""
    return None if at is None else at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _visible(person: Person) -> Any:
    """The jobs that `can(person, SEE_JOB, …)` allows, as a condition."""
    if "read" not in person.scopes:
        return false()
    if person.operator_admin:
        return JOBS.c.id.is_not(None)
    owned = sorted(project for project, role in person.roles.items() if role == "owner")
    parts = [JOBS.c.user_id == person.user_id]
    parts += [JOBS.c.project_id.in_(owned)] if owned else []
    parts += [JOBS.c.site_id.in_(sorted(person.staff_of))] if person.staff_of else []
    return or_(*parts)


def _conditions(wanted: JobFilter) -> list[Any]:
    found: list[Any] = []
    if wanted.site is not None:
        found.append(JOBS.c.site_id == wanted.site)
    if wanted.project is not None:
        one = select(_PROJECTS.c.id).where(or_(_PROJECTS.c.name == wanted.project, _PROJECTS.c.id == wanted.project))
        found.append(JOBS.c.project_id == one.scalar_subquery())
    if wanted.user is not None:
        one = select(_USERS.c.id).where(or_(_USERS.c.name == wanted.user, _USERS.c.id == wanted.user))
        found.append(JOBS.c.user_id == one.scalar_subquery())
    if wanted.name is not None:
        found.append(JOBS.c.name == wanted.name)
    if wanted.tag is not None:
        key, value = wanted.tag
        found.append(exists().where(and_(_TAGS.c.job_id == JOBS.c.id, _TAGS.c.key == key, _TAGS.c.value == value)))
    # Ids are time-ordered: their first 10 characters after the letter are the milliseconds.
    if wanted.created_after is not None:
        found.append(JOBS.c.id >= _first_id(wanted.created_after))
    if wanted.created_before is not None:
        found.append(JOBS.c.id < _first_id(wanted.created_before))
    return found


def _first_id(at: datetime) -> str:
    alphabet = "0123456789abcdefghjkmnpqrstvwxyz"
    value = max(0, int(at.timestamp() * 1000)) << 80
    return "j" + "".join(alphabet[(value >> shift) & 31] for shift in range(125, -1, -5))


def _extras(conn: Connection, row: Any) -> tuple[dict[str, Any] | None, dict[str, int] | None]:
    """What is charged, and how many tasks are in which state."""
    charged = None
    if row.started_at is not None or row.ended_at is not None:
        live = (
            select(func.sum(CHARGES.c.amount_micro), func.sum(CHARGES.c.core_seconds), func.count(),
                   func.min(CHARGES.c.meter))
            .outerjoin(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id)
            .where(CHARGES.c.job_id == row.id, REVERSALS.c.charge_id.is_(None))
        )  # fmt: skip
        micro, core_seconds, count, _ = conn.execute(live).one()
        if count:
            sources = set(conn.scalars(select(CHARGES.c.meter).where(CHARGES.c.job_id == row.id).distinct()))
            final = "centre" in sources
            charged = {"micro": int(micro), "core_seconds": int(core_seconds), "final": final}
    counts = None
    if row.array_size is not None:
        grouped = select(RUNS.c.state, func.count()).where(RUNS.c.job_id == row.id, RUNS.c.attempt == row.attempt)
        counts = {state: int(n) for state, n in conn.execute(grouped.group_by(RUNS.c.state))}
    return charged, counts


def _job(row: Any, charged: dict[str, Any] | None, counts: dict[str, int] | None) -> dict[str, Any]:
    live = row.phase == "at_site"
    observed = max(filter(None, (row.observed_at, row.last_good_at if live else None)), default=None)
    estimate = (row.estimate or {}).get("amount")
    return {
        "id": row.id,
        "name": row.name,
        "project": row.project_name,
        "user": row.user_name,
        "site": row.site_id,
        "status": {
            "state": row.state, "reason": row.reason, "native_state": row.native_state,
            "native_reason": row.native_reason, "exit_code": row.exit_code, "signal": row.signal,
            "message": row.message, "observed_at": stamp(observed), "time": stamp(row.updated_at),
            "stale_since": stamp(row.stale_since) if live else None,
        },
        "attempt": row.attempt,
        "native_job_id": row.native_id,
        "cluster": row.cluster,
        "queue": row.queue,
        "wish": row.wish,
        "job_spec": row.spec,
        "array": None if row.array_size is None else {"size": row.array_size, "counts": counts or {}},
        "created_at": stamp(row.created_at),
        "submitted_at": stamp(row.submitted_at),
        "started_at": stamp(row.started_at),
        "ended_at": stamp(row.ended_at),
        "usage": None if charged is None else {"core_seconds": charged["core_seconds"], "final": charged["final"]},
        "charge": None
        if charged is None
        else {"amount": format_micro(charged["micro"]), "currency": row.currency, "provisional": not charged["final"]},
        "estimate": None
        if estimate is None
        else {"amount": format_micro(estimate["micro"]), "currency": estimate["currency"]},
        "recovered": row.recovered,
        "links": {"self": f"/api/v2/jobs/{row.id}", "log": f"/api/v2/jobs/{row.id}/log"},
    }  # fmt: skip
