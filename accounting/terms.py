"""Read what is to be signed with care: a term that nothing understands, no book keeps, or nobody can count by.

What both sides sign stays for ever and meters and prices every run: a wrong zone would stop a whole centre's books.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import TypeAdapter

from accounting.agreement import Agreement
from accounting.money import is_currency
from accounting.reconciling.breaks import Cause
from accounting.tariff import MINIMUM, Discount, PriceRule, Tariff
from accounting.usage import SECONDS

INTEGER_MAX = 2**53 - 1  # of canonical JSON (RFC 8785)
PRICE_MICRO_MAX = 10**15  # for `per` units: with a year of 100,000 cores still within 64 bits
PER_MAX = 10**15
VERSION_MAX = 2**31 - 1
RULES_MAX = 10_000
_PPM = 10**6
_RESOURCE = re.compile(rf"({'|'.join(SECONDS)}|unit:\S{{1,27}})\Z")
_UNREADABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_FIRST, _LAST = datetime(1971, 1, 2, tzinfo=UTC), datetime(2499, 12, 30, tzinfo=UTC)
_SCOPE = ("site_id", "queue", "qos", "grade", "user_class", "project_id")
# The longest that a column takes; other text has 200 characters.
_LONGEST = {"id": 32, "agreement_id": 32, "operator_id": 32, "centre_id": 32, "party_id": 32, "seller_of_record": 32,
            "collector": 32, "remainder_to": 32, "site_id": 32, "site_ids": 32, "project_id": 32, "grade": 32,
            "grades": 32, "user_class": 32, "queue": 64, "qos": 64, "resource": 64, "zone": 64}  # fmt: skip


class Wrong(str):
    """What is wrong, in words; `field`: the one of a price that is to be mended, where it is one."""

    __slots__ = ("field",)
    field: str

    def __new__(cls, text: str, field: str) -> Wrong:
        made = super().__new__(cls, text)
        made.field = field
        return made


def agreement_problems(a: Agreement) -> list[str]:
    """Everything that is wrong with the figures and names of an agreement, in words."""
    tax, fees, causes = a.tax, [fee.numerator for fee in a.fees], {cause.value for cause in Cause}
    checks = {
        "an agreement is between two parties": a.operator_id != a.centre_id,
        "it is about at least one site": bool(a.site_ids),
        "fees: they are millionths of the net amount, and not more than all of it":
            min(fees, default=0) >= 0 and sum(fees) <= _PPM,
        "tax: it is a part of the net price": 0 <= tax.numerator <= tax.denominator > 0,
        "payout: a tier of the centre's share is a part of the whole": all(
            0 <= tier.numerator <= a.shares.denominator for tier in a.payout.tiers
        ),
        "no_rise_after_days: from 0 to 3660": 0 <= (a.no_rise_after_days or 0) <= 3660,
        "auto_causes are causes that reconciliation knows": causes.issuperset(a.statements.auto_causes or ()),
        f"payout: {a.payout.currency!r} is no currency": not a.payout.currency or is_currency(a.payout.currency),
    }  # fmt: skip
    found = [why for why, holds in checks.items() if not holds]
    for name in ("tolerances", "limits"):
        part = getattr(a, name)
        found += [f"{name}/{field}: not less than 0" for field in part.__slots__ if getattr(part, field) < 0]
    dated = _dated(("valid_from", a.valid_from), ("valid_to", a.valid_to))
    return [*_document(a), *found, *dated, *_named(a.currency, a.zone), *_metering(a)]


def tariff_problems(tariff: Tariff) -> list[str]:
    """The same of a tariff; `accounting.tariff.problems` says what is wrong among its rules."""
    found = [*_document(tariff), *_dated(("valid_from", tariff.valid_from))]
    if len(tariff.rules) > RULES_MAX:
        return [*found, f"a tariff has at most {RULES_MAX} rules"]
    return found + [f"rule {i}: {text}" for i, rule in enumerate(tariff.rules) for text in rule_problems(rule)]


def rule_problems(rule: PriceRule) -> list[str]:
    """The same of one price; what is wrong with a field of it names that field."""
    dates = _dated(("valid_from", rule.valid_from), ("valid_to", rule.valid_to))
    found = [*dates, *_named(rule.currency, rule.zone)]
    if rule.price_micro > PRICE_MICRO_MAX or rule.per > PER_MAX or rule.tier_from > INTEGER_MAX:
        found.append(Wrong(f"more than {PRICE_MICRO_MAX // 10**6} for {PER_MAX} units is no price here", "price_micro"))
    if rule.resource != MINIMUM:
        found += _resource(rule.resource)
    empty = [name for name in _SCOPE if getattr(rule, name) == ""]
    return found + [Wrong(f"{name} is empty: leave it out, and the price is for all", name) for name in empty]


def discount_problems(d: Discount) -> list[str]:
    """The same of a contract's ratio."""
    found = [] if d.resource is None else list(_resource(d.resource))
    if d.numerator > d.denominator:
        found.append(f"{d.numerator}/{d.denominator} is more than the price: a surcharge is a tariff of its own")
    if d.valid_to is not None and d.valid_to <= d.valid_from:
        found.append("it ends before it begins")
    return found


