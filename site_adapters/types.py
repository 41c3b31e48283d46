"""The values that cross the five interfaces: frozen, without behaviour, without I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from site_adapters.policy import Policy as Policy
from site_adapters.states import CredentialKind, ObservedState, Reason

# ---------------------------------------------------------------- what a person asks for


@dataclass(frozen=True, slots=True)
class Resources:
    """PSI/J resource words. `memory` is bytes per node; None means: as the queue does."""

    node_count: int | None = None
    process_count: int | None = None
    processes_per_node: int | None = None
    cpu_cores_per_process: int | None = None
    gpu_cores_per_process: int | None = None
    exclusive_node_use: bool | None = None
    memory: int | None = None
    units: Mapping[str, int] = field(default_factory=dict)  # what is counted, not timed, of each task: quantum shots


@dataclass(frozen=True, slots=True)
class Attributes:
    """`duration` in seconds; `custom_attributes` are named `<scheduler>.<option>`."""

    duration: int | None = None
    queue_name: str | None = None
    account: str | None = None
    reservation_id: str | None = None
    qos: str | None = None
    service_grade: str | None = None  # what is ordered and priced; no scheduler knows it
    priority: int | None = None
    submit_as_hold: bool = False
    rerunnable: bool = False
    start_time: datetime | None = None
    custom_attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Array:
    """`indices` as Slurm writes them (`0-9:2,12`), `max_parallel` tasks at a time."""

    indices: str
    max_parallel: int | None = None


class Condition(StrEnum):
    """When a child may start, seen from its parent."""

    AFTER = "after"  # the parent has started
    AFTEROK = "afterok"  # the parent completed
    AFTERNOTOK = "afternotok"  # the parent failed or was canceled
    AFTERANY = "afterany"  # the parent is final


@dataclass(frozen=True, slots=True)
class Dependency:
    """This job waits for `job_id` (one of ours, at any centre)."""

    job_id: str
    condition: Condition = Condition.AFTEROK


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the job may run: site ids in order of preference."""

    resource_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Budget:
    """The most this job may cost, in micro-units of `currency`; the gateway cancels it there."""

    max_cost_micro: int | None = None
    currency: str | None = None


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What to run, in IRI 2.0 / PSI/J names; `script` xor `executable`. Memory in bytes, times in seconds."""

    name: str = ""
    executable: str | None = None
    arguments: tuple[str, ...] = ()
    script: str | None = None
    directory: str | None = None
    inherit_environment: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    stdin_path: str | None = None
    stdout_path: str | None = None
    stderr_path: str | None = None
    pre_launch: str | None = None
    post_launch: str | None = None
    launcher: str | None = None
    resources: Resources = field(default_factory=Resources)
    attributes: Attributes = field(default_factory=Attributes)
    array: Array | None = None
    dependencies: tuple[Dependency, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    placement: Placement = field(default_factory=Placement)
    budget: Budget = field(default_factory=Budget)


# ---------------------------------------------------------------- accounts and credentials


@dataclass(frozen=True, slots=True)
class SiteAccount:
    """A person's login at one site. `home` is absolute; `uid` is the site's number for the login."""

    username: str
    home: str
    uid: int | None = None


@dataclass(frozen=True, slots=True)
class AccountFacts:
    """What the site said when the account logged in: the proof that it exists and is ours to use."""

    username: str
    uid: int
    home: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One probe of a site, with what to do where it failed."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    credential: CredentialKind | None = None


# ---------------------------------------------------------------- submitting


@dataclass(frozen=True, slots=True)
class Submission:
    """One attempt of one job, ready to be handed to a site.

    `tag` names the job at every site (`p` + gateway id + job part, [a-z0-9], starts with a letter);
    `site_name` is the job name there: a readable slug, `-`, the tag, `.`, the attempt.
    `manifest` is a short token ([A-Za-z0-9:._-]) that the site keeps in the job's comment, so that
    `recover` can adopt a job whose row was lost. `person` and `project` are the gateway's ids of who asked and who
    pays: a centre that admits some only needs them, and its audit log names them.
    """

    spec: JobSpec
    account: SiteAccount
    tag: str
    attempt: int
    site_name: str
    manifest: str = ""
    person: str = ""
    project: str = ""

    @property
    def fence_name(self) -> str:
        return f"{self.tag}.{self.attempt}"


@dataclass(frozen=True, slots=True)
class RenderedJob:
    """The very text a site gets, with the argv around it; `:plan` shows it, `submit` sends it.

    `stdout_path`/`stderr_path` are absolute at the site; for arrays they hold `{task}` where the index goes.
    """

    script: str
    argv: tuple[str, ...]
    stdout_path: str
    stderr_path: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """The site runs it under this id; `submit_time` where the site says so at once."""

    native_id: str
    cluster: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The site refused; nothing was created. `retryable`: a limit, try later without changes."""

    message: str
    retryable: bool = False
    code: str = "refused"


@dataclass(frozen=True, slots=True)
class Unknown:
    """The answer was lost: the job may exist, or may come to exist minutes later."""

    message: str


