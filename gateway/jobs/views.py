"""The read side: one job by one joined statement, pages of jobs by keyset, as plain values for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, Subquery, bindparam, func, select

from accounting.money import format_micro
from accounting.store import CHARGES, REVERSALS, USAGE
from gateway.db import table_of
from gateway.identity.access import Person, Verb, can
from gateway.identity.tables import ProjectRow, UserRow
from gateway.jobs import listing
from gateway.jobs.lifecycle import FINAL, Phase
from gateway.jobs.listing import JobFilter
from gateway.jobs.repository import ATTEMPTS, JOBS, RUNS, SITES, Owner
from gateway.jobs.tables import EventRow

__all__ = ["JobFilter", "events", "page", "runs", "show", "show_each", "show_many", "stamp"]

_USERS, _PROJECTS, _EVENTS = (table_of(t) for t in (UserRow, ProjectRow, EventRow))

_IDS = bindparam("job_ids", type_=JOBS.c.id.type, expanding=True)
# Of a line that is longer the length does not matter any more.
_AHEAD_MAX = 1000

# What a person who may not read a job's output may see of what it asked for.
_PLAIN_FIELDS = frozenset({"name", "resources", "attributes", "array", "tags", "placement", "budget", "dependencies"})


def _shown_with(*more: Any) -> Select[Any]:
    shown = [column for column in JOBS.c if column.name not in ("spec", "manifest", "observed_digest")]
    return (
        select(
            *shown, *more, SITES.c.stale_since, SITES.c.last_good_at, _USERS.c.name.label("user_name"),
            _PROJECTS.c.name.label("project_name"), _PROJECTS.c.currency, ATTEMPTS.c.site_name,
        )
        .join(SITES, SITES.c.id == JOBS.c.site_id)
        .join(_USERS, _USERS.c.id == JOBS.c.user_id)
        .join(_PROJECTS, _PROJECTS.c.id == JOBS.c.project_id)
        .outerjoin(ATTEMPTS, (ATTEMPTS.c.job_id == JOBS.c.id) & (ATTEMPTS.c.attempt == JOBS.c.attempt))
    )  # fmt: skip


def _live_charges() -> Select[Any]:
    """Per job what is charged now; `meter` is the last in the alphabet: `centre` only where all are the centre's."""
    return (
        select(
            CHARGES.c.job_id, func.sum(CHARGES.c.amount_micro).label("micro"),
            func.sum(CHARGES.c.core_seconds).label("core_seconds"), func.max(CHARGES.c.meter).label("meter"),
            func.sum(USAGE.c.node_seconds).label("node_seconds"), func.sum(USAGE.c.elapsed_s).label("elapsed_s"),
        )
        .join(USAGE, USAGE.c.id == CHARGES.c.usage_record_id)
        .outerjoin(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id)
        .where(REVERSALS.c.charge_id.is_(None))
        .group_by(CHARGES.c.job_id)
    )  # fmt: skip


def _whole_jobs() -> Select[Any]:
    charged: Subquery = _live_charges().where(CHARGES.c.job_id.in_(_IDS)).subquery("charged")
    figures = [charged.c[name] for name in ("micro", "core_seconds", "meter", "node_seconds", "elapsed_s")]
    query = _shown_with(JOBS.c.spec, *figures)
    return query.outerjoin(charged, charged.c.job_id == JOBS.c.id).where(JOBS.c.id.in_(_IDS))


def _front_of_line() -> Select[Any]:
    """Those of the ids that are among the first of a site's line, each with the number of jobs before it."""
    front = select(JOBS.c.id).where(JOBS.c.site_id == bindparam("site"), JOBS.c.phase == Phase.WAITING.value)
    line = front.order_by(JOBS.c.id).limit(_AHEAD_MAX).subquery("line")
    placed = select(line.c.id, (func.row_number().over(order_by=line.c.id) - 1).label("ahead")).subquery("placed")
    return select(placed.c.id, placed.c.ahead).where(placed.c.id.in_(_IDS))


_SHOW, _SHOW_MANY, _CHARGED_MANY, _FRONT = _whole_jobs(), _shown_with(), _live_charges(), _front_of_line()


