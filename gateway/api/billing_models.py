"""What comes in and goes out about money, for the routes and the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from gateway.api.schemas import Amount, Instant, Plain, _whole

Name = Annotated[Plain, Field(min_length=1, max_length=32)]
# Sums of thousands of them still fit into 64 bits.
AMOUNT_MAX = 10**15
Whole = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=AMOUNT_MAX)]
# A currency, `core-seconds`, `gpu-seconds` or a unit's name; it stands in files that accountants open.
Commodity = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,31}$")]
Zone = Annotated[Plain, Field(max_length=64)]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Out(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PartyKeyIn(_In):
    """A public signing key, base64; it speaks for the party from `valid_from` (else from now) on."""

    key_id: Annotated[Plain, Field(min_length=1, max_length=200)]
    algorithm: Literal["Ed25519"] = "Ed25519"
    public: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{43}=$")]
    valid_from: Instant | None = None
    valid_to: Instant | None = None


class PartyIn(_In):
    """A legal entity, or what changed about it."""

    id: Name
    role: Literal["operator", "centre", "payer", "project"]
    legal_name: Annotated[Plain, Field(min_length=1, max_length=200)]
    tax_id: Annotated[Plain, Field(max_length=40)] = ""
    country: Annotated[str, Field(pattern=r"^([A-Z]{2})?$")] = ""
    did: Annotated[Plain, Field(max_length=200)] = ""
    sites: Annotated[tuple[Name, ...], Field(max_length=100)] = ()
    keys: Annotated[tuple[PartyKeyIn, ...], Field(max_length=20)] = ()


class DocumentIn(_In):
    """An agreement or a tariff as it will be signed (docs/books.md; docs/examples has one of each)."""

    document: dict[str, Any]


class SignatureIn(_In):
    """A party's signature over the document's canonical bytes, base64."""

    party: Name
    key_id: Annotated[Plain, Field(min_length=1, max_length=200)]
    signature: Annotated[str, Field(max_length=200)]


class DiscountIn(_In):
    """A project pays `numerator`/`denominator` of the prices."""

    project: Name
    numerator: Annotated[int, Field(ge=0, le=10**6)]
    denominator: Annotated[int, Field(ge=1, le=10**6)]
    site: Name | None = None
    grade: Name | None = None
    resource: Annotated[Plain, Field(max_length=64)] | None = None
    reason: Annotated[Plain, Field(max_length=200)] = ""
    valid_from: Instant | None = None
    valid_to: Instant | None = None


class PayerWeightIn(_In):
    """A payer's weight: 60 beside 40 pays 60 %."""

    payer: Name
    weight: Annotated[int, Field(ge=1, le=10**6)]


class TermsIn(_In):
    """On what terms a project buys from a moment on."""

    user_class: Annotated[Plain, Field(max_length=32)] = ""
    payers: Annotated[tuple[PayerWeightIn, ...], Field(max_length=20)] = ()
    valid_from: Instant | None = None


class PeriodIn(_In):
    """A month of the billing calendar."""

    year: Annotated[int, BeforeValidator(_whole), Field(ge=2000, le=2400)]
    month: Annotated[int, BeforeValidator(_whole), Field(ge=1, le=12)]
    zone: Zone = "Asia/Shanghai"


class TopUpIn(_In):
    """Money that came in for a project; `source` and `reference` are the bank's own key.

    `transaction`: the imported payment that it is part of. `separate`: it is none of those that may be it.
    """

    project: Name
    payer: Name
    amount: Amount
    received_at: Instant
    source: Annotated[Plain, Field(min_length=1, max_length=64)] = "bank"
    reference: Annotated[Plain, Field(min_length=1, max_length=120)]
    transaction: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    separate: bool = False


class RefundIn(_In):
    """What is paid back of a project's money."""

    project: Name
    amount: Amount
    reason: Annotated[Plain, Field(min_length=3, max_length=500)]


class AdjustmentIn(_In):
    """`adjustment`: the project owes this much more (negative: less), on its next bill. `write_off`: a debt that will
    not be paid, of what is not billed yet; of an invoice: POST /billing/clearings."""

    project: Name
    kind: Literal["adjustment", "write_off"]
    amount: Amount
    reason: Annotated[Plain, Field(min_length=3, max_length=500)]
    charge: Annotated[int, Field(ge=1, le=2**62)] | None = None


class DecisionIn(_In):
    """A second person's word."""

    approve: bool


class NewBudgetIn(_In):
    """What a project means to spend; alerts in per cent; `stop`: nothing is submitted that would pass it."""

    project: Name
    amount: Amount
    span: Literal["month", "total"] = "month"
    zone: Zone = "Asia/Shanghai"
    thresholds: Annotated[tuple[Annotated[int, Field(ge=1, le=1000)], ...], Field(max_length=10)] = (50, 80, 100)
    stop: bool = False


