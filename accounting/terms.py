"""Read what is to be signed with care: a term that nothing understands, or that nobody can count by, is told before.

What is signed stays for ever and meters and prices every run, so that a wrong zone would stop all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import TypeAdapter

from accounting.agreement import Agreement
from accounting.money import is_currency
from accounting.tariff import MINIMUM, Discount, PriceRule, Tariff
from accounting.usage import SECONDS

_PPM = 10**6
_SCOPE = ("site_id", "queue", "qos", "grade", "user_class", "project_id")


def agreement_problems(a: Agreement) -> list[str]:
    """Everything that is wrong with the figures and names of an agreement, in words."""
    found = [*_dated(a.valid_from, a.valid_to), *_named(a.currency, a.zone)]
    if a.payout.currency and not is_currency(a.payout.currency):
        found.append(f"payout: {a.payout.currency!r} is no currency")
    if a.version < 1:
        found.append("versions count from 1")
    if a.tax.numerator < 0 or a.tax.denominator <= 0:
        found.append("tax: it is a ratio of integers that are not negative")
    if a.no_rise_after_days is not None and a.no_rise_after_days < 0:
        found.append("no_rise_after_days: not less than 0")
    if any(fee.numerator < 0 for fee in a.fees) or sum(fee.numerator for fee in a.fees) > _PPM:
        found.append("fees: they are millionths of the net amount, and not more than all of it")
    for name in ("tolerances", "limits"):
        part = getattr(a, name)
        found += [f"{name}/{field}: not less than 0" for field in part.__slots__ if getattr(part, field) < 0]
    return [*found, *_metering(a)]


def rule_problems(rule: PriceRule) -> list[str]:
    """The same of one price."""
    found = [*_dated(rule.valid_from, rule.valid_to), *_named(rule.currency, rule.zone)]
    if rule.resource != MINIMUM:
        found += _resource(rule.resource)
    found += [
        f"{name} is empty: leave it out, and the price is for all" for name in _SCOPE if getattr(rule, name) == ""
    ]
    return found


def discount_problems(d: Discount) -> list[str]:
    """The same of a contract's ratio."""
    found = [] if d.resource is None else list(_resource(d.resource))
    if d.valid_to is not None and d.valid_to <= d.valid_from:
        found.append("it ends before it begins")
    return found


def tariff_problems(tariff: Tariff) -> list[str]:
    """The same of a tariff, by its rules."""
    found = list(_dated(tariff.valid_from))
    if tariff.version < 1:
        found.append("versions count from 1")
    return found + [f"rule {i}: {text}" for i, rule in enumerate(tariff.rules) for text in rule_problems(rule)]


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


def _metering(a: Agreement) -> Iterator[str]:
    for name in ("cores_per_node", "threads_per_core"):
        if any(count < 1 for count in getattr(a.metering, name).values()):
            yield f"metering/{name}: at least 1 for each queue"
    for resource in a.metering.held_while_suspended:
        if resource not in SECONDS:
            yield f"metering/held_while_suspended: {resource!r} is none of {', '.join(SECONDS)}"


def _resource(name: str) -> Iterator[str]:
    if name not in SECONDS and not re.fullmatch(r"unit:.+", name):
        yield f"{name!r} is no resource: {', '.join(SECONDS)} or unit:NAME"


def _named(currency: str, zone: str) -> Iterator[str]:
    if not is_currency(currency):
        yield f"{currency!r} is no currency like CNY"
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        yield f"{zone!r} is no time zone like Asia/Shanghai"


def _dated(*moments: datetime | None) -> Iterator[str]:
    if any(moment is not None and moment.tzinfo is None for moment in moments):
        yield "it is dated without a time zone: write 2026-11-01T00:00:00+08:00"
