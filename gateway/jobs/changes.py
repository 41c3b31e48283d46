"""Whether a waiting job may be changed so: by the checks of a submission, at its price there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from accounting import store as books
from accounting.bound import of_kind
from accounting.store.budgets import Standing as BudgetStanding
from gateway.errors import Invalid, Problem
from gateway.jobs import checks, grades, repository, request
from gateway.services import Services
from site_adapters.interfaces import SiteAdapter
from site_adapters.types import JobSpec, Queue

_PRICED_BY = frozenset({"queue_name", "qos"})


@dataclass(frozen=True, slots=True)
class Checked:
    """A change that may be made: the columns of the job's row with it, and what must be held for it.

    `holds` are by commodity; `stop`: the budget that more of them is held of; `estimate` is the most the job can use
    and cost, None where that is what it was.
    """

    columns: Mapping[str, Any]
    holds: Mapping[str, int] = field(default_factory=dict)
    stop: BudgetStanding | None = None
    estimate: Mapping[str, Any] | None = None


def checked(services: Services, conn: Connection, job: Any, asked: Mapping[str, Any], now: datetime) -> Checked:
    """The job with the change; raises `Invalid` with every problem."""
    queues = repository.site_facts(conn, job.site_id).queues
    columns = dict(made(job, asked, queues))
    spec = repository.spec_from_json(columns["spec"])
    problems = _of_this(asked, checks.shape(spec))
    adapter = services.sites.get(job.site_id)
    priced = None
    if adapter is not None:
        more, priced = _at_site(conn, adapter, job, spec, asked, now)
        problems += more
    elif asked.get("duration", 0) > job.duration_max:
        remedy = f"Ask for at most {job.duration_max} s, or wait until its centre is known again."
        problems += (Problem("/attributes/duration", "Nobody can say what more would cost.", "over_limit", remedy),)
    if problems:
        count = f"{len(problems)} problems" if len(problems) != 1 else "a problem"
        raise Invalid(f"The change has {count}: {problems[0].detail}", problems=problems)
    if priced is None:
        return Checked(columns)
    columns |= {"queue": priced.queue, "cores_charged": priced.cores_charged, "duration_max": priced.duration_max}
    stop = priced.stop if _more(conn, job, priced) else None
    return Checked(columns, priced.holds, stop, _the_more_of(job.estimate or {}, priced.estimate))


def made(job: Any, asked: Mapping[str, Any], queues: Sequence[Queue]) -> Mapping[str, Any]:
    """The columns of the job's row once the change is made; a queue of whole nodes is charged for them."""
    columns: dict[str, Any] = {"spec": {**job.spec, "attributes": {**job.spec.get("attributes", {}), **asked}}}
    named = {"duration": "duration_max", "queue_name": "queue"}
    columns |= {column: asked[name] for name, column in named.items() if name in asked}
    if "queue_name" in asked:
        queue = next((q for q in queues if q.name == asked["queue_name"]), None)
        columns["cores_charged"] = checks.cores_charged(repository.spec_from_json(columns["spec"]), queue)
    return columns


def _at_site(
    conn: Connection, adapter: SiteAdapter, job: Any, spec: JobSpec, asked: Mapping[str, Any], now: datetime
) -> tuple[tuple[Problem, ...], request.Prepared | None]:
    """What the site says to it, and what it costs there where the change may make it dearer."""
    facts = request.Facts(conn)
    site = facts.standing(site_id=job.site_id, user_id=job.user_id, project_id=job.project_id)
    queue, problems = checks.queue_of(spec, site.queues, job.site_id)
    problems += checks.site_limits(spec, adapter, queue)
    account = repository.site_account(conn, job.site_account_id)
    problems += request.unwritable_there(facts, adapter, spec, account, project_id=job.project_id,
                                         queue=asked.get("queue_name", job.queue), told=problems, now=now)  # fmt: skip
    problems = _of_this(asked, problems)
    moved = sorted(_PRICED_BY & asked.keys())
    longer = asked.get("duration", 0) > job.duration_max
    if problems or not (moved or longer):
        return problems, None
    if moved:
        agreement = facts.contracts(job.project_id).agreement(job.site_id, now)
        problems += grades.problems_of(
            spec.attributes.service_grade, site_id=job.site_id, queue=request.queue_name_of(spec, queue),
            currency=site.currency, agreement=agreement, prices=facts.prices, at=now,
        )  # fmt: skip
    there = replace(site, site_account_id=job.site_account_id)
    priced = request.at_its_price(facts, adapter, spec, job.project_id, there, queue, now)
    pointer = f"/attributes/{moved[0] if moved else 'duration'}"
    if isinstance(priced, Problem):
        return (*problems, replace(priced, pointer=pointer)), None
    more = _more(conn, job, priced)
    if priced.stop is not None and more > max(0, priced.stop.left):
        problems += (replace(request.budget_spent(priced.stop, more), pointer=pointer),)
    return problems, priced


def _more(conn: Connection, job: Any, priced: request.Prepared) -> int:
    """How much more is held of what the project's budget with a stop is in; 0: nothing, or there is none."""
    if priced.stop is None:
        return 0
    commodity = priced.stop.budget.commodity
    return max(0, of_kind(priced.holds, commodity) - of_kind(books.held_for(conn, job.id), commodity))


def _of_this(asked: Mapping[str, Any], problems: Sequence[Problem]) -> tuple[Problem, ...]:
    """Without what else has changed at the site since: that is no fault of this change. A new queue is all its own."""
    mine = {f"/attributes/{name}" for name in asked}
    return tuple(p for p in problems if "queue_name" in asked or p.pointer in mine)


def _the_more_of(before: Mapping[str, Any], after: request.Estimate) -> Mapping[str, Any] | None:
    """What is held for, as people are shown it: a change to less gives nothing back before the end."""
    micro = 0 if after.amount is None else after.amount.micro
    if after.core_seconds <= before.get("core_seconds", 0) and micro <= (before.get("amount") or {}).get("micro", 0):
        return None
    return request.estimate_json(after)