def show(conn: Connection, person: Person, job_id: str) -> dict[str, Any] | None:
    """One job as JSON values; None where it is not there or not this person's to see."""
    return show_each(conn, [(person, job_id)])[0]


def show_each(conn: Connection, asked: Sequence[tuple[Person, str]]) -> list[dict[str, Any] | None]:
    """Jobs that several people ask for at the same moment, by one statement; each sees what they may see."""
    if not asked:
        return []
    rows = {row.id: row for row in conn.execute(_SHOW, {"job_ids": sorted({job_id for _, job_id in asked})})}
    counts = _counts(conn, [row.id for row in rows.values() if row.array_size is not None])
    ahead = _ahead(conn, [row for row in rows.values() if row.phase == Phase.WAITING.value])
    return [_seen_by(person, rows.get(job_id), counts, ahead) for person, job_id in asked]


def _ahead(conn: Connection, waiting: Sequence[Any]) -> dict[str, int]:
    """How many jobs wait before each of these: one short walk for each site, whatever the number of jobs."""
    found = dict.fromkeys((row.id for row in waiting), _AHEAD_MAX)
    for site_id in sorted({row.site_id for row in waiting}):
        here = [row.id for row in waiting if row.site_id == site_id]
        found.update((row.id, row.ahead) for row in conn.execute(_FRONT, {"site": site_id, "job_ids": here}))
    return found


def _seen_by(
    person: Person, row: Any | None, counts: Mapping[str, dict[str, int]], line: Mapping[str, int]
) -> dict[str, Any] | None:
    owner = None if row is None else Owner(row.user_id, row.project_id, row.site_id)
    if row is None or owner is None or not can(person, Verb.SEE_JOB, ("job", owner)):
        return None
    whole = can(person, Verb.READ_OUTPUT, ("job", owner))
    charged = None if row.micro is None else _Charged.of(row)
    ahead = line.get(row.id)
    waiting = None if ahead is None else {"ahead": ahead, "sentence": _line_sentence(row, ahead)}
    return _job(row, charged, counts.get(row.id, {}), spec=_spec(row.spec, whole), waiting=waiting)


