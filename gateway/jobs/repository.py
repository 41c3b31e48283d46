"""The SQL of jobs: what the ticks and the service read and write. Nothing here commits."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection, and_, bindparam, case, func, insert, or_, select, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from gateway.db import table_of
from gateway.errors import Conflict
from gateway.identity.tables import MembershipRow, ProjectRow, SiteAccountRow
from gateway.jobs.lifecycle import SHOWN, Event, Phase, advance
from gateway.jobs.tables import AttemptRow, DecisionRow, EventRow, IdempotencyRow, JobRow, RunRow, SiteRow
from gateway.services import Lease
from site_adapters.types import JobSpec, Queue, SiteAccount

_SPEC: TypeAdapter[JobSpec] = TypeAdapter(JobSpec)
_QUEUES: TypeAdapter[list[Queue]] = TypeAdapter(list[Queue])

JOBS = table_of(JobRow)
ATTEMPTS = table_of(AttemptRow)
EVENTS = table_of(EventRow)
RUNS = table_of(RunRow)
SITES = table_of(SiteRow)
ACCOUNTS = table_of(SiteAccountRow)
_PROJECTS = table_of(ProjectRow)

# The service grade that a job asked for; NULL: none.
ORDERED_GRADE = JOBS.c.spec["attributes"]["service_grade"].as_string().label("grade")


class StaleLease(Exception):
    """This worker no longer serves the site: whatever it was about to write belongs to another one now."""


def assert_served_by(conn: Connection, lease: Lease) -> None:
    """Refuse a worker that woke up late; on PostgreSQL the row stays locked until this transaction ends."""
    query = select(SITES.c.fencing).where(SITES.c.id == lease.site_id)
    if conn.dialect.name == "postgresql":
        query = query.with_for_update(read=True)
    if conn.scalar(query) != lease.fencing:
        raise StaleLease(f"site {lease.site_id}: fencing {lease.fencing} is not the newest")


# ---------------------------------------------------------------- specs


def spec_to_json(spec: JobSpec) -> dict[str, Any]:
    """The spec as plain JSON values, without what is unset."""
    dumped: dict[str, Any] = _SPEC.dump_python(spec, mode="json", exclude_defaults=True)
    return dumped


def spec_from_json(stored: Mapping[str, Any]) -> JobSpec:
    return _SPEC.validate_python(stored)


# ---------------------------------------------------------------- sites, projects, accounts


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """What we last learned of a site."""

    queues: tuple[Queue, ...] = ()
    closed_reason: str | None = None


# Statements of the hot paths are built once: building one costs as much as running it.
_SITE_FACTS = select(SITES.c.facts, SITES.c.closed_reason).where(SITES.c.id == bindparam("site"))
_CURRENCY = select(_PROJECTS.c.currency).where(_PROJECTS.c.id == bindparam("project"))
_LINKED = and_(ACCOUNTS.c.site_id == SITES.c.id, ACCOUNTS.c.user_id == bindparam("user"), ACCOUNTS.c.status == "linked")
_STANDING = (
    select(
        SITES.c.facts,
        SITES.c.closed_reason,
        ACCOUNTS.c.id.label("site_account_id"),
        _PROJECTS.c.currency,
        ACCOUNTS.c.username,
        ACCOUNTS.c.home,
        ACCOUNTS.c.uid,
    )
    .select_from(SITES.join(_PROJECTS, _PROJECTS.c.id == bindparam("project")).outerjoin(ACCOUNTS, _LINKED))
    .where(SITES.c.id == bindparam("site"))
)
_INSERT_JOB = insert(JOBS)
_INSERT_EVENT = insert(EVENTS)


def site_facts(conn: Connection, site_id: str) -> SiteFacts:
    row = conn.execute(_SITE_FACTS, {"site": site_id}).one_or_none()
    if row is None:
        return SiteFacts()
    return SiteFacts(_queues(row.facts), row.closed_reason)


def _queues(stored: Mapping[str, Any] | None) -> tuple[Queue, ...]:
    return tuple(_QUEUES.validate_python((stored or {}).get("queues", [])))


def ensure_site(conn: Connection, site_id: str) -> None:
    """The site's row; two processes may start at once."""
    conn.execute(upsert(conn, SITES).values(id=site_id, fencing=0).on_conflict_do_nothing())


def project_id(conn: Connection, wanted: str) -> str | None:
    table = table_of(ProjectRow)
    query = select(table.c.id).where((table.c.id == wanted) | (table.c.name == wanted), table.c.closed_at.is_(None))
    return conn.scalar(query)


def project_names(conn: Connection, ids: Collection[str]) -> list[str]:
    """The names of these projects that are not closed, in order."""
    table = table_of(ProjectRow)
    query = select(table.c.name).where(table.c.id.in_(ids), table.c.closed_at.is_(None)).order_by(table.c.name)
    return list(conn.scalars(query))


