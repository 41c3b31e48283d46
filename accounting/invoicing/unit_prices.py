"""What a line's amount is made of: how much of what at which price, from the charges that stand on it.

Charges and prices are only ever appended, so that a document has the same steps for ever; they are shown beside what
was issued, and are no part of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, func, select

from accounting.invoicing.invoice import Document, Line, LineKind
from accounting.invoicing.items import ITEMS
from accounting.ledger import resource_of
from accounting.minor_units import divide
from accounting.store.prices import tariffs
from accounting.store.schema import CHARGES, ORDER_PRICES
from accounting.tariff import PriceRule, tiers_of

_AT_ONCE = 5_000


@dataclass(frozen=True, slots=True)
class Step:
    """`quantity` of `resource` at `price_micro` for `per` of it, times `numerator`/`denominator`, is `amount_micro`.

    `rule`: when and where this price holds; None for an order. `tiers`: the prices of a month's further use, where the
    amount goes by them. Of a payer's part, quantity and amount are that part.
    """

    resource: str
    quantity: int
    amount_micro: int
    price_micro: int
    per: int
    numerator: int = 1
    denominator: int = 1
    rule: PriceRule | None = None
    tiers: tuple[PriceRule, ...] = ()


_Key = tuple[int, str, int, int, int, int]


def steps_of(conn: Connection, doc: Document) -> dict[int, list[Step]]:
    """The steps of each line by its number, the largest amount first. Lines that somebody decided have none."""
    found: dict[int, list[Step]] = {}
    rules = tariffs(conn)
    usage = {(x.site_id, x.user_id, x.service_start): x for x in doc.lines if _is_usage(x)}
    for key, sums in _summed(conn, doc.number).items():
        if key in usage:
            found[usage[key].number] = list(_steps(sums, rules))
    for line in doc.lines:
        if line.kind is LineKind.ORDER and (step := _of_order(conn, line)) is not None:
            found[line.number] = [step]
    return found


def _is_usage(line: Line) -> bool:
    return line.kind in (LineKind.USAGE, LineKind.CORRECTION)


def _summed(conn: Connection, number: str) -> dict[Any, dict[tuple[_Key, bool], list[int]]]:
    """Quantity and micro-units by price, of each site, person and month; both are a part where a payer's part is
    billed."""
    found: dict[Any, dict[tuple[_Key, bool], list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for row in _rows(conn, number):
        sums = found[row.site_id, row.user_id, row.service_start]
        sign = -1 if row.kind == "reversal" else 1
        part = None if not row.part else (row.amount_micro, row.whole_micro)
        for segment, quantity, micro in _shared(row.segments, sign, part):
            key = (segment["rule"], segment["resource"], segment["price_micro"], segment["per"],
                   segment.get("numerator", 1), segment.get("denominator", 1))  # fmt: skip
            at = sums[key, bool(segment.get("tier_key"))]
            at[0], at[1] = at[0] + quantity, at[1] + micro
    return found


def _rows(conn: Connection, number: str) -> Iterator[Any]:
    """What stands on a document with its arithmetic, some thousand charges at a time: a month may have a million."""
    query = (
        select(ITEMS.c.kind, ITEMS.c.charge_id, ITEMS.c.part, ITEMS.c.site_id, ITEMS.c.user_id, ITEMS.c.service_start,
               ITEMS.c.amount_micro, CHARGES.c.amount_micro.label("whole_micro"), CHARGES.c.segments)
        .join(CHARGES, CHARGES.c.id == ITEMS.c.charge_id).where(ITEMS.c.document == number)
        .order_by(ITEMS.c.charge_id).limit(_AT_ONCE)
    )  # fmt: skip
    rows = list(conn.execute(query))
    while rows:
        last = rows[-1].charge_id if len(rows) == _AT_ONCE else None  # the next page has all of this one
        yield from (row for row in rows if row.charge_id != last)
        if last is None:
            return
        rows = list(conn.execute(query.where(ITEMS.c.charge_id >= last)))


def _shared(
    segments: Sequence[Mapping[str, Any]], sign: int, part: tuple[int, int] | None
) -> Iterator[tuple[Mapping[str, Any], int, int]]:
    """Each segment with its quantity and micro-units; of a part, the last one has what rounding left of it."""
    if part is None:
        yield from ((s, sign * s["quantity"], sign * s["amount_micro"]) for s in segments)
        return
    share, whole = part
    left = share
    for n, s in enumerate(segments, 1):
        micro = left if n == len(segments) or not whole else sign * divide(s["amount_micro"] * abs(share), abs(whole))
        left -= micro
        yield s, sign * (divide(s["quantity"] * abs(share), abs(whole)) if whole else s["quantity"]), micro


def _steps(sums: Mapping[tuple[_Key, bool], list[int]], rules: Sequence[PriceRule]) -> Iterator[Step]:
    """Versions of a price that say the same are one step."""
    by_id = {rule.id: rule for rule in rules}
    found: dict[tuple[Any, ...], Step] = {}
    for (key, is_tiered), (quantity, micro) in sorted(sums.items()):
        rule_id, resource, price, per, numerator, denominator = key
        rule = by_id.get(rule_id)
        tiers = tuple(tiers_of(rules, rule)[1:]) if is_tiered and rule is not None else ()
        where = (rule.window, rule.zone if rule.window else "", rule.queue, rule.grade, rule.qos) if rule else None
        same = (key[1:], where, tuple((t.tier_from, t.price_micro, t.per) for t in tiers))
        before = found.get(same, Step(resource, 0, 0, price, per, numerator, denominator, rule, tiers))
        found[same] = replace(before, quantity=before.quantity + quantity, amount_micro=before.amount_micro + micro)
    yield from sorted((s for s in found.values() if s.quantity or s.amount_micro), key=lambda s: -abs(s.amount_micro))


def _of_order(conn: Connection, line: Line) -> Step | None:
    ordered = line.ordered
    assert ordered is not None
    query = select(ORDER_PRICES.c.price_micro, func.abs(ORDER_PRICES.c.quantity).label("quantity"))
    row = conn.execute(query.where(ORDER_PRICES.c.allocation_id == ordered.allocation_id)).one_or_none()
    if row is None or not row.price_micro or not row.quantity:
        return None
    whole = abs(int(row.price_micro))
    quantity = divide(int(row.quantity) * line.amount_micro, whole)
    return Step(resource_of(ordered.commodity), quantity, line.amount_micro, whole, int(row.quantity))
