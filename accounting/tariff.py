"""A tariff: dated prices by resource; the most specific rule that is valid at a moment wins."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from msgspec import Struct
from pydantic import AwareDatetime, TypeAdapter

from accounting.agreement import canonical
from accounting.bound import is_unagreed
from accounting.calendar import Window
from accounting.usage import CORE_SECONDS

# Not a resource but a run as such: the least that a billable run costs.
MINIMUM = "minimum"


@dataclass(frozen=True, slots=True)
class PriceRule:
    """`price_micro` micro-units of `currency` for `per` units of `resource` in [valid_from, valid_to), in a scope.

    None in a field of the scope: everywhere, every queue … `id` is the stored version that charges name. `per` is
    3600 for a core-hour, 3 600 000 for a thousand core-hours, 3 686 400 of `memory_mib_seconds` for a GiB-hour, 1 of
    `unit:shots`. `window` limits it to hours of the day in `zone`; `tier_from`: it prices what a project uses of the
    resource beyond this many units in a month of `zone`.
    """

    id: int
    currency: str
    price_micro: int
    valid_from: AwareDatetime
    valid_to: AwareDatetime | None = None
    site_id: str | None = None
    queue: str | None = None
    resource: str = CORE_SECONDS
    per: int = 3600
    qos: str | None = None
    grade: str | None = None
    user_class: str | None = None
    project_id: str | None = None
    window: Window | None = None
    tier_from: int = 0
    zone: str = "UTC"
    tariff_id: str | None = None

    @property
    def scope(self) -> tuple[Any, ...]:
        """What makes two rules rivals: everything but the price, its dates and its tier."""
        places = (self.currency, self.resource, self.project_id, self.site_id, self.queue, self.qos, self.grade)
        return (*places, self.user_class, self.window, self.zone if self.window or self.tier_from else None)

    @property
    def specificity(self) -> tuple[bool, ...]:
        """The contract comes first, then the place, the grade, who it is, the hour; field by field in this order."""
        named = (self.project_id, self.site_id, self.queue, self.qos, self.grade, self.user_class, self.window)
        return tuple(part is not None for part in named)

    def applies(self, where: Scope) -> bool:
        """Whether the rule holds there at some time."""
        return (
            self.currency == where.currency
            and self.site_id in (None, where.site_id)
            and self.queue in (None, where.queue)
            and self.qos in (None, where.qos)
            and self.grade in (None, where.grade)
            and self.user_class in (None, where.user_class)
            and self.project_id in (None, where.project_id)
        )

    def valid_at(self, at: datetime) -> bool:
        if self.valid_from > at or (self.valid_to is not None and at >= self.valid_to):
            return False
        return self.window is None or self.window.holds(at, self.zone)


class Scope(Struct, frozen=True, gc=False):
    """Where and for whom something is priced."""

    currency: str
    site_id: str
    queue: str = ""
    qos: str = ""
    grade: str = ""
    user_class: str = ""
    project_id: str = ""
    agreed: bool = False  # whether an agreement holds there


@dataclass(frozen=True, slots=True)
class Discount:
    """A contract's prices are `numerator`/`denominator` of the tariff's in [valid_from, valid_to).

    `order_id`: of the priced order that has paid for what costs nothing here.
    `draws`: what is paid with an order is drawn from this commodity of the project (bound.py); None: no order's.
    """

    id: int
    project_id: str
    numerator: int
    denominator: int
    valid_from: datetime
    valid_to: datetime | None = None
    site_id: str | None = None
    grade: str | None = None
    resource: str | None = None
    reason: str = ""
    order_id: str | None = None
    draws: str | None = None

    def __post_init__(self) -> None:
        if self.numerator < 0 or self.denominator <= 0:
            raise ValueError("a discount is a ratio of non-negative integers")

    def applies(self, where: Scope, resource: str) -> bool:
        return (
            self.project_id == where.project_id
            and self.site_id in (None, where.site_id)
            and self.grade in (None, where.grade)
            and self.resource in (None, resource)
            and not (where.agreed and is_unagreed(self.draws))
        )

    def valid_at(self, at: datetime) -> bool:
        return self.valid_from <= at and (self.valid_to is None or at < self.valid_to)

    @property
    def place(self) -> tuple[str | None, ...]:
        return self.project_id, self.site_id, self.grade, self.resource

    @property
    def scope(self) -> tuple[Any, ...]:
        """What makes two of them rivals; one that an order paid goes before one that nobody did."""
        return *self.place, self.order_id is not None

    def precedence(self) -> tuple[Any, ...]:
        """The largest of those that hold at a moment counts."""
        return self.numerator == 0, self.order_id is not None, [part is not None for part in self.place], self.id


@dataclass(frozen=True, slots=True)
class Tariff:
    """A version of the prices under an agreement: one document, signed like it; from `valid_from` on it replaces
    the version before. Its rules carry id 0 until they are stored."""

    id: str
    version: int
    agreement_id: str
    valid_from: AwareDatetime
    rules: tuple[PriceRule, ...]

    @property
    def payload(self) -> bytes:
        """The canonical bytes that both sides sign."""
        return canonical(_TARIFF.dump_python(self, mode="json"))

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.payload).hexdigest()


_TARIFF = TypeAdapter(Tariff)


def tariff_of(payload: bytes | str) -> Tariff:
    """The tariff of its canonical bytes; ValueError says what is wrong."""
    return _TARIFF.validate_json(payload)


def problems(rules: Sequence[PriceRule]) -> list[str]:
    """Everything that is wrong with a set of rules, in words; overlaps of equal scope among it."""
    found = []
    for i, rule in enumerate(rules):
        if rule.price_micro < 0 or rule.per <= 0 or rule.tier_from < 0:
            found.append(f"rule {i}: prices and tiers are not negative, and `per` is more than nothing")
        if rule.valid_to is not None and rule.valid_to <= rule.valid_from:
            found.append(f"rule {i}: it ends before it begins")
        if rule.tier_from and not any(r.tier_from == 0 and tiers_with(rule, r) for r in rules):
            found.append(f"rule {i}: a tier needs a first one that begins at 0, with the same scope, zone and dates")
        found += [f"rules {j} and {i} overlap" for j in range(i) if overlaps(rules[j], rule)]
    return found


def overlaps(a: PriceRule, b: PriceRule) -> bool:
    """Whether two rules of equal scope and tier would both hold at some moment: such a tariff is refused."""
    if a.scope[:-2] != b.scope[:-2] or a.tier_from != b.tier_from or not _same_hours(a, b):
        return False
    a_ends_first = a.valid_to is not None and a.valid_to <= b.valid_from
    b_ends_first = b.valid_to is not None and b.valid_to <= a.valid_from
    return not (a_ends_first or b_ends_first)


def _same_hours(a: PriceRule, b: PriceRule) -> bool:
    """Two windows that share a minute of the week are rivals; a rule of all day gives way to one with a window."""
    if a.window is None or b.window is None:
        return a.window is b.window
    return a.zone != b.zone or a.window.meets(b.window)


def rule_at(rules: Sequence[PriceRule], at: datetime) -> PriceRule | None:
    """The rule that prices a moment, among rules that apply, in its lowest tier; None where there is no price."""
    valid = [rule for rule in rules if rule.valid_at(at)]
    return max(valid, key=lambda rule: (rule.specificity, -rule.tier_from, rule.id), default=None)


def list_rule_at(rules: Sequence[PriceRule], at: datetime) -> PriceRule | None:
    """The list price of a moment, of which a centre has its share: by what it signed, else by the operator's price for
    everybody; None where there is neither."""
    signed = rule_at([rule for rule in rules if rule.tariff_id is not None], at)
    return signed or rule_at([rule for rule in rules if rule.project_id is None], at)


def tiers_of(rules: Sequence[PriceRule], first: PriceRule) -> list[PriceRule]:
    """The tiers that go with a first one, ascending: same scope, same dates."""
    same = [r for r in rules if r.tier_from and tiers_with(r, first)]
    return [first, *sorted(same, key=lambda rule: rule.tier_from)]


def tiers_with(rule: PriceRule, first: PriceRule) -> bool:
    """Whether a rule is a further tier of a first one."""
    return (rule.scope[:-1], rule.zone, rule.valid_from, rule.valid_to) == (
        first.scope[:-1], first.zone, first.valid_from, first.valid_to,
    )  # fmt: skip
