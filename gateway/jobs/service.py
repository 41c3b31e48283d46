"""What people may do to jobs: accept, wish, modify, decide. Only the database is touched; the ticks act."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, insert

from accounting import store as books
from accounting.bound import of_kind
from accounting.store import budgets
from accounting.store.budgets import Standing as BudgetStanding
from gateway.db import table_of
from gateway.errors import Conflict, Forbidden, IdempotencyMismatch, Invalid, NotFound, Problem
from gateway.identity.access import Person, Verb, can
from gateway.ids import new_id
from gateway.jobs import changes, dependencies, repository
from gateway.jobs.ids import Manifest, tag_of
from gateway.jobs.lifecycle import FINAL, Event, Phase, State
from gateway.jobs.repository import Owner
from gateway.jobs.request import Prepared, budget_spent, estimate_json
from gateway.jobs.tables import JobTagRow
from gateway.services import Services
from site_adapters.states import Reason
from site_adapters.types import Change

WishVerb = Literal["cancel", "hold", "release"]
DecisionVerb = Literal["adopt", "resubmit", "cancel"]


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A person's key for one POST, and what was posted with it (both hashed)."""

    key_sha256: str
    content_sha256: str


@dataclass(frozen=True, slots=True)
class AcceptedJob:
    """The id can be read at once; `replayed` says that the same request had been accepted before."""

    job_id: str
    replayed: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """A job that may be accepted: who asks, and under which key."""

    person: Person
    prepared: Prepared
    idempotency: IdempotencyKey | None = None


def accept(
    services: Services,
    conn: Connection,
    person: Person,
    prepared: Prepared,
    *,
    now: datetime,
    idempotency: IdempotencyKey | None,
) -> AcceptedJob:
    """Job row, event, dependencies and hold in the caller's transaction; answers 202 once that is committed."""
    return accept_all(services, conn, [Wanted(person, prepared, idempotency)], now=now)[0]


def accept_all(services: Services, conn: Connection, wanted: Sequence[Wanted], *, now: datetime) -> list[AcceptedJob]:
    """Accept all of these jobs, in order, or raise for one of them: then nothing of the caller's transaction holds."""
    accepted: list[AcceptedJob] = []
    new: list[tuple[str, Wanted]] = []
    for job_id, want in zip(sorted(new_id("j", now) for _ in wanted), wanted, strict=True):
        key = want.idempotency
        earlier = None if key is None else _earlier(conn, want.person, key, job_id, now)
        accepted.append(AcceptedJob(earlier or job_id, replayed=earlier is not None))
        if earlier is None:
            new.append((job_id, want))
    rows = [_job_row(services, conn, job_id, want, now) for job_id, want in new]
    events = [
        repository.event_row(row["id"], 1, now, "accepted_by_gateway", State.NEW.value, {"site": row["site_id"]})
        for row in rows
    ]
    repository.insert_jobs(conn, rows, events)
    tags = [{"job_id": j, "key": k, "value": v} for j, want in new for k, v in want.prepared.spec.tags.items()]
    if tags:
        conn.execute(insert(table_of(JobTagRow)), tags)
    # The balance row is the one that all submissions of a project meet at: last, so that it is locked briefly.
    holds = [books.Hold(want.prepared.project_id, job_id, want.prepared.holds) for job_id, want in new]
    books.place_holds(conn, holds, now=now)
    _stay_in_budget(conn, [(want.prepared.stop, want.prepared.holds) for _, want in new])
    return accepted


def _stay_in_budget(conn: Connection, held: Sequence[tuple[BudgetStanding | None, Mapping[str, int]]]) -> None:
    """Refuse holds by which more would be spent and held than a budget with a stop says."""
    for stop, holds in {stop.budget.project_id: (stop, holds) for stop, holds in held if stop is not None}.values():
        if budgets.passed_since(conn, stop):
            problem = budget_spent(stop, of_kind(holds, stop.budget.commodity))
            raise Invalid(f"The job has 1 problem: {problem.detail}", problems=(problem,))


def wish(services: Services, conn: Connection, person: Person, job_id: str, verb: WishVerb, *, now: datetime) -> None:
    """Note what a person wants; done at once where no site knows the job yet, else until the site confirms it."""
    job = _job_for(conn, person, job_id, Verb.CANCEL_JOB if verb == "cancel" else Verb.CHANGE_JOB)
    if job.state in FINAL:
        if verb == "cancel":
            return  # already over: the wish is fulfilled
        raise Conflict(f"The job is {job.state}; it cannot be {_PARTICIPLE[verb]} any more.")
    if verb == "cancel" and job.phase in (Phase.WAITING.value, Phase.DECISION.value):
        if job.phase == Phase.DECISION.value:
            raise Conflict("Nobody can say whether it runs.", remedy="Use `decide` with cancel, adopt or resubmit.")
        _withdraw(conn, job, now)
        return
    if job.phase == Phase.WAITING.value:
        _hold_in_line(conn, job, verb, now)
        return
    adapter = services.sites.get(job.site_id)
    if verb != "cancel" and adapter is not None and "hold" not in adapter.capabilities:
        raise Conflict(f"{job.site_id} cannot hold jobs.", remedy="Cancel it, and submit it again later.")
    if verb == "hold" and job.state not in (State.QUEUED, State.HELD, State.NEW, State.UNKNOWN):
        raise Conflict(f"The job is {job.state}: only a job that waits can be held.")
    _set_wish(conn, job_id, verb, now)


