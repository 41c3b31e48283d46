"""After a restore: ask every site, adopt what it finds, and only then accept writes (DESIGN law 15)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Connection, func, select, update

from gateway import leases
from gateway.billing import evidence
from gateway.db import table_of
from gateway.jobs import lookup, repository, standby
from gateway.jobs.ids import Manifest, parse_manifest, tag_of
from gateway.jobs.lifecycle import Phase, State
from gateway.jobs.repository import ACCOUNTS, JOBS
from gateway.jobs.tables import IdempotencyRow
from gateway.services import Lease, Services
from site_adapters.errors import SiteError
from site_adapters.types import JobSpec, ObservedRun

log = structlog.get_logger()


@dataclass(slots=True)
class RecoveryReport:
    """What was found at the sites."""

    attached: list[str] = field(default_factory=list)  # rows that did not know of their submission
    rebuilt: list[str] = field(default_factory=list)  # jobs without a row
    foreign: int = 0  # bear a tag of ours, but cannot be read
    unreachable: dict[str, str] = field(default_factory=dict)
    origin: str = ""  # the evidence log's new name


def recover(
    services: Services, *, back: timedelta, now: datetime, skip: frozenset[str] = frozenset(), keep_log: bool = False
) -> RecoveryReport:
    """Ask every site for all that bears our tags. Writes are accepted afterwards only if every site answered.

    A site in `skip` stays closed until a person opens it. The evidence log goes on under a new name, unless `keep_log`
    says that nothing was signed after the copy was made (a move to another machine).
    """
    report = RecoveryReport()
    restored = not standby.accepting(services.db)
    for site_id, adapter in services.sites.items():
        if site_id in skip or adapter.closed_reason is not None:
            _close(services, site_id, "not looked at during recovery")
            continue
        with services.db.read() as conn:
            accounts = repository.all_site_accounts(conn, site_id)
        if not accounts:
            continue
        try:
            look = adapter.management.find([], accounts=accounts, since=now - back)
        except SiteError as exc:
            report.unreachable[site_id] = str(exc)
            continue
        if not look.good:
            report.unreachable[site_id] = look.error or ""
            continue
        lease = leases.take(services.db, site_id, "recover")
        _adopt_all(services, lease, look.runs, report, now)
    if not report.unreachable:
        with services.db.write() as conn:
            if restored and not keep_log:
                report.origin = evidence.restart_log(services, conn, reason="restored from a backup", now=now)
            standby.end(conn)
        evidence.append(services, None, now)
    return report


def _close(services: Services, site_id: str, reason: str) -> None:
    with services.db.write() as conn:
        conn.execute(update(repository.SITES).where(repository.SITES.c.id == site_id).values(closed_reason=reason))


def _tag(services: Services, run: ObservedRun) -> str:
    """`<tag>.<attempt>` of ours; where a run bears several, the one that its manifest proves. Empty: it is not ours."""
    ours = [tag for tag in run.tags_seen if tag.startswith(f"p{services.gateway_id}")]
    manifest = parse_manifest(run.manifest)
    if manifest is not None:
        proved = f"{tag_of(services.gateway_id, manifest.job_id)}.{manifest.attempt}"
        return proved if proved in ours else ""
    return ours[0] if ours else ""


def _adopt_all(
    services: Services, lease: Lease, runs: Sequence[ObservedRun], report: RecoveryReport, now: datetime
) -> None:
    groups: dict[str, list[tuple[int, ObservedRun]]] = {}
    for run in runs:
        tag, _, number = _tag(services, run).partition(".")
        if tag:
            groups.setdefault(tag, []).append((int(number), run))
    for tag, found in groups.items():
        attempt, newest = max(found, key=lambda pair: pair[0])
        tasks = {run.task for number, run in found if number == attempt and run.task is not None}
        with services.db.write() as conn:
            repository.assert_served_by(conn, lease)
            row = conn.execute(select(JOBS).where(JOBS.c.tag == tag)).one_or_none()
            if row is None:
                _rebuild(conn, lease.site_id, tag, attempt, newest, len(tasks) or None, report, now)
            elif newest.username != repository.site_account(conn, row.site_account_id).username:
                _not_ours(report, lease.site_id, tag, newest)
            elif row.phase in (Phase.WAITING, Phase.SUBMITTING, Phase.LOOKUP) or row.attempt < attempt:
                _attach(conn, row, attempt, newest, now)
                report.attached.append(row.id)


def _not_ours(report: RecoveryReport, site_id: str, tag: str, run: ObservedRun) -> None:
    """Tags are public: a job that bears one under another login is somebody's copy."""
    report.foreign += 1
    log.warning("tag_without_owner", site=site_id, native_id=run.native_id, tag=tag)


