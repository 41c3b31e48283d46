"""Check what orders cost: each price is what was ordered, as its entry divided it, and is billed at most once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, func, select

from accounting.ledger import TAX
from accounting.month_parts import price_of
from accounting.store.orders import CANCELED
from accounting.store.schema import ACCOUNTS, ENTRIES, ORDER_ITEMS, ORDER_PRICES, ORDERS, POSTINGS


def order_prices_off(conn: Connection) -> list[str]:
    """Every price of an order that is not as it should be, in words."""
    moved, billed = _moved(conn), _billed(conn)
    query = (
        select(ORDER_PRICES, ENTRIES.c.idem_key, ORDERS.c.price_micro.label("ordered"))
        .outerjoin(ENTRIES, ENTRIES.c.id == ORDER_PRICES.c.entry_id)
        .outerjoin(ORDERS, ORDERS.c.id == ORDER_PRICES.c.order_id)
    )
    return [f"price of {row.allocation_id}: {what}" for row in conn.execute(query)
            for what in _wrong(row, moved.get(row.entry_id, {}), billed.get(row.allocation_id, {}))]  # fmt: skip


def _wrong(row: Any, moved: dict[str, int], billed: dict[str, int]) -> Iterator[str]:
    price, centre, tax = int(row.price_micro), int(row.centre_micro), int(row.tax_micro)
    if row.idem_key != f"order-price:{row.allocation_id}":
        yield f"its entry is {row.idem_key}"
    if row.allocation_id.endswith(CANCELED):
        if not 0 < -price <= row.ordered:
            yield f"{-price} went back, ordered at {row.ordered}"
    elif price not in _prices(row):
        yield f"{price}, ordered at {row.ordered}"
    parts = {"": price} if row.payers is None else {k: int(v) for k, v in row.payers.items()}
    if sum(parts.values()) != price:
        yield f"payers owe {sum(parts.values())} of {price}"
    owes = f"project:{row.project_id}:usage"
    expected = {owes + (f":{payer}" if payer else ""): part for payer, part in parts.items()}
    found = {code: amount for code, amount in moved.items() if code.startswith("project:")}
    if {c: a for c, a in found.items() if a} != {c: a for c, a in expected.items() if a}:
        yield f"it is owed {expected}, booked is {found}"
    earned = -sum(amount for code, amount in moved.items() if code.startswith("centre:"))
    if (earned, -moved.get(TAX, 0)) != (centre, tax):
        yield f"the centre's {centre} and the tax {tax}, booked are {earned} and {-moved.get(TAX, 0)}"
    for part, amount in billed.items():
        if parts.get(part) != amount:
            yield f"{amount} is billed as the part of {part!r}, it is {parts.get(part)}"


def _prices(row: Any) -> set[int]:
    """What it may cost: what was ordered, or of a month of a subscription the part of its days."""
    whole = int(row.ordered)
    if row.month_zone is None:
        return {whole}
    if int(row.month_micro) != whole:
        return set()
    return {whole, price_of(whole, row.service_start, row.service_end, row.month_zone)}


def _moved(conn: Connection) -> dict[int, dict[str, int]]:
    """What each entry of a price moved in its currency, by account."""
    query = (
        select(POSTINGS.c.entry_id, ACCOUNTS.c.code, func.sum(POSTINGS.c.amount))
        .join(ACCOUNTS, ACCOUNTS.c.id == POSTINGS.c.account_id)
        .join(ORDER_PRICES, (ORDER_PRICES.c.entry_id == POSTINGS.c.entry_id)
              & (ORDER_PRICES.c.currency == ACCOUNTS.c.commodity))
        .group_by(POSTINGS.c.entry_id, ACCOUNTS.c.code)
    )  # fmt: skip
    found: dict[int, dict[str, int]] = defaultdict(dict)
    for entry_id, code, amount in conn.execute(query):
        found[entry_id][code] = int(amount)
    return found


def _billed(conn: Connection) -> dict[str, dict[str, int]]:
    """What of each price stands on documents, by payer's part."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for row in conn.execute(select(ORDER_ITEMS)):
        found[row.allocation_id][row.part] = int(row.amount_micro)
    return found
