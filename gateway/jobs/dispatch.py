"""Tick: hand waiting jobs over to one site. Intent first, then the site, then its answer (DESIGN section 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Connection, func, select

from gateway.jobs import dependencies, lookup, repository, service, wishes
from gateway.jobs.ids import parse_manifest, site_name
from gateway.jobs.lifecycle import Event, Phase, State
from gateway.jobs.line import Load, Waiter, choose
from gateway.jobs.maintenance import in_the_way, planned
from gateway.jobs.moving import Move, move_all
from gateway.jobs.opened import open_there, under_its_opening
from gateway.jobs.repository import JOBS
from gateway.jobs.share import ShareLeft, nodes_in_use, nodes_of
from gateway.pace import calls_left
from gateway.services import Lease, Services
from site_adapters.errors import SiteError
from site_adapters.interfaces import SiteAdapter
from site_adapters.states import Reason
from site_adapters.types import (
    Accepted,
    JobSpec,
    Rejected,
    RenderedJob,
    SiteAccount,
    Submission,
    SubmitOutcome,
    Unknown,
)

log = structlog.get_logger()

# A refusal that may pass (a limit, a scheduler that is restarting): how long the job rests before the next try.
RETRY_AFTER = timedelta(seconds=10)
# A tick begins no batch after this: other ticks and people's wishes want their turn.
AT_MOST = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class DispatchReport:
    """What one tick did."""

    accepted: int = 0
    rejected: int = 0
    deferred: int = 0
    unknown: int = 0

    def __add__(self, other: DispatchReport) -> DispatchReport:
        return DispatchReport(
            self.accepted + other.accepted,
            self.rejected + other.rejected,
            self.deferred + other.deferred,
            self.unknown + other.unknown,
        )


@dataclass(frozen=True, slots=True)
class _Claimed:
    """A job whose intent is committed, with what will be sent."""

    job_id: str
    attempt: int
    submission: Submission


def dispatch(services: Services, lease: Lease, now: datetime) -> DispatchReport:
    """Settle what is open from before, then hand over as many waiting jobs as the centre's policy allows."""
    adapter = services.sites[lease.site_id]
    _lose_answers_of_the_dead(services, lease, now)
    _end_doomed(services, lease, now)
    if adapter.closed_reason is not None or _site_closed(services, lease.site_id):
        return DispatchReport()
    lookup.resolve(services, lease, now)
    wishes.carry_out(services, lease, now)
    return _hand_over(services, lease, adapter)


def _hand_over(services: Services, lease: Lease, adapter: SiteAdapter) -> DispatchReport:
    """Batch after batch until the line is empty: while one is at the site, the next is claimed."""
    report = DispatchReport()
    begun = services.clock()
    with services.db.read() as conn:
        share = ShareLeft.of(conn, lease.site_id, adapter.policy)
    with ThreadPoolExecutor(1) as pool:

        def begin(claimed: list[_Claimed]) -> Future[list[SubmitOutcome]]:
            return pool.submit(adapter.management.submit, [c.submission for c in claimed])

        claimed = _claim(services, lease, adapter, share, services.clock())
        answer = begin(claimed) if claimed else None
        while answer is not None:
            more = services.clock() - begun < AT_MOST and not report.deferred
            following = _claim(services, lease, adapter, share, services.clock()) if more else []
            outcomes = answer.result()
            answer = begin(following) if following else None
            report += _keep_answers(services, lease, claimed, outcomes, services.clock())
            claimed = following
    return report


def _site_closed(services: Services, site_id: str) -> bool:
    with services.db.read() as conn:
        return repository.site_facts(conn, site_id).closed_reason is not None


def _lose_answers_of_the_dead(services: Services, lease: Lease, now: datetime) -> None:
    """Whatever is still `submitting` when a tick begins was begun by a worker that died: its answer is lost."""
    query = select(JOBS.c.id, JOBS.c.attempt).where(
        JOBS.c.site_id == lease.site_id, JOBS.c.phase == Phase.SUBMITTING.value
    )
    with services.db.read() as conn:
        orphans = conn.execute(query).all()
    if not orphans:
        return
    with services.db.write() as conn:
        repository.assert_served_by(conn, lease)
        for job in orphans:
            message = "The worker stopped before it saw the site's answer."
            if repository.move(conn, job.id, Event.ANSWER_LOST, now=now, expected=Phase.SUBMITTING,
                               at_attempt=job.attempt, payload={"message": message}, message=message):  # fmt: skip
                repository.update_attempt(conn, job.id, job.attempt, outcome="unknown", message=message)


