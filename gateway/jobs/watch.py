"""Tick: ask one site once about all its jobs, and write down only what changed.

A look that failed changes no job; a job that is absent is not finished (DESIGN law 3, 4, 6).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Connection, select, update

from gateway.ids import new_id
from gateway.jobs import repository
from gateway.jobs.fenced import settle_fenced
from gateway.jobs.identity import Known, Proof, prove
from gateway.jobs.lifecycle import Phase
from gateway.jobs.limits import enforce
from gateway.jobs.lost import settle_incomplete, settle_missing
from gateway.jobs.outcome import Seen, apply_runs
from gateway.jobs.repository import JOBS, SITES
from gateway.jobs.returned import settle_returned
from gateway.jobs.wishes import ref_of
from gateway.pace import Paced
from gateway.services import Lease, Services
from site_adapters.errors import SiteClosed, SiteError
from site_adapters.types import Observation, ObservedRun, SiteAccount

log = structlog.get_logger()

# Rows are written in chunks, so that no write transaction keeps the others waiting.
_CHUNK = 50

_COLUMNS = (
    "id", "user_id", "project_id", "site_id", "site_account_id", "tag", "attempt", "native_id", "cluster",
    "native_submit_time", "restarts", "submitted_at", "array_size", "state", "phase", "wish", "missing_looks",
    "missing_since", "observed_digest", "started_at", "enforce_duration", "duration_max", "max_cost_micro",
    "cores_charged", "limit_hit",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class WatchReport:
    """What one look showed. `queries` counts scheduler commands."""

    jobs: int = 0
    changed: int = 0
    missing: int = 0
    queries: int = 0
    good: bool = True


def watch(services: Services, lease: Lease, now: datetime) -> WatchReport:
    """One question to the site, then what follows from it for each job."""
    adapter = services.sites[lease.site_id]
    if adapter.closed_reason is not None:
        return WatchReport(good=False)
    jobs, accounts = _live(services, lease.site_id)
    if not jobs:
        return WatchReport()
    refs = [ref_of(job, accounts[job.site_account_id]) for job in jobs]
    try:
        seen = adapter.management.observe(refs)
    except Paced:  # the centre lets us ask again soon: what is known of the jobs stands, and it is not stale
        return WatchReport(jobs=len(jobs))
    except SiteError as exc:
        _stale(services, lease, exc, now)
        return WatchReport(jobs=len(jobs), good=False)
    if not seen.queue.good:
        _stale(services, lease, SiteError(seen.queue.error or "the queue did not answer"), now)
    now = services.clock()
    matched = settle_fenced(services, lease, _match(jobs, accounts, seen), accounts, now)
    changed = _write(services, lease, matched, now)
    missing = settle_missing(services, lease, [m for m in matched if not m.ours], accounts, seen, now)
    settle_incomplete(services, lease, [m for m in matched if m.ours], accounts, seen, now)
    settle_returned(services, lease, seen, now)
    enforce(services, lease, now)
    if seen.queue.good:
        _fresh(services, lease, now)
    return WatchReport(len(jobs), changed, missing, seen.queries, seen.queue.good)


def _live(services: Services, site_id: str) -> tuple[list[Any], Mapping[str, SiteAccount]]:
    query = select(*(JOBS.c[name] for name in _COLUMNS)).where(
        JOBS.c.site_id == site_id, JOBS.c.phase == Phase.AT_SITE.value
    )
    with services.db.read() as conn:
        jobs = list(conn.execute(query))
        return jobs, repository.site_accounts(conn, {job.site_account_id for job in jobs})


def _match(jobs: Sequence[Any], accounts: Mapping[str, SiteAccount], seen: Observation) -> list[Seen]:
    """The rows that are ours, for each job; the queue is newer than accounting for the same run."""
    rows: dict[str, list[ObservedRun]] = defaultdict(list)
    for run in (*seen.accounting.runs, *seen.queue.runs):
        rows[run.native_id].append(run)
    matched = []
    for job in jobs:
        known = Known(
            accounts[job.site_account_id].username, job.tag, job.attempt, job.native_submit_time, job.restarts
        )
        proofs = [(prove(known, run), run) for run in rows.get(job.native_id, ())]
        ours = tuple(run for proof, run in proofs if proof is Proof.OURS)
        foreign = tuple(run for proof, run in proofs if proof is Proof.FOREIGN)
        matched.append(Seen(job, ours, foreign, unproved=any(p is Proof.UNPROVED for p, _ in proofs)))
    return matched


def _write(services: Services, lease: Lease, matched: Sequence[Seen], now: datetime) -> int:
    changed = [m for m in matched if m.ours and m.digest != m.job.observed_digest]
    for start in range(0, len(changed), _CHUNK):
        with services.db.write() as conn:
            repository.assert_served_by(conn, lease)
            apply_runs(conn, services, changed[start : start + _CHUNK], now)
    strangers = [m for m in matched if m.foreign and not m.ours and m.job.missing_looks == 0]
    if strangers:
        with services.db.write() as conn:
            repository.assert_served_by(conn, lease)
            for seen in strangers:
                _tell_foreign(conn, seen, now)
    return len(changed)


def _tell_foreign(conn: Connection, seen: Seen, now: datetime) -> None:
    """The id is a stranger's now: the controller forgot ours and gave its number away."""
    detail = {"native_id": seen.job.native_id, "seen_as": [f"{r.username}/{r.name}" for r in seen.foreign][:5]}
    repository.note(conn, seen.job.id, "foreign_id", detail, now=now)
    repository.open_break(conn, break_id=new_id("b", now), job_id=seen.job.id, site_id=seen.job.site_id,
                          kind="foreign_id", detail=detail, now=now)  # fmt: skip


def _stale(services: Services, lease: Lease, error: SiteError, now: datetime) -> None:
    """The site did not answer: its jobs keep what we last knew, and say since when."""
    log.warning("site_not_answering", site=lease.site_id, error=str(error))
    with services.db.write() as conn:
        repository.assert_served_by(conn, lease)
        conn.execute(
            update(SITES)
            .where(SITES.c.id == lease.site_id, SITES.c.stale_since.is_(None))
            .values(stale_since=SITES.c.last_good_at)
        )
        conn.execute(
            update(SITES).where(SITES.c.id == lease.site_id, SITES.c.stale_since.is_(None)).values(stale_since=now)
        )
        if isinstance(error, SiteClosed):
            conn.execute(update(SITES).where(SITES.c.id == lease.site_id).values(closed_reason=str(error)))


def _fresh(services: Services, lease: Lease, now: datetime) -> None:
    with services.db.write() as conn:
        repository.assert_served_by(conn, lease)
        conn.execute(update(SITES).where(SITES.c.id == lease.site_id).values(last_good_at=now, stale_since=None))
