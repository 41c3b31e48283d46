"""Jobs: submit, plan, list, show, act, and what they printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from sqlalchemy import Connection, select
from starlette.responses import Response

from accounting import store as books
from accounting.money import format_micro
from gateway.api import answers, describe, problems, streams, submitting
from gateway.api.context import Body, IdemHeader, JobId, Svc, Who, Word, answer, read
from gateway.api.paging import cursor_of, from_cursor
from gateway.api.schemas import BulkIn, ChangeIn, DecideIn, IdsIn, Instant, JobSpecIn
from gateway.api.submitting import Posted
from gateway.api.together import Lanes
from gateway.errors import Forbidden, NotFound
from gateway.identity.access import Person, Verb, can
from gateway.jobs import logs, pending, repository, request, service, views
from gateway.jobs.lifecycle import State
from gateway.jobs.repository import JOBS, Owner
from gateway.jobs.service import WishVerb
from gateway.services import Services

router = APIRouter(prefix="/jobs", tags=["jobs"])
verbs = APIRouter(tags=["jobs"])  # /jobs:plan and its like

# Wishes noted in one write transaction.
_CHUNK = 50
_ACT = describe.route(answers.Job, status=202, refuses=(403, 404, 409))


@router.post("", **describe.route(answers.Job, status=202, body=JobSpecIn, refuses=(402, 403, 404, 409, 413, 422)))
async def submit(lanes: Lanes, person: Who, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """Accept a job: 202 with its id, which can be read at once. With `Idempotency-Key` a retry makes no second job."""
    job = await lanes.submit(Posted(person, body, idempotency_key))
    return answer(job, 202, Location=f"/api/v2/jobs/{job['id']}")


@verbs.post("/jobs:plan", **describe.route(answers.Plan, body=JobSpecIn, refuses=(403, 404, 413, 422)))
def plan(services: Svc, person: Who, body: Body) -> Response:
    """A dry run: the script, the most it can cost, every site that was considered, and all problems."""
    return answer(_plan_json(submitting.plan(services, person, body)))


@verbs.post("/jobs:bulk", **describe.route(answers.Results, body=BulkIn, refuses=(413, 422)))
def bulk(services: Svc, person: Who, body: Body, idempotency_key: IdemHeader = None) -> Response:
    """Up to 1,000 jobs, each accepted or refused on its own. A key covers each job by its place in the list."""
    results = submitting.submit_many(services, person, read(BulkIn, body).jobs, idempotency_key)
    return answer({"results": _with_jobs(services, person, results)})


@verbs.post("/jobs:status", **describe.route(answers.Results, body=IdsIn, refuses=(413, 422)))
def status(services: Svc, person: Who, body: Body) -> Response:
    """Up to 1,000 jobs at once, with a result for each."""
    results: list[dict[str, Any]] = [{"id": i, "status": 200} for i in read(IdsIn, body).ids]
    return answer({"results": _with_jobs(services, person, results)})


@verbs.post("/jobs:cancel", **describe.route(answers.Results, body=IdsIn, refuses=(413, 422)))
def cancel_many(services: Svc, person: Who, body: Body) -> Response:
    """Cancel up to 1,000 jobs, with a result for each."""
    results: list[dict[str, Any]] = [{"id": i, "status": 202} for i in read(IdsIn, body).ids]
    for start in range(0, len(results), _CHUNK):
        with services.db.write() as conn:
            for result in results[start : start + _CHUNK]:
                with submitting.told(result), conn.begin_nested():
                    service.wish(services, conn, person, result["id"], "cancel", now=services.clock())
    results = _with_jobs(services, person, results)
    for site_id in {result["job"]["site"] for result in results if "job" in result}:
        services.wake(site_id)
    return answer({"results": results})


@router.get("", **describe.route(answers.JobPage, refuses=(422,)))
def list_jobs(
    services: Svc,
    person: Who,
    limit: Annotated[int, Query(ge=1, le=500, description="Jobs on a page")] = 50,
    cursor: Annotated[Word | None, Query(description="`next_cursor` of the page before")] = None,
    state: Annotated[list[State] | None, Query(description="Repeat it for several: any of them")] = None,
    site: Annotated[Word | None, Query(description="A site's id")] = None,
    project: Annotated[Word | None, Query(description="A project's name or id")] = None,
    user: Annotated[Word | None, Query(description="A person's name or id")] = None,
    name: Annotated[Word | None, Query(description="The job's whole name")] = None,
    tag: Annotated[Word | None, Query(pattern=r"(?s)^[^:]{1,64}:.{0,256}$", description="`key:value`")] = None,
    created_after: Annotated[Instant | None, Query(description="RFC 3339, with its zone; inclusive")] = None,
    created_before: Annotated[Instant | None, Query(description="RFC 3339, with its zone; exclusive")] = None,
) -> Response:
    """The newest first. `next_cursor` goes on where this page ends, whatever was added meanwhile.

    Items are jobs without `job_spec`: one script may be as large as all else on a page.
    """
    key, _, value = (tag or "").partition(":")
    wanted = views.JobFilter(
        states=tuple(s.value for s in state or ()), site=site, project=project, user=user, name=name,
        tag=(key, value) if tag else None, created_after=created_after, created_before=created_before,
    )  # fmt: skip
    with services.db.read() as conn:
        items, last = views.page(conn, person, wanted, before=from_cursor(cursor), limit=limit)
    return answer({"items": items, "next_cursor": cursor_of(last)})


@router.get("/{job_id}", **describe.route(answers.Job, refuses=(404,)))
async def show(lanes: Lanes, person: Who, job_id: JobId) -> Response:
    """One job."""
    job = await lanes.show((person, job_id))
    if job is None:
        raise NotFound(f"There is no job {job_id!r}.")
    return answer(job)


@router.delete("/{job_id}", **_ACT)
def delete(services: Svc, person: Who, job_id: JobId) -> Response:
    """Cancel it."""
    return _wished(services, person, job_id, "cancel")


@router.post("/{job_id}/cancel", **_ACT)
def cancel(services: Svc, person: Who, job_id: JobId) -> Response:
    """Wish its end; the wish stays until the site confirms it."""
    return _wished(services, person, job_id, "cancel")


@router.post("/{job_id}/hold", **_ACT)
def hold(services: Svc, person: Who, job_id: JobId) -> Response:
    """Keep a job that waits from starting."""
    return _wished(services, person, job_id, "hold")


@router.post("/{job_id}/release", **_ACT)
def release(services: Svc, person: Who, job_id: JobId) -> Response:
    """Let a held job start."""
    return _wished(services, person, job_id, "release")


@router.patch("/{job_id}", **describe.route(answers.Job, status=202, body=ChangeIn, refuses=(402, 403, 404, 409, 422)))
def modify(services: Svc, person: Who, job_id: JobId, body: Body) -> Response:
    """Change a job that waits."""
    change = read(ChangeIn, body).change()
    with services.db.write() as conn:
        service.modify(services, conn, person, job_id, change, now=services.clock())
    return _woken(services, person, job_id)


@router.post("/{job_id}/decide", **describe.route(answers.Job, status=202, body=DecideIn, refuses=(403, 404, 409, 422)))
def decide(services: Svc, person: Who, job_id: JobId, body: Body) -> Response:
    """Say what nobody can prove: adopt a native id, resubmit, or cancel."""
    said = read(DecideIn, body)
    with services.db.write() as conn:
        service.decide(services, conn, person, job_id, said.decision, said.native_id, now=services.clock())
    return _woken(services, person, job_id)


@router.get("/{job_id}/script", **describe.route("text/plain", refuses=(403, 404)))
def script(
    services: Svc,
    person: Who,
    job_id: JobId,
    attempt: Annotated[int | None, Query(ge=0, le=2**31 - 1, description="Default: the last")] = None,
) -> Response:
    """The very script that the site was given."""
    with services.db.read() as conn:
        _row(conn, person, job_id, Verb.READ_OUTPUT)
        table = repository.ATTEMPTS
        query = select(table.c.script).where(table.c.job_id == job_id).order_by(table.c.attempt.desc())
        packed = conn.scalars(query if attempt is None else query.where(table.c.attempt == attempt)).first()
    if packed is None:
        raise NotFound("It has not been handed over yet.", remedy="`/jobs:plan` shows what would be sent.")
    text = repository.unpack_script(packed).encode("utf-8", "surrogateescape")
    return Response(text, media_type="text/plain; charset=utf-8")


@router.get("/{job_id}/log", **describe.route("application/octet-stream", refuses=(403, 404, 409, 422, 504)))
async def log(
    services: Svc,
    person: Who,
    request: Request,
    job_id: JobId,
    stream: Literal["stdout", "stderr"] = "stdout",
    offset: Annotated[int, Query(ge=0, le=2**53)] = 0,
    limit: Annotated[int, Query(ge=1, le=1 << 20)] = 1 << 16,
    task: Annotated[int | None, Query(ge=0, le=2**31 - 1, description="Of an array")] = None,
    follow: bool = False,
) -> Response:
    """What it printed, by byte offset; with `follow` or `Accept: text/event-stream` as it comes.

    Events: `chunk` {data, offset, next}, `stale` (the site does not answer; it is tried again), `restart` (written
    anew, or shorter than the byte asked for: from byte 0), `end`. The id of each is the byte to go on from.
    """
    shared = streams.streams_of(request)
    try:
        place = await shared.run(lambda: _located(services, person, job_id, stream, task))
    except logs.NotYet:
        if not (follow or streams.wanted(request)):
            raise
    if follow or streams.wanted(request):
        return streams.follow_log(request, person, job_id, stream, task, offset)
    chunk = await shared.logs.read(place, offset, limit)
    headers = {"X-Offset": str(chunk.offset), "X-Size": str(chunk.size), "X-Eof": str(chunk.eof).lower()}
    return Response(chunk.data, 200, headers, media_type="application/octet-stream")


@router.get("/{job_id}/events", **describe.route(answers.Events, refuses=(404,)))
async def events(
    services: Svc, person: Who, request: Request, job_id: JobId, after: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0
) -> Response:
    """What happened to it; `Accept: text/event-stream` goes on as it happens, resumable by `Last-Event-ID`."""
    shared = streams.streams_of(request)
    found = await shared.run(lambda: _events(services, person, job_id, after))
    if streams.wanted(request):
        return streams.follow_events(request, job_id, after)
    return answer({"items": found})


@router.get("/{job_id}/why", **describe.route(answers.Why, refuses=(404,)))
def why(services: Svc, person: Who, job_id: JobId) -> Response:
    """Why it is in its state: a sentence, the evidence, what to do."""
    with services.db.read() as conn:
        row = _row(conn, person, job_id, Verb.SEE_JOB)
        found = pending.why(services, conn, row, services.clock())
    return answer({**asdict(found), "as_of": views.stamp(found.as_of)})


@router.get("/{job_id}/runs", **describe.route(answers.Runs, refuses=(404,)))
def runs(services: Svc, person: Who, job_id: JobId) -> Response:
    """Every run of it: attempts, tasks, requeues."""
    with services.db.read() as conn:
        _row(conn, person, job_id, Verb.SEE_JOB)
        return answer({"items": views.runs(conn, job_id)})


@router.get("/{job_id}/charges", **describe.route(answers.Charges, refuses=(404,)))
def charges(services: Svc, person: Who, job_id: JobId) -> Response:
    """What it costs, run by run, with the arithmetic."""
    with services.db.read() as conn:
        _row(conn, person, job_id, Verb.SEE_JOB)
        lines = books.charges_of_job(conn, job_id)
    items = [_charge_json(line) for line in lines]
    total = sum(line.amount_micro for line in lines)
    provisional = not lines or any(line.meter == "gateway" for line in lines)
    amount = {"amount": format_micro(total), "currency": lines[0].currency} if lines else None
    seconds = sum(line.core_seconds for line in lines)
    return answer({"charges": items, "provisional": provisional, "total": amount, "core_seconds": seconds})


# ---------------------------------------------------------------- parts


def _located(services: Services, person: Person, job_id: str, stream: logs.Stream, task: int | None) -> logs.Output:
    with services.db.read() as conn:
        return logs.locate(conn, person, job_id, stream, task)


def _events(services: Services, person: Person, job_id: str, after: int) -> list[dict[str, Any]]:
    with services.db.read() as conn:
        _row(conn, person, job_id, Verb.SEE_JOB)
        return views.events(conn, job_id, after=after)


def _shown(services: Services, person: Person, job_id: str) -> dict[str, Any]:
    with services.db.read() as conn:
        found = views.show(conn, person, job_id)
    if found is None:
        raise NotFound(f"There is no job {job_id!r}.")
    return found


def _with_jobs(services: Services, person: Person, results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results with the jobs that they are about; what is not there, or not theirs to see, becomes a 404."""
    good = [result["id"] for result in results if "problem" not in result]
    with services.db.read() as conn:
        found = views.show_many(conn, person, good)
    shown = []
    for result in results:
        job = found.get(result.get("id", ""))
        if "problem" in result:
            shown.append(result)
        elif job is not None:
            shown.append({**result, "job": job})
        else:
            missing = NotFound(f"There is no job {result['id']!r}.")
            shown.append({**result, "status": 404, "problem": problems.body(missing)})
    return shown