def project_currency(conn: Connection, project: str) -> str:
    return str(conn.scalar(_CURRENCY, {"project": project}))


@dataclass(frozen=True, slots=True)
class Standing:
    """What a submission needs to know of one site, one person and one project."""

    queues: tuple[Queue, ...]
    closed_reason: str | None
    site_account_id: str | None  # a proven login there
    currency: str
    account: SiteAccount | None  # that login


def standing(conn: Connection, *, site_id: str, user_id: str, project_id: str) -> Standing:
    """One question for all of it: this is asked in every submission."""
    row = conn.execute(_STANDING, {"site": site_id, "user": user_id, "project": project_id}).one_or_none()
    if row is None:
        raise LookupError(f"no site {site_id} or no project {project_id}")
    account = None if row.site_account_id is None else SiteAccount(row.username, row.home or "", row.uid)
    return Standing(_queues(row.facts), row.closed_reason, row.site_account_id, row.currency, account)


def site_account(conn: Connection, account_id: str) -> SiteAccount:
    return site_accounts(conn, [account_id])[account_id]


def site_accounts(conn: Connection, account_ids: Iterable[str]) -> dict[str, SiteAccount]:
    query = select(ACCOUNTS.c.id, ACCOUNTS.c.username, ACCOUNTS.c.home, ACCOUNTS.c.uid)
    rows = conn.execute(query.where(ACCOUNTS.c.id.in_(sorted(set(account_ids)))))
    return {r.id: SiteAccount(r.username, r.home or "", r.uid) for r in rows}


def all_site_accounts(conn: Connection, site_id: str) -> list[SiteAccount]:
    query = select(ACCOUNTS.c.username, ACCOUNTS.c.home, ACCOUNTS.c.uid).distinct()
    rows = conn.execute(query.where(ACCOUNTS.c.site_id == site_id, ACCOUNTS.c.status == "linked"))
    return [SiteAccount(r.username, r.home or "", r.uid) for r in rows]


def membership_exists(conn: Connection, project: str, user_id: str) -> bool:
    table = table_of(MembershipRow)
    return (
        conn.scalar(select(table.c.role).where(table.c.project_id == project, table.c.user_id == user_id)) is not None
    )


# ---------------------------------------------------------------- jobs


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a job is: what `can()` is asked about."""

    user_id: str
    project_id: str
    site_id: str


def owners_of(conn: Connection, job_ids: Sequence[str]) -> dict[str, Owner]:
    if not job_ids:
        return {}
    query = select(JOBS.c.id, JOBS.c.user_id, JOBS.c.project_id, JOBS.c.site_id).where(JOBS.c.id.in_(job_ids))
    return {r.id: Owner(r.user_id, r.project_id, r.site_id) for r in conn.execute(query)}


def insert_job(conn: Connection, values: Mapping[str, Any]) -> None:
    conn.execute(_INSERT_JOB, values)


def insert_jobs(conn: Connection, rows: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]) -> None:
    """New jobs, each with its first event."""
    if rows:
        conn.execute(_INSERT_JOB, rows)
    insert_events(conn, events)


def lock_job(conn: Connection, job_id: str) -> Any | None:
    """The job's row, locked against others until this transaction ends; None where there is none."""
    query = select(JOBS).where(JOBS.c.id == job_id)
    if conn.dialect.name == "postgresql":
        query = query.with_for_update()
    return conn.execute(query).one_or_none()


def move(
    conn: Connection,
    job_id: str,
    event: Event,
    *,
    now: datetime,
    expected: Phase,
    at_attempt: int | None = None,
    state: str | None = None,
    reason: str | None = None,
    payload: Mapping[str, Any] | None = None,
    **changes: Any,
) -> bool:
    """Apply `event` to a job that is still in `expected` (and `at_attempt`); False where it has moved on.

    Writes the row and its event in one go; the state shown follows from the phase unless given.
    """
    news = moved(
        conn, job_id, event, now=now, expected=expected, at_attempt=at_attempt, state=state, reason=reason,
        payload=payload, **changes,
    )  # fmt: skip
    insert_events(conn, [] if news is None else [news])
    return news is not None


