"""What an order costs at least: a block for next to nothing would be a discount that its centre never agreed to."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Connection

from accounting.errors import AccountingError
from accounting.ledger import resource_of
from accounting.money import format_micro
from accounting.price import rate
from accounting.store.contracts import contracts
from accounting.store.orders import Order, agreement_for, pays_at
from accounting.store.prices import tariffs


def assert_not_below_list(conn: Connection, order: Order) -> None:
    """An order is not sold below the lowest price that its centre signed for what it gives, unless the centre bears
    discounts by its agreement. Raises `AccountingError` with that price."""
    agreement = agreement_for(conn, order, order.starts_at)
    if not order.price_micro or agreement is None or not agreement.discounts_borne.operator:
        return
    floor = _floor(conn, order, pays_at(order, agreement), order.starts_at)
    if floor is not None and order.price_micro < floor:
        raise AccountingError(
            f"{order.amount} {order.commodity} cost at least {format_micro(floor)} {order.currency} by what "
            f"{agreement.centre_id} signed; for less, let the centre sign a price for the project, or give a voucher"
        )


def _floor(conn: Connection, order: Order, sites: Collection[str | None], at: datetime) -> int | None:
    """By the cheapest signed rule of any queue, grade, hour and volume; None where none prices it."""
    user_class = contracts(conn, order.project_id).terms(order.project_id, at).user_class
    prices = [
        rate(order.amount, r.price_micro, r.per) for r in tariffs(conn)
        if r.tariff_id is not None and r.resource == resource_of(order.commodity) and r.currency == order.currency
        and r.site_id in sites and r.project_id in (None, order.project_id) and r.user_class in (None, user_class)
        and r.valid_from <= at and (r.valid_to is None or at < r.valid_to)
    ]  # fmt: skip
    return min(prices, default=None)