def _row(conn: Connection, person: Person, job_id: str, verb: Verb) -> Any:
    row = conn.execute(select(JOBS).where(JOBS.c.id == job_id)).one_or_none()
    owner = None if row is None else Owner(row.user_id, row.project_id, row.site_id)
    if owner is None or not can(person, Verb.SEE_JOB, ("job", owner)):
        raise NotFound(f"There is no job {job_id!r}.")
    if not can(person, verb, ("job", owner)):
        raise Forbidden("You may see this job, but not what it printed.", remedy="Ask its owner.")
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
    return answer(found, 202)


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
        {"start": s["start"], "end": s["end"], "resource": s["resource"], "quantity": s["quantity"],
         "price": format_micro(s["price_micro"]), "per": s["per"], "rule": s["rule"],
         "amount": format_micro(s["amount_micro"]),
         "discount": f"{s['numerator']}/{s['denominator']}" if "discount" in s else None, "reason": s["reason"]}
        for s in line.segments
    ]  # fmt: skip
    return {
        "id": line.charge_id, "meter": line.meter, "task": line.task, "start": views.stamp(line.start_time),
        "end": views.stamp(line.end_time), "cores": line.cores, "core_seconds": line.core_seconds,
        "amount": format_micro(line.amount_micro), "currency": line.currency, "rule": line.rule,
        "overage": line.overage, "segments": segments,
    }  # fmt: skip
