"""Whether a waiting job may be changed so: by the checks of a submission, within what credit was held for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from gateway.errors import Invalid, Problem
from gateway.jobs import checks, grades, repository, request
from gateway.services import Services
from site_adapters.interfaces import SiteAdapter
from site_adapters.types import JobSpec

_PRICED_BY = frozenset({"queue_name", "qos"})


def checked(
    services: Services, conn: Connection, job: Any, asked: Mapping[str, Any], now: datetime
) -> Mapping[str, Any]:
    """The columns of the job's row with the change; raises `Invalid` with every problem."""
    columns = dict(made(job, asked))
    spec = repository.spec_from_json(columns["spec"])
    problems = _of_this(asked, checks.shape(spec))
    if asked.get("duration", 0) > _duration_held(job):
        # The hold covers the duration that was accepted; more would be spending that nobody checked.
        detail = "Longer than what credit was held for."
        remedy = f"Ask for at most {_duration_held(job)} s, or submit a new job."
        problems += (Problem("/attributes/duration", detail, "over_limit", remedy),)
    adapter = services.sites.get(job.site_id)
    if adapter is not None:
        more, there = _at_site(conn, adapter, job, spec, asked, now)
        problems += more
        columns |= there
    if problems:
        count = f"{len(problems)} problems" if len(problems) != 1 else "a problem"
        raise Invalid(f"The change has {count}: {problems[0].detail}", problems=problems)
    return columns


def made(job: Any, asked: Mapping[str, Any]) -> Mapping[str, Any]:
    """The columns of the job's row once the change is made."""
    columns: dict[str, Any] = {"spec": {**job.spec, "attributes": {**job.spec.get("attributes", {}), **asked}}}
    named = {"duration": "duration_max", "queue_name": "queue"}
    return columns | {column: asked[name] for name, column in named.items() if name in asked}


def _duration_held(job: Any) -> int:
    """The duration that the hold was made for; a change to a shorter one gives nothing back before the end."""
    tasks, cores = job.array_size or 1, job.cores_charged
    held = (job.estimate or {}).get("core_seconds", 0) // (tasks * cores) if cores else 0
    return max(int(job.duration_max), int(held))


def _at_site(
    conn: Connection, adapter: SiteAdapter, job: Any, spec: JobSpec, asked: Mapping[str, Any], now: datetime
) -> tuple[tuple[Problem, ...], Mapping[str, Any]]:
    facts = request.Facts(conn)
    site = facts.standing(site_id=job.site_id, user_id=job.user_id, project_id=job.project_id)
    queue, problems = checks.queue_of(spec, site.queues, job.site_id)
    problems = _of_this(asked, problems + checks.site_limits(spec, adapter, queue))
    if problems or not _PRICED_BY & asked.keys():
        return problems, {}
    agreement = facts.contracts(job.project_id).agreement(job.site_id, now)
    problems += grades.problems_of(
        spec.attributes.service_grade, site_id=job.site_id, queue=request.queue_name_of(spec, queue),
        currency=site.currency, agreement=agreement, prices=facts.prices, at=now,
    )  # fmt: skip
    there = replace(site, site_account_id=job.site_account_id)
    priced = request.at_its_price(facts, adapter, spec, job.project_id, there, queue, now)
    pointer = f"/attributes/{min(_PRICED_BY & asked.keys())}"
    if isinstance(priced, Problem):
        return (*problems, replace(priced, pointer=pointer)), {}
    if _more_than_held(job, priced):
        detail = "There it may cost more than what credit was held for."
        problems += (Problem(pointer, detail, "over_limit", "Submit a new job, and cancel this one."),)
    return problems, {
        "queue": priced.queue, "cores_charged": priced.cores_charged, "duration_max": priced.duration_max,
    }  # fmt: skip


def _of_this(asked: Mapping[str, Any], problems: Sequence[Problem]) -> tuple[Problem, ...]:
    """Without what else has changed at the site since: that is no fault of this change. A new queue is all its own."""
    mine = {f"/attributes/{name}" for name in asked}
    return tuple(p for p in problems if "queue_name" in asked or p.pointer in mine)


def _more_than_held(job: Any, priced: request.Prepared) -> bool:
    held = job.estimate or {}
    amount, now = held.get("amount") or {}, priced.estimate.amount
    return (
        priced.estimate.core_seconds > held.get("core_seconds", 0)
        or priced.duration_max > _duration_held(job)
        or (now is not None and now.micro > amount.get("micro", 0))
    )
