"""What was ordered, for a bundle: the orders whose prices stand on its documents, in its settlement or in its period,
and those that have paid for its runs, with their leaves, so that each price can be divided again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Set
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, String, cast, or_, select

from accounting.evidence import log
from accounting.evidence.about import About
from accounting.evidence.documents import order_price
from accounting.evidence.outbox import ENTRY
from accounting.store.orders import CANCELED
from accounting.store.schema import AGREEMENTS, DISCOUNTS, ENTRIES, ORDER_PRICES


def orders(conn: Connection, size: int, *entry_ids: Select[Any]) -> Iterator[dict[str, Any]]:
    """The order of each of these entries that is one's price, as far as a tree of this size knows it."""
    for row in map(dict[str, Any], _prices(conn, *entry_ids)):
        leaf = log.find(conn, "order", row["allocation_id"])
        if leaf is not None and leaf.seq < size:
            yield {"t": "leaf", "seq": leaf.seq, "leaf": json.loads(leaf.payload), "content": order_price(row)}


def paying(
    conn: Connection, agreements: Set[tuple[str, int]], projects: Set[str], until: datetime
) -> Select[Any]:  # fmt: skip
    """The entries of the prices that have paid for runs of these projects at the sites of these agreements."""
    rows = conn.execute(select(AGREEMENTS.c.id, AGREEMENTS.c.version, AGREEMENTS.c.payload))
    sites = {site for r in rows if (r.id, r.version) in agreements for site in json.loads(r.payload)["site_ids"]}
    paid = select(DISCOUNTS.c.order_id).where(
        DISCOUNTS.c.order_id.is_not(None), DISCOUNTS.c.project_id.in_(sorted(projects)),
        DISCOUNTS.c.site_id.in_(sorted(sites)),
    )  # fmt: skip
    query = select(ORDER_PRICES.c.entry_id).where(ORDER_PRICES.c.order_id.in_(paid))
    query = query.where(ORDER_PRICES.c.service_start < until)
    return query.where(~ORDER_PRICES.c.allocation_id.endswith(CANCELED))


def agreements(conn: Connection, *entry_ids: Select[Any]) -> set[tuple[str, int]]:
    """(id, version) of the agreements that divided these prices."""
    return {(r["agreement_id"], int(r["agreement_version"])) for r in _prices(conn, *entry_ids) if r["agreement_id"]}


def entries_of(conn: Connection, about: About, size: int) -> list[tuple[int, int]]:
    """(entry, leaf number) of the prices that count in the period of a project or a centre, in the order of the log."""
    leaf = (log.LEAVES.c.kind == ENTRY) & (log.LEAVES.c.ref == cast(ENTRIES.c.id, String))
    query = select(ENTRIES.c.id, log.LEAVES.c.seq).join(log.LEAVES, leaf)
    query = query.where(ENTRIES.c.id.in_(within(about)), log.LEAVES.c.seq < size).order_by(log.LEAVES.c.seq)
    return [(int(i), int(seq)) for i, seq in conn.execute(query)]


def within(about: About) -> Select[Any]:
    """The entries of the prices that count in the period of a project, of a centre, or of both."""
    query = select(ORDER_PRICES.c.entry_id).join(ENTRIES, ENTRIES.c.id == ORDER_PRICES.c.entry_id)
    query = query.where(ENTRIES.c.effective_at >= about.start, ENTRIES.c.effective_at < about.end)
    if about.project_id is not None:
        query = query.where(ORDER_PRICES.c.project_id == about.project_id)
    return query if about.site_id is None else query.where(ORDER_PRICES.c.site_id == about.site_id)


def billed(conn: Connection, about: About, size: int) -> list[dict[str, str]]:
    """What orders cost, for a bill that is no document: each price by its entry, as far as a tree of this size goes."""
    logged = [entry for entry, _ in entries_of(conn, about, size)]
    return [
        {"entry": r["entry"], "order": r["order_id"], "site": r["site_id"], "currency": r["currency"],
         "amount": str(r["price_micro"])}
        for r in _prices(conn, select(ENTRIES.c.id).where(ENTRIES.c.id.in_(logged)))
    ]  # fmt: skip


def _prices(conn: Connection, *entry_ids: Select[Any]) -> list[Any]:
    query = select(ORDER_PRICES, ENTRIES.c.idem_key.label("entry"))
    among = or_(*(ORDER_PRICES.c.entry_id.in_(some) for some in entry_ids))
    query = query.join(ENTRIES, ENTRIES.c.id == ORDER_PRICES.c.entry_id).where(among)
    return list(conn.execute(query.order_by(ORDER_PRICES.c.entry_id)).mappings())
