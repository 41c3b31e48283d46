"""What comes in and goes out at /billing/{payments,unmatches,clearings}."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.api.answers import Amount, _Out
from gateway.api.billing_schemas import Short
from gateway.api.schemas import Amount as AmountText
from gateway.api.schemas import Currency, Plain, _In


class CsvProfileIn(_In):
    """How a bank writes its CSV: what each column is called."""

    account: Annotated[Plain, Field(min_length=1, max_length=64)]
    bank_ref: Short = "reference"
    booked_on: Short = "date"
    amount: Short = "amount"
    payer_name: Short = "payer"
    remittance: Short = "remittance"
    currency_column: Short = ""
    currency: Currency = "CNY"
    delimiter: Annotated[str, Field(pattern=r"^[,;|\t]$")] = ","
    date_format: Annotated[Plain, Field(max_length=40)] = "%Y-%m-%d"
    decimal_mark: Literal[".", ","] = "."
    encoding: Literal["utf-8-sig", "gb18030", "latin-1", "utf-16"] = "utf-8-sig"


class PaymentsIn(_In):
    """A bank's file: `content` as text, or `content_base64` where it is not UTF-8."""

    format: Literal["camt.053", "csv"]
    content: Annotated[str, Field(max_length=6_000_000)] = ""
    content_base64: Annotated[str, Field(max_length=8_000_000)] = ""
    profile: CsvProfileIn | None = None
    dry_run: bool = False


class AllocateIn(_In):
    """Let part of a transaction pay an invoice; a negative amount takes it back."""

    invoice: Short
    amount: AmountText


class MatchIn(_In):
    """The transaction is the money of this top-up."""

    top_up: Short


class UnmatchIn(_In):
    """Why it is not this top-up's money."""

    reason: Annotated[Plain, Field(min_length=3, max_length=500)]


class Unmatch(_Out):
    """A match that somebody takes back; state: waiting, posted, refused."""

    id: str
    top_up: str
    payment: int
    amount: str
    currency: str
    reason: str
    state: str
    requested_by: str
    decided_by: str | None


class Unmatches(_Out):
    items: list[Unmatch]


class ImportProblem(_Out):
    where: str
    why: str


class PaymentsImported(_Out):
    """What an import did; with `problems` nothing was imported."""

    new: int
    known: int
    left_out: int
    unallocated: int
    top_ups: int
    allocated: list[Amount]
    problems: list[ImportProblem]


class PaysFor(_Out):
    invoice: str
    amount: str


class TopUpPart(_Out):
    """What of a payment is prepaid money."""

    id: str
    amount: str


class Payment(_Out):
    """Money that came in. `perhaps_top_ups`: recorded by hand, and perhaps this very money: a person says."""

    id: int
    account: str
    bank_ref: str
    booked_on: str
    currency: str
    amount: str
    unallocated: str
    payer_name: str
    remittance: str
    pays: list[PaysFor]
    top_ups: list[TopUpPart]
    perhaps_top_ups: list[str]


class Payments(_Out):
    items: list[Payment]


class ClearingIn(_In):
    """`write_off`: nobody will pay it (negative: taken back). `deposit`: the payer's top-ups pay it. `voucher`: what
    the project has redeemed pays it. `set_off`: the credit of `source` pays it. `refund`: its credit is paid back.
    Without `amount`: all that can be."""

    invoice: Annotated[Plain, Field(min_length=1, max_length=32)]
    kind: Literal["write_off", "deposit", "voucher", "set_off", "refund"]
    amount: Annotated[Plain, Field(min_length=1, max_length=24)] | None = None
    source: Annotated[Plain, Field(min_length=1, max_length=32)] | None = None
    reason: Annotated[Plain, Field(min_length=3, max_length=500)]


class Clearing(_Out):
    """What was asked for, and what was decided."""

    id: str
    invoice: str
    kind: str
    amount: str
    currency: str
    source: str | None
    reason: str
    state: Literal["waiting", "posted", "refused"]
    requested_by: str
    decided_by: str | None


class Clearings(_Out):
    items: list[Clearing]