def not_understood(given: Mapping[str, Any], document: Agreement | Tariff) -> list[str]:
    """Where a document as it came names something that the one as it was understood does not have."""
    return list(_beyond(given, TypeAdapter(type(document)).dump_python(document, mode="json"), ""))


def _beyond(given: Any, understood: Any, at: str) -> Iterator[str]:
    if isinstance(given, Mapping) and isinstance(understood, Mapping):
        for name, value in given.items():
            if name not in understood:
                yield f"{at}/{name}"
            else:
                yield from _beyond(value, understood[name], f"{at}/{name}")
    elif isinstance(given, list) and isinstance(understood, list | tuple):
        for i, (a, b) in enumerate(zip(given, understood, strict=False)):
            yield from _beyond(a, b, f"{at}/{i}")


def _document(document: Agreement | Tariff) -> Iterator[str]:
    if not 1 <= document.version <= VERSION_MAX:
        yield f"versions count from 1 to {VERSION_MAX}"
    if not document.id:
        yield "it has an id"
    yield from _plain(json.loads(document.payload), "")


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


def _metering(a: Agreement) -> Iterator[str]:
    for name in ("cores_per_node", "threads_per_core"):
        if any(count < 1 for count in getattr(a.metering, name).values()):
            yield f"metering/{name}: at least 1 for each queue"
    for resource in a.metering.held_while_suspended:
        if resource not in SECONDS:
            yield f"metering/held_while_suspended: {resource!r} is none of {', '.join(SECONDS)}"


def _resource(name: str) -> Iterator[str]:
    if not _RESOURCE.match(name):
        yield Wrong(f"{name!r} is no resource: {', '.join(SECONDS)} or unit:NAME", "resource")


def _named(currency: str, zone: str) -> Iterator[str]:
    if not is_currency(currency):
        yield Wrong(f"{currency!r} is no currency like CNY", "currency")
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        yield Wrong(f"{zone!r} is no time zone like Asia/Shanghai", "zone")


def _dated(*moments: tuple[str, datetime | None]) -> Iterator[str]:
    """Within the calendars of bills, and in a zone. Compared, not converted: year 9999 has no other zone."""
    known = [(name, moment) for name, moment in moments if moment is not None]
    zoneless = [name for name, moment in known if moment.tzinfo is None]
    beyond = [name for name, moment in known if moment.tzinfo is not None and not _FIRST <= moment < _LAST]
    if zoneless:
        yield Wrong("it is dated without a time zone: write 2026-11-01T00:00:00+08:00", zoneless[0])
    elif beyond:
        yield Wrong(f"it holds between {_FIRST.date()} and {_LAST.date()}", beyond[0])