def modify(services: Services, conn: Connection, person: Person, job_id: str, change: Change, *, now: datetime) -> None:
    """Change a job that waits: here at once, at the site by the next tick."""
    job = _job_for(conn, person, job_id, Verb.CHANGE_JOB)
    asked = {k: v for k, v in asdict(change).items() if v is not None}
    if not asked:
        problem = Problem("/attributes", "Nothing to change.", "required", "Name a field.")
        raise Invalid("Nothing to change.", problems=(problem,))
    if job.state in FINAL or job.state in (State.ACTIVE, State.SUSPENDED):
        raise Conflict(f"The job is {job.state}: only a job that waits can be changed.")
    wanted = {**(job.change or {}), **asked}  # what was asked before, and the site was not told yet
    adapter = services.sites.get(job.site_id)
    if job.phase != Phase.WAITING.value and adapter is not None and "modify" not in adapter.capabilities:
        raise Conflict(f"{job.site_id} cannot change a job that is in its queue.")
    checked = changes.checked(services, conn, job, wanted, now)
    # Before the site is asked: what it may do then was checked against credit, whenever it does it.
    books.raise_hold(conn, project_id=job.project_id, job_id=job_id, amounts=checked.holds, now=now)
    _stay_in_budget(conn, [(checked.stop, checked.holds)])
    held = {} if checked.estimate is None else {"estimate": checked.estimate}
    if job.phase == Phase.WAITING.value:
        repository.set_columns(conn, job_id, **asked_now(None), **checked.columns, **held)
        repository.note(conn, job_id, "modified", asked, now=now)
        return
    repository.set_columns(conn, job_id, **asked_now(wanted), **held)
    repository.note(conn, job_id, "change_wished", asked, now=now)