def _end_doomed(services: Services, lease: Lease, now: datetime) -> None:
    """Children of parents that can never satisfy them end as failed, and so on down the chain."""
    with services.db.read() as conn:
        doomed = dependencies.doomed(conn, lease.site_id, most=500)
    if not doomed:
        return
    with services.db.write() as conn:
        repository.assert_served_by(conn, lease)
        for job_id in doomed:
            job = repository.lock_job(conn, job_id)
            if job is not None and job.phase == Phase.WAITING.value:
                message = "A job that this one depends on did not end as asked."
                service.end_unseen(conn, job, Event.PARENT_FAILED, State.FAILED, Reason.DEPENDENCY_FAILED, now,
                                   payload={"message": message}, message=message)  # fmt: skip


# ---------------------------------------------------------------- claim


def _claim(services: Services, lease: Lease, adapter: SiteAdapter, share: ShareLeft, now: datetime) -> list[_Claimed]:
    """Choose, and commit the intent of each chosen job before anything is said to the site."""
    most = services.settings.dispatch_batch
    with services.db.read() as conn:
        load = _load(services, conn, adapter, share, now)
        chosen = choose(_waiters(conn, adapter, now, most), adapter.policy, load, now=now, most=most)
        rows = _rows(conn, [w.job_id for w in chosen])
        accounts = repository.site_accounts(conn, {r.site_account_id for r in rows})
        opened = open_there(conn, lease.site_id, now) if rows else []
    if not rows:
        return []
    share.take(chosen)
    ready = (_render(adapter, row, accounts[row.site_account_id], opened, now) for row in rows)
    prepared = [one for one in ready if one is not None]
    with services.db.write() as conn:
        repository.assert_served_by(conn, lease)
        return _intend(conn, prepared, now)


def _waiters(conn: Connection, adapter: SiteAdapter, now: datetime, most: int) -> list[Waiter]:
    """The front of each person's line: at most `most` of each, so that one person's 100,000 jobs hide nobody.

    What could not end before a maintenance is not among them.
    """
    place = func.row_number().over(partition_by=JOBS.c.user_id, order_by=JOBS.c.id).label("place")
    ready = (
        select(JOBS.c.id, JOBS.c.user_id, JOBS.c.array_size, JOBS.c.cores_charged, JOBS.c.duration_max, place)
        .where(
            JOBS.c.site_id == adapter.site_id,
            JOBS.c.phase == Phase.WAITING.value,
            JOBS.c.blocked_by == 0,
            JOBS.c.wish == "",
            JOBS.c.not_before.is_(None) | (JOBS.c.not_before <= now),
        )
        .subquery()
    )
    rows = conn.execute(select(ready).where(ready.c.place <= most)).all()
    spans = planned(conn, adapter.site_id)
    counted = adapter.policy.nodes_in_use_max is not None
    nodes = nodes_of(conn, JOBS.c.id.in_([r.id for r in rows])) if counted else {}
    return [
        Waiter(r.id, r.user_id, weight=r.array_size or 1, cores=r.cores_charged, nodes=nodes.get(r.id, 1),
               duration_s=r.duration_max)
        for r in rows if in_the_way(spans, r.duration_max, now) is None
    ]  # fmt: skip


def _load(services: Services, conn: Connection, adapter: SiteAdapter, share: ShareLeft, now: datetime) -> Load:
    site_id, policy = adapter.site_id, adapter.policy
    rows = repository.count_by_person(conn, site_id)
    submits = repository.submits_since(conn, site_id, now - timedelta(seconds=60))
    nodes = nodes_in_use(conn, site_id) if policy.nodes_in_use_max is not None else 0
    return Load(
        {r.user_id: int(r.places) for r in rows}, {r.user_id: int(r.cores) for r in rows}, submits, nodes=nodes,
        calls_left=calls_left(services.paces.of(site_id), policy, submits), share_left=share.core_seconds,
    )  # fmt: skip


