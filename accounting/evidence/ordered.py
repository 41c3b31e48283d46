"""What was ordered, for a bundle: the orders whose prices stand on its documents or in its settlement, with their
leaves, so that each price can be divided again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Select, select

from accounting.evidence import log
from accounting.evidence.documents import order_price
from accounting.store.schema import ENTRIES, ORDER_PRICES


def orders(conn: Connection, entry_ids: Select[Any], size: int) -> Iterator[dict[str, Any]]:
    """The order of each of these entries that is one's price, as far as a tree of this size knows it."""
    for row in map(dict[str, Any], _prices(conn, entry_ids)):
        leaf = log.find(conn, "order", row["allocation_id"])
        if leaf is not None and leaf.seq < size:
            yield {"t": "leaf", "seq": leaf.seq, "leaf": json.loads(leaf.payload), "content": order_price(row)}


def agreements(conn: Connection, entry_ids: Select[Any]) -> set[tuple[str, int]]:
    """(id, version) of the agreements that divided these prices."""
    return {(r["agreement_id"], int(r["agreement_version"])) for r in _prices(conn, entry_ids) if r["agreement_id"]}


def _prices(conn: Connection, entry_ids: Select[Any]) -> list[Any]:
    query = select(ORDER_PRICES, ENTRIES.c.idem_key.label("entry"))
    query = query.join(ENTRIES, ENTRIES.c.id == ORDER_PRICES.c.entry_id).where(ORDER_PRICES.c.entry_id.in_(entry_ids))
    return list(conn.execute(query.order_by(ORDER_PRICES.c.entry_id)).mappings())
