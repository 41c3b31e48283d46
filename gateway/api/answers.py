"""What goes out over HTTP, for the OpenAPI document: routes answer plain values, a test holds them to these models."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.jobs.lifecycle import State


class _Out(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ProblemItem(_Out):
    """One thing that is wrong: where, what, and what to do."""

    pointer: str = Field(description="JSON pointer (RFC 6901) into the request; empty: the request as a whole")
    detail: str
    code: str
    remedy: str = ""


class Problem(_Out):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    code: str = Field(description="A word for programs: invalid, not_found, credit_exhausted, …")
    remedy: str | None = None
    instance: str | None = None
    errors: list[ProblemItem] | None = Field(default=None, description="Every problem of the request at once")


class Amount(_Out):
    """Money: a decimal string and an ISO 4217 code."""

    amount: str
    currency: str


class Charge(Amount):
    """`provisional` until the centre's own record has come."""

    provisional: bool


class Usage(_Out):
    """What was used, in whole resource-seconds. `source`: who metered it."""

    core_seconds: int
    node_seconds: int
    elapsed_s: int
    source: Literal["gateway", "centre"]
    final: bool


class Status(_Out):
    """What became of it, and why; `native_*` are the site's own words."""

    state: State
    reason: str
    native_state: str
    native_reason: str
    exit_code: int | None
    signal: int | None
    message: str
    observed_at: str | None = Field(description="When the site last said so")
    time: str = Field(description="When this state was written")
    stale_since: str | None = Field(description="Since when the site has not answered")


class ArrayCounts(_Out):
    """How many tasks, and how many of them in which state."""

    size: int
    counts: dict[str, int]


class Waiting(_Out):
    """The gateway's own line: jobs of all people that were accepted earlier for the same site (1000: or more)."""

    ahead: int
    sentence: str


class Job(_Out):
    """One job. Times are RFC 3339 in UTC."""

    id: str
    name: str
    project: str
    user: str
    site: str
    status: Status
    attempt: int
    native_job_id: str | None
    cluster: str
    site_job_name: str | None = Field(description="Its name at the site, from the first attempt on")
    queue: str
    wish: str = Field(description="cancel, hold or release, until the site has confirmed it")
    job_spec: dict[str, Any] | None = Field(
        description="What was asked; null in lists. Without texts and environment for who may not read its output"
    )
    array: ArrayCounts | None
    created_at: str
    submitted_at: str | None
    started_at: str | None
    ended_at: str | None
    usage: Usage | None
    charge: Charge | None
    estimate: Amount | None
    waiting: Waiting | None = Field(description="Only of one job that waits in the gateway; null in lists")
    recovered: bool = Field(description="Its row was rebuilt from what a site kept")
    links: dict[str, str]


class JobPage(_Out):
    """A page, the newest first."""

    items: list[Job]
    next_cursor: str | None


class Result(_Out):
    """What was said to one item of many."""

    id: str | None = None
    status: int
    job: Job | None = None
    problem: Problem | None = None


class Results(_Out):
    """One result for each item, in order."""

    results: list[Result]


class PlanEstimate(Amount):
    core_seconds_max: int
    basis: str


class Candidate(_Out):
    resource_id: str
    ok: bool
    problems: list[ProblemItem]


class Plan(_Out):
    """A dry run: what would be sent where, what it may cost, and everything that is wrong."""

    ok: bool
    problems: list[ProblemItem]
    site: str | None
    script: str | None
    argv: list[str]
    estimate: PlanEstimate | None
    candidates: list[Candidate]
    asked: dict[str, Any]
    given: dict[str, Any]
    charged: dict[str, Any]


class Event(_Out):
    """What happened; `n` counts per job without gaps."""

    n: int
    at: str
    kind: str
    state: str
    detail: dict[str, Any]


class Events(_Out):
    items: list[Event]


class Why(_Out):
    """Why it is in its state: a sentence, what was seen, what one can do."""

    sentence: str
    reason: str
    native_reason: str
    evidence: str
    action: str
    as_of: str | None


