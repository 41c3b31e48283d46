"""From a wish to a prepared job: a site is chosen, every limit is checked, all problems come at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from sqlalchemy import Connection

from accounting import store as books
from accounting.bound import kind_of, of_kind, place_of
from accounting.ledger import PEOPLE_COUNT, resource_of
from accounting.money import Money, format_micro, is_currency
from accounting.price import PriceBook
from accounting.store import budgets, contracts
from accounting.store.budgets import Standing as BudgetStanding
from accounting.store.contracts import Contracts
from accounting.usage import GPU_SECONDS
from gateway.errors import Forbidden, Invalid, NotFound, Problem
from gateway.identity.access import Person, Verb, can
from gateway.ids import new_id
from gateway.jobs import checks, grades, repository, unwritable
from gateway.jobs.ids import site_name, tag_of
from gateway.jobs.opened import open_there, under_its_opening
from gateway.jobs.repository import Standing
from gateway.services import Services
from site_adapters.directives import lift
from site_adapters.errors import SiteError
from site_adapters.indices import expand
from site_adapters.interfaces import SiteAdapter
from site_adapters.types import JobSpec, Queue, SiteAccount, Submission


@dataclass(frozen=True, slots=True)
class Estimate:
    """The most a job can use and cost: `core_seconds` over all tasks, `amount` at the tariff of today."""

    core_seconds: int
    amount: Money | None
    basis: str


def estimate_json(estimate: Estimate) -> Mapping[str, Any]:
    """As it is kept with the job."""
    money = estimate.amount
    amount = None if money is None else {"micro": money.micro, "currency": money.currency}
    return {"core_seconds": estimate.core_seconds, "amount": amount, "basis": estimate.basis}


# Why a site is none that the person may use now, whatever the job is.
_NOT_THEIRS = frozenset({"site_closed", "referral", "not_admitted", "no_account"})


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job that passed every check and may be accepted."""

    spec: JobSpec
    project_id: str
    site_id: str
    site_account_id: str
    queue: str
    cores_charged: int
    duration_max: int
    array_size: int | None
    enforce_duration: bool
    estimate: Estimate
    holds: Mapping[str, int]
    grade: str  # the service grade that it is priced by: the one asked for, else the agreement's for the queue
    stop: BudgetStanding | None  # the project's budget that stops it first, as it stood


@dataclass(frozen=True, slots=True)
class Candidate:
    """One site that was considered, with what speaks against it."""

    resource_id: str
    problems: tuple[Problem, ...]
    prepared: Prepared | None

    @property
    def ok(self) -> bool:
        return self.prepared is not None


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer of a dry run: what would be sent where, what it may cost, and everything that is wrong."""

    ok: bool
    problems: tuple[Problem, ...]
    site: str | None
    script: str | None
    argv: tuple[str, ...]
    estimate: Estimate | None
    candidates: tuple[Candidate, ...]
    asked: Mapping[str, Any]
    given: Mapping[str, Any]
    charged: Mapping[str, Any]


class Facts:
    """What the database says at one moment, asked once for all the jobs that are looked at then."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self._standings: dict[tuple[str, str, str], Standing] = {}
        self._commodities: dict[str, frozenset[str]] = {}
        self._stops: dict[str, BudgetStanding | None] = {}
        self._contracts: dict[str, Contracts] = {}
        self._opened: dict[str, list[Any]] = {}

    def standing(self, *, site_id: str, user_id: str, project_id: str) -> Standing:
        at = (site_id, user_id, project_id)
        if at not in self._standings:
            found = repository.standing(self.conn, site_id=site_id, user_id=user_id, project_id=project_id)
            self._standings[at] = found
        return self._standings[at]

    def commodities(self, project_id: str) -> frozenset[str]:
        if project_id not in self._commodities:
            self._commodities[project_id] = books.commodities(self.conn, project_id)
        return self._commodities[project_id]

    def stop(self, project_id: str, now: datetime) -> BudgetStanding | None:
        """The budget that stops the project first, if any, and how it stands."""
        if project_id not in self._stops:
            self._stops[project_id] = budgets.tightest_stop(self.conn, project_id, now=now)
        return self._stops[project_id]

    def budget_problems(self, project_id: str, now: datetime) -> tuple[Problem, ...]:
        """A budget with a stop, all of which is spent or held, lets nothing more in."""
        stop = self.stop(project_id, now)
        return () if stop is None or stop.left > 0 else (budget_spent(stop),)

    def contracts(self, project_id: str) -> Contracts:
        if project_id not in self._contracts:
            self._contracts[project_id] = contracts.contracts(self.conn, project_id)
        return self._contracts[project_id]

    def opened(self, site_id: str, now: datetime) -> list[Any]:
        """What is open there by order."""
        if site_id not in self._opened:
            self._opened[site_id] = open_there(self.conn, site_id, now)
        return self._opened[site_id]

    @cached_property
    def prices(self) -> PriceBook:
        return books.price_book(self.conn)


