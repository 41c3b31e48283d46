"""Price usage: a tariff and a metered record make a charge, split wherever the price changes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from msgspec import Struct

from accounting.calendar import month_edges, month_of
from accounting.charge import Charge, Listed, Segment
from accounting.meter import Metered
from accounting.tariff import MINIMUM, Discount, PriceRule, Scope, list_rule_at, rule_at, tiers_of
from accounting.tier_counts import TierCounts
from accounting.usage import UsageRecord

# As much as an order or an invoice may name: sums of dozens of them still fit into 64 bits.
CHARGE_MICRO_MAX = 10**17
# In place of a discount's number: the count of what was charged otherwise than at a tiered list price.
LIST = "list"


class NoPrice(Exception):
    """No rule of the tariff prices a moment of this run."""


def rate(quantity: int, price_micro: int, per: int = 3600) -> int:
    """Micro-units for a quantity at a price for `per` units, half up, exact in integers (accounting.md, trap 24)."""
    whole, rest = divmod(quantity, per)
    return whole * price_micro + (2 * rest * price_micro + per) // (2 * per)


class PriceBook:
    """Rules and discounts, looked up once for each scope that is asked for."""

    def __init__(self, rules: Sequence[PriceRule], discounts: Sequence[Discount] = ()) -> None:
        self._rules = tuple(rules)
        self._discounts = tuple(discounts)
        self._by_id = {rule.id: rule for rule in rules}
        self._drawn = {ratio.id: ratio.draws for ratio in discounts}
        self._resources = {rule.resource for rule in rules}
        self._scoped: dict[tuple[Scope, str], tuple[PriceRule, ...]] = {}
        self._contract: dict[tuple[Scope, str], tuple[Discount, ...]] = {}
        self._by_scope: dict[Scope, dict[str, Timeline | None]] = {}
        self._timelines: dict[tuple[Any, ...], Timeline] = {}
        self._tiers: dict[int, tuple[PriceRule, ...]] = {}
        self._of_key: dict[str, tuple[tuple[PriceRule, ...], int, int]] = {}
        self.has_tiers = any(rule.tier_from for rule in rules)
        self.has_orders = any(self._drawn.values())

    def prices(self, resource: str) -> bool:
        return resource in self._resources

    def grades(self, *, site_id: str, currency: str, at: datetime) -> set[str]:
        """The service grades that have a price of their own at a site."""
        return {
            rule.grade for rule in self._rules
            if rule.grade and rule.currency == currency and rule.site_id in (None, site_id)
            and rule.valid_from <= at and (rule.valid_to is None or at < rule.valid_to)
        }  # fmt: skip

    def rules(self, where: Scope, resource: str) -> tuple[PriceRule, ...]:
        """Every rule for a resource that holds there at some time."""
        key = (where, resource)
        found = self._scoped.get(key)
        if found is None:
            found = tuple(r for r in self._rules if r.resource == resource and r.applies(where))
            self._scoped[key] = found
        return found

    def discounts(self, where: Scope, resource: str) -> tuple[Discount, ...]:
        key = (where, resource)
        found = self._contract.get(key)
        if found is None:
            found = tuple(d for d in self._discounts if d.applies(where, resource))
            self._contract[key] = found
        return found

    def discount(self, where: Scope, resource: str, at: datetime) -> Discount | None:
        """The contract's discount at a moment: what an order paid first, then what is free, then the narrowest."""
        valid = [d for d in self.discounts(where, resource) if d.valid_at(at)]
        return max(valid, key=Discount.precedence, default=None)

    def drawn(self, discount_id: int | None) -> str | None:
        """What is drawn by what a ratio prices; None: nothing that was bought."""
        return None if discount_id is None else self._drawn.get(discount_id)

    def drawn_at(self, where: Scope, resource: str, at: datetime) -> str | None:
        """What is drawn there at a moment; None: nothing that was bought."""
        ratio = self.discount(where, resource, at)
        return None if ratio is None else ratio.draws

    def timelines(self, where: Scope) -> dict[str, Timeline | None]:
        """The prices there by resource, as far as they were asked for: to be filled by `timeline`."""
        found = self._by_scope.get(where)
        if found is None:
            found = self._by_scope[where] = {}
        return found

    def timeline(self, where: Scope, resource: str) -> Timeline | None:
        """When a resource costs what there; None where nothing ever prices it."""
        known = self.timelines(where)
        if resource not in known:
            known[resource] = self._timeline(where, resource)
        return known[resource]

    def _timeline(self, where: Scope, resource: str) -> Timeline | None:
        """Scopes to which the same rules and discounts apply have one timeline."""
        rules, ratios = self.rules(where, resource), self.discounts(where, resource)
        if not rules:
            return None
        # Rules that are not stored yet have no number: a timeline for this scope alone.
        of_rules: Any = where if any(r.id == 0 for r in rules) else tuple(r.id for r in rules)
        key = (resource, of_rules, tuple(d.id for d in ratios))
        if key not in self._timelines:
            self._timelines[key] = Timeline(self, where, resource, rules)
        return self._timelines[key]

    def tiers(self, rule_id: int) -> tuple[PriceRule, ...]:
        """The tiers that belong to a first one, ascending; itself alone where its price is flat."""
        found = self._tiers.get(rule_id)
        if found is None:
            found = self._tiers[rule_id] = tuple(tiers_of(self._rules, self._by_id[rule_id]))
        return found

    def month_price(self, tier_key: str, quantity: int) -> int:
        """What a month's total of one count costs."""
        found = self._of_key.get(tier_key)
        if found is None:
            rule_id, discount_id = tier_key.split(":")[:2]
            ratio = next((d for d in self._discounts if str(d.id) == discount_id), None)
            numerator, denominator = (1, 1) if ratio is None else (ratio.numerator, ratio.denominator)
            found = self._of_key[tier_key] = (self.tiers(int(rule_id)), numerator, denominator)
        return tiered(quantity, *found)


