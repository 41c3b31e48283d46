"""From the rows a site showed to a job's runs, state and end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from accounting import store as books
from gateway.jobs import dependencies, provisional, repository
from gateway.jobs.lifecycle import SEEN, Event, Phase, State, array_state
from gateway.jobs.moving import Move, move_all
from gateway.jobs.repository import RUNS
from gateway.services import Services
from site_adapters.indices import expand
from site_adapters.states import ObservedState, Reason
from site_adapters.types import ObservedRun

NO_TASK = -1


@dataclass(frozen=True, slots=True)
class Seen:
    """A job's row with what the site showed under its native id."""

    job: Any
    ours: tuple[ObservedRun, ...]
    foreign: tuple[ObservedRun, ...] = ()
    unproved: bool = False

    @property
    def digest(self) -> str:
        """Equal digests: the site shows what it showed before."""
        return repository.digest(
            sorted(
                (r.task if r.task is not None else NO_TASK, r.restarts, r.state.value, r.native_state, r.native_reason,
                 r.exit_code, r.signal, str(r.submit_time), str(r.start_time), str(r.end_time), r.cores)
                for r in self.ours
            )
        )  # fmt: skip


@dataclass(slots=True)
class _News:
    """What is written for all jobs at once: those that are as they were but for this, and who has begun to run."""

    moves: list[Move] = field(default_factory=list)
    started: list[str] = field(default_factory=list)


def apply_runs(conn: Connection, services: Services, seen: Sequence[Seen], now: datetime) -> None:
    """Write runs, states and, at the end, provisional charges of many jobs, inside the caller's transaction."""
    runs = [_one_per_run(one.ours) for one in seen]
    rows = [_run_row(one.job, run, now) for one, mine in zip(seen, runs, strict=True) for run in mine]
    repository.upsert_runs(conn, rows)
    news = _News()
    for one, mine in zip(seen, runs, strict=True):
        _apply(conn, services, one, mine, news, now)
    move_all(conn, Event.OBSERVED, news.moves, now=now, expected=Phase.AT_SITE)
    if news.started:
        books.mark_in_flight(conn, job_ids=news.started)


def upsert_seen(conn: Connection, job: Any, runs: Sequence[ObservedRun], now: datetime) -> None:
    """Only the runs, of a job that is over already."""
    repository.upsert_runs(conn, [_run_row(job, run, now) for run in _one_per_run(runs)])


def _apply(
    conn: Connection, services: Services, seen: Seen, runs: Sequence[ObservedRun], news: _News, now: datetime
) -> None:
    job = seen.job
    for run in runs:
        if run.restarts:
            repository.close_earlier_runs(
                conn, job.id, job.attempt, _task(run), before=run.restarts, ended=run.submit_time
            )
    latest = _latest_per_task(conn, job, runs)
    newest = max(runs, key=lambda r: (r.restarts, r.submit_time or now))
    state = array_state(latest.values()) if job.array_size is not None else latest[NO_TASK]
    complete = job.array_size is None or len(latest) >= job.array_size
    final = state.final and complete
    if state.final and not complete:
        state = State.QUEUED  # tasks that the site does not show yet, or no more: settle_missing looks for them
    started = job.started_at or _first_start(runs)
    changes: dict[str, Any] = {
        "native_state": newest.native_state, "native_reason": newest.native_reason, "exit_code": newest.exit_code,
        "signal": newest.signal, "observed_at": now, "observed_digest": seen.digest, "missing_looks": 0,
        "native_submit_time": newest.submit_time or job.native_submit_time, "started_at": started,
        "restarts": max(job.restarts, newest.restarts),
    }  # fmt: skip
    payload = {"native_state": newest.native_state, "native_reason": newest.native_reason}
    if final:
        end(conn, services, job, state, _reason(job, runs, state), now, payload=payload, runs=runs, **changes)
        return
    if started is not None and job.started_at is None:
        news.started.append(job.id)
    if state.value == job.state and newest.native_reason == "" and job.started_at == started:
        # Nothing that people would call news (a node list, a restart count): no event.
        repository.set_columns(conn, job.id, **changes)
        return
    shown = {"state": state.value, "reason": newest.reason.value}
    news.moves.append(Move(job.id, job.attempt, changes | shown, payload))
    if started is not None and job.started_at is None:
        dependencies.parent_changed(conn, job.id, state, started=True, now=now)