def prepare(
    services: Services, facts: Facts, person: Person, spec: JobSpec, *, project: str | None, now: datetime
) -> Prepared:
    """The job as it will be accepted; raises `Invalid` with every problem, or `Forbidden` for a foreign project."""
    project_id = _project(facts.conn, person, project)
    problems, candidates = _consider(services, facts, person, spec, project_id, now)
    best = next((c.prepared for c in candidates if c.prepared is not None), None)
    if problems or best is None:
        found = problems + (_why_none(spec, candidates) if best is None else ())
        count = f"{len(found)} problems" if len(found) != 1 else "1 problem"
        raise Invalid(f"The job has {count}: {found[0].detail}", problems=found)
    return best


def plan(
    services: Services, conn: Connection, person: Person, spec: JobSpec, *, project: str | None, now: datetime
) -> Plan:
    """A dry run: nothing is kept, nothing is sent."""
    project_id = _project(conn, person, project)
    problems, candidates = _consider(services, Facts(conn), person, spec, project_id, now)
    best = next((c.prepared for c in candidates if c.prepared is not None), None)
    if best is None:
        problems = problems + _why_none(spec, candidates)
    asked = asdict(spec.resources) | {"duration": spec.attributes.duration, "queue_name": spec.attributes.queue_name}
    asked |= {"service_grade": spec.attributes.service_grade}
    if best is None or problems:
        return Plan(False, problems, None, None, (), None, candidates, asked, {}, {})
    problems += _credit_problems(conn, best)
    adapter = services.sites[best.site_id]
    account = repository.site_account(conn, best.site_account_id)
    opened = open_there(conn, best.site_id, now)
    sent = under_its_opening(best.spec, opened, project_id=best.project_id, username=account.username,
                             queue=best.queue, policy=adapter.policy)  # fmt: skip
    script, argv, more = _dry_render(services, adapter, replace(best, spec=sent), account, now)
    given = {"site": best.site_id, "cores": best.cores_charged, "tasks": best.array_size or 1}
    given |= {"duration": best.duration_max, "queue_name": best.spec.attributes.queue_name}
    charged = {"cores": best.cores_charged, "core_seconds_max": best.estimate.core_seconds, "grade": best.grade}
    problems += more
    return Plan(not problems, problems, best.site_id, script, argv, best.estimate, candidates, asked, given, charged)


def _why_none(spec: JobSpec, candidates: Sequence[Candidate]) -> tuple[Problem, ...]:
    """What each site says, where none takes the job; of sites that nobody named, those that the person may use."""
    usable = [c for c in candidates if not _NOT_THEIRS.intersection(p.code for p in c.problems)]
    asked = candidates if spec.placement.resource_ids else usable or candidates[:1]
    return tuple(dict.fromkeys(problem for candidate in asked for problem in candidate.problems))


def _project(conn: Connection, person: Person, wanted: str | None) -> str:
    """The project that pays: the one named, or the person's only one."""
    if wanted is not None:
        project_id = repository.project_id(conn, wanted)
        if project_id is None or not can(person, Verb.SUBMIT, ("project", project_id)):
            raise NotFound(f"No project {wanted!r} that you may submit to.", remedy="See `GET /projects`.")
        return project_id
    mine = sorted(p for p in person.roles if can(person, Verb.SUBMIT, ("project", p)))
    if len(mine) == 1:
        return mine[0]
    if not mine:
        raise Forbidden("You are in no project that may submit jobs.", remedy="Ask a project owner to add you.")
    names = ", ".join(repository.project_names(conn, mine)[:10])
    remedy = f"Name one of yours: {names}"
    problem = Problem("/project", "Several projects could pay for this job.", "required", remedy)
    raise Invalid("You are in several projects.", problems=(problem,))


def _consider(
    services: Services, facts: Facts, person: Person, spec: JobSpec, project_id: str, now: datetime
) -> tuple[tuple[Problem, ...], tuple[Candidate, ...]]:
    """What is wrong wherever it would run, and each site it might run at."""
    spec, problems = _lifted(spec)
    problems += checks.shape(spec)
    problems += _dependency_problems(facts.conn, person, spec)
    problems += facts.budget_problems(project_id, now)
    wanted = spec.placement.resource_ids or tuple(sorted(services.sites))
    candidates = []
    for place, site_id in enumerate(wanted):
        adapter = services.sites.get(site_id)
        if adapter is None:
            known = ", ".join(sorted(services.sites)) or "none"
            pointer = f"/placement/resource_ids/{place}"
            no_site = Problem(pointer, f"There is no resource {site_id!r}.", "unknown_resource", f"Known: {known}.")
            candidates.append(Candidate(site_id, (no_site,), None))
            continue
        candidates.append(_at_site(facts, person, adapter, spec, project_id, now, sound=not problems))
    return problems, tuple(
        sorted(candidates, key=lambda c: not c.ok) if not spec.placement.resource_ids else candidates
    )


