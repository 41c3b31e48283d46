"""What charges were priced on, for a bundle: prices and when they ended, discounts, who pays for a project in which
parts, agreements and tariffs with the signatures under them; each with its leaf."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Connection, String, cast, select

from accounting.evidence import log
from accounting.evidence.documents import discount, discount_end, price_end, price_rule, project_terms
from accounting.store.schema import AGREEMENTS, DISCOUNT_ENDS, DISCOUNTS, KEYS, RULES, SIGNATURES, TARIFFS, TERMS

Named = tuple[str, int]  # id and version of an agreement


def terms(
    conn: Connection, size: int, agreements: Iterable[Named], projects: Iterable[str]
) -> Iterator[dict[str, Any]]:
    """Every price: which of them apply is for the reader to see. Of agreements those that are named, and the tariffs
    under them; of discounts those of these projects."""
    named = set(agreements)
    yield from _of(conn, "price_rule", RULES, size, price_rule)
    yield from _of(conn, "price_end", RULES, size, price_end)
    mine = sorted(projects)
    yield from _of(conn, "discount", DISCOUNTS, size, discount, DISCOUNTS.c.project_id.in_(mine))
    ended = DISCOUNT_ENDS.c.id.in_(select(DISCOUNTS.c.id).where(DISCOUNTS.c.project_id.in_(mine)))
    yield from _of(conn, "discount_end", DISCOUNT_ENDS, size, discount_end, ended)
    yield from _bought(conn, size, mine)
    for row in conn.execute(select(TARIFFS).order_by(TARIFFS.c.id, TARIFFS.c.version)).all():
        yield from _signed(conn, "tariff", row, size)
    for row in conn.execute(select(AGREEMENTS).order_by(AGREEMENTS.c.id, AGREEMENTS.c.version)).all():
        if (row.id, row.version) in named:
            yield from _signed(conn, "agreement", row, size)


def _bought(conn: Connection, size: int, projects: list[str]) -> Iterator[dict[str, Any]]:
    query = select(TERMS).where(TERMS.c.project_id.in_(projects)).order_by(TERMS.c.project_id, TERMS.c.valid_from)
    for row in map(dict[str, Any], conn.execute(query).mappings()):
        leaf = log.find(conn, "project_terms", f"{row['project_id']}/{row['valid_from'].isoformat()}")
        if leaf is not None and leaf.seq < size:
            yield {"t": "leaf", "seq": leaf.seq, "leaf": json.loads(leaf.payload), "content": project_terms(row)}


def _of(conn: Connection, kind: str, table: Any, size: int, content: Any, *where: Any) -> Iterator[dict[str, Any]]:
    query = select(table, log.LEAVES.c.seq, log.LEAVES.c.payload).join(
        log.LEAVES, (log.LEAVES.c.kind == kind) & (log.LEAVES.c.ref == cast(table.c.id, String))
    )
    rows = conn.execute(query.where(log.LEAVES.c.seq < size, *where).order_by(log.LEAVES.c.seq)).mappings()
    for row in map(dict[str, Any], rows):
        yield {"t": "leaf", "seq": row["seq"], "leaf": json.loads(row["payload"]), "content": content(row)}


def _signed(conn: Connection, kind: str, row: Any, size: int) -> Iterator[dict[str, Any]]:
    """A document that two sides signed, then each signature with its key."""
    leaf = log.find(conn, kind, f"{row.id}/{row.version}")
    if leaf is None or leaf.seq >= size:
        return
    yield {"t": "leaf", "seq": leaf.seq, "leaf": json.loads(leaf.payload), "content": json.loads(row.payload)}
    keys = (KEYS.c.party_id == SIGNATURES.c.party_id) & (KEYS.c.key_id == SIGNATURES.c.key_id)
    query = select(SIGNATURES, KEYS.c.algorithm, KEYS.c.public).join(KEYS, keys)
    query = query.where(SIGNATURES.c.document_sha256 == row.sha256).order_by(SIGNATURES.c.party_id)
    for signature in conn.execute(query).all():
        under = log.find(conn, "signature", f"{row.sha256}/{signature.party_id}")
        if under is not None and under.seq < size:
            yield {"t": "signature", "seq": under.seq, "leaf": json.loads(under.payload),
                   "algorithm": signature.algorithm, "key": base64.b64encode(signature.public).decode(),
                   "signature": base64.b64encode(signature.signature).decode()}  # fmt: skip