def _rows(conn: Connection, job_ids: Sequence[str]) -> list[Any]:
    """The chosen jobs in the order chosen."""
    if not job_ids:
        return []
    columns = (JOBS.c.id, JOBS.c.name, JOBS.c.spec, JOBS.c.tag, JOBS.c.attempt, JOBS.c.manifest,
               JOBS.c.user_id, JOBS.c.project_id, JOBS.c.queue)  # fmt: skip
    found = conn.execute(select(*columns, JOBS.c.site_account_id).where(JOBS.c.id.in_(job_ids)))
    by_id = {row.id: row for row in found}
    return [by_id[job_id] for job_id in job_ids if job_id in by_id]


def _released(spec: JobSpec) -> JobSpec:
    """A job that leaves the line is held no longer: the gateway itself holds, in its line."""
    return replace(spec, attributes=replace(spec.attributes, submit_as_hold=False))


@dataclass(frozen=True, slots=True)
class _Ready:
    """A job with the row of its attempt, or why there can be none."""

    claimed: _Claimed
    attempt_row: Mapping[str, Any] | None
    refusal: str = ""


def _render(
    adapter: SiteAdapter, row: Any, account: SiteAccount, opened: Sequence[Any], now: datetime
) -> _Ready | None:
    """None: a docked centre has not yet told how it renders, so the job stays in the line."""
    attempt = row.attempt + 1
    manifest = parse_manifest(row.manifest)
    spec = under_its_opening(_released(repository.spec_from_json(row.spec)), opened, project_id=row.project_id,
                             username=account.username, queue=row.queue, policy=adapter.policy)  # fmt: skip
    submission = Submission(
        spec=spec,
        account=account,
        tag=row.tag,
        attempt=attempt,
        site_name=site_name(row.name, row.tag, attempt),
        manifest=row.manifest.replace(":0:", f":{attempt}:", 1) if manifest is not None else "",
        person=row.user_id,
        project=row.project_id,
    )
    claimed = _Claimed(row.id, attempt, submission)
    try:
        rendered = adapter.management.render(submission)
    except SiteError as exc:
        return None if exc.retryable else _Ready(claimed, None, str(exc))
    return _Ready(claimed, _attempt_row(adapter.site_id, claimed, rendered, now))


def _intend(conn: Connection, prepared: Sequence[_Ready], now: datetime) -> list[_Claimed]:
    """Write down what is about to be said; without jobs that left the line meanwhile or cannot be rendered."""
    moves = []
    for ready in prepared:
        if ready.attempt_row is None:
            _refuse(conn, ready, now)
            continue
        attempt = ready.claimed.attempt
        moves.append(Move(ready.claimed.job_id, attempt - 1, {"attempt": attempt}, {"attempt": attempt}))
    moved = move_all(conn, Event.INTENT, moves, now=now, expected=Phase.WAITING)
    chosen = [ready for ready in prepared if ready.claimed.job_id in moved]
    repository.insert_attempts(conn, [ready.attempt_row for ready in chosen if ready.attempt_row is not None])
    return [ready.claimed for ready in chosen]


def _refuse(conn: Connection, ready: _Ready, now: datetime) -> None:
    row = repository.lock_job(conn, ready.claimed.job_id)
    if row is not None and row.phase == Phase.WAITING.value:
        service.end_unseen(conn, row, Event.REJECTED, State.FAILED, Reason.REJECTED, now,
                           payload={"message": ready.refusal}, message=ready.refusal)  # fmt: skip


def _attempt_row(site_id: str, job: _Claimed, rendered: RenderedJob, now: datetime) -> dict[str, Any]:
    return {
        "job_id": job.job_id,
        "attempt": job.attempt,
        "site_id": site_id,
        "outcome": "intent",
        "site_name": job.submission.site_name,
        "stdout_path": rendered.stdout_path,
        "stderr_path": rendered.stderr_path,
        "script": repository.pack_script(rendered.script),
        "intent_at": now,
    }


