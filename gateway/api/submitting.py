"""From a posted job spec to an accepted job: read it, tell every problem at once, take it once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection

from accounting.errors import CreditExhausted as NoCredit
from gateway.api import problems
from gateway.api.context import json_bytes, read
from gateway.api.idempotency import earlier_job, key_of
from gateway.api.schemas import JobSpecIn
from gateway.errors import Forbidden, GatewayError, Invalid, Problem
from gateway.identity.access import SCOPE_OF, Person, Verb
from gateway.jobs import request, service
from gateway.jobs.request import Plan, Prepared
from gateway.jobs.service import IdempotencyKey
from gateway.jobs.standby import assert_accepting
from gateway.services import Services

# Jobs taken in one write transaction: others wait for it at most some tens of milliseconds.
_CHUNK = 25
# 64-bit columns hold what a job can cost and use at most, and sums of many of those.
_HOLD_MAX = 2**56


def submit(services: Services, person: Person, body: bytes, header: str | None) -> str:
    """Accept one job and wake its site; the id of the job, or of the one that this key made before."""
    key = key_of(header, body)
    with services.db.read() as conn:
        ready = _ready(services, conn, person, body, key)
    if isinstance(ready, str):
        return ready
    with services.db.write() as conn:
        made = service.accept(services, conn, person, ready.prepared, now=services.clock(), idempotency=key)
    services.wake(ready.prepared.site_id)
    return made.job_id


def submit_many(
    services: Services, person: Person, items: Sequence[Mapping[str, Any]], header: str | None
) -> list[dict[str, Any]]:
    """Accept each job on its own; a result for each, in order. A key covers each job by its place in the list."""
    results: list[dict[str, Any]] = [{} for _ in items]
    for start in range(0, len(items), _CHUNK):
        ready: list[tuple[int, _Ready]] = []
        with services.db.read() as conn:
            for place, item in enumerate(items[start : start + _CHUNK], start):
                body = json_bytes(item)
                key = key_of(None if header is None else f"{header}/{place}", body)
                with told(results[place]):
                    found = _ready(services, conn, person, body, key)
                    if isinstance(found, str):
                        results[place] |= {"status": 202, "id": found}
                    else:
                        ready.append((place, found))
        _accept_chunk(services, person, ready, results)
    return results


def plan(services: Services, person: Person, body: bytes) -> Plan:
    """A dry run; what cannot be read as a job spec is refused like a submission."""
    with services.db.read() as conn:
        wish = _read(services, conn, person, body)
        return request.plan(services, conn, person, wish.spec(), project=wish.project, now=services.clock())


@contextmanager
def told(result: dict[str, Any]) -> Iterator[None]:
    """Put a refusal into the result of one item, so that the others go on."""
    try:
        yield
    except GatewayError as exc:
        refusal = exc
    except NoCredit as exc:
        refusal = problems.no_credit(exc)
    except ValidationError as exc:
        found = problems.of_validation(exc.errors(include_url=False))
        refusal = Invalid("The job has problems.", problems=found)
    else:
        return
    result |= {"status": refusal.status, "problem": problems.body(refusal)}


# ---------------------------------------------------------------- parts


@dataclass(frozen=True, slots=True)
class _Ready:
    prepared: Prepared
    key: IdempotencyKey | None


def _ready(
    services: Services, conn: Connection, person: Person, body: bytes, key: IdempotencyKey | None
) -> _Ready | str:
    """What is to be accepted; or the job that this key made before, whatever would be said to it today."""
    assert_accepting(conn)
    if SCOPE_OF[Verb.SUBMIT] not in person.scopes:
        raise Forbidden("This token may not submit jobs.", remedy="Use a token with the submit scope.")
    earlier = earlier_job(conn, person, key)
    if earlier is not None:
        return earlier
    wish = _read(services, conn, person, body)
    prepared = request.prepare(services, conn, person, wish.spec(), project=wish.project, now=services.clock())
    if max(prepared.holds.values(), default=0) > _HOLD_MAX:
        problem = Problem("/resources", "This is more than any centre has.", "over_limit", "Ask for less.")
        raise Invalid("The job has 1 problem: it asks for more than can be counted.", problems=(problem,))
    return _Ready(prepared, key)


def _accept_chunk(
    services: Services, person: Person, ready: Sequence[tuple[int, _Ready]], results: Sequence[dict[str, Any]]
) -> None:
    if not ready:
        return
    sites = set()
    with services.db.write() as conn:
        for place, item in ready:
            with told(results[place]), conn.begin_nested():
                made = service.accept(services, conn, person, item.prepared, now=services.clock(), idempotency=item.key)
                results[place] |= {"status": 202, "id": made.job_id}
                sites.add(item.prepared.site_id)
    for site_id in sites:
        services.wake(site_id)


def _read(services: Services, conn: Connection, person: Person, body: bytes) -> JobSpecIn:
    """The body as a job spec. Where fields are wrong, what is left is checked too: all problems come at once."""
    try:
        return read(JobSpecIn, body)
    except ValidationError as exc:
        errors = exc.errors(include_url=False)
        found = problems.of_validation(errors)
        rest = _without(json.loads(body), [error["loc"] for error in errors])
        raise problems.as_invalid((*found, *_further(services, conn, person, rest))) from exc


def _further(services: Services, conn: Connection, person: Person, rest: Any) -> tuple[Problem, ...]:
    try:
        wish = JobSpecIn.model_validate_json(json_bytes(rest))
        found = request.plan(services, conn, person, wish.spec(), project=wish.project, now=services.clock())
    except (ValidationError, GatewayError):
        return ()  # what is left says nothing of its own
    # A field that was taken out must not be told as missing.
    return tuple(p for p in found.problems if p.code != "required")


def _without(document: Any, places: Sequence[tuple[int | str, ...]]) -> Any:
    """The document without the fields at these places; of a list with a wrong item, without the list."""
    for place in places:
        parent, names = document, [part for part in place if part != "[key]"]
        for depth, name in enumerate(names):
            inner = parent.get(name) if isinstance(parent, dict) else None
            last = depth == len(names) - 1 or not isinstance(inner, dict)
            if last:
                if isinstance(parent, dict):
                    parent.pop(name, None)
                break
            parent = inner
    return document