def tiered(quantity: int, tiers: Sequence[PriceRule], numerator: int = 1, denominator: int = 1) -> int:
    """The price of a month's total: each tier's part at its own price, each rounded half up once."""
    total = 0
    bounds = [t.tier_from for t in tiers[1:]] + [None]
    for tier, bound in zip(tiers, bounds, strict=True):
        part = (quantity if bound is None else min(quantity, bound)) - tier.tier_from
        if part > 0:
            total += rate(part, tier.price_micro * numerator, tier.per * denominator)
    return total


def price(
    record: UsageRecord, metered: Metered, book: PriceBook, where: Scope, *, counts: TierCounts | None = None,
    listed: bool = False,
) -> Charge:  # fmt: skip
    """Charge a run; raises `NoPrice` where some of it has none. `counts` is moved on where prices have tiers.

    `listed`: by an agreement, so that the list price counts beside what is charged.
    """
    if not metered.quantities:
        return Charge(where.currency, 0, 0, (), metered.rule)
    start, end = record.start_time, record.end_time
    if start is None or end is None:
        raise NoPrice("a run with usage has no start or no end")
    counts = counts or TierCounts(where.project_id)
    known = book.timelines(where)
    spans: list[tuple[str, int, list[Span]]] = []
    for resource, quantity in metered.quantities.items():
        timeline = known[resource] if resource in known else book.timeline(where, resource)
        if timeline is None:
            continue
        try:  # all of them before a count is moved: one that has no price moves none
            spans.append((resource, quantity, timeline.spans(start, end)))
        except NoPrice as exc:
            raise NoPrice(f"{where.site_id}/{where.queue}, {where.currency}: {exc}") from None
    segments = [
        s for resource, quantity, found in spans
        for s in _segments(resource, quantity, found, book, end, counts, listed)
    ]  # fmt: skip
    if not segments:
        raise NoPrice(
            f"{where.site_id}/{where.queue} has no {where.currency} price for {', '.join(metered.quantities)}"
        )
    total = sum(s.amount_micro for s in segments)
    if book.prices(MINIMUM) and (least := _minimum(book, where, start, end, segments)) is not None:
        segments.append(least)
        total += least.amount_micro
    at_list = max(total, list_total(book, where, start, segments)) if listed else total
    if at_list > CHARGE_MICRO_MAX:
        for s in segments:
            if s.tier_key:
                counts.remove(s.tier_key, s.quantity, s.amount_micro)
            if s.listed is not None and s.listed.tier_key:
                counts.remove(s.listed.tier_key, s.quantity, s.listed.amount_micro)
        raise NoPrice(f"{at_list} micro-{where.currency} is no price of a run: look at the tariff, or at the record")
    return Charge(where.currency, total, metered.core_seconds, tuple(segments), metered.rule, metered.bears, at_list)