def _attach(conn: Connection, row: Any, attempt: int, run: ObservedRun, now: datetime) -> None:
    """A row of the backup that did not know yet that it had been handed over."""
    if attempt > row.attempt:
        conn.execute(update(JOBS).where(JOBS.c.id == row.id).values(attempt=attempt))
        _insert_attempt(conn, row.id, row.site_id, attempt, run, now)
    if row.phase == Phase.AT_SITE:
        changes = {"native_id": run.native_id, "cluster": run.cluster, "native_submit_time": run.submit_time}
        conn.execute(update(JOBS).where(JOBS.c.id == row.id).values(**changes, observed_digest="", missing_looks=0))
        return
    lookup.adopt(conn, row.id, attempt, run.native_id, run.cluster, run.submit_time, now,
                 expected=Phase(row.phase), how="recover")  # fmt: skip


def _rebuild(
    conn: Connection,
    site_id: str,
    tag: str,
    attempt: int,
    run: ObservedRun,
    array_size: int | None,
    report: RecoveryReport,
    now: datetime,
) -> None:
    """A job accepted after the backup: its row is made anew from the manifest that the site kept."""
    manifest = parse_manifest(run.manifest)
    account = None if manifest is None else _account(conn, site_id, run.username, manifest)
    if manifest is None or account is None:
        _not_ours(report, site_id, tag, run)
        return
    name = run.name.rpartition(f"-{tag}")[0] or run.name
    cores = run.cores or 1
    spec = JobSpec(name=name, script="# recovered: the script is kept by the site")
    repository.insert_job(
        conn,
        {
            "id": manifest.job_id, "user_id": manifest.user_id, "project_id": manifest.project_id, "site_id": site_id,
            "site_account_id": account, "name": name, "spec": repository.spec_to_json(spec), "tag": tag,
            "phase": Phase.AT_SITE.value, "state": State.UNKNOWN.value, "attempt": attempt,
            "native_id": run.native_id, "cluster": run.cluster, "native_submit_time": run.submit_time,
            "array_size": array_size, "cores_charged": cores, "duration_max": 0, "created_at": now,
            "updated_at": now, "submitted_at": run.submit_time or now, "last_event": 1, "recovered": True,
            "manifest": str(manifest),
        },
    )  # fmt: skip
    _insert_attempt(conn, manifest.job_id, site_id, attempt, run, now)
    repository.insert_event(conn, manifest.job_id, 1, now, "recovered", State.UNKNOWN.value,
                            {"native_id": run.native_id})  # fmt: skip
    _restore_key(conn, manifest, now)
    report.rebuilt.append(manifest.job_id)


def _account(conn: Connection, site_id: str, username: str, manifest: Manifest) -> str | None:
    """The login under which the manifest's person runs there: a comment is written by whoever submits."""
    if not repository.membership_exists(conn, manifest.project_id, manifest.user_id):
        return None
    query = select(ACCOUNTS.c.id).where(
        ACCOUNTS.c.site_id == site_id, ACCOUNTS.c.username == username, ACCOUNTS.c.user_id == manifest.user_id
    )
    return conn.scalar(query)


def _insert_attempt(conn: Connection, job_id: str, site_id: str, attempt: int, run: ObservedRun, now: datetime) -> None:
    repository.insert_attempts(
        conn,
        [
            {
                "job_id": job_id, "attempt": attempt, "site_id": site_id, "outcome": "accepted",
                "site_name": run.name[:100], "native_id": run.native_id, "cluster": run.cluster,
                "native_submit_time": run.submit_time, "intent_at": now, "decided_at": now,
            }
        ],
    )  # fmt: skip


def _restore_key(conn: Connection, manifest: Manifest, now: datetime) -> None:
    """A client that tries again with its old key must find the job, though only the key's first digits are known."""
    if manifest.key_prefix == "0":
        return
    table = table_of(IdempotencyRow)
    known = select(func.count()).where(
        table.c.user_id == manifest.user_id, table.c.key_sha256.startswith(manifest.key_prefix)
    )
    if conn.scalar(known):
        return
    conn.execute(
        repository.upsert(conn, table)
        .values(user_id=manifest.user_id, key_sha256=f"prefix:{manifest.key_prefix}",
                content_sha256=f"prefix:{manifest.content_prefix}", status=202, body=manifest.job_id, created_at=now)
        .on_conflict_do_nothing()
    )  # fmt: skip