SubmitOutcome = Accepted | Rejected | Unknown


@dataclass(frozen=True, slots=True)
class FenceTaken:
    """The gateway owns the fence: that attempt can never run any more."""


@dataclass(frozen=True, slots=True)
class FenceOwned:
    """A run owns the fence: it has started. `owner` is `<cluster>:<native id>`."""

    owner: str


@dataclass(frozen=True, slots=True)
class Unfenced:
    """The attempt runs without looking at a fence (a bare program): nothing can be proved by it."""


FenceOutcome = FenceTaken | FenceOwned | Unfenced

# ---------------------------------------------------------------- observing


@dataclass(frozen=True, slots=True)
class JobRef:
    """A job at a site that we ask about. `tag` and `submitted_at` bound searches and prove identity."""

    native_id: str
    cluster: str
    username: str
    tag: str
    submitted_at: datetime
    is_array: bool = False


@dataclass(frozen=True, slots=True)
class ObservedRun:
    """One row about one run (for arrays: one task), from the queue or from accounting.

    `native_id` is the submitted job's id (an array task bears its parent's), `task` its index;
    `tags_seen` are all tags of ours found in the row's name, comment and submit line.
    """

    native_id: str
    state: ObservedState
    native_state: str
    task: int | None = None
    cluster: str = ""
    username: str = ""
    name: str = ""
    tags_seen: tuple[str, ...] = ()
    manifest: str = ""
    has_submit_line: bool = False
    reason: Reason = Reason.NONE
    native_reason: str = ""
    exit_code: int | None = None
    signal: int | None = None
    submit_time: datetime | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    restarts: int = 0
    cores: int | None = None
    source: str = "queue"  # or "accounting"


@dataclass(frozen=True, slots=True)
class RowProblem:
    """A row that does not parse, kept whole."""

    line: str
    why: str


@dataclass(frozen=True, slots=True)
class Look:
    """What one source (queue or accounting) showed, or why it could not be asked.

    `error` set: nothing may be concluded from an id that is absent. `unanswered`: ids that were asked for and of which
    the site said nothing, not even that it does not know them.
    """

    runs: tuple[ObservedRun, ...] = ()
    problems: tuple[RowProblem, ...] = ()
    error: str | None = None
    unanswered: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        return self.error is None


@dataclass(frozen=True, slots=True)
class Observation:
    """The two sources about the jobs that were asked for; `accounting` is only asked for what the queue lacks.

    `queries` counts the scheduler commands this look cost. `accounting_kept` is False at a centre that keeps none.
    """

    queue: Look
    accounting: Look
    queries: int = 0
    accounting_kept: bool = True


@dataclass(frozen=True, slots=True)
class Done:
    """The wish is fulfilled, or was already."""


@dataclass(frozen=True, slots=True)
class NotDone:
    """The wish was not fulfilled, with the site's words; `retryable` says whether to ask again."""

    message: str
    retryable: bool = False


ActionOutcome = Done | NotDone


@dataclass(frozen=True, slots=True)
class Change:
    """What may be changed of a job that waits; None leaves it."""

    duration: int | None = None
    queue_name: str | None = None
    account: str | None = None
    qos: str | None = None
    priority: int | None = None


# ---------------------------------------------------------------- the centre


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the scheduler answers; `detail` in words."""

    ok: bool
    detail: str
    scheduler_version: str = ""
    cluster: str = ""


@dataclass(frozen=True, slots=True)
class Queue:
    """One queue with its limits; None means unlimited or not told. Durations in seconds, memory in bytes."""

    name: str
    open: bool
    default: bool = False
    duration_max: int | None = None
    duration_default: int | None = None
    nodes_max: int | None = None
    nodes_total: int | None = None
    cores_per_node_max: int | None = None
    cores_total: int | None = None
    memory_per_node_max: int | None = None
    accounts_allowed: tuple[str, ...] | None = None
    exclusive: bool = False
    cores_per_process: int = 1  # what a process takes that names no cores: a Sunway's is a whole core group
    native_state: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """One node: `state` in the site's word."""

    name: str
    state: str
    cores: int
    cores_busy: int
    memory_bytes: int
    queues: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Capacity:
    """How big and how busy: cores in all, busy, and out of service."""

    cores_total: int
    cores_busy: int
    cores_down: int
    jobs_running: int
    jobs_queued: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What one account may do there: charge accounts and QOS it may name (None: not told)."""

    accounts: tuple[str, ...] | None = None
    qos: tuple[str, ...] | None = None
    default_account: str | None = None


@dataclass(frozen=True, slots=True)
class Reservation:
    """A span in which nodes are set aside (maintenance included)."""

    name: str
    start: datetime
    end: datetime
    nodes: str
    maintenance: bool


@dataclass(frozen=True, slots=True)
class SiteUsage:
    """One raw accounting row, framed but not interpreted: `format` names who reads it in `accounting/sources`."""

    format: str
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class UsageBatch:
    """Rows in = usages + problems; a problem row is kept for quarantine."""

    usages: tuple[SiteUsage, ...]
    problems: tuple[RowProblem, ...]
