"""What people wished of jobs that a site knows: asked again until the site confirms it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Connection, or_, select, update

from gateway.jobs import changes, repository
from gateway.jobs.lifecycle import Phase
from gateway.jobs.repository import JOBS
from gateway.jobs.service import asked_now
from gateway.services import Lease, Services
from site_adapters.errors import SiteError
from site_adapters.interfaces import SiteAdapter
from site_adapters.types import ActionOutcome, Change, Done, JobRef, NotDone, SiteAccount

log = structlog.get_logger()

# A cancel that the site took but has not carried out yet is asked again after this.
ASK_AGAIN = timedelta(seconds=20)
# A change that the site refuses for now: the wait doubles with each refusal, from this up to the longest.
CHANGE_AGAIN, CHANGE_AGAIN_MAX = timedelta(seconds=5), timedelta(minutes=15)
_BATCH = 1000


def carry_out(services: Services, lease: Lease, now: datetime) -> None:
    """Hand open wishes to the site: one command per login and verb, however many jobs."""
    adapter = services.sites[lease.site_id]
    rows, accounts = _open_wishes(services, lease.site_id, now)
    groups: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for row in rows:
        if row.wish and (row.wish_tried_at is None or row.wish_tried_at < now - ASK_AGAIN):
            groups[row.wish, row.site_account_id].append(row)
    answers: list[tuple[Any, str, ActionOutcome]] = []
    for (verb, account_id), jobs in groups.items():
        outcomes = _ask(adapter, verb, accounts[account_id], jobs)
        answers += [(job, verb, outcome) for job, outcome in zip(jobs, outcomes, strict=True)]
    for row in rows:
        if row.change and (row.change_due_at is None or row.change_due_at <= now):
            answers.append((row, "modify", _modify(adapter, accounts[row.site_account_id], row)))
    if answers:
        _keep(services, lease, answers, now)


def _open_wishes(services: Services, site_id: str, now: datetime) -> tuple[list[Any], Mapping[str, SiteAccount]]:
    query = (
        select(JOBS.c.id, JOBS.c.wish, JOBS.c.change, JOBS.c.site_account_id, JOBS.c.native_id, JOBS.c.cluster,
               JOBS.c.tag, JOBS.c.attempt, JOBS.c.submitted_at, JOBS.c.array_size, JOBS.c.state, JOBS.c.wish_tried_at,
               JOBS.c.change_refusals, JOBS.c.change_due_at)
        .where(
            JOBS.c.site_id == site_id,
            JOBS.c.phase == Phase.AT_SITE.value,
            or_(
                (JOBS.c.wish != "") & (JOBS.c.wish_tried_at.is_(None) | (JOBS.c.wish_tried_at < now - ASK_AGAIN)),
                JOBS.c.change.is_not(None) & (JOBS.c.change_due_at.is_(None) | (JOBS.c.change_due_at <= now)),
            ),
        )
        .limit(_BATCH)
    )  # fmt: skip
    with services.db.read() as conn:
        rows = list(conn.execute(query))
        return rows, repository.site_accounts(conn, {r.site_account_id for r in rows})


def ref_of(job: Any, account: SiteAccount) -> JobRef:
    """What a site is asked about a job of ours."""
    return JobRef(
        native_id=job.native_id,
        cluster=job.cluster,
        username=account.username,
        tag=f"{job.tag}.{job.attempt}",
        submitted_at=job.submitted_at,
        is_array=job.array_size is not None,
    )


def _ask(adapter: SiteAdapter, verb: str, account: SiteAccount, jobs: Sequence[Any]) -> Sequence[ActionOutcome]:
    act = {"cancel": adapter.management.cancel, "hold": adapter.management.hold, "release": adapter.management.release}
    try:
        return act[verb](account, [ref_of(job, account) for job in jobs])
    except SiteError as exc:
        # A cancel may be asked any number of times; whether this one arrived does not matter.
        return [NotDone(str(exc), retryable=True)] * len(jobs)


def _modify(adapter: SiteAdapter, account: SiteAccount, job: Any) -> ActionOutcome:
    try:
        return adapter.management.modify(account, ref_of(job, account), Change(**job.change))
    except SiteError as exc:
        return NotDone(str(exc), retryable=exc.retryable)


def _keep(services: Services, lease: Lease, answers: Sequence[tuple[Any, str, ActionOutcome]], now: datetime) -> None:
    with services.db.write() as conn:
        repository.assert_served_by(conn, lease)
        for job, verb, outcome in answers:
            query = update(JOBS).where(JOBS.c.id == job.id, JOBS.c.phase == Phase.AT_SITE.value)
            match outcome:
                case Done() if verb == "modify":
                    row = repository.lock_job(conn, job.id)
                    made = changes.made(row, job.change, repository.site_facts(conn, lease.site_id).queues)
                    conn.execute(query.values(**_still_wanted(row, job), **made))
                    repository.note(conn, job.id, "modified", job.change, now=now)
                case Done():
                    # hold and release are done once taken; a cancel stays wished until the job is final.
                    done = {"wish_tried_at": now} if verb == "cancel" else {"wish": "", "wish_tried_at": None}
                    conn.execute(query.where(JOBS.c.wish == verb).values(**done))
                    repository.note(conn, job.id, f"{verb}_taken", {}, now=now)
                case NotDone(retryable=True) if verb == "modify":
                    _rest(conn, job, outcome.message, now)
                case NotDone(retryable=True):
                    conn.execute(query.where(JOBS.c.wish == verb).values(wish_tried_at=now))
                    log.warning("wish_not_delivered", site=lease.site_id, job=job.id, verb=verb, why=outcome.message)
                case NotDone() if verb == "cancel":
                    conn.execute(query.values(wish_tried_at=now))
                    repository.note(conn, job.id, "cancel_refused", {"message": outcome.message}, now=now)
                case NotDone():
                    if verb == "modify":
                        conn.execute(query.values(**_still_wanted(repository.lock_job(conn, job.id), job)))
                    else:  # a cancel that came meanwhile stays
                        conn.execute(query.where(JOBS.c.wish == verb).values(wish=""))
                    repository.note(conn, job.id, f"{verb}_refused", {"message": outcome.message}, now=now)


def _rest(conn: Connection, job: Any, message: str, now: datetime) -> None:
    """Refused for now: asked again later, and later each time. A change that came meanwhile is asked at once."""
    refusals = job.change_refusals + 1
    wait = min(CHANGE_AGAIN * 2 ** min(refusals - 1, 16), CHANGE_AGAIN_MAX)
    row = repository.lock_job(conn, job.id)
    if row is not None and row.change == job.change and row.phase == Phase.AT_SITE.value:
        repository.set_columns(conn, job.id, change_refusals=refusals, change_due_at=now + wait)
    if refusals == 1:  # told once, not with each refusal
        repository.note(conn, job.id, "change_put_off", {"message": message}, now=now)
    log.warning("change_not_made", job=job.id, why=message, refusals=refusals, again_s=wait.total_seconds())


def _still_wanted(row: Any, job: Any) -> Mapping[str, Any]:
    """The columns of what the site was not asked yet: it came while the site was asked, and is asked next."""
    wanted = {} if row is None else row.change or {}
    left = {name: value for name, value in wanted.items() if job.change.get(name) != value} or None
    return asked_now(left)
