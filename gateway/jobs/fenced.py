"""Runs that ended with the fence's exit code: a copy that was turned away, or a job that chose the same number.

Only the fence itself knows. A person's `exit 75` after hours of work is a run like any other: failed, and charged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import update

from gateway.ids import new_id
from gateway.jobs import lookup, repository
from gateway.jobs.lifecycle import Phase
from gateway.jobs.lookup import Lost
from gateway.jobs.outcome import Seen
from gateway.jobs.repository import JOBS
from gateway.services import Lease, Services
from site_adapters.errors import SiteError
from site_adapters.states import Reason
from site_adapters.types import FenceOutcome, FenceOwned, FenceTaken, ObservedRun, SiteAccount

log = structlog.get_logger()

# The fence is a script's first deed: what ran longer was not turned away by it.
_TURNED_AWAY_WITHIN = timedelta(seconds=30)


def settle_fenced(
    services: Services, lease: Lease, matched: Sequence[Seen], accounts: Mapping[str, SiteAccount], now: datetime
) -> list[Seen]:
    """What is to be written of each job; those that the fence says other things about are settled here and left out."""
    asked = [m for m in matched if m.digest != m.job.observed_digest and any(_fenced(r) for r in m.ours)]
    if not asked:
        return list(matched)
    lost = [_lost(m.job, accounts[m.job.site_account_id]) for m in asked]
    fences = lookup.take(services.sites[lease.site_id], lost)
    told = {m.job.id: _settle(services, lease, m, fences[x.fence_name], now) for m, x in zip(asked, lost, strict=True)}
    return [seen for m in matched if (seen := told.get(m.job.id, m)) is not None]


def _fenced(run: ObservedRun) -> bool:
    return run.reason is Reason.FENCED


def _lost(job: Any, account: SiteAccount) -> Lost:
    return Lost(job.id, job.attempt, job.tag, job.wish, account, job.submitted_at, 0)


def _settle(
    services: Services, lease: Lease, seen: Seen, fence: FenceOutcome | SiteError, now: datetime
) -> Seen | None:
    job = seen.job
    match fence:
        case FenceOwned(owner=owner) if owner.rpartition(":")[2] != job.native_id:
            _follow_owner(services, lease, job, owner, now)
            return None
        case FenceTaken() if all(_short(run) for run in seen.ours):
            # The gateway owned it (before a backup was restored): this attempt can never run, the next one may.
            with services.db.write() as conn:
                repository.assert_served_by(conn, lease)
                lookup.fence_off(conn, job.id, job.attempt, now, expected=Phase.AT_SITE)
            return None
        case FenceOwned() | FenceTaken():
            own = tuple(replace(r, reason=Reason.NONZERO_EXIT) if _fenced(r) else r for r in seen.ours)
            return replace(seen, ours=own)
        case _:
            log.warning("fence_not_reached", site=lease.site_id, job=job.id, error=str(fence))
            return None  # the next look asks again


def _short(run: ObservedRun) -> bool:
    if run.start_time is None or run.end_time is None:
        return True
    return _fenced(run) and run.end_time - run.start_time <= _TURNED_AWAY_WITHIN


def _follow_owner(services: Services, lease: Lease, job: Any, owner: str, now: datetime) -> None:
    """Two copies of this attempt came to be, and the other one runs: it is the job."""
    cluster, _, native_id = owner.rpartition(":")
    detail = {"adopted": native_id, "others": [job.native_id]}
    with services.db.write() as conn:
        repository.assert_served_by(conn, lease)
        query = update(JOBS).where(
            JOBS.c.id == job.id, JOBS.c.phase == Phase.AT_SITE.value, JOBS.c.attempt == job.attempt
        )
        changed = conn.execute(
            query.values(native_id=native_id, cluster=cluster, native_submit_time=None, restarts=0, missing_looks=0,
                         observed_digest="")
        )  # fmt: skip
        if changed.rowcount:
            repository.update_attempt(conn, job.id, job.attempt, native_id=native_id, cluster=cluster,
                                      native_submit_time=None)  # fmt: skip
            repository.note(conn, job.id, "adopted", {"native_id": native_id, "found_by": "fence"}, now=now)
            repository.open_break(conn, break_id=new_id("b", now), job_id=job.id, site_id=job.site_id,
                                  kind="duplicate", detail=detail, now=now)  # fmt: skip