class Run(_Out):
    """One run of one task; a requeue is a run of its own."""

    attempt: int
    task: int | None
    restart: int
    native_id: str
    state: str
    reason: str
    native_state: str
    exit_code: int | None
    signal: int | None
    cores: int | None
    submit_time: str | None
    start_time: str | None
    end_time: str | None


class Runs(_Out):
    items: list[Run]


class ChargeLine(_Out):
    """The price of one run, with its arithmetic."""

    meter: str
    id: int
    task: int | None
    start: str | None
    end: str | None
    cores: int
    core_seconds: int
    amount: str
    currency: str
    rule: str
    overage: bool
    segments: list[dict[str, Any]]


class Charges(_Out):
    charges: list[ChargeLine]
    provisional: bool
    total: Amount | None
    core_seconds: int


class Member(_Out):
    user: str
    role: Literal["owner", "researcher"]


class Exposure(_Out):
    """What is used and promised in one commodity: decimal strings of money, or of core-hours.

    `place`: where it may be used, as it was bought: `site:S`, `agreement:A`, `unagreed` (under no agreement); null: it
    bounds the runs that no order pays for.
    """

    commodity: str
    place: str | None
    settled: str
    in_flight: str
    committed: str
    limit: str | None
    available: str | None


class Project(_Out):
    id: str
    name: str
    title: str
    currency: str
    members: list[Member]
    exposure: list[Exposure]


class Projects(_Out):
    items: list[Project]


class Tariff(_Out):
    """A dated price: `price` for `per` of a resource (3600 core_seconds: a core-hour) beyond `tier_from` in a month.
    Null site, queue or grade: everywhere, every. `price_per_core_hour`: of core-hours."""

    id: int
    currency: str
    price_per_core_hour: str | None
    resource: str
    price: str
    per: int
    tier_from: int
    grade: str | None
    site: str | None
    queue: str | None
    valid_from: str
    valid_to: str | None


class Tariffs(_Out):
    items: list[Tariff]


class SiteLine(_Out):
    total: int
    mine: int


class OwnLogin(_Out):
    username: str
    status: str


class Site(_Out):
    """A docked centre; `waiting` is the gateway's own line there."""

    id: str
    title: str
    scheduler: str
    open: bool
    closed_reason: str | None
    health: Literal["good", "stale", "closed", "not_asked_yet"]
    stale_since: str | None
    last_good_at: str | None
    queues: list[dict[str, Any]]
    capacity: dict[str, Any] | None
    facts_at: str | None
    policy: dict[str, Any]
    capabilities: list[str]
    waiting: SiteLine
    account: OwnLogin | None


class Sites(_Out):
    items: list[Site]


class MailAddress(_Out):
    """Where a person is told of budgets; null: nowhere."""

    address: str | None


class Whoami(_Out):
    id: str
    name: str
    operator_admin: bool
    scopes: list[str]
    projects: dict[str, str] = Field(description="Project id → role")
    staff_of: list[str]


class Token(_Out):
    """Without its secret, which was shown once."""

    id: str
    name: str
    scopes: list[str]
    created_at: str
    expires_at: str
    revoked_at: str | None


class Tokens(_Out):
    items: list[Token]


class NewToken(_Out):
    """`token` is shown this once."""

    id: str
    token: str
    expires_at: str


class SiteAccount(_Out):
    """A login at a centre; `pending` until it has been proved."""

    id: str
    site: str
    username: str
    status: Literal["pending", "linked", "suspended"]
    public_key: str | None
    verified_at: str | None
    permission_model: str
    last_error: str | None


class SiteAccounts(_Out):
    items: list[SiteAccount]


class NewSiteAccount(_Out):
    """What to install at the centre before the login can be verified."""

    id: str
    public_key: str
    status: str
    next: str


class User(_Out):
    id: str
    name: str
    display_name: str
    operator_admin: bool
    disabled: bool


class Users(_Out):
    items: list[User]


class Health(_Out):
    ok: bool
    accepting: bool = Field(description="False while a restored gateway has not looked at its sites")
