"""Read a bank's CSV by a profile that says which column is what."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal

from accounting.errors import PaymentRefused
from accounting.minor_units import digits_of
from accounting.payments.payment import WENT_OUT, BankStatement, BankTransaction, LeftOut, Problem
from accounting.payments.references import NONE, own_of, referenced

# Ends the reference of a returned payment.
WENT_BACK = "/returned"
_ROWS_MAX = 100_000
_AMOUNT_MAX = 24
_SPACES = re.compile("[ \u00a0\u202f]")
# Thousands in threes (`1,234.50`, `1.234,50`, `1'234.50`): else `1,50` read with a decimal point would be 150.
_GROUPED = (
    r"(?P<sign>[+-]?)(?P<whole>[0-9]{{1,15}}|[0-9]{{1,3}}(?:[{group}'’][0-9]{{3}}){{1,4}})"
    r"(?:[{mark}](?P<part>[0-9]{{1,6}}))?"
)
# From the bank's side, as on its statement: what it owes us more of is a credit.
_CREDIT = frozenset({"c", "cr", "crdt", "credit", "h", "haben", "+", "贷", "贷方", "收", "收入", "转入"})
_DEBIT = frozenset({"d", "dr", "dbit", "debit", "s", "soll", "-", "借", "借方", "支", "支出", "转出"})
# What banks call a payment that went back. No word of refunds is here: those we pay out ourselves.
RETURN_WORDS = (
    "return", "returned", "reversal", "reversed", "rejected", "bounced", "chargeback", "unpaid", "recall", "UPDD",
    "PRDD", "RCDD", "RRTN", "rücklastschrift", "ruecklastschrift", "rückgabe", "rückbuchung", "rückläufer", "retoure",
    "退汇", "退票", "冲正",
)  # fmt: skip
_FEE_WORDS = ("fee", "fees", "charge", "charges", "commission", "gebühr", "gebuehr", "entgelt", "手续费", "费用")
_AMOUNT = {True: _GROUPED.format(group=",", mark="."), False: _GROUPED.format(group=".", mark=",")}


@dataclass(frozen=True, slots=True)
class CsvProfile:
    """How a bank writes its export. A column is named as in the header; `currency` holds where no column says it.

    A debit has a negative `amount`, or a column of its own (`debit`: what went out, positive), or `side` says it. It is
    a returned payment where one of `return_words` stands in the column `kind`, or without one in the purpose.
    """

    account: str
    bank_ref: str = "reference"
    booked_on: str = "date"
    amount: str = "amount"
    payer_name: str = "payer"
    remittance: str = "remittance"
    currency_column: str = ""
    currency: str = "CNY"
    delimiter: str = ","
    date_format: str = "%Y-%m-%d"
    decimal_mark: str = "."
    encoding: str = "utf-8-sig"
    debit: str = ""
    side: str = ""
    kind: str = ""
    return_words: tuple[str, ...] = RETURN_WORDS
    payer_account: str = ""


def read_csv(data: bytes, profile: CsvProfile) -> BankStatement:
    """Every row as a transaction; all problems at once. Raises `PaymentRefused` where the file is no such table."""
    try:
        text = data.decode(profile.encoding)
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=profile.delimiter, strict=True)
        header = set(rows.fieldnames or ())
    except (UnicodeDecodeError, LookupError, csv.Error, TypeError, ValueError) as exc:
        raise PaymentRefused(f"the file is no CSV in {profile.encoding}: {exc}") from exc
    needed = [profile.bank_ref, profile.booked_on, profile.amount]
    needed += filter(None, (profile.currency_column, profile.debit, profile.side, profile.kind, profile.payer_account))
    if missing := [name for name in needed if name not in header]:
        raise PaymentRefused(f"the file has no column {', '.join(map(repr, missing))}")
    found: list[BankTransaction] = []
    problems: list[Problem] = []
    left_out: list[LeftOut] = []
    rows_of: dict[str, int] = {}
    try:
        for n, row in enumerate(rows, 2):
            if n > _ROWS_MAX:
                raise PaymentRefused(f"more than {_ROWS_MAX} rows: import month by month")
            try:
                transaction = _transaction(row, profile)
            except (PaymentRefused, ValueError) as exc:
                problems.append(Problem(f"row {n}", str(exc)))
                continue
            if isinstance(transaction, LeftOut):
                left_out.append(replace(transaction, where=f"row {n}"))
                continue
            before = rows_of.setdefault(transaction.bank_ref, n)
            if before != n and transaction.bank_ref != NONE:  # the second one would be taken for the first
                why = f"{transaction.bank_ref!r} is the reference of row {before} too: is it the bank's own?"
                problems.append(Problem(f"row {n}", why))
            found.append(transaction)
    except csv.Error as exc:
        raise PaymentRefused(f"the file is no CSV: {exc}") from exc
    return BankStatement(tuple(referenced(found)), tuple(problems), tuple(left_out))


def _transaction(row: Mapping[str | None, object], profile: CsvProfile) -> BankTransaction | LeftOut:
    """Left out is money that went out: that is no payment of a customer, unless it is one that went back."""

    def text(column: str) -> str:
        value = row.get(column)
        return value.strip().replace("\0", "") if isinstance(value, str) else ""

    currency = text(profile.currency_column) if profile.currency_column else profile.currency
    if not re.fullmatch(r"[A-Z]{3}", currency):
        raise PaymentRefused(f"{currency!r} is no currency code")
    minor = _signed(
        text(profile.amount), text(profile.debit) if profile.debit else "",
        text(profile.side) if profile.side else None, currency, profile.decimal_mark,
    )  # fmt: skip
    remittance, reference = text(profile.remittance)[:1000], text(profile.bank_ref)
    if minor < 0:
        if not _returned(text(profile.kind) if profile.kind else remittance, profile.return_words):
            return LeftOut("", WENT_OUT, minor, currency, remittance)
        # Many banks give it the reference of the payment that went back, which is in the books already.
        reference = f"{reference}{WENT_BACK}" if own_of(reference) else reference
    booked = datetime.strptime(text(profile.booked_on), profile.date_format).replace(tzinfo=UTC)
    reference = reference if own_of(reference) or not reference else NONE
    return BankTransaction(
        profile.account, reference, booked, currency, minor, text(profile.payer_name)[:200], remittance, "csv",
        text(profile.payer_account)[:64] if profile.payer_account else "",
    )  # fmt: skip


def _signed(amount: str, debit: str, side: str | None, currency: str, mark: str) -> int:
    """Minor units, negative for a debit; raises ValueError where the columns contradict each other."""
    went_out = minor_of(debit, currency, mark) if debit else 0
    if went_out and amount and minor_of(amount, currency, mark):
        raise ValueError("one row has an amount that came in and one that went out")
    if went_out:
        return -abs(went_out)
    minor = minor_of(amount, currency, mark)
    if side is None:
        return minor
    word = side.casefold()
    if word not in _CREDIT | _DEBIT:
        raise ValueError(f"{side!r} says neither debit nor credit")
    if word in _CREDIT and minor < 0:
        raise ValueError("a credit of a negative amount")
    return -abs(minor) if word in _DEBIT else minor


def _returned(said: str, words: Sequence[str]) -> bool:
    """Whether a bank calls a debit a payment that went back; what it takes for that itself is none."""
    return _says(said, words) and not _says(said, _FEE_WORDS)


def _says(said: str, words: Sequence[str]) -> bool:
    """By a word of its own, not a part of another one; those of languages that join words are found within."""
    return any(
        re.search(rf"(?<![^\W\d_]){re.escape(word)}(?![^\W\d_])" if word.isascii() else re.escape(word), said, re.I)
        for word in words
    )


def minor_of(text: str, currency: str, decimal_mark: str = ".") -> int:
    """`1,234.50` in minor units; ValueError where it is no amount, or has more places than the currency."""
    plain = _SPACES.sub("", text)
    found = re.fullmatch(_AMOUNT[decimal_mark == "."], plain)
    if found is None or len(plain) > _AMOUNT_MAX:
        raise ValueError(f"{text!r} is no amount")
    whole = re.sub(r"[.,'’]", "", found["whole"])
    plain = f"{found['sign']}{whole}.{found['part'] or '0'}"
    scaled = Decimal(plain).scaleb(digits_of(currency))
    if scaled != scaled.to_integral_value():
        raise ValueError(f"{text!r} has more places than {currency} has")
    return int(scaled)