def list_total(book: PriceBook, where: Scope, start: datetime | None, segments: Sequence[Segment]) -> int:
    """What segments cost at the list price, and no less than a run does there; what an order paid costs nothing.

    Where nothing was used no run is priced: such segments bring the month's counts to what they come to.
    """
    priced = [s for s in segments if s.resource != MINIMUM]
    total = sum(s.amount_micro if s.listed is None else s.listed.amount_micro for s in priced)
    charged = any(s.quantity for s in priced) and not any(s.is_paid for s in priced)
    if start is None or not charged or not book.prices(MINIMUM):
        return total
    least = list_rule_at(book.rules(where, MINIMUM), start)
    return total if least is None else max(total, least.price_micro)


def quote(book: PriceBook, where: Scope, quantities: dict[str, int], at: datetime, *, runs: int = 1) -> int | None:
    """Micro-units for quantities of `runs` runs at the prices of this moment, in their first tier, and no less than
    such runs cost; None where there is no price."""
    total, priced, paid_otherwise = 0, False, False
    for resource, quantity in quantities.items():
        rule = rule_at(book.rules(where, resource), at)
        if rule is not None:
            priced = True
            ratio = book.discount(where, resource, at)
            numerator, denominator = (1, 1) if ratio is None else (ratio.numerator, ratio.denominator)
            total += rate(quantity, rule.price_micro * numerator, rule.per * denominator)
            paid_otherwise = paid_otherwise or numerator == 0
    least = rule_at(book.rules(where, MINIMUM), at) if book.prices(MINIMUM) and not paid_otherwise else None
    if not priced or least is None:
        return total if priced else None
    return max(total, least.price_micro * runs)