def asked_now(change: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The columns of a change that the site is asked for at its next turn, whatever it refused before."""
    return {"change": change, "change_refusals": 0, "change_due_at": None}


def decide(
    services: Services,
    conn: Connection,
    person: Person,
    job_id: str,
    decision: DecisionVerb,
    native_id: str | None,
    *,
    now: datetime,
) -> None:
    """A person says what nobody can prove: adopt a native id, hand over once more, or give it up."""
    job = _job_for(conn, person, job_id, Verb.DECIDE_JOB)
    if job.phase != Phase.DECISION.value:
        raise Conflict("This job needs no decision.")
    detail = {"decision": decision, "by": person.user_id, "native_id": native_id}
    if decision == "adopt":
        if not native_id:
            problem = Problem("/native_id", "Which job of the site is it?", "required", "Give its native id.")
            raise Invalid("The native id is missing.", problems=(problem,))
        done = repository.move(
            conn, job_id, Event.ADOPTED, now=now, expected=Phase.DECISION, payload=detail, native_id=native_id,
            submitted_at=now, native_submit_time=None, missing_looks=0,
        )  # fmt: skip
        repository.update_attempt(conn, job_id, job.attempt, outcome="accepted", native_id=native_id, decided_at=now)
    elif decision == "resubmit":
        done = repository.move(conn, job_id, Event.RESUBMIT, now=now, expected=Phase.DECISION, payload=detail,
                               wish="hold" if job.wish == "hold" else "")  # fmt: skip
        repository.update_attempt(conn, job_id, job.attempt, outcome="abandoned", decided_at=now)
        back_in_line(conn, job_id, now)
    else:
        done = end_unseen(conn, job, Event.WITHDRAWN, State.CANCELED, Reason.NONE, now, payload=detail)
    repository.conflict_unless(done, "The job has moved on.")
    repository.close_breaks(conn, job_id, decision=decision, decided_by=person.user_id, now=now)


# ---------------------------------------------------------------- parts


def _job_row(services: Services, conn: Connection, job_id: str, want: Wanted, now: datetime) -> dict[str, Any]:
    """The row of a new job; what it waits for is written down beside it."""
    prepared, spec = want.prepared, want.prepared.spec
    blocked = dependencies.insert_all(conn, job_id, spec.dependencies, now=now)
    waits = Reason.DEPENDENCY if blocked else Reason.WAITING_LINE
    held = spec.attributes.submit_as_hold
    return {
        "id": job_id,
        "user_id": want.person.user_id,
        "project_id": prepared.project_id,
        "site_id": prepared.site_id,
        "site_account_id": prepared.site_account_id,
        "name": spec.name,
        "queue": prepared.queue,
        "spec": repository.spec_to_json(spec),
        "tag": tag_of(services.gateway_id, job_id),
        "phase": Phase.WAITING.value,
        "state": State.HELD.value if held else State.NEW.value,
        "reason": Reason.HELD_BY_USER.value if held else waits.value,
        "wish": "hold" if held else "",
        "not_before": spec.attributes.start_time,
        "blocked_by": blocked,
        "array_size": prepared.array_size,
        "cores_charged": prepared.cores_charged,
        "duration_max": prepared.duration_max,
        "max_cost_micro": spec.budget.max_cost_micro,
        "enforce_duration": prepared.enforce_duration,
        "estimate": estimate_json(prepared.estimate),
        "manifest": _manifest_stub(job_id, prepared, want.person, want.idempotency),
        "created_at": now,
        "updated_at": now,
        "last_event": 1,
    }


def _earlier(conn: Connection, person: Person, key: IdempotencyKey, job_id: str, now: datetime) -> str | None:
    """The job that this key already made, if any; `IdempotencyMismatch` where it was made of other content."""
    recovered = repository.recovered_key(conn, user_id=person.user_id, key_sha256=key.key_sha256)
    if recovered is not None:
        same = recovered.content_sha256.removeprefix("prefix:") == key.content_sha256[:16]
        found = recovered
    else:
        found = repository.claim_key(
            conn, user_id=person.user_id, key_sha256=key.key_sha256, content_sha256=key.content_sha256,
            status=202, body=job_id, now=now,
        )  # fmt: skip
        if found is None:
            return None
        same = found.content_sha256 == key.content_sha256
    if not same:
        raise IdempotencyMismatch(
            "This Idempotency-Key was used for a different request.", remedy="Use a new key for a new request."
        )
    return str(found.body)


def _manifest_stub(job_id: str, prepared: Prepared, person: Person, key: IdempotencyKey | None) -> str:
    prefixes = ("0", "0") if key is None else (key.key_sha256[:16], key.content_sha256[:16])
    return str(Manifest(job_id, prepared.project_id, person.user_id, 0, *prefixes))


_PARTICIPLE = {"hold": "held", "release": "released", "cancel": "canceled"}


def _job_for(conn: Connection, person: Person, job_id: str, verb: Verb) -> Any:
    """The locked row of a job on which `person` may do `verb`; foreign jobs do not exist for strangers."""
    job = repository.lock_job(conn, job_id)
    owner = None if job is None else Owner(job.user_id, job.project_id, job.site_id)
    if owner is None or not can(person, Verb.SEE_JOB, ("job", owner)):
        raise NotFound(f"There is no job {job_id!r}.")
    if not can(person, verb, ("job", owner)):
        raise Forbidden("You may see this job, but not change it.", remedy="Ask its owner or the project's owner.")
    return job


def _withdraw(conn: Connection, job: Any, now: datetime) -> None:
    done = end_unseen(conn, job, Event.WITHDRAWN, State.CANCELED, Reason.NONE, now, payload={})
    repository.conflict_unless(done, "The job is being handed over right now.")


def back_in_line(conn: Connection, job_id: str, now: datetime) -> None:
    """A job that came back into our line: what was wished of it meanwhile is done here, as no site will be asked."""
    job = repository.lock_job(conn, job_id)
    if job is None or job.phase != Phase.WAITING.value or not job.wish:
        return
    if job.wish == "cancel":
        _withdraw(conn, job, now)
    else:
        _hold_in_line(conn, job, job.wish, now)


def end_unseen(
    conn: Connection,
    job: Any,
    event: Event,
    state: State,
    reason: Reason,
    now: datetime,
    *,
    payload: Mapping[str, Any],
    **changes: Any,
) -> bool:
    """End a job that never ran: its hold is released, its children learn of it."""
    done = repository.move(
        conn, job.id, event, now=now, expected=Phase(job.phase), state=state.value, reason=reason.value,
        payload=payload, ended_at=now, wish="", **changes,
    )  # fmt: skip
    if done:
        dependencies.parent_changed(conn, job.id, state, started=False, now=now)
        books.release_hold(conn, job_id=job.id, now=now)
    return done


def _hold_in_line(conn: Connection, job: Any, verb: str, now: datetime) -> None:
    held = verb == "hold"
    waits = Reason.DEPENDENCY if job.blocked_by else Reason.WAITING_LINE
    query = repository.JOBS.update().where(
        repository.JOBS.c.id == job.id, repository.JOBS.c.phase == Phase.WAITING.value
    )
    changed = conn.execute(
        query.values(
            wish="hold" if held else "",
            state=State.HELD.value if held else State.NEW.value,
            reason=(Reason.HELD_BY_USER if held else waits).value,
        )
    )
    repository.conflict_unless(changed.rowcount == 1, "The job is being handed over right now.")
    repository.note(conn, job.id, _PARTICIPLE[verb], {}, now=now)


def _set_wish(conn: Connection, job_id: str, verb: str, now: datetime) -> None:
    query = repository.JOBS.update().where(repository.JOBS.c.id == job_id)
    # A cancel is never taken back by a later hold or release.
    if verb != "cancel":
        query = query.where(repository.JOBS.c.wish != "cancel")
    changed = conn.execute(query.values(wish=verb, wish_at=now, wish_tried_at=None))
    if changed.rowcount:
        repository.note(conn, job_id, f"{verb}_wished", {}, now=now)
