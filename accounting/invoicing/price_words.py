"""Quantities, unit prices and the steps of a line in words, as each language writes them."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, localcontext
from fractions import Fraction

from babel.dates import get_day_names
from babel.numbers import format_decimal, get_currency_symbol

from accounting.calendar import Window
from accounting.invoicing.invoice import Line
from accounting.invoicing.texts import core_hours, locale, number, say
from accounting.invoicing.unit_prices import Step
from accounting.minor_units import digits_of, divide
from accounting.money import MICRO
from accounting.tariff import MINIMUM
from accounting.usage import SECONDS

# What one unit of each resource is in what is metered: hours of cores, GPUs, nodes and GiB; all else is counted.
_UNITS = dict.fromkeys(SECONDS, 3600) | {"memory_mib_seconds": 3600 * 1024}
_PLACES = 9


def quantity(line: Line, steps: Sequence[Step], lang: str) -> str:
    """How much of what: in core-hours where nothing says how it was priced, `various` where units mix."""
    if not steps:
        return say("amount_core-seconds", lang, n=core_hours(line.core_seconds, lang)) if line.core_seconds else "–"
    kinds = {s.resource for s in steps if s.resource != MINIMUM}
    if len(kinds) > 1:
        return say("various", lang)
    return quantity_of(kinds.pop(), sum(s.quantity for s in steps), lang) if kinds else "–"


def unit_price(steps: Sequence[Step], currency: str, lang: str) -> str:
    """The one price of a line, or `various`."""
    if not steps:
        return "–"
    return say("various", lang) if is_various(steps) else price(steps[0], currency, lang)


def is_various(steps: Sequence[Step]) -> bool:
    """Whether a line has several prices: its steps are shown then."""
    return len(steps) > 1 or bool(steps and (steps[0].tiers or steps[0].resource == MINIMUM))


def quantity_of(resource: str, amount: int, lang: str) -> str:
    """Hours with two places, or a whole number, with the unit's name."""
    per = _UNITS.get(resource)
    if per is None:
        return say("amount_unit", lang, n=number(amount, lang), unit=resource.removeprefix("unit:"))
    return say(f"amount_{resource}", lang, n=core_hours(divide(amount * 3600, per), lang))


def price(step: Step, currency: str, lang: str) -> str:
    """For one unit; with the contract's ratio where there is one, with the further tiers behind it."""
    if step.resource == MINIMUM:
        return "–"
    text = _money(_each(step.resource, step.price_micro, step.per), currency, lang)
    if (step.numerator, step.denominator) != (1, 1):
        text += f" × {step.numerator}/{step.denominator}"
    for tier in step.tiers:
        beyond = quantity_of(step.resource, tier.tier_from, lang)
        text += say("tier", lang, price=_money(_each(step.resource, tier.price_micro, tier.per), currency, lang),
                    beyond=beyond)  # fmt: skip
    return text


def amount(step: Step, currency: str, lang: str) -> str:
    """To the micro-unit: only the document's total is rounded."""
    return _money(Fraction(step.amount_micro, MICRO), currency, lang)


def condition(step: Step, lang: str) -> str:
    """When and for what this price holds."""
    if step.resource == MINIMUM:
        return say("least", lang)
    rule = step.rule
    if rule is None:
        return ""
    parts = [rule.grade, rule.queue, rule.qos, _hours(rule.window, rule.zone, lang) if rule.window else None]
    return ", ".join(filter(None, parts))


def _each(resource: str, price_micro: int, per: int) -> Fraction:
    return Fraction(price_micro * _UNITS.get(resource, 1), per * MICRO)


def _money(value: Fraction, currency: str, lang: str) -> str:
    """All its places; `≈` where it has more than anybody reads."""
    scaled = round(value * 10**_PLACES)
    with localcontext(prec=60):
        plain = Decimal(scaled).scaleb(-_PLACES)
    places = digits_of(currency)
    pattern = f"#,##0.{'0' * places}{'#' * (_PLACES - places)}"
    text = format_decimal(abs(plain), format=pattern, locale=locale(lang), decimal_quantization=False)
    about = "" if value * 10**_PLACES == scaled else "≈ "
    return f"{about}{'-' if plain < 0 else ''}{get_currency_symbol(currency, locale(lang))}{text}"


def _hours(window: Window, zone: str, lang: str) -> str:
    names = get_day_names("abbreviated", locale=locale(lang))
    days = "" if len(window.weekdays) == 7 else " ".join(names[d] for d in sorted(window.weekdays)) + " "
    first, last = (f"{m // 60:02d}:{m % 60:02d}" for m in (window.from_minute, window.to_minute))
    return f"{days}{first}–{last} ({zone})"
