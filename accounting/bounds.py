"""What a contract may say at all: what every database keeps, every calendar knows and every sum can hold.

Both sides sign a document once; what cannot be computed with would stop the books of a whole centre from then on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from zoneinfo import available_timezones

from accounting.agreement import Agreement
from accounting.reconciling.breaks import Cause
from accounting.tariff import MINIMUM, PriceRule, Tariff
from accounting.usage import SECONDS

INTEGER_MAX = 2**53 - 1  # of canonical JSON (RFC 8785)
PRICE_MICRO_MAX = 10**15  # for `per` units: with a year of 100,000 cores still within 64 bits
PER_MAX = 10**15
VERSION_MAX = 2**31 - 1
RULES_MAX = 10_000
_CURRENCY = re.compile(r"[A-Z]{3}\Z")
_RESOURCE = re.compile(rf"({'|'.join((*SECONDS, MINIMUM))}|unit:\S{{1,27}})\Z")
_UNREADABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_FIRST, _LAST = datetime(1971, 1, 2, tzinfo=UTC), datetime(2499, 12, 30, tzinfo=UTC)
# The longest that a column takes; other text has 200 characters.
_LONGEST = {"id": 32, "agreement_id": 32, "operator_id": 32, "centre_id": 32, "party_id": 32, "seller_of_record": 32,
            "collector": 32, "remainder_to": 32, "site_id": 32, "site_ids": 32, "project_id": 32, "grade": 32,
            "grades": 32, "user_class": 32, "queue": 64, "qos": 64, "resource": 64, "zone": 64}  # fmt: skip


def agreement_problems(a: Agreement, said: Mapping[str, Any]) -> list[str]:
    """Everything in an agreement that could not be kept or computed with, in words; `said`: its plain values."""
    tax, pay = a.tax, a.payout
    numbers = [*_values(said["tolerances"]), *_values(said["limits"]), *(fee.numerator for fee in a.fees)]
    per_core = [*a.metering.cores_per_node.values(), *a.metering.threads_per_core.values()]
    causes = {cause.value for cause in Cause}
    checks = {
        "an agreement is between two parties": a.operator_id != a.centre_id,
        "it is about at least one site": bool(a.site_ids),
        "tolerances, limits and fees are not negative": min(numbers, default=0) >= 0,
        "fees are parts of a million": sum(fee.numerator for fee in a.fees) <= 10**6,
        "a tax is a part of the net price": 0 <= tax.numerator <= tax.denominator and tax.denominator > 0,
        "a tier of the centre's share is a part of the whole": all(
            0 <= tier.numerator <= a.shares.denominator for tier in pay.tiers
        ),
        "cores of a node and threads of a core are more than nothing": min(per_core, default=1) > 0,
        "bills rise for so many days after the work, at most ten years": 0 <= (a.no_rise_after_days or 0) <= 3660,
        "auto_causes are causes that reconciliation knows": causes.issuperset(a.statements.auto_causes or ()),
        f"{pay.currency!r} is no ISO 4217 code": not pay.currency or bool(_CURRENCY.match(pay.currency)),
    }  # fmt: skip
    found = [why for why, holds in checks.items() if not holds]
    return [*_document(a, said), *found, *_place(a.currency, a.zone), *_dates(a.valid_from, a.valid_to)]


def tariff_problems(tariff: Tariff, said: Mapping[str, Any]) -> list[str]:
    """The same of a tariff; `accounting.tariff.problems` says what is wrong among its rules."""
    found = [*_document(tariff, said), *_dates(tariff.valid_from, None)]
    if len(tariff.rules) > RULES_MAX:
        return [*found, f"a tariff has at most {RULES_MAX} rules"]
    return found + [f"rule {i}: {why}" for i, rule in enumerate(tariff.rules) for why in rule_problems(rule)]


def rule_problems(rule: PriceRule) -> Iterator[str]:
    """What of one price could not be kept or computed with."""
    yield from _place(rule.currency, rule.zone)
    yield from _dates(rule.valid_from, rule.valid_to)
    if rule.price_micro > PRICE_MICRO_MAX or rule.per > PER_MAX or rule.tier_from > INTEGER_MAX:
        yield f"more than {PRICE_MICRO_MAX // 10**6} for {PER_MAX} units is no price here"
    if not _RESOURCE.match(rule.resource):
        yield f"{rule.resource!r} is none of {', '.join(SECONDS)}, {MINIMUM}, unit:<name>: it would price nothing"


def _document(document: Agreement | Tariff, said: Mapping[str, Any]) -> Iterator[str]:
    if not 1 <= document.version <= VERSION_MAX:
        yield "versions are counted from 1"
    if not document.id:
        yield "it has an id"
    yield from _plain(said, "")


def _plain(value: Any, name: str) -> Iterator[str]:
    """Every text and every number within it, by the name that it stands under."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _plain(str(key), name)
            yield from _plain(inner, name if name == "grades" else str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _plain(inner, name)
    elif isinstance(value, str) and (len(value) > _LONGEST.get(name, 200) or _UNREADABLE.search(value)):
        yield f"{name}: text of at most {_LONGEST.get(name, 200)} characters, without control characters"
    elif isinstance(value, int) and abs(value) > INTEGER_MAX:
        yield f"{name}: whole numbers are at most {INTEGER_MAX}"


def _values(said: Mapping[str, int]) -> Iterator[int]:
    yield from said.values()


def _place(currency: str, zone: str) -> Iterator[str]:
    if not _CURRENCY.match(currency):
        yield f"{currency!r} is no ISO 4217 code"
    if zone not in available_timezones():
        yield f"{zone!r} is no time zone like Asia/Shanghai"


def _dates(first: datetime, last: datetime | None) -> Iterator[str]:
    """Both within the calendars of bills. Compared, not converted: year 9999 has no other zone."""
    if not all(_FIRST <= at < _LAST for at in (first, last) if at is not None):
        yield f"it holds between {_FIRST.date()} and {_LAST.date()}"
