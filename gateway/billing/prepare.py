"""Make readings of a centre's raw rows: read each, find whose run it was, seal what it says of that person."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from msgspec import Struct, structs
from sqlalchemy import Connection, select

from accounting import store as books
from accounting.evidence import personal
from accounting.sources import read_usage
from accounting.store.schema import among
from accounting.usage import Kind, Unreadable, UsageRecord, whole_job
from gateway.db import table_of
from gateway.identity import vault
from gateway.identity.tables import ProjectRow
from gateway.jobs import repository
from gateway.jobs.repository import ATTEMPTS, JOBS
from gateway.services import Services
from site_adapters.types import SiteUsage


class Prepared(Struct, frozen=True, gc=False):
    """What rows are to the books: readings of our jobs as they are kept, and rows that cannot be read.

    `keyless`: persons of these rows who have no key yet. Then nothing is sealed: make the keys, and prepare again.
    """

    sealed: list[books.Assigned]
    unreadable: list[Unreadable]
    keyless: list[str]


def prepare(services: Services, site_id: str, usages: Sequence[SiteUsage]) -> Prepared:
    """Read, assign and seal rows of a centre's meter; nothing is written."""
    records, unreadable = _read(usages, site_id)
    with services.db.read() as conn:
        assigned = _assign(conn, services.gateway_id, site_id, records)
        persons = {a.user_id for a in assigned}
        keys = vault.known_keys(services, conn, persons)
    if persons - keys.keys():
        return Prepared([], [], sorted(persons - keys.keys()))
    logins = {(a.user_id, a.record.username) for a in assigned}
    kept = {(user, login): personal.pseudonym(login, keys[user]) for user, login in logins}
    return Prepared([_sealed(a, keys[a.user_id], kept[a.user_id, a.record.username]) for a in assigned], unreadable, [])


def _sealed(item: books.Assigned, key: bytes | None, username: str) -> books.Assigned:
    raw = vault.seal_raw(item.record.raw, person=item.user_id, key=key, ref=vault.ref_of(item.record))
    return item.kept_as(raw, username)


def _read(usages: Sequence[SiteUsage], site_id: str) -> tuple[list[UsageRecord], list[Unreadable]]:
    records: list[UsageRecord] = []
    unreadable: list[Unreadable] = []
    for usage in usages:
        match read_usage(usage.format, usage.fields, site_id=site_id):
            case UsageRecord() as record:
                records.append(record)
            case Unreadable() as problem:
                unreadable.append(problem)
    return records, unreadable


def _assign(conn: Connection, gateway_id: str, site_id: str, records: Sequence[UsageRecord]) -> list[books.Assigned]:
    """Who pays for each record: by our tag in it, else by the native id of one of our attempts.

    A tag is public, anybody can name a job by it: it only counts in a record of that job's site and login.
    """
    tags = {r.tag.partition(".")[0] for r in records if r.tag.startswith(f"p{gateway_id}")}
    by_tag = _jobs_by_tag(conn, site_id, tags)
    untagged = [r for r in records if not r.tag]
    by_id = _attempts_by_native_id(conn, site_id, {whole_job(r.native_id) for r in untagged})
    assigned = []
    for record in records:
        job = by_tag.get(record.tag.partition(".")[0]) if record.tag else _same_job(record, by_id)
        if job is None or job.username != record.username:
            continue
        known = _as_we_know(conn, job.id, record) if record.kind is Kind.FENCED_COPY else record
        if known is not None:
            item = books.Assigned(known, job.id, job.project_id, job.user_id, job.currency, job.grade or "")
            assigned.append(item)
    return assigned


def _as_we_know(conn: Connection, job_id: str, record: UsageRecord) -> UsageRecord | None:
    """A record with the fence's exit code: the run that was accepted is no copy, whatever number it ended with.

    None while nobody can say which of the copies runs: the next look brings the record again.
    """
    attempt = record.tag.partition(".")[2]
    query = select(ATTEMPTS.c.outcome, ATTEMPTS.c.native_id).where(ATTEMPTS.c.job_id == job_id)
    row = conn.execute(query.where(ATTEMPTS.c.attempt == int(attempt or 0))).one_or_none()
    if row is None or row.outcome == "fenced":
        return record
    if row.outcome != "accepted":
        return None
    return structs.replace(record, kind=Kind.RUN) if row.native_id == record.native_id else record


def _same_job(record: UsageRecord, by_id: Mapping[str, Sequence[Any]]) -> Any | None:
    """A record without our tag is ours only if login and submit time fit too: job ids are used again."""
    for job in by_id.get(whole_job(record.native_id), ()):
        if job.username != record.username or job.native_submit_time is None or record.submit_time is None:
            continue
        if abs(job.native_submit_time - record.submit_time) <= timedelta(seconds=2):
            return job
    return None


def _jobs_by_tag(conn: Connection, site_id: str, tags: Collection[str]) -> dict[str, Any]:
    project, account = table_of(ProjectRow), repository.ACCOUNTS
    query = (
        select(
            JOBS.c.id,
            JOBS.c.tag,
            JOBS.c.site_id,
            JOBS.c.project_id,
            JOBS.c.user_id,
            project.c.currency,
            account.c.username,
            repository.ORDERED_GRADE,
        )
        .join(project, project.c.id == JOBS.c.project_id)
        .join(account, account.c.id == JOBS.c.site_account_id)
        .where(among(conn, JOBS.c.tag, tags))
    )
    # The site is looked at here: told of it, SQLite walks all of the site's jobs in place of the tags'.
    return {row.tag: row for row in conn.execute(query) if row.site_id == site_id}


def _attempts_by_native_id(conn: Connection, site_id: str, native_ids: Iterable[str]) -> dict[str, list[Any]]:
    wanted = sorted(native_ids)
    if not wanted:
        return {}
    project, account = table_of(ProjectRow), repository.ACCOUNTS
    query = (
        select(JOBS.c.id, JOBS.c.project_id, JOBS.c.user_id, project.c.currency, account.c.username,
               ATTEMPTS.c.native_id, JOBS.c.native_submit_time, repository.ORDERED_GRADE)
        .join(JOBS, JOBS.c.id == ATTEMPTS.c.job_id)
        .join(project, project.c.id == JOBS.c.project_id)
        .join(account, account.c.id == JOBS.c.site_account_id)
        .where(ATTEMPTS.c.site_id == site_id, ATTEMPTS.c.native_id.in_(wanted))
    )  # fmt: skip
    found: dict[str, list[Any]] = {}
    for row in conn.execute(query):
        found.setdefault(row.native_id, []).append(row)
    return found