def split(quantity: int, weights: Sequence[int]) -> list[int]:
    """Share a quantity by weights into whole units that sum to it exactly (largest remainder, earlier first)."""
    total = sum(weights)
    if total == 0:
        return [quantity] + [0] * (len(weights) - 1)
    shares = [quantity * weight // total for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(quantity * weights[i] % total), i))
    for i in by_remainder[: quantity - sum(shares)]:
        shares[i] += 1
    return shares


def boundaries(
    rules: Sequence[PriceRule], start: datetime, end: datetime, discounts: Sequence[Discount] = ()
) -> list[datetime]:
    """The moments strictly inside (start, end) at which the price may change, ascending (traps 7 and 25)."""
    moments: set[datetime] = set()
    dates = [(r.valid_from, r.valid_to) for r in rules] + [(d.valid_from, d.valid_to) for d in discounts]
    for valid_from, valid_to in dates:
        moments.add(valid_from)
        if valid_to is not None:
            moments.add(valid_to)
    for window, zone in {(r.window, r.zone) for r in rules if r.window is not None}:
        moments |= window.edges(start, end, zone)
    for zone in {r.zone for r in rules if r.tier_from}:
        moments |= month_edges(start, end, zone)
    return sorted(moment for moment in moments if start < moment < end)


def _segments(
    resource: str, quantity: int, spans: Sequence[Span], book: PriceBook, end: datetime, counts: TierCounts,
    listed: bool,
) -> list[Segment]:  # fmt: skip
    if len(spans) == 1:
        return [_segment(resource, quantity, spans[0][1], book, spans[0][0], end, counts, listed)]
    begins = [begin for begin, _ in spans]
    ends = [*begins[1:], end]
    shares = split(quantity, [_microseconds(a, b) for a, b in zip(begins, ends, strict=True)])
    return [
        _segment(resource, share, priced, book, begin, finish, counts, listed)
        for (begin, priced), finish, share in zip(spans, ends, shares, strict=True)
    ]


class Timeline:
    """What a resource costs in one scope, moment by moment: worked out once for months, and looked up for many runs."""

    # A run from further away than this is worked out by itself: a wrong date must not fill the memory with decades.
    _FAR = timedelta(days=400)

    def __init__(self, book: PriceBook, where: Scope, resource: str, rules: Sequence[PriceRule]) -> None:
        self._book, self._where, self._resource, self._rules = book, where, resource, rules
        self._discounts = book.discounts(where, resource)
        self._timed = not resource.startswith("unit:")  # what is counted, not timed, happened at the price of its start
        # (from, to, moments, prices): put here at once, as other threads may look.
        self._known: tuple[datetime, datetime, list[datetime], list[Price | None]] | None = None

    def spans(self, start: datetime, end: datetime) -> list[Span]:
        """[start, end) in spans of one price; raises `NoPrice` where a moment of it has none."""
        known = self._known
        if known is not None and known[0] <= start and end <= known[1]:
            _, _, moments, prices = known
        else:
            moments, prices = self._reach(start, end)
        at = bisect_right(moments, start) - 1
        found: list[Span] = []
        moment: datetime = start
        while True:
            price = prices[at]
            if price is None:
                raise NoPrice(f"no price of {self._resource} at {moment.isoformat()}")
            found.append((moment, price))
            at += 1
            if at == len(moments) or (moment := moments[at]) >= end or not self._timed:
                return found

    def _reach(self, start: datetime, end: datetime) -> tuple[list[datetime], list[Price | None]]:
        """Work out the months around [start, end) as well, where they are not far from what is known."""
        low, high = start - timedelta(days=31), end + timedelta(days=31)
        if self._known is not None:
            low, high = min(low, self._known[0]), max(high, self._known[1])
        if end - start > self._FAR or high - low > 2 * self._FAR:
            return self._worked_out(start, end)
        moments, prices = self._worked_out(low, high)
        self._known = (low, high, moments, prices)
        return moments, prices

    def _worked_out(self, low: datetime, high: datetime) -> tuple[list[datetime], list[Price | None]]:
        moments: list[datetime] = []
        prices: list[Price | None] = []
        for moment in (low, *boundaries(self._rules, low, high, self._discounts)):
            price = _price_at(self._rules, self._book, self._where, self._resource, moment)
            if not prices or prices[-1] != price:  # a boundary that changes nothing is none
                moments.append(moment)
                prices.append(price)
        return moments, prices


class Price(Struct, frozen=True, gc=False):
    """What holds at a moment; `tier_key` where it goes by a month's count. `listed`: the list price, where it is
    another one (and its count)."""

    rule: PriceRule
    discount: Discount | None
    tier_key: str
    listed: PriceRule | None = None
    list_key: str = ""


Span = tuple[datetime, Price]  # from when on which price holds


def _price_at(rules: Sequence[PriceRule], book: PriceBook, where: Scope, resource: str, at: datetime) -> Price | None:
    rule = rule_at(rules, at)
    if rule is None:
        return None
    discount = book.discount(where, resource, at)
    key = _tier_key(book, rule, "" if discount is None else str(discount.id), at)
    if discount is not None and discount.order_id is not None:
        return Price(rule, discount, key)
    listed = list_rule_at(rules, at) or rule
    if discount is None and listed is rule:
        return Price(rule, discount, key)
    return Price(rule, discount, key, listed, _tier_key(book, listed, LIST, at))


def _tier_key(book: PriceBook, rule: PriceRule, of: str, at: datetime) -> str:
    """The count that a price goes by at a moment; empty where it has no tiers."""
    return f"{rule.id}:{of}:{month_of(at, rule.zone).start.isoformat()}" if len(book.tiers(rule.id)) > 1 else ""


def _segment(
    resource: str, quantity: int, priced: Price, book: PriceBook, begin: datetime, finish: datetime,
    counts: TierCounts, listed: bool,
) -> Segment:  # fmt: skip
    rule, ratio = priced.rule, priced.discount
    numerator, denominator = (1, 1) if ratio is None else (ratio.numerator, ratio.denominator)
    before = None
    if priced.tier_key:
        before = counts.count(priced.tier_key)
        amount = counts.add(priced.tier_key, quantity, book)
    else:
        amount = rate(quantity, rule.price_micro * numerator, rule.per * denominator)
    return Segment(begin, finish, resource, quantity, rule.id, rule.price_micro, rule.per, amount, numerator,
                   denominator, None if ratio is None else ratio.id, priced.tier_key, before,
                   _listed(quantity, priced, book, counts) if listed else None)  # fmt: skip


def _listed(quantity: int, priced: Price, book: PriceBook, counts: TierCounts) -> Listed | None:
    rule, key = priced.listed, priced.list_key
    if rule is None:
        return None
    if not key:
        return Listed(rule.id, rule.price_micro, rule.per, rate(quantity, rule.price_micro, rule.per))
    before = counts.count(key)
    return Listed(rule.id, rule.price_micro, rule.per, counts.add(key, quantity, book), key, before)


def _minimum(
    book: PriceBook, where: Scope, start: datetime, end: datetime, segments: Sequence[Segment]
) -> Segment | None:
    """What a run lacks of the least that one costs; nothing where a part of it is paid otherwise (a ratio of 0)."""
    rule = rule_at(book.rules(where, MINIMUM), start)
    total = sum(s.amount_micro for s in segments)
    if rule is None or total >= rule.price_micro or any(s.numerator == 0 for s in segments):
        return None
    return Segment(start, end, MINIMUM, 0, rule.id, rule.price_micro, rule.per, rule.price_micro - total)


def _microseconds(a: datetime, b: datetime) -> int:
    delta = b - a
    return (delta.days * 86400 + delta.seconds) * 1_000_000 + delta.microseconds
