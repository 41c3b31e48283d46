"""What comes in and goes out at /billing/{entities,invoices,credit-notes,disputes,payments}."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from gateway.api.answers import Amount, _Out
from gateway.api.schemas import Amount as AmountText
from gateway.api.schemas import Count, Instant, Plain, _In, _whole

Id = Annotated[Plain, Field(pattern=r"^[a-z][a-z0-9._-]{0,31}$")]
Short = Annotated[Plain, Field(max_length=200)]
Line = Annotated[Plain, Field(max_length=500)]
Reason = Annotated[Plain, Field(min_length=1, max_length=2000)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Ppm = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=1_000_000)]


class EntityIn(_In):
    """Who issues or pays. With `prefix` it issues invoices, and the prefix is its own for ever."""

    id: Id
    legal_name: Annotated[Plain, Field(min_length=1, max_length=200)]
    address: Line = ""
    country: Annotated[str, Field(pattern=r"^([A-Z]{2})?$")] = ""
    tax_id: Annotated[Plain, Field(max_length=40)] = ""
    bank_details: Line = ""
    language: Literal["en", "zh"] = "en"
    zone: Annotated[Plain, Field(max_length=64)] = "Asia/Shanghai"
    payment_days: Annotated[int, BeforeValidator(_whole), Field(ge=0, le=365)] = 30
    prefix: Annotated[str, Field(pattern=r"^([A-Z][A-Z0-9]{0,9})?$")] = ""
    tax_code: Annotated[Plain, Field(max_length=32)] = Field(
        default="", description="Of an issuer: the rule of its invoices; of a payer: a rule of its own"
    )


class PayerIn(_In):
    """Who pays for a project, from a moment on (default: always)."""

    payer: Id
    valid_from: Instant | None = None


class TaxRuleIn(_In):
    """A dated tax rule; `rate_ppm` in parts per million: 6 % is 60000."""

    code: Id
    kind: Literal["standard", "zero", "exempt", "reverse"] = "standard"
    rate_ppm: Ppm = 0
    inclusive: bool = False
    valid_from: Instant
    name_en: Annotated[Plain, Field(max_length=100)] = ""
    name_zh: Annotated[Plain, Field(max_length=100)] = ""
    note_en: Line = ""
    note_zh: Line = ""


class BillMonthIn(_In):
    """Bill a month that has ended: all projects, or one; all sites, or some."""

    month: Annotated[str, Field(pattern=r"^\d{4}-\d{2}$")]
    issuer: Id | None = None
    project: Short | None = None
    sites: Annotated[list[Short], Field(max_length=1000)] | None = None


# Runs of a line by their charges: GET /billing/invoices/{number}/lines/{line}/charges.
Charges = Annotated[tuple[Annotated[int, Field(ge=1, le=2**62)], ...], Field(max_length=1000)]


class CreditLineIn(_In):
    """Give back `net` (before tax) of a line; `charges`: of which of its runs (default: of the line)."""

    line: Count
    net: AmountText
    charges: Charges = ()


class CreditNoteIn(_In):
    """A credit note for lines of an invoice."""

    invoice: Short
    reason: Reason
    credits: Annotated[list[CreditLineIn], Field(min_length=1, max_length=1000)]


class EvidenceIn(_In):
    """Something that was shown, by its hash."""

    name: Short
    sha256: Sha256


class DisputeIn(_In):
    """Dispute a line of an invoice; `charges`: which of its runs (default: the line)."""

    invoice: Short
    line: Count
    reason: Reason
    charges: Charges = ()
    evidence: Annotated[tuple[EvidenceIn, ...], Field(max_length=20)] = ()


class DisputeStepIn(_In):
    """The next step; `net`: with `credit`, how much (default: all that is left); `charges`: of which runs (default:
    those of the dispute)."""

    text: Annotated[Plain, Field(max_length=2000)] = ""
    evidence: Annotated[tuple[EvidenceIn, ...], Field(max_length=20)] = ()
    net: AmountText | None = None
    charges: Charges = ()


class Entity(_Out):
    """Who issues or pays."""

    id: str
    legal_name: str
    address: str
    country: str
    tax_id: str
    bank_details: str
    language: str
    zone: str
    payment_days: int
    prefix: str
    tax_code: str


class Entities(_Out):
    items: list[Entity]


class Payer(_Out):
    """Who pays for a project now."""

    project: str
    payer: str | None


class TaxRule(_Out):
    """A dated tax rule."""

    code: str
    kind: str
    rate_ppm: int
    inclusive: bool
    valid_from: str
    valid_to: str | None
    name_en: str
    name_zh: str
    note_en: str
    note_zh: str


class TaxRules(_Out):
    items: list[TaxRule]


class BillLine(_Out):
    """A line: `exact` before rounding, `net` and `tax` as rounded on the document."""

    line: int
    kind: Literal["usage", "correction", "credit", "order", "adjustment"]
    site: str
    user: str
    service_start: str
    service_end: str
    runs: int
    core_seconds: int
    exact: str
    net: str
    tax: str
    text: str
    order: str | None = None


class BillHead(_Out):
    """An invoice or credit note without its lines. `open`: what is left to pay."""

    number: str
    kind: Literal["invoice", "credit_note"]
    project: str
    issuer: str
    payer: str
    currency: str
    period_start: str
    period_end: str
    issued_at: str
    due_at: str
    net: str
    tax: str
    gross: str
    open: str | None
    corrects: str | None
    sha256: str


class CreditNoteAsked(_Out):
    """A credit note that was asked for: `waiting`, or `posted` with the head of the document."""

    id: str
    state: Literal["waiting", "posted", "refused"]
    number: str | None = None
    kind: Literal["credit_note"] | None = None
    project: str | None = None
    issuer: str | None = None
    payer: str | None = None
    currency: str | None = None
    period_start: str | None = None
    period_end: str | None = None
    issued_at: str | None = None
    due_at: str | None = None
    net: str | None = None
    tax: str | None = None
    gross: str | None = None
    open: str | None = None
    corrects: str | None = None
    sha256: str | None = None


class CreditNoteShort(_Out):
    """A credit note that somebody asked for. `amount`: with tax."""

    id: str
    invoice: str
    dispute: str | None
    amount: str
    currency: str
    reason: str
    state: Literal["waiting", "posted", "refused"]
    credit_note: str | None
    requested_by: str
    decided_by: str | None
    at: str


class CreditNotesAsked(_Out):
    """What was asked for, newest first."""

    items: list[CreditNoteShort]


class Bill(BillHead):
    """A document as issued, with its lines."""

    lines: list[BillLine]
    tax_rule: dict[str, Any]
    unbilled: dict[str, Any]
    reason: str


class Bills(_Out):
    items: list[BillHead]
    next_cursor: str | None


class NotBilled(_Out):
    project: str
    why: str


class MonthBilled(_Out):
    """What was issued, and which projects could not be billed."""

    made: list[BillHead]
    refused: list[NotBilled]


class BilledCharge(_Out):
    """One run on a line, with its arithmetic; `charge` is its number in the books."""

    kind: Literal["charge", "reversal"]
    charge: int
    job: str
    run: str
    queue: str
    state: str
    start: str | None
    end: str | None
    cores: int
    core_seconds: int
    amount: str
    rule: str
    segments: list[dict[str, Any]]


class BilledCharges(_Out):
    """Why a line is what it is."""

    items: list[BilledCharge]
    next_cursor: str | None


class DisputeEvent(_Out):
    n: int
    step: str
    state: str
    side: str
    by: str
    text: str
    evidence: list[EvidenceIn]
    credit_note: str
    at: str


class Dispute(_Out):
    """A disputed line. `due_at`: when the next answer is owed."""

    id: str
    invoice: str
    line: int
    site: str
    amount: str
    currency: str
    state: Literal["open", "with_centre", "credited", "rejected", "withdrawn"]
    reason: str
    charges: list[int]
    opened_at: str
    due_at: str
    overdue: bool
    events: list[DisputeEvent]


class Disputes(_Out):
    items: list[Dispute]


class AgedInvoice(_Out):
    """An open invoice; `dunning_level` 0: nothing to remind of."""

    number: str
    payer: str
    currency: str
    open: str
    disputed: str
    due_at: str
    days_overdue: int
    bucket: str
    dunning_level: int


class PayerStanding(_Out):
    payer: str
    payer_name: str
    currency: str
    total: str
    buckets: dict[str, str]


class Ageing(_Out):
    """What is owed, by payer and by age; `as_of`: as it was known then."""

    as_of: str | None
    payers: list[PayerStanding]
    invoices: list[AgedInvoice]


class SpentRow(_Out):
    """What one combination of keys comes to; of `amount`, `provisional` waits for the centre's record and `ordered` is
    the price of orders."""

    keys: dict[str, str]
    currency: str
    runs: int
    core_seconds: int
    amount: str
    provisional: str
    orders: int
    ordered: str


class SpentReport(_Out):
    """What was spent on work that ended in [start, end), as the books stood at `as_of`."""

    by: list[str]
    start: str
    end: str
    as_of: str | None
    rows: list[SpentRow]
    totals: list[SpentRow]


class CurrencySum(_Out):
    currency: str
    runs: int
    amount: str


class BesideSum(_Out):
    """What counts in a month beside runs, and what of it is on no document yet."""

    currency: str
    count: int
    amount: str
    not_billed: str


class DocumentSum(_Out):
    currency: str
    kind: str
    count: int
    gross: str


class MonthView(_Out):
    """A month for the operator: charged by the centres' meters, provisional, billed, owed, disputed, not matched.
    `disputes_overdue`: whose next answer was owed before now."""

    month: str
    charged: list[CurrencySum]
    provisional: list[CurrencySum]
    not_billed: list[CurrencySum]
    orders: list[BesideSum]
    adjustments: list[BesideSum]
    charged_again: list[BesideSum]
    documents: list[DocumentSum]
    open: list[AgedInvoice]
    disputed: list[Amount]
    disputes_overdue: int
    unallocated: list[Amount]
