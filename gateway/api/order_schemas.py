"""What comes in and goes out about orders, what they give, and what centres open for them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from gateway.api.billing_models import AMOUNT_MAX, Commodity, Name, Whole, Zone, _In, _Out
from gateway.api.schemas import Amount, Instant, Plain, _whole


class OrderIn(_In):
    """Core-seconds (`core-seconds`), GPU-seconds, a unit, or a credit line in the project's currency (`as_used`)."""

    project: Name
    payer: Name
    kind: Literal["block", "subscription", "trial", "as_used"]
    commodity: Commodity = "core-seconds"
    amount: Whole
    price: Amount = "0"
    starts_at: Instant | None = None
    ends_at: Instant | None = None
    carry_over_max: Annotated[int, BeforeValidator(_whole), Field(ge=0, le=AMOUNT_MAX)] = 0
    zone: Zone = "Asia/Shanghai"
    site: Annotated[Name | None, Field(description="Core-seconds: also opened at this centre, as an account")] = None
    agreement: Annotated[Name | None, Field(
        description="Whose terms divide the price; without it those with the centre in `site`"
    )] = None  # fmt: skip


class AllocationIn(_In):
    """A grant with its expiry, in the commodity's units."""

    project: Name
    commodity: Commodity = "core-seconds"
    amount: Whole
    expires_at: Instant | None = None
    carry_over_max: Annotated[int, BeforeValidator(_whole), Field(ge=0, le=AMOUNT_MAX)] = 0


class TransferIn(_In):
    """Move what is left of an allocation to another project; `commodity`: refused where it is of another one."""

    to_project: Name
    amount: Whole
    commodity: Annotated[Plain, Field(max_length=32)] | None = None


class VoucherIn(_In):
    """A code that is worth an amount once."""

    code: Annotated[Plain, Field(pattern=r"^\S{8,64}$")]
    commodity: Commodity = "core-seconds"
    amount: Whole
    expires_at: Instant | None = None


class RedeemIn(_In):
    """Use a voucher for a project."""

    code: Annotated[Plain, Field(min_length=8, max_length=64)]
    project: Name


class Allocation(_Out):
    """An amount of a commodity with what is left of it; `remaining` null: it has lapsed. `place`: where it
    may be used, as it was bought (`site:S`, `agreement:A`, `unagreed`: under no agreement); null: bound to no place."""

    id: str
    commodity: str
    place: str | None
    amount: int
    remaining: int | None
    source: str
    order: str | None
    valid_from: str
    expires_at: str | None


class Allocations(_Out):
    items: list[Allocation]


class OpeningIn(_In):
    """What is to be opened at a centre: `core_seconds`, an account for `username`, or `cores` of a queue at a time."""

    project: Name
    site: Name
    kind: Literal["core_hours", "account", "queue_share"]
    order: Name | None = None
    person: Name | None = None
    username: Annotated[Plain, Field(max_length=64)] = ""
    core_seconds: Whole | None = None
    cores: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    queue: Annotated[Plain, Field(max_length=64)] | None = None
    valid_until: Instant | None = None


class OpeningChangeIn(_In):
    """Other terms for an opening of the same kind; what is not named stays."""

    core_seconds: Whole | None = None
    cores: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    queue: Annotated[Plain, Field(max_length=64)] | None = None
    valid_until: Instant | None = None


class OpeningRenewIn(_In):
    """A later end, and for core-hours a new cap in all."""

    valid_until: Instant
    core_seconds: Whole | None = None


class OpeningCloseIn(_In):
    """Why it is closed."""

    reason: Annotated[Plain, Field(max_length=500)] = ""


class Opening(_Out):
    """How an opening stands: new, asked, approved, opened, refused or closed; `pending`: not told yet."""

    id: str
    order: str | None
    project: str
    site: str
    kind: str
    state: str
    detail: str
    pending: bool
    core_seconds: int | None
    cores: int | None
    queue: str | None
    username: str
    native_account: str
    qos: str
    valid_until: str | None
    opened_at: str | None
    closed_at: str | None


class Openings(_Out):
    items: list[Opening]


class OpeningEvent(_Out):
    """What was wanted or answered."""

    n: int
    at: str
    act: str
    state: str
    detail: str
    by: str


class OpenedCharge(_Out):
    """What a job cost in one currency, as the books stand."""

    amount: str
    currency: str
    core_seconds: int


class OpenedJob(_Out):
    """A job that ran under an opening."""

    id: str
    state: str
    native_job_id: str | None
    charges: list[OpenedCharge]


class OpeningTrace(Opening):
    """An opening with what happened to it and what ran under it."""

    events: list[OpeningEvent]
    jobs: list[OpenedJob]


class CancelIn(_In):
    """Why an order is canceled."""

    reason: Annotated[Plain, Field(min_length=3, max_length=500)]


class PlacedOrder(_Out):
    """An order: `price` of a block or of each month."""

    id: str
    kind: str
    commodity: str
    amount: int
    price: str
    currency: str
    site: str
    starts_at: str
    ends_at: str | None
    state: Literal["given", "waits to begin", "not covered", "canceled", "cancellation asked for"]


class Orders(_Out):
    items: list[PlacedOrder]


class OrderCancellation(_Out):
    """A person asked to cancel an order; `state`: waiting, posted or refused."""

    id: str
    order: str
    reason: str
    state: Literal["waiting", "posted", "refused"]
    requested_by: str
    at: str
    decided_by: str | None


class Cancellations(_Out):
    items: list[OrderCancellation]


class OrderPrice(_Out):
    """What an allocation of an order cost: `tax` inside, the centre's part and the operator's, by which agreement."""

    allocation: str
    amount: str
    currency: str
    tax: str
    centre: str
    operator: str
    agreement: str | None
    booked_at: str
    documents: list[str]


class OrderTrace(_Out):
    """From an order to what it cost: allocations and their prices, openings, jobs, charges."""

    id: str
    project: str
    project_name: str
    payer: str
    kind: str
    commodity: str
    amount: int
    starts_at: str
    ends_at: str | None
    allocations: list[str]
    prices: list[OrderPrice]
    openings: list[OpeningTrace]