def moved(
    conn: Connection,
    job_id: str,
    event: Event,
    *,
    now: datetime,
    expected: Phase,
    at_attempt: int | None = None,
    state: str | None = None,
    reason: str | None = None,
    payload: Mapping[str, Any] | None = None,
    **changes: Any,
) -> dict[str, Any] | None:
    """`move` without writing its event, which is returned: whoever moves many jobs writes their events at once."""
    phase = advance(expected, event)
    if phase is None:
        return None
    shown_state, shown_reason = SHOWN[phase]
    values = {
        "phase": phase.value,
        "state": state if state is not None else shown_state.value,
        "reason": reason if reason is not None else shown_reason.value,
        "updated_at": now,
        **changes,
    }
    where: dict[str, Any] = {"job": job_id, "from_phase": expected.value}
    if at_attempt is not None:
        where["from_attempt"] = at_attempt
    query = _move(frozenset(values), at_attempt is not None)
    row = conn.execute(query, where | {f"new_{name}": value for name, value in values.items()}).one_or_none()
    return None if row is None else event_row(job_id, row.last_event, now, event.value, row.state, payload or {})


@cache
def _move(columns: frozenset[str], at_attempt: bool) -> Any:
    """The compare-and-set of these columns (`new_…`) where the job is still in `from_phase`, and `from_attempt`."""
    query = update(JOBS).where(JOBS.c.id == bindparam("job"), JOBS.c.phase == bindparam("from_phase"))
    if at_attempt:
        query = query.where(JOBS.c.attempt == bindparam("from_attempt"))
    values = {name: bindparam(f"new_{name}", type_=JOBS.c[name].type) for name in columns}
    return query.values(last_event=JOBS.c.last_event + 1, **values).returning(JOBS.c.last_event, JOBS.c.state)


def set_columns(conn: Connection, job_id: str, **changes: Any) -> None:
    """Change what is no news: no event."""
    values = {f"new_{name}": value for name, value in changes.items()}
    conn.execute(_set_columns(frozenset(changes)), {"job": job_id, **values})


@cache
def _set_columns(columns: frozenset[str]) -> Any:
    values = {name: bindparam(f"new_{name}", type_=JOBS.c[name].type) for name in columns}
    return update(JOBS).where(JOBS.c.id == bindparam("job")).values(values)


def note(conn: Connection, job_id: str, kind: str, payload: Mapping[str, Any], *, now: datetime) -> None:
    """Append an event that changes no phase."""
    query = (
        update(JOBS)
        .where(JOBS.c.id == job_id)
        .values(last_event=JOBS.c.last_event + 1, updated_at=now)
        .returning(JOBS.c.last_event, JOBS.c.state)
    )
    row = conn.execute(query).one()
    insert_event(conn, job_id, row.last_event, now, kind, row.state, payload)


def insert_event(
    conn: Connection, job_id: str, n: int, at: datetime, kind: str, state: str, payload: Mapping[str, Any]
) -> None:
    conn.execute(_INSERT_EVENT, event_row(job_id, n, at, kind, state, payload))


