"""What comes in and goes out at /billing/{payments,unmatches,clearings}."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.api.answers import Amount, _Out
from gateway.api.billing_schemas import Short
from gateway.api.schemas import Amount as AmountText
from gateway.api.schemas import Currency, Plain, _In

Word = Annotated[Plain, Field(min_length=1, max_length=64)]


class CsvProfileIn(_In):
    """How a bank writes its CSV: what each column is called. A debit has a negative `amount`, a column of its own
    (`debit`), or `side` says it (C/D, H/S, 贷/借 …); it is a returned payment where a word of `return_words` stands in
    `kind`, or without that in the purpose."""

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
    debit: Short = ""
    side: Short = ""
    kind: Short = ""
    return_words: Annotated[list[Word], Field(max_length=50)] | None = None
    payer_account: Short = ""


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


class LeftOut(_Out):
    """A movement that is no payment of a customer: money that went out (negative), or is not booked yet."""

    where: str
    why: str
    amount: str
    currency: str
    remittance: str


class PaymentsImported(_Out):
    """What an import did; with `problems` nothing was imported. `left_out` movements in all, the first hundred of them
    in `left_out_lines`; `proposed`: an invoice has the amount, but another payer or is not the only one."""

    new: int
    known: int
    left_out: int
    left_out_lines: list[LeftOut]
    unallocated: int
    top_ups: int
    proposed: int
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
    """Money that came in. `perhaps_top_ups`: recorded by hand, and perhaps this very money: a person says.
    `perhaps_invoices`: open, and of this amount."""

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
    payer_account: str
    perhaps_top_ups: list[str]
    perhaps_invoices: list[str]


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