def end(
    conn: Connection,
    services: Services,
    job: Any,
    state: State,
    reason: Reason,
    now: datetime,
    *,
    payload: dict[str, Any],
    runs: Sequence[ObservedRun],
    event: Event = Event.FINISHED,
    **changes: Any,
) -> None:
    """The job is final: children learn of it, the hold gives way to the gateway's provisional charge."""
    if job.limit_hit and state is State.CANCELED:
        state, reason = State.FAILED, Reason(job.limit_hit)  # canceled by us, for a limit that was asked for
    ended = max((r.end_time for r in runs if r.end_time is not None), default=now)
    moved = repository.move(
        conn, job.id, event, now=now, expected=Phase.AT_SITE, at_attempt=job.attempt, state=state.value,
        reason=reason.value, payload=payload | {"exit_code": changes.get("exit_code")}, ended_at=ended, wish="",
        change=None, **changes,
    )  # fmt: skip
    if not moved:
        return
    dependencies.parent_changed(conn, job.id, state, started=True, now=now)
    provisional.book_job(conn, services, job_id=job.id, now=now)


def run_rows(conn: Connection, job_id: str, attempt: int) -> list[Any]:
    query = select(RUNS).where(RUNS.c.job_id == job_id, RUNS.c.attempt == attempt)
    return list(conn.execute(query.order_by(RUNS.c.task, RUNS.c.restart)))


def expected_tasks(spec: dict[str, Any]) -> tuple[int, ...]:
    """The task numbers an array was asked to have."""
    array = spec.get("array")
    return () if array is None else expand(array["indices"])


def _one_per_run(rows: Sequence[ObservedRun]) -> list[ObservedRun]:
    """One row for each (task, restart); a final word beats a live one, and a later source an earlier one."""
    best: dict[tuple[int | None, int], ObservedRun] = {}
    for row in rows:
        key = (row.task, row.restarts)
        if key not in best or row.state.final or not best[key].state.final:
            best[key] = row
    return list(best.values())


def _latest_per_task(conn: Connection, job: Any, runs: Sequence[ObservedRun]) -> dict[int, State]:
    """The state of each task's newest run, from what was just seen and, for arrays, from what was seen before."""
    newest: dict[int, tuple[int, State]] = {}
    if job.array_size is not None:
        for row in run_rows(conn, job.id, job.attempt):
            newest[row.task] = (row.restart, State.QUEUED if row.state == "requeued" else State(row.state))
    for run in runs:
        task = _task(run)
        before = newest.get(task)
        if before is None or run.restarts > before[0] or (run.restarts == before[0] and not before[1].final):
            newest[task] = (run.restarts, SEEN[run.state])
    if job.array_size is not None:
        newest.pop(NO_TASK, None)
    return {task: state for task, (_, state) in newest.items()}


def _reason(job: Any, runs: Sequence[ObservedRun], state: State) -> Reason:
    """Why it ended: the first failing task's reason for arrays."""
    if state is State.COMPLETED:
        return Reason.NONE
    told = [r.reason for r in runs if SEEN[r.state] is state and r.reason is not Reason.NONE]
    if told:
        return told[0]
    return Reason.NONE if state is State.CANCELED else Reason.NONZERO_EXIT


def _first_start(runs: Sequence[ObservedRun]) -> datetime | None:
    live = [r.start_time for r in runs if r.start_time is not None and r.state is not ObservedState.QUEUED]
    return min(live, default=None)


def _task(run: ObservedRun) -> int:
    return NO_TASK if run.task is None else run.task


def _run_row(job: Any, run: ObservedRun, now: datetime) -> dict[str, Any]:
    return {
        "job_id": job.id,
        "attempt": job.attempt,
        "task": _task(run),
        "restart": run.restarts,
        "site_id": job.site_id,
        "native_id": job.native_id,
        "state": SEEN[run.state].value if run.state is not ObservedState.REQUEUED else "requeued",
        "reason": run.reason.value,
        "native_state": run.native_state,
        "exit_code": run.exit_code,
        "signal": run.signal,
        "cores": run.cores,
        "submit_time": run.submit_time,
        "start_time": run.start_time,
        "end_time": run.end_time,
        "observed_at": now,
    }