def show_many(conn: Connection, person: Person, job_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Jobs by id, those that may be seen; without `job_spec`, like the items of a page."""
    rows = [
        row
        for row in conn.execute(_SHOW_MANY.where(JOBS.c.id.in_(job_ids)))
        if can(person, Verb.SEE_JOB, ("job", Owner(row.user_id, row.project_id, row.site_id)))
    ]
    return {job["id"]: job for job in _jobs(conn, rows)}


def page(
    conn: Connection, person: Person, wanted: JobFilter, *, before: str | None, limit: int
) -> tuple[list[dict[str, Any]], str | None]:
    """The newest jobs before an id, and the id to go on from; None where this was the last page."""
    ids = listing.page_ids(conn, person, wanted, before=before, most=limit + 1)
    rows = conn.execute(_SHOW_MANY.where(JOBS.c.id.in_(ids[:limit])).order_by(JOBS.c.id.desc())).all()
    return _jobs(conn, rows), ids[limit - 1] if len(ids) > limit else None


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
    if at is None:
        return None
    utc = at if at.tzinfo is UTC else at.astimezone(UTC)
    return utc.isoformat(timespec="milliseconds")[:-6] + "Z"  # without its +00:00


@dataclass(frozen=True, slots=True)
class _Charged:
    """What the books say of a job now."""

    micro: int
    core_seconds: int
    node_seconds: int
    elapsed_s: int
    meter: str

    @classmethod
    def of(cls, row: Any) -> _Charged:
        return cls(int(row.micro), int(row.core_seconds), int(row.node_seconds), int(row.elapsed_s), row.meter)


def _jobs(conn: Connection, rows: Sequence[Row[Any]]) -> list[dict[str, Any]]:
    """Rows of many jobs, with what is charged for those that ran and the tasks of arrays: one query for each."""
    ran = [row.id for row in rows if row.started_at is not None or row.ended_at is not None]
    charged: dict[str, _Charged] = {}
    if ran:
        found = conn.execute(_CHARGED_MANY.where(CHARGES.c.job_id.in_(ran)))
        charged = {row.job_id: _Charged.of(row) for row in found}
    counts = _counts(conn, [row.id for row in rows if row.array_size is not None])
    return [_job(row, charged.get(row.id), counts.get(row.id, {}), spec=None, waiting=None) for row in rows]


def _counts(conn: Connection, job_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """How many tasks of these arrays are in which state, in the newest run of their present attempt."""
    if not job_ids:
        return {}
    later = RUNS.alias()
    requeued = select(later.c.job_id).where(
        later.c.job_id == RUNS.c.job_id, later.c.attempt == RUNS.c.attempt, later.c.task == RUNS.c.task,
        later.c.restart > RUNS.c.restart,
    )  # fmt: skip
    query = (
        select(RUNS.c.job_id, RUNS.c.state, func.count())
        .join(JOBS, (JOBS.c.id == RUNS.c.job_id) & (JOBS.c.attempt == RUNS.c.attempt))
        .where(RUNS.c.job_id.in_(job_ids), ~requeued.exists())
        .group_by(RUNS.c.job_id, RUNS.c.state)
    )
    found: dict[str, dict[str, int]] = {job_id: {} for job_id in job_ids}
    for job_id, state, count in conn.execute(query):
        found[job_id][state] = int(count)
    return found


def _line_sentence(row: Any, ahead: int) -> str:
    if row.wish == "hold":
        return "You hold it."
    if row.blocked_by:
        return "It waits for other jobs."
    said = f"{ahead} or more" if ahead >= _AHEAD_MAX else str(ahead)
    return f"{said} jobs were accepted earlier for {row.site_id}; people take turns."


def _spec(stored: Mapping[str, Any], whole: bool) -> dict[str, Any]:
    """The spec as it is posted: its budget as a decimal string."""
    spec = {name: value for name, value in stored.items() if whole or name in _PLAIN_FIELDS}
    budget = spec.get("budget") or {}
    if budget.get("max_cost_micro") is not None:
        amount = {"amount": format_micro(budget["max_cost_micro"]), "currency": budget["currency"]}
        spec["budget"] = {"max_cost": amount}
    return spec


def _job(
    row: Any, charged: _Charged | None, counts: Mapping[str, int], *, spec: Any, waiting: Mapping[str, Any] | None
) -> dict[str, Any]:
    live = row.phase == "at_site"
    observed = _latest((row.observed_at, row.last_good_at if live else None))
    estimate = (row.estimate or {}).get("amount")
    here = f"/api/v2/jobs/{row.id}"
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
        "site_job_name": row.site_name,
        "queue": row.queue,
        "wish": row.wish,
        "job_spec": spec,
        "array": None if row.array_size is None else {"size": row.array_size, "counts": counts},
        "created_at": stamp(row.created_at),
        "submitted_at": stamp(row.submitted_at),
        "started_at": stamp(row.started_at),
        "ended_at": stamp(row.ended_at),
        **_money(charged, row.currency, row.state in FINAL),
        "estimate": None
        if estimate is None
        else {"amount": format_micro(estimate["micro"]), "currency": estimate["currency"]},
        "waiting": waiting,
        "recovered": row.recovered,
        "links": {
            "self": here, "log": here + "/log", "events": here + "/events", "script": here + "/script",
            "why": here + "/why", "charges": here + "/charges",
        },
    }  # fmt: skip


def _money(charged: _Charged | None, currency: str, ended: bool) -> dict[str, Any]:
    """`usage` and `charge`: provisional until the job has ended and every live reading is the centre's own."""
    if charged is None:
        return {"usage": None, "charge": None}
    final = ended and charged.meter == "centre"
    return {
        "usage": {
            "core_seconds": charged.core_seconds, "node_seconds": charged.node_seconds,
            "elapsed_s": charged.elapsed_s, "source": charged.meter, "final": final,
        },
        "charge": {"amount": format_micro(charged.micro), "currency": currency, "provisional": not final},
    }  # fmt: skip


def _latest(times: Iterable[datetime | None]) -> datetime | None:
    return max((at for at in times if at is not None), default=None)