# ---------------------------------------------------------------- answers


def _keep_answers(
    services: Services, lease: Lease, claimed: Sequence[_Claimed], outcomes: Sequence[SubmitOutcome], now: datetime
) -> DispatchReport:
    """Commit the site's answers; a worker that lost its site meanwhile writes none (the next one looks them up)."""
    counts = {Accepted: 0, Rejected: 0, Unknown: 0}
    deferred = 0
    accepted = [(job, o) for job, o in zip(claimed, outcomes, strict=True) if isinstance(o, Accepted)]
    with services.db.write() as conn:
        repository.assert_served_by(conn, lease)
        _accepted(conn, accepted, now)
        for job, outcome in zip(claimed, outcomes, strict=True):
            match outcome:
                case Rejected(retryable=True):
                    deferred += 1
                    _deferred(conn, job, outcome, now)
                case Rejected():
                    _rejected(conn, job, outcome, now)
                case Unknown():
                    _answer_lost(conn, job, outcome, now)
            counts[type(outcome)] += 1
    report = DispatchReport(counts[Accepted], counts[Rejected] - deferred, deferred, counts[Unknown])
    log.info("jobs_handed_over", site=lease.site_id, accepted=report.accepted, rejected=report.rejected,
             deferred=report.deferred, unknown=report.unknown)  # fmt: skip
    return report


def _accepted(conn: Connection, answered: Sequence[tuple[_Claimed, Accepted]], now: datetime) -> None:
    moves = [
        Move(job.job_id, job.attempt, {
            "native_id": outcome.native_id, "cluster": outcome.cluster, "native_submit_time": None, "restarts": 0,
            "submitted_at": now, "missing_looks": 0, "observed_digest": "", "message": outcome.message,
        }, {"native_id": outcome.native_id, "cluster": outcome.cluster})
        for job, outcome in answered
    ]  # fmt: skip
    move_all(conn, Event.ACCEPTED, moves, now=now, expected=Phase.SUBMITTING)
    attempts = [(job.job_id, job.attempt, outcome.native_id, outcome.cluster) for job, outcome in answered]
    repository.accept_attempts(conn, attempts, now=now)


def _rejected(conn: Connection, job: _Claimed, outcome: Rejected, now: datetime) -> None:
    row = repository.lock_job(conn, job.job_id)
    if row is not None and row.phase == Phase.SUBMITTING.value and row.attempt == job.attempt:
        payload = {"message": outcome.message, "code": outcome.code}
        service.end_unseen(conn, row, Event.REJECTED, State.FAILED, Reason.REJECTED, now,
                           payload=payload, message=outcome.message)  # fmt: skip
        repository.update_attempt(conn, job.job_id, job.attempt, outcome="rejected", message=outcome.message,
                                  decided_at=now)  # fmt: skip


def _deferred(conn: Connection, job: _Claimed, outcome: Rejected, now: datetime) -> None:
    reason = Reason.SITE_UNREACHABLE if outcome.code == "site_down" else Reason.LIMIT
    moved = repository.move(
        conn, job.job_id, Event.DEFERRED, now=now, expected=Phase.SUBMITTING, at_attempt=job.attempt,
        reason=reason.value, payload={"message": outcome.message}, message=outcome.message,
        not_before=now + RETRY_AFTER,
    )  # fmt: skip
    repository.update_attempt(conn, job.job_id, job.attempt, outcome="rejected", message=outcome.message,
                              decided_at=now)  # fmt: skip
    if moved:
        service.back_in_line(conn, job.job_id, now)


def _answer_lost(conn: Connection, job: _Claimed, outcome: Unknown, now: datetime) -> None:
    repository.move(
        conn, job.job_id, Event.ANSWER_LOST, now=now, expected=Phase.SUBMITTING, at_attempt=job.attempt,
        payload={"message": outcome.message}, message=outcome.message,
    )  # fmt: skip
    repository.update_attempt(conn, job.job_id, job.attempt, outcome="unknown", message=outcome.message)
