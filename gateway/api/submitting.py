"""From a posted job spec to an accepted job: read it, tell every problem at once, take it once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from pydantic import ValidationError
from sqlalchemy import Connection

from accounting.errors import CreditExhausted as NoCredit
from gateway.api import problems
from gateway.api.context import json_bytes, read
from gateway.api.idempotency import earlier_job, key_of
from gateway.api.schemas import JobSpecIn
from gateway.errors import Forbidden, GatewayError, Invalid, NotFound, Problem
from gateway.identity.access import SCOPE_OF, Person, Verb
from gateway.jobs import request, service, views
from gateway.jobs.request import Facts, Plan
from gateway.jobs.service import IdempotencyKey, Wanted
from gateway.jobs.standby import assert_accepting
from gateway.services import Services

T = TypeVar("T")

# Jobs taken in one write transaction: others wait for it at most some tens of milliseconds.
AT_ONCE = 25
# 64-bit columns hold what a job can cost and use at most, and sums of many of those.
_HOLD_MAX = 2**56
_CORES_MAX = 2**31 - 1  # of one task: a 32-bit column


@dataclass(frozen=True, slots=True)
class Posted:
    """One POST of one job, as it came in."""

    person: Person
    body: bytes
    header: str | None  # Idempotency-Key


def submit(services: Services, posts: Sequence[Posted]) -> list[dict[str, Any] | Exception]:
    """Accept jobs that were posted at the same moment, each on its own: the job as it is shown, or why not."""
    answers: dict[int, str | Exception] = {}
    ready: list[tuple[int, _Ready]] = []
    with services.db.read() as conn:
        facts = _facts(conn)
        for place, post in enumerate(posts):
            found = _tried(partial(_ready, services, facts, post.person, post.body, key_of(post.header, post.body)))
            if isinstance(found, _Ready):
                ready.append((place, found))
            else:
                answers[place] = found
    made = _accepted(services, [item for _, item in ready])
    answers |= {place: answer for (place, _), answer in zip(ready, made, strict=True)}
    with services.db.read() as conn:
        asked = [(post.person, answers[place]) for place, post in enumerate(posts)]
        shown = iter(views.show_each(conn, [(who, found) for who, found in asked if isinstance(found, str)]))
    return [found if isinstance(found, Exception) else next(shown) or _gone(found) for _, found in asked]


def submit_many(
    services: Services, person: Person, items: Sequence[Mapping[str, Any]], header: str | None
) -> list[dict[str, Any]]:
    """Accept each job on its own; a result for each, in order. A key covers each job by its place in the list."""
    results: list[dict[str, Any]] = [{} for _ in items]
    for start in range(0, len(items), AT_ONCE):
        ready: list[tuple[int, _Ready]] = []
        with services.db.read() as conn:
            facts = _facts(conn)
            for place, item in enumerate(items[start : start + AT_ONCE], start):
                body = json_bytes(item)
                key = key_of(None if header is None else f"{header}/{place}", body)
                with told(results[place]):
                    found = _ready(services, facts, person, body, key)
                    if isinstance(found, str):
                        results[place] |= {"status": 202, "id": found}
                    else:
                        ready.append((place, found))
        for (place, _), made in zip(ready, _accepted(services, [item for _, item in ready]), strict=True):
            with told(results[place]):
                if isinstance(made, Exception):
                    raise made
                results[place] |= {"status": 202, "id": made}
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
    """A job that passed every check, and whose credit is still to be held."""

    wanted: Wanted

    @property
    def site_id(self) -> str:
        return self.wanted.prepared.site_id


def _tried(work: Callable[[], T]) -> T | Exception:
    """What it says, or what it raises: one person's mistake is not told to the others of a batch."""
    try:
        return work()
    except Exception as exc:  # noqa: BLE001 - raised again to whom it belongs
        return exc


def _facts(conn: Connection) -> Facts:
    """What submissions of one moment are checked against; refuses all of them after a restore."""
    assert_accepting(conn)
    return Facts(conn)


def _ready(services: Services, facts: Facts, person: Person, body: bytes, key: IdempotencyKey | None) -> _Ready | str:
    """What is to be accepted; or the job that this key made before, whatever would be said to it today."""
    if SCOPE_OF[Verb.SUBMIT] not in person.scopes:
        raise Forbidden("This token may not submit jobs.", remedy="Use a token with the submit scope.")
    earlier = earlier_job(facts.conn, person, key)
    if earlier is not None:
        return earlier
    wish = _read(services, facts.conn, person, body)
    prepared = request.prepare(services, facts, person, wish.spec(), project=wish.project, now=services.clock())
    if max(prepared.holds.values(), default=0) > _HOLD_MAX or prepared.cores_charged > _CORES_MAX:
        problem = Problem("/resources", "This is more than any centre has.", "over_limit", "Ask for less.")
        raise Invalid("The job has 1 problem: it asks for more than can be counted.", problems=(problem,))
    return _Ready(Wanted(person, prepared, key))


def _accepted(services: Services, ready: Sequence[_Ready]) -> list[str | Exception]:
    """The ids of jobs that are accepted and committed, or why one is not. Their sites are told."""
    if not ready:
        return []
    wanted = [item.wanted for item in ready]
    answers: list[str | Exception]
    try:
        with services.db.write() as conn:
            answers = [*_all_of(services, conn, wanted)]
    except Exception as exc:  # noqa: BLE001 - raised again to whom it belongs
        answers = [exc] if len(wanted) == 1 else _one_by_one(services, wanted)
    for site_id in {item.site_id for item, answer in zip(ready, answers, strict=True) if isinstance(answer, str)}:
        services.wake(site_id)
    return answers


def _one_by_one(services: Services, wanted: Sequence[Wanted]) -> list[str | Exception]:
    """One of them is refused (no credit, a key used for something else), and nothing of the batch was kept."""

    def alone(conn: Connection, want: Wanted) -> str:
        with conn.begin_nested():
            return _all_of(services, conn, [want])[0]

    with services.db.write() as conn:
        return [_tried(partial(alone, conn, want)) for want in wanted]


def _all_of(services: Services, conn: Connection, wanted: Sequence[Wanted]) -> list[str]:
    return [made.job_id for made in service.accept_all(services, conn, wanted, now=services.clock())]


def _gone(job_id: str) -> NotFound:
    return NotFound(f"There is no job {job_id!r}.")


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