def _lifted(spec: JobSpec) -> tuple[JobSpec, tuple[Problem, ...]]:
    """Directives inside the script become fields: left there they would beat our own options silently."""
    if spec.script is None:
        return spec, ()
    lifted = lift(spec.script)
    problems = tuple(Problem("/script", f"Line {p.line}: {p.detail}", "directive", p.remedy) for p in lifted.problems)
    merged, clashes = checks.merge_lifted(spec, lifted.fields)
    return replace(merged, script=lifted.script), problems + clashes


def _at_site(
    facts: Facts,
    person: Person,
    adapter: SiteAdapter,
    spec: JobSpec,
    project_id: str,
    now: datetime,
    *,
    sound: bool,
) -> Candidate:
    """What this site says to the job; `sound` means that the job is well formed as such."""
    site = facts.standing(site_id=adapter.site_id, user_id=person.user_id, project_id=project_id)
    closed = adapter.closed_reason or site.closed_reason
    if closed:
        problem = Problem("/placement/resource_ids", f"{adapter.site_id} is closed: {closed}", "site_closed")
        return Candidate(adapter.site_id, (problem,), None)
    refused = checks.not_admitted(adapter, person.user_id, project_id)
    if refused is not None:
        return Candidate(adapter.site_id, (refused,), None)
    if site.site_account_id is None:
        remedy = f"`penstock account link {adapter.site_id} USERNAME` says what to do."
        if not adapter.logins_by_key:
            remedy = "Ask the operator to link your login there."
        problem = Problem("/placement/resource_ids", f"You have no account at {adapter.site_id}.", "no_account", remedy)
        return Candidate(adapter.site_id, (problem,), None)
    agreement = facts.contracts(project_id).agreement(adapter.site_id, now)
    spec = grades.in_a_queue_of_its_grade(spec, site.queues, agreement)
    queue, problems = checks.queue_of(spec, site.queues, adapter.site_id)
    problems += checks.site_limits(spec, adapter, queue)
    problems += checks.budget_currency(spec, site.currency)
    problems += grades.problems_of(
        spec.attributes.service_grade, site_id=adapter.site_id, queue=queue_name_of(spec, queue),
        currency=site.currency, agreement=agreement, prices=facts.prices, at=now,
    )  # fmt: skip
    if sound:
        assert site.account is not None  # as it has an id
        problems += unwritable_there(facts, adapter, spec, site.account, project_id=project_id,
                                     queue=queue_name_of(spec, queue), told=problems, now=now)  # fmt: skip
    if problems or not sound:
        return Candidate(adapter.site_id, problems, None)
    prepared = at_its_price(facts, adapter, spec, project_id, site, queue, now)
    if isinstance(prepared, Problem):
        return Candidate(adapter.site_id, (prepared,), None)
    return Candidate(adapter.site_id, (), prepared)


def unwritable_there(
    facts: Facts,
    adapter: SiteAdapter,
    spec: JobSpec,
    account: SiteAccount,
    *,
    project_id: str,
    queue: str,
    told: Sequence[Problem],
    now: datetime,
) -> tuple[Problem, ...]:
    """What the site's dialect would refuse at hand-over, and nobody has said yet."""
    found = unwritable.problems_of(adapter, spec, account, facts.opened(adapter.site_id, now),
                                   project_id=project_id, queue=queue)  # fmt: skip
    said = {problem.pointer for problem in told}
    return tuple(problem for problem in found if problem.pointer not in said)