def insert_events(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        conn.execute(_INSERT_EVENT, rows)


def event_row(job_id: str, n: int, at: datetime, kind: str, state: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    return {"job_id": job_id, "n": n, "at": at, "kind": kind, "state": state, "payload": dict(payload)}


def open_break(
    conn: Connection, *, break_id: str, job_id: str, site_id: str, kind: str, detail: Mapping[str, Any], now: datetime
) -> None:
    table = table_of(DecisionRow)
    conn.execute(
        insert(table).values(id=break_id, job_id=job_id, site_id=site_id, kind=kind, detail=dict(detail), opened_at=now)
    )


def close_breaks(conn: Connection, job_id: str, *, decision: str, decided_by: str | None, now: datetime) -> None:
    table = table_of(DecisionRow)
    query = update(table).where(table.c.job_id == job_id, table.c.closed_at.is_(None))
    conn.execute(query.values(closed_at=now, decision=decision, decided_by=decided_by))


# ---------------------------------------------------------------- attempts and runs


def insert_attempts(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        conn.execute(insert(ATTEMPTS), [dict(r) for r in rows])


_ACCEPT_ATTEMPT = (
    update(ATTEMPTS)
    .where(ATTEMPTS.c.job_id == bindparam("job"), ATTEMPTS.c.attempt == bindparam("number"))
    .values(outcome="accepted", native_id=bindparam("id"), cluster=bindparam("at"), decided_at=bindparam("now"))
)


def accept_attempts(conn: Connection, answered: Iterable[tuple[str, int, str, str]], *, now: datetime) -> None:
    """The site took these: job, attempt, native id, cluster."""
    rows = [{"job": j, "number": n, "id": native, "at": cluster, "now": now} for j, n, native, cluster in answered]
    if rows:
        conn.execute(_ACCEPT_ATTEMPT, rows)


def update_attempt(conn: Connection, job_id: str, attempt: int, **changes: Any) -> None:
    values = {f"new_{name}": value for name, value in changes.items()}
    conn.execute(_attempt_update(frozenset(changes)), {"job": job_id, "number": attempt, **values})


@cache
def _attempt_update(columns: frozenset[str]) -> Any:
    query = update(ATTEMPTS).where(ATTEMPTS.c.job_id == bindparam("job"), ATTEMPTS.c.attempt == bindparam("number"))
    return query.values({name: bindparam(f"new_{name}", type_=ATTEMPTS.c[name].type) for name in columns})


def pack_script(script: str) -> bytes:
    return zlib.compress(script.encode("utf-8", "surrogateescape"))


def unpack_script(packed: bytes) -> str:
    return zlib.decompress(packed).decode("utf-8", "surrogateescape")


def upsert_runs(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert runs or bring them up to date; a final run is never made live again by a late look."""
    if rows:
        conn.execute(_upsert_runs(conn.dialect.name), rows)


def close_earlier_runs(
    conn: Connection, job_id: str, attempt: int, task: int, *, before: int, ended: datetime | None
) -> None:
    """A run behind which the scheduler queued the next one is over, though nobody saw its end; it ended then."""
    query = update(RUNS).where(
        RUNS.c.job_id == job_id, RUNS.c.attempt == attempt, RUNS.c.task == task, RUNS.c.restart < before,
        RUNS.c.state != "requeued", ~_is_final(RUNS.c.state),
    )  # fmt: skip
    conn.execute(query.values(state="requeued", end_time=func.coalesce(RUNS.c.end_time, ended)))


@cache
def _upsert_runs(dialect: str) -> Any:
    query = pg_insert(RUNS) if dialect == "postgresql" else sqlite_insert(RUNS)
    keys = ("job_id", "attempt", "task", "restart")
    changes = {c.name: query.excluded[c.name] for c in RUNS.c if c.name not in keys}
    not_undone = ~_is_final(RUNS.c.state) | _is_final(query.excluded["state"])
    return query.on_conflict_do_update(index_elements=list(keys), set_=changes, where=not_undone)


def _is_final(state: Any) -> Any:
    # Not `IN`: its expanding parameter does not go with many rows at once.
    return or_(*(state == word for word in ("completed", "failed", "canceled")))


# What may be at the site, or may still come to be there.
AT_OR_ON_THE_WAY = (Phase.SUBMITTING.value, Phase.LOOKUP.value, Phase.AT_SITE.value)


def count_by_person(conn: Connection, site_id: str) -> list[Any]:
    """What each person has at the site now: queue places taken and cores in use."""
    live = JOBS.c.phase.in_(AT_OR_ON_THE_WAY)
    size = func.coalesce(JOBS.c.array_size, 1)
    place = case((JOBS.c.state == "active", 0), else_=size)
    query = (
        select(JOBS.c.user_id, func.sum(place).label("places"), func.sum(JOBS.c.cores_charged * size).label("cores"))
        .where(JOBS.c.site_id == site_id, live)
        .group_by(JOBS.c.user_id)
    )
    return list(conn.execute(query))


def submits_since(conn: Connection, site_id: str, since: datetime) -> int:
    query = select(func.count()).where(ATTEMPTS.c.site_id == site_id, ATTEMPTS.c.intent_at > since)
    return int(conn.scalar(query) or 0)


# ---------------------------------------------------------------- idempotency


def claim_key(
    conn: Connection, *, user_id: str, key_sha256: str, content_sha256: str, status: int, body: str, now: datetime
) -> Any | None:
    """Claim a key for this content: None when it is ours now, else the row that has it."""
    table = table_of(IdempotencyRow)
    query = upsert(conn, table).values(
        user_id=user_id, key_sha256=key_sha256, content_sha256=content_sha256, status=status, body=body, created_at=now
    )
    if conn.execute(query.on_conflict_do_nothing().returning(table.c.key_sha256)).one_or_none() is not None:
        return None
    return conn.execute(select(table).where(table.c.user_id == user_id, table.c.key_sha256 == key_sha256)).one()


def recovered_key(conn: Connection, *, user_id: str, key_sha256: str) -> Any | None:
    """A key that `recover` rebuilt from a job's manifest, of which only 16 hex digits are known."""
    table = table_of(IdempotencyRow)
    query = select(table).where(table.c.user_id == user_id, table.c.key_sha256 == f"prefix:{key_sha256[:16]}")
    return conn.execute(query).one_or_none()


def digest(values: Iterable[Any]) -> str:
    """A short fingerprint of what a site showed, to see at a glance that nothing changed."""
    return hashlib.blake2b(repr(tuple(values)).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def conflict_unless(changed: bool, detail: str) -> None:
    if not changed:
        raise Conflict(detail, remedy="Look at the job again: it has moved on.")


def upsert(conn: Connection, table: Any) -> Any:
    """An INSERT that knows ON CONFLICT, in the dialect of this connection."""
    return pg_insert(table) if conn.dialect.name == "postgresql" else sqlite_insert(table)