class Party(_Out):
    """A party with its keys."""

    id: str
    role: str
    legal_name: str
    tax_id: str
    country: str
    did: str
    sites: list[str]
    keys: list[dict[str, Any]]


class Parties(_Out):
    items: list[Party]


class Document(_Out):
    """A version of an agreement or tariff: what is signed, its hash, and by whom."""

    id: str
    version: int
    sha256: str
    payload: str = Field(description="The canonical bytes that are signed, base64")
    document: dict[str, Any]
    signatures: list[dict[str, Any]]
    in_force_since: str | None = Field(description="Null until both sides signed")


class Documents(_Out):
    items: list[Document]


class Made(_Out):
    """The id of what was made."""

    id: str


class Outcome(_Out):
    """What became of it."""

    id: str
    state: str


class DiscountOut(_Out):
    """What a project pays of the prices. `order`: the priced order that has paid instead."""

    id: str
    project: str
    numerator: int
    denominator: int
    site: str | None
    grade: str | None
    resource: str | None
    order: str | None
    reason: str
    valid_from: str
    valid_to: str | None


class Discounts(_Out):
    """Discounts, the newest first."""

    items: list[DiscountOut]


class ChargeShort(_Out):
    """A charge in a list; `replaced`: a later reading took its place."""

    id: int
    job: str
    project: str
    site: str
    meter: str
    amount: str
    currency: str
    core_seconds: int
    grade: str
    start: str | None
    end: str | None
    reason: str
    replaced: bool


class ChargeList(_Out):
    items: list[ChargeShort]
    next: int | None = Field(description="`before` of the next page")


class Sides(_Out):
    """1: we read it at the centre. 2: the centre has confirmed it, by a line of a statement that it signed."""

    sides: int
    signed_by: str | None
    statement: int | None
    line: int | None


class Explanation(ChargeShort):
    """A charge down to the raw record: rule, arithmetic, shares."""

    rule: str
    policy: str
    agreement: str | None
    gross: str
    borne_by_operator: str
    centre: str
    tax: str
    steps: list[str]
    segments: list[dict[str, Any]]
    reading: dict[str, Any]
    raw: dict[str, Any]
    evidence: Sides


class Period(_Out):
    """A month: open, closing or closed; `seal`: hash over all balances at its end."""

    starts_at: str
    ends_at: str
    zone: str
    state: str
    closed_at: str | None
    seal: str | None


class Periods(_Out):
    items: list[Period]


class TopUp(_Out):
    """Prepaid money of a project; negative: paid back."""

    id: str
    project: str
    amount: str
    currency: str


class AskedRefund(TopUp):
    """A deposit to be paid back; `state`: posted, or waiting for a second person."""

    state: str


class Refund(AskedRefund):
    """A deposit that is paid back, waits for a second person, or was refused by one."""

    reason: str
    requested_by: str
    decided_by: str | None


class Refunds(_Out):
    items: list[Refund]


class Adjustment(_Out):
    """A change that was asked for; state: waiting, posted, refused. Asked for by `books`: what a credit and a changed
    record of `charge` both gave back is charged again; where they had two reasons, adjust the charge downwards."""

    id: str
    kind: str
    project: str
    currency: str
    amount: str
    reason: str
    state: str
    requested_by: str
    decided_by: str | None
    charge: int | None


class Adjustments(_Out):
    items: list[Adjustment]


class Budget(_Out):
    """A budget, what of it is spent in the span that now is in and held by jobs, and the thresholds (per cent) that
    both together have reached."""

    id: str
    project: str
    commodity: str
    amount: str
    spent: str
    held: str
    left: str
    span: str
    span_start: str
    zone: str
    thresholds: list[int]
    reached: list[int]
    stop: bool


class Budgets(_Out):
    items: list[Budget]


class AlertDelivery(_Out):
    """One way that an alert goes: `waiting` (to be tried `at`), `delivered` or `given_up` (then)."""

    channel: str
    state: str
    tries: int
    error: str
    at: str


class Alert(_Out):
    """A threshold of a budget that was passed, with the figures of that moment: what the webhook is sent as `data`."""

    id: str
    budget: str
    project: str
    threshold_percent: int
    amount: str
    spent: str
    held: str
    currency: str
    span: str
    span_start: str
    zone: str
    stops_submissions: bool
    recorded_at: str
    deliveries: list[AlertDelivery]


class Alerts(_Out):
    items: list[Alert]


class Balance(_Out):
    """What stands on an account: micro-units of a currency, or units of a resource; debits are positive."""

    account: str
    commodity: str
    amount: str


class Balances(_Out):
    items: list[Balance]