def at_its_price(
    facts: Facts,
    adapter: SiteAdapter,
    spec: JobSpec,
    project_id: str,
    site: Standing,
    queue: Queue | None,
    now: datetime,
) -> Prepared | Problem:
    """The job with the most it can use and cost there; the problem where nothing says what it costs."""
    cores = checks.cores_charged(spec, queue)
    duration = spec.attributes.duration or checks.duration_default(adapter, queue)
    size = len(expand(spec.array.indices)) if spec.array else None
    core_seconds = cores * duration * (size or 1)
    gpus = checks.gpus_charged(spec, queue)
    more = checks.held_beside_cores(spec, queue, seconds=duration * (size or 1))
    units = {name: count * (size or 1) for name, count in spec.resources.units.items()}
    more |= {resource_of(name): count for name, count in units.items()}
    queue_name = queue_name_of(spec, queue)
    currency, account_id = site.currency, site.site_account_id
    assert account_id is not None  # seen by the caller
    where = facts.contracts(project_id).scope(
        site_id=adapter.site_id, queue=queue_name, qos=spec.attributes.qos or "", currency=currency, at=now,
        project_id=project_id, grade=spec.attributes.service_grade or "",
    )  # fmt: skip
    price = books.estimate(facts.prices, where, core_seconds=core_seconds, at=now, more=more, runs=size or 1)
    if price is None:
        return Problem(
            "/placement/resource_ids",
            f"{adapter.site_id} has no tariff in {currency} for queue {queue_name!r} now.",
            "no_tariff",
            "Ask the operator for a tariff, or choose another resource.",
        )
    each = f"{cores} cores" + (f" and {gpus} GPUs" if gpus else "")
    counted = "".join(f" and {count} {name}" for name, count in sorted(spec.resources.units.items()))
    basis = f"{each} × {duration} s{counted}" + (f" × {size} tasks" if size else "")
    have = facts.commodities(project_id)
    bought = books.bought_there(facts.prices, where, (*PEOPLE_COUNT, *units), now) if facts.prices.has_orders else {}
    holds = books.hold_amounts(have, currency=currency, micro=price, core_seconds=core_seconds,
                               gpu_seconds=more.get(GPU_SECONDS, 0), units=units, bought=bought)  # fmt: skip
    enforce = "enforces_walltime" not in adapter.capabilities
    estimate = Estimate(core_seconds, Money(price, currency), basis)
    return Prepared(
        spec, project_id, adapter.site_id, account_id, queue_name, cores, duration, size, enforce, estimate, holds,
        where.grade, facts.stop(project_id, now),
    )  # fmt: skip


def budget_spent(stop: BudgetStanding, more: int = 0) -> Problem:
    """Why a budget with a stop refuses a job that would hold so much more, in the budget's commodity."""
    b = stop.budget
    spent, held, amount = (_in_units(x, b.commodity) for x in (stop.spent, stop.held, b.amount))
    detail = f"The project's budget ({b.span}) is spent: {spent} charged and {held} held of {amount}."
    if stop.left > 0:
        may, left = _in_units(more, b.commodity), _in_units(stop.left, b.commodity)
        detail = f"It may cost {may}; of the project's budget ({b.span}) of {amount}, {left} is neither spent nor held."
    return Problem("", detail, "budget_spent", "Ask the project owner to raise or close it.")


def queue_name_of(spec: JobSpec, queue: Queue | None) -> str:
    return spec.attributes.queue_name or (queue.name if queue else "")


def _dependency_problems(conn: Connection, person: Person, spec: JobSpec) -> tuple[Problem, ...]:
    """Parents must be there and be the person's to see; being older than the child, they form no circle."""
    parents = [d.job_id for d in spec.dependencies]
    seen = repository.owners_of(conn, parents)
    problems = []
    for i, parent in enumerate(parents):
        owner = seen.get(parent)
        if owner is None or not can(person, Verb.SEE_JOB, ("job", owner)):
            detail = f"There is no job {parent!r} that you may see."
            problems.append(Problem(f"/dependencies/{i}/job_id", detail, "unknown_job"))
    return tuple(problems)


def _credit_problems(conn: Connection, prepared: Prepared) -> tuple[Problem, ...]:
    short = books.shortfall(conn, prepared.project_id, prepared.holds)
    stop = prepared.stop
    more = 0 if stop is None else of_kind(prepared.holds, stop.budget.commodity)
    passed = () if stop is None or more <= stop.left else (budget_spent(stop, more),)
    return passed + tuple(
        Problem(
            "/attributes/duration",
            f"The project lacks {_in_units(amount, commodity)} for the most this can cost.",
            "credit_exhausted",
            "Ask for less, or ask the project owner for credit.",
        )
        for commodity, amount in short.items()
    )


def _in_units(amount: int, commodity: str) -> str:
    """As people count it: money, not micro-units; hours, not seconds."""
    if is_currency(commodity):
        return f"{format_micro(amount)} {commodity}"
    kind, place = kind_of(commodity), place_of(commodity)
    there = f" @ {place}" if place else ""
    if kind in PEOPLE_COUNT:
        name, per = PEOPLE_COUNT[kind]
        return f"{amount / per:.1f} {name}{there}"
    return f"{amount} {kind}{there}"


def _dry_render(
    services: Services, adapter: SiteAdapter, prepared: Prepared, account: SiteAccount, now: datetime
) -> tuple[str | None, tuple[str, ...], tuple[Problem, ...]]:
    job_id = new_id("j", now + timedelta(0))
    tag = tag_of(services.gateway_id, job_id)
    submission = Submission(prepared.spec, account, tag, 1, site_name(prepared.spec.name, tag, 1))
    try:
        rendered = adapter.management.render(submission)
    except SiteError as exc:
        return None, (), (Problem("", str(exc), "cannot_render"),)
    return rendered.script, rendered.argv, ()
