"""What comes in over HTTP: names and units of the job spec, unknown fields refused."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from accounting.money import parse_amount
from site_adapters.types import (
    Array,
    Attributes,
    Budget,
    Change,
    Condition,
    Dependency,
    JobSpec,
    Placement,
    Resources,
)

_ISO = re.compile(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?\Z")
_SURROGATE = re.compile("[\ud800-\udfff]")
_DATED = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")  # digits alone would be read as seconds, or milliseconds
_SMALL = 2**31 - 1
# Every zone's calendar has the months that these lie in.
_FIRST, _LAST = datetime(1971, 1, 2, tzinfo=UTC), datetime(2499, 12, 30, tzinfo=UTC)
# 10^17 micro-units: sums of many of them still fit into 64 bits.
AMOUNT_MICRO_MAX = 10**17


def _seconds(value: Any) -> Any:
    """Seconds, or an ISO 8601 duration of days, hours, minutes and seconds."""
    if isinstance(value, str) and len(value) > 1 and (match := _ISO.match(value)) and any(match.groups()):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if isinstance(value, bool | str):
        raise ValueError("give whole seconds, or an ISO 8601 duration like PT1H30M")
    return value


def _whole(value: Any) -> Any:
    if isinstance(value, bool | float | str):
        raise ValueError("give a whole number")
    return value


def _iso_text(value: Any) -> Any:
    if not isinstance(value, datetime) and not (isinstance(value, str) and _DATED.match(value)):
        raise ValueError("give a time as text with its zone, like 2026-11-24T12:00:00Z")
    return value


def aware(value: datetime) -> datetime:
    """A time in UTC; ValueError where it has no zone, or lies where no job will ever be."""
    if value.tzinfo is None:
        raise ValueError("give a time with its zone, like 2026-11-24T12:00:00Z")
    if not _FIRST <= value < _LAST:
        raise ValueError("give a time between 1971 and 2499")
    return value.astimezone(UTC)


def storable(value: str) -> str:
    """Text that every database and every site can take."""
    if "\0" in value:
        raise ValueError("a NUL character cannot be kept: remove it")
    if _SURROGATE.search(value):
        raise ValueError("half of a surrogate pair is not a character: send UTF-8")
    return value


def _amount(value: str) -> str:
    if abs(parse_amount(value)) > AMOUNT_MICRO_MAX:
        raise ValueError(f"more than {AMOUNT_MICRO_MAX // 1_000_000} is no amount here")
    return value


Seconds = Annotated[int, BeforeValidator(_seconds), Field(ge=1, le=_SMALL)]
Count = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=_SMALL)]
Bytes = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=2**53)]
Plain = Annotated[str, AfterValidator(storable)]
Text = Annotated[Plain, Field(max_length=4096)]
Long = Annotated[Plain, Field(max_length=131072)]
Amount = Annotated[str, Field(max_length=24), AfterValidator(_amount)]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
Instant = Annotated[datetime, BeforeValidator(_iso_text), AfterValidator(aware)]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


UnitName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_.-]{0,31}$")]


class ResourcesIn(_In):
    """How much: IRI / PSI/J names. Memory in bytes per node."""

    node_count: Count | None = None
    process_count: Count | None = None
    processes_per_node: Count | None = None
    cpu_cores_per_process: Count | None = None
    gpu_cores_per_process: Annotated[int, BeforeValidator(_whole), Field(ge=0, le=_SMALL)] | None = None
    exclusive_node_use: bool | None = None
    memory: Bytes | None = None
    units: dict[UnitName, Count] = Field(
        default_factory=dict, max_length=8, description="Of each task, what is counted and not timed: {shots: 1000}"
    )


class AttributesIn(_In):
    """Where and for how long. `duration` in seconds, or ISO 8601 (`PT1H`).

    `service_grade`: what is ordered, at its price (`economy`, `quality`, `super`, or as the centre's agreement says).
    """

    duration: Seconds | None = None
    queue_name: Text | None = None
    account: Text | None = None
    reservation_id: Text | None = None
    qos: Text | None = None
    service_grade: Annotated[str, Field(min_length=1, max_length=32)] | None = None
    priority: Annotated[int, BeforeValidator(_whole), Field(ge=0, le=_SMALL)] | None = None
    submit_as_hold: bool = False
    rerunnable: bool = False
    start_time: Instant | None = None
    custom_attributes: dict[Text, Text] = Field(default_factory=dict, max_length=50)


class ArrayIn(_In):
    """Many tasks of one job; `max_parallel` at a time."""

    indices: Text
    max_parallel: Count | None = None


class DependencyIn(_In):
    """Wait for another job, at any centre."""

    job_id: Text
    condition: Condition = Condition.AFTEROK


class PlacementIn(_In):
    """Where it may run: site ids in order of preference; empty: wherever it fits."""

    resource_ids: tuple[Text, ...] = Field(default=(), max_length=50)


class MoneyIn(_In):
    """A decimal string with at most six places, and an ISO 4217 code."""

    amount: Amount
    currency: Currency


class BudgetIn(_In):
    """The most it may cost; the gateway cancels it there."""

    max_cost: MoneyIn | None = None


# A key ends where the value of `?tag=key:value` begins.
TagKey = Annotated[Plain, Field(min_length=1, max_length=64, pattern=r"^[^:]+$")]


class JobSpecIn(_In):
    """What to run. Either `executable` with `arguments`, or a `script`."""

    project: Text | None = None
    name: Annotated[Plain, Field(max_length=255)] = ""
    executable: Text | None = None
    arguments: tuple[Long, ...] = Field(default=(), max_length=4096)
    script: Plain | None = None
    directory: Text | None = None
    inherit_environment: bool = True
    environment: dict[Text, Long] = Field(default_factory=dict, max_length=2000)
    stdin_path: Text | None = None
    stdout_path: Text | None = None
    stderr_path: Text | None = None
    pre_launch: Annotated[Plain, Field(max_length=65536)] | None = None
    post_launch: Annotated[Plain, Field(max_length=65536)] | None = None
    launcher: Annotated[str, Field(pattern=r"^[A-Za-z0-9_. =-]{1,100}$")] | None = None
    resources: ResourcesIn = ResourcesIn()
    attributes: AttributesIn = AttributesIn()
    array: ArrayIn | None = None
    dependencies: tuple[DependencyIn, ...] = Field(default=(), max_length=500)
    tags: dict[TagKey, Annotated[Plain, Field(max_length=256)]] = Field(default_factory=dict, max_length=50)
    placement: PlacementIn = PlacementIn()
    budget: BudgetIn = BudgetIn()

    def spec(self) -> JobSpec:
        """The job spec as the gateway keeps it."""
        cost = self.budget.max_cost
        plain = self.model_dump(
            exclude={"project", "resources", "attributes", "array", "dependencies", "placement", "budget"}
        )
        return JobSpec(
            **plain,
            resources=Resources(**self.resources.model_dump()),
            attributes=Attributes(**self.attributes.model_dump()),
            array=None if self.array is None else Array(self.array.indices, self.array.max_parallel),
            dependencies=tuple(Dependency(d.job_id, d.condition) for d in self.dependencies),
            placement=Placement(self.placement.resource_ids),
            budget=Budget(parse_amount(cost.amount), cost.currency) if cost is not None else Budget(),
        )


class BulkIn(_In):
    """Up to 1,000 jobs at once, each with a result of its own."""

    jobs: tuple[dict[str, Any], ...] = Field(max_length=1000)


class IdsIn(_In):
    """Up to 1,000 ids of jobs."""

    ids: tuple[Text, ...] = Field(max_length=1000)


class ChangeAttributesIn(_In):
    """The attributes that can change while a job waits; what is left out stays."""

    duration: Seconds | None = None
    queue_name: Text | None = None
    account: Text | None = None
    qos: Text | None = None
    priority: Annotated[int, BeforeValidator(_whole), Field(ge=0, le=_SMALL)] | None = None


class ChangeIn(_In):
    """What to change of a job that waits."""

    attributes: ChangeAttributesIn

    def change(self) -> Change:
        return Change(**self.attributes.model_dump())


class DecideIn(_In):
    """What nobody can prove, a person says."""

    decision: Literal["adopt", "resubmit", "cancel"]
    native_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+\[\]-]{1,64}$")] | None = None


class MailIn(_In):
    """One e-mail address, in ASCII, as mail servers everywhere take it."""

    address: Annotated[
        str, Field(max_length=254, pattern=r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,189}$")
    ]


class UserIn(_In):
    """A new person. `name` is what others call them here, and never changes."""

    name: Text
    display_name: Annotated[Plain, Field(max_length=200)] = ""
    operator_admin: bool = False


class ProjectIn(_In):
    """A new project; without a currency, the gateway's own."""

    name: Text
    title: Annotated[Plain, Field(max_length=200)] = ""
    currency: Currency | None = None


class MemberIn(_In):
    """Who joins, by name or id, and as what."""

    user: Text
    role: Literal["owner", "researcher"] = "researcher"


class CreditIn(_In):
    """A grant: money in the project's currency, or core-hours."""

    amount: Amount | None = None
    core_hours: Count | None = None
    reason: Annotated[Plain, Field(max_length=300)] = ""


class TariffIn(_In):
    """A dated price per core-hour; without site or queue it holds for all."""

    currency: Currency
    price_per_core_hour: Amount
    site: Annotated[Plain, Field(max_length=32)] | None = None
    queue: Annotated[Plain, Field(max_length=64)] | None = None
    valid_from: Instant | None = None
    valid_to: Instant | None = None


class CloseTariffIn(_In):
    """When a price ends; without a time: now."""

    valid_to: Instant | None = None


class TokenIn(_In):
    """A token that can do no more than the one in hand."""

    name: Annotated[Plain, Field(max_length=100)] = ""
    scopes: tuple[Literal["read", "submit", "admin"], ...] = ("read", "submit")
    lifetime_days: Annotated[int, Field(ge=1, le=366)] = 30


class LinkIn(_In):
    """A login one already has at a site; without a key the gateway makes one. `user`: for whom (operator)."""

    site: Text
    username: Text
    user: Text | None = None
    private_key: Annotated[Plain, Field(max_length=16384)] | None = None


class KeyIn(_In):
    """A witness's public Ed25519 key: 32 bytes in base64, and the name under which it cosigns.

    Keys that sign agreements, tariffs, statements and settlements belong to a party: `POST /parties`.
    """

    owner: Annotated[Text, Field(max_length=32, description="A site's id")]
    purpose: Literal["witness"] = "witness"
    name: Annotated[str, Field(pattern=r"^[^\s+]{1,200}$", description="Like `centre.example/witness`")]
    public: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{43}=$")]
    did: Annotated[str, Field(max_length=200, pattern=r"^(did:[a-z0-9]+:\S+)?$")] = ""


class CosignatureIn(_In):
    """A witness's signature line (C2SP tlog-cosignature) under the checkpoint of a size."""

    size: Annotated[int, Field(ge=1, le=2**62)]
    line: Annotated[Text, Field(max_length=1000)]


class ErasureIn(_In):
    """Whose names are to be forgotten."""

    user: Text


class DisputedIn(_In):
    """A journal entry that is held back from a statement."""

    entry: Annotated[Text, Field(max_length=200)]
    reason: Annotated[Text, Field(max_length=200)]


class SettlementIn(_In):
    """Whose statement, for [since, until)."""

    centre: Annotated[Text, Field(max_length=32)]
    since: Instant
    until: Instant
    disputed: tuple[DisputedIn, ...] = Field(default=(), max_length=1000)


class SignIn(_In):
    """A compact JWS (Ed25519, typ `penstock-settlement+jws`) whose payload is GET …/statement, byte for byte."""

    jws: Annotated[str, Field(max_length=4 * 1024 * 1024, pattern=r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$")]


class WithdrawIn(_In):
    """Why a statement is not to be signed."""

    reason: Annotated[Text, Field(max_length=500)]


class PayoutIn(_In):
    """What was paid to a centre, in the statement's currency of payment; `cost` in its own currency if another."""

    amount: Amount
    cost: Amount | None = None
    reference: Annotated[Text, Field(max_length=100)]
    paid_at: Instant | None = None


class RateIn(_In):
    """`num`/`den` of `quote` for one `base` on a day."""

    base: Currency
    quote: Currency
    day: date
    num: Annotated[int, Field(ge=1, le=2**62)]
    den: Annotated[int, Field(ge=1, le=2**62)]
    source: Annotated[Text, Field(max_length=64)]
