"""Jobs: submit, plan, list, show, act, and what they printed."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import ValidationError
from sqlalchemy import Connection, select
from starlette.responses import Response

from accounting import store as books
from accounting.errors import CreditExhausted as NoCredit
from accounting.money import format_micro
from gateway.api import output, problems, streams
from gateway.api.context import Body, IdemHeader, Svc, Who, json_bytes, read
from gateway.api.idempotency import key_of
from gateway.api.paging import cursor_of, from_cursor
from gateway.api.schemas import BulkIn, ChangeIn, DecideIn, IdsIn, JobSpecIn
from gateway.errors import GatewayError, Invalid, NotFound, Problem
from gateway.identity.access import Person, Verb, can
from gateway.jobs import pending, repository, request, service, views
from gateway.jobs.lifecycle import State
from gateway.jobs.repository import JOBS, Owner
from gateway.jobs.service import WishVerb
from gateway.recovery import assert_accepting
from gateway.services import Services
from site_adapters.types import JobSpec

router = APIRouter(prefix="/jobs", tags=["jobs"])
verbs = APIRouter(tags=["jobs"])  # /jobs:plan and its like

_JOB_BODY = {"requestBody": {"content": {"application/json": {"schema": JobSpecIn.model_json_schema()}}}}


def _json(value: Any, status: int = 200, **headers: str) -> Response:
    return Response(json_bytes(value), status, headers, media_type="application/json")


@router.post("", status_code=202, openapi_extra=_JOB_BODY)
def submit(services: Svc, person: Who, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """Accept a job: 202 with its id, which can be read at once. With `Idempotency-Key` a retry makes no second job."""
    job_id = _submit_one(services, person, body, idempotency_key)
    return _json(_shown(services, person, job_id), 202, Location=f"/api/v2/jobs/{job_id}")


@verbs.post("/jobs:plan", openapi_extra=_JOB_BODY)
def plan(services: Svc, person: Who, body: Body) -> Response:
    """A dry run: the script, the most it can cost, every site that was considered, and all problems."""
    wish = read(JobSpecIn, body)
    with services.db.read() as conn:
        found = request.plan(services, conn, person, _spec(wish), project=wish.project, now=services.clock())
    return _json(_plan_json(found))


@verbs.post("/jobs:bulk")
def bulk(services: Svc, person: Who, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """Up to 1,000 jobs, each accepted or refused on its own. A key covers each job by its place in the list."""
    results: list[dict[str, Any]] = []
    for place, item in enumerate(read(BulkIn, body).jobs):
        key = None if idempotency_key is None else f"{idempotency_key}/{place}"
        try:
            results.append({"status": 202, "id": _submit_one(services, person, json_bytes(item), key)})
        except GatewayError as exc:
            results.append({"status": exc.status, "problem": problems.body(exc)})
        except NoCredit as exc:
            results.append({"status": 402, "problem": problems.body(problems.no_credit(exc))})
        except ValidationError as exc:
            found = problems.of_validation(list(exc.errors()))
            error = Invalid("The job has problems.", problems=found)
            results.append({"status": 422, "problem": problems.body(error)})
    return _json({"results": results})


@verbs.post("/jobs:status")
def status(services: Svc, person: Who, body: Body) -> Response:
    """Many jobs at once."""
    ids = read(IdsIn, body).ids
    with services.db.read() as conn:
        found = views.show_many(conn, person, ids)
    results = [{"id": i, "status": 200, "job": found[i]} if i in found else {"id": i, "status": 404} for i in ids]
    return _json({"results": results})


@verbs.post("/jobs:cancel")
def cancel_many(services: Svc, person: Who, body: Body) -> Response:
    """Cancel many, with a result for each."""
    results = []
    for job_id in read(IdsIn, body).ids:
        try:
            _wish(services, person, job_id, "cancel")
            results.append({"id": job_id, "status": 202})
        except GatewayError as exc:
            results.append({"id": job_id, "status": exc.status, "problem": problems.body(exc)})
    return _json({"results": results})


@router.get("")
def list_jobs(
    services: Svc,
    person: Who,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: str | None = None,
    state: Annotated[list[State] | None, Query()] = None,
    site: str | None = None,
    project: str | None = None,
    user: str | None = None,
    name: str | None = None,
    tag: Annotated[str | None, Query(pattern=r"^[^:]{1,64}:.{0,256}$", description="key:value")] = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
) -> Response:
    """The newest first. `next_cursor` goes on where this page ends, whatever was added meanwhile."""
    key, _, value = (tag or "").partition(":")
    wanted = views.JobFilter(
        tuple(s.value for s in state or ()), site, project, user, name, (key, value) if tag else None,
        _zoned(created_after, "/created_after"), _zoned(created_before, "/created_before"),
    )  # fmt: skip
    with services.db.read() as conn:
        items, last = views.page(conn, person, wanted, before=from_cursor(cursor), limit=limit)
    return _json({"items": items, "next_cursor": cursor_of(last)})


@router.get("/{job_id}")
def show(services: Svc, person: Who, job_id: str) -> Response:
    """One job."""
    return _json(_shown(services, person, job_id))


@router.delete("/{job_id}", status_code=202)
def delete(services: Svc, person: Who, job_id: str) -> Response:
    """Cancel it."""
    return _wished(services, person, job_id, "cancel")


@router.post("/{job_id}/cancel", status_code=202)
def cancel(services: Svc, person: Who, job_id: str) -> Response:
    """Wish its end; the wish stays until the site confirms it."""
    return _wished(services, person, job_id, "cancel")


@router.post("/{job_id}/hold", status_code=202)
def hold(services: Svc, person: Who, job_id: str) -> Response:
    """Keep a job that waits from starting."""
    return _wished(services, person, job_id, "hold")


@router.post("/{job_id}/release", status_code=202)
def release(services: Svc, person: Who, job_id: str) -> Response:
    """Let a held job start."""
    return _wished(services, person, job_id, "release")


@router.patch("/{job_id}", status_code=202)
def modify(services: Svc, person: Who, job_id: str, body: Body) -> Response:
    """Change a job that waits."""
    change = read(ChangeIn, body).change()
    with services.db.write() as conn:
        service.modify(services, conn, person, job_id, change, now=services.clock())
    return _woken(services, person, job_id)


@router.post("/{job_id}/decide", status_code=202)
def decide(services: Svc, person: Who, job_id: str, body: Body) -> Response:
    """Say what nobody can prove: adopt a native id, resubmit, or cancel."""
    said = read(DecideIn, body)
    with services.db.write() as conn:
        service.decide(services, conn, person, job_id, said.decision, said.native_id, now=services.clock())
    return _woken(services, person, job_id)


@router.get("/{job_id}/script")
def script(services: Svc, person: Who, job_id: str, attempt: int | None = None) -> Response:
    """The very script that the site was given."""
    with services.db.read() as conn:
        _row(conn, person, job_id, Verb.READ_OUTPUT)
        table = repository.ATTEMPTS
        query = select(table.c.script).where(table.c.job_id == job_id).order_by(table.c.attempt.desc())
        packed = conn.scalars(query if attempt is None else query.where(table.c.attempt == attempt)).first()
    if packed is None:
        raise NotFound("It has not been handed over yet.", remedy="`/jobs:plan` shows what would be sent.")
    return Response(repository.unpack_script(packed), media_type="text/plain; charset=utf-8")


@router.get("/{job_id}/log")
async def log(
    services: Svc,
    person: Who,
    request: Request,
    job_id: str,
    stream: Literal["stdout", "stderr"] = "stdout",
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=1 << 20)] = 1 << 16,
    task: Annotated[int | None, Query(ge=0)] = None,
    follow: bool = False,
) -> Response:
    """What it printed, by byte offset; with `follow` or `Accept: text/event-stream` as it comes."""
    locate = partial(output.locate, request, services, person, job_id, stream, task)
    if follow or "text/event-stream" in request.headers.get("accept", ""):
        return await streams.follow_log(request, locate, job_id, offset)
    place = await locate()
    chunk = await output.read(request, services, place, offset, limit)
    headers = {"X-Offset": str(chunk.offset), "X-Size": str(chunk.size), "X-Eof": str(chunk.eof).lower()}
    return Response(chunk.data, 200, headers, media_type="application/octet-stream")


@router.get("/{job_id}/events")
async def events(services: Svc, person: Who, request: Request, job_id: str, after: int = 0) -> Response:
    """What happened to it; `Accept: text/event-stream` goes on as it happens, resumable by `Last-Event-ID`."""
    return await streams.events(request, services, person, job_id, after)


@router.get("/{job_id}/why")
def why(services: Svc, person: Who, job_id: str) -> Response:
    """Why it is in its state: a sentence, the evidence, what to do."""
    with services.db.read() as conn:
        row = _row(conn, person, job_id, Verb.SEE_JOB)
        found = pending.why(services, conn, row, services.clock())
    return _json({**asdict(found), "as_of": views.stamp(found.as_of)})


@router.get("/{job_id}/runs")
def runs(services: Svc, person: Who, job_id: str) -> Response:
    """Every run of it: attempts, tasks, requeues."""
    with services.db.read() as conn:
        _row(conn, person, job_id, Verb.SEE_JOB)
        return _json({"items": views.runs(conn, job_id)})


@router.get("/{job_id}/charges")
def charges(services: Svc, person: Who, job_id: str) -> Response:
    """What it costs, run by run, with the arithmetic."""
    with services.db.read() as conn:
        _row(conn, person, job_id, Verb.SEE_JOB)
        lines = books.charges_of_job(conn, job_id)
    items = [_charge_json(line) for line in lines]
    total = sum(line.amount_micro for line in lines)
    provisional = not lines or any(line.meter == "gateway" for line in lines)
    amount = {"amount": format_micro(total), "currency": lines[0].currency} if lines else None
    seconds = sum(line.core_seconds for line in lines)
    return _json({"charges": items, "provisional": provisional, "total": amount, "core_seconds": seconds})


# ---------------------------------------------------------------- parts


def _spec(wish: JobSpecIn) -> JobSpec:
    try:
        return wish.spec()
    except ValueError as exc:
        pointer = "/attributes/start_time" if "zone" in str(exc) else "/budget/max_cost/amount"
        raise Invalid(str(exc), problems=(Problem(pointer, str(exc), "invalid", ""),)) from exc


def _submit_one(services: Services, person: Person, body: bytes, key: str | None) -> str:
    wish = read(JobSpecIn, body)
    now = services.clock()
    with services.db.read() as conn:
        assert_accepting(conn)
        prepared = request.prepare(services, conn, person, _spec(wish), project=wish.project, now=now)
    with services.db.write() as conn:
        made = service.accept(services, conn, person, prepared, now=now, idempotency=key_of(key, body))
    services.wake(prepared.site_id)
    return made.job_id


def _shown(services: Services, person: Person, job_id: str) -> dict[str, Any]:
    with services.db.read() as conn:
        found = views.show(conn, person, job_id)
    if found is None:
        raise NotFound(f"There is no job {job_id!r}.")
    return found


def _row(conn: Connection, person: Person, job_id: str, verb: Verb) -> Any:
    row = conn.execute(select(JOBS).where(JOBS.c.id == job_id)).one_or_none()
    owner = None if row is None else Owner(row.user_id, row.project_id, row.site_id)
    if owner is None or not can(person, verb, ("job", owner)):
        raise NotFound(f"There is no job {job_id!r}.")
    return row


def _wish(services: Services, person: Person, job_id: str, verb: WishVerb) -> None:
    with services.db.write() as conn:
        service.wish(services, conn, person, job_id, verb, now=services.clock())


def _wished(services: Services, person: Person, job_id: str, verb: WishVerb) -> Response:
    _wish(services, person, job_id, verb)
    return _woken(services, person, job_id)


def _woken(services: Services, person: Person, job_id: str) -> Response:
    found = _shown(services, person, job_id)
    services.wake(found["site"])
    return _json(found, 202)


def _zoned(at: datetime | None, pointer: str) -> datetime | None:
    if at is not None and at.tzinfo is None:
        problem = Problem(pointer, "A time needs its zone.", "invalid", "Write it like 2026-11-24T12:00:00Z.")
        raise Invalid("A time has no zone.", problems=(problem,))
    return at


def _plan_json(found: request.Plan) -> dict[str, Any]:
    estimate = None
    if found.estimate is not None and found.estimate.amount is not None:
        money = found.estimate.amount
        estimate = {"amount": format_micro(money.micro), "currency": money.currency,
                    "core_seconds_max": found.estimate.core_seconds, "basis": found.estimate.basis}  # fmt: skip
    candidates = [
        {"resource_id": c.resource_id, "ok": c.ok, "problems": [problems.problem_json(p) for p in c.problems]}
        for c in found.candidates
    ]
    return {
        "ok": found.ok, "problems": [problems.problem_json(p) for p in found.problems], "site": found.site,
        "script": found.script, "argv": found.argv, "estimate": estimate, "candidates": candidates,
        "asked": found.asked, "given": found.given, "charged": found.charged,
    }  # fmt: skip


def _charge_json(line: books.ChargeLine) -> dict[str, Any]:
    segments = [
        {"start": s["start"], "end": s["end"], "core_seconds": s["core_seconds"],
         "price_per_core_hour": format_micro(s["micro_per_core_hour"]), "amount": format_micro(s["amount_micro"])}
        for s in line.segments
    ]  # fmt: skip
    return {
        "meter": line.meter, "task": line.task, "start": views.stamp(line.start_time),
        "end": views.stamp(line.end_time), "cores": line.cores, "core_seconds": line.core_seconds,
        "amount": format_micro(line.amount_micro), "currency": line.currency, "rule": line.rule,
        "overage": line.overage, "segments": segments,
    }  # fmt: skip
