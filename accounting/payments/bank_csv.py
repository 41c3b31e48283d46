"""Read a bank's CSV by a profile that says which column is what."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from accounting.errors import PaymentRefused
from accounting.minor_units import digits_of
from accounting.payments.payment import BankStatement, BankTransaction, Problem

_ROWS_MAX = 100_000
_AMOUNT_MAX = 24
_SPACES = re.compile("[ \u00a0\u202f]")
# Thousands in threes (`1,234.50`, `1.234,50`, `1'234.50`): else `1,50` read with a decimal point would be 150.
_GROUPED = (
    r"(?P<sign>[+-]?)(?P<whole>[0-9]{{1,15}}|[0-9]{{1,3}}(?:[{group}'’][0-9]{{3}}){{1,4}})"
    r"(?:[{mark}](?P<part>[0-9]{{1,6}}))?"
)
_AMOUNT = {True: _GROUPED.format(group=",", mark="."), False: _GROUPED.format(group=".", mark=",")}


@dataclass(frozen=True, slots=True)
class CsvProfile:
    """How a bank writes its export. A column is named as in the header; `currency` holds where no column says it."""

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


def read_csv(data: bytes, profile: CsvProfile) -> BankStatement:
    """Every row as a transaction; all problems at once. Raises `PaymentRefused` where the file is no such table."""
    try:
        text = data.decode(profile.encoding)
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=profile.delimiter, strict=True)
        header = set(rows.fieldnames or ())
    except (UnicodeDecodeError, LookupError, csv.Error, TypeError, ValueError) as exc:
        raise PaymentRefused(f"the file is no CSV in {profile.encoding}: {exc}") from exc
    needed = [profile.bank_ref, profile.booked_on, profile.amount]
    needed += [profile.currency_column] if profile.currency_column else []
    if missing := [name for name in needed if name not in header]:
        raise PaymentRefused(f"the file has no column {', '.join(map(repr, missing))}")
    found: list[BankTransaction] = []
    problems: list[Problem] = []
    left_out = 0
    try:
        for n, row in enumerate(rows, 2):
            if n > _ROWS_MAX:
                raise PaymentRefused(f"more than {_ROWS_MAX} rows: import month by month")
            try:
                transaction = _transaction(row, profile)
            except (PaymentRefused, ValueError) as exc:
                problems.append(Problem(f"row {n}", str(exc)))
                continue
            if transaction is None:
                left_out += 1
            else:
                found.append(transaction)
    except csv.Error as exc:
        raise PaymentRefused(f"the file is no CSV: {exc}") from exc
    return BankStatement(tuple(found), tuple(problems), left_out)


def _transaction(row: Mapping[str | None, object], profile: CsvProfile) -> BankTransaction | None:
    """None for money that went out: that is no payment of a customer."""

    def text(column: str) -> str:
        value = row.get(column)
        return value.strip().replace("\0", "") if isinstance(value, str) else ""

    currency = text(profile.currency_column) if profile.currency_column else profile.currency
    if not re.fullmatch(r"[A-Z]{3}", currency):
        raise PaymentRefused(f"{currency!r} is no currency code")
    minor = minor_of(text(profile.amount), currency, profile.decimal_mark)
    if minor < 0:
        return None
    booked = datetime.strptime(text(profile.booked_on), profile.date_format).replace(tzinfo=UTC)
    return BankTransaction(
        profile.account, text(profile.bank_ref), booked, currency, minor,
        text(profile.payer_name)[:200], text(profile.remittance)[:1000], "csv",
    )  # fmt: skip


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
