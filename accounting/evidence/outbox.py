"""Queue what will be a leaf, in the transaction that writes the thing itself: both are there, or neither."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, cast

from sqlalchemy import Connection, Table, insert

from accounting.evidence.canonical import canonical, sha256_hex
from accounting.tables.evidence import OutboxRow

OUTBOX = cast(Table, OutboxRow.__table__)
ENTRY = "entry"


def rows_of_entries(entry_ids: Iterable[int]) -> list[tuple[str, str, None]]:
    """(kind, ref, body) for journal entries that were just booked; their leaves are made from the books by the tick."""
    return [(ENTRY, str(entry_id), None) for entry_id in entry_ids]


def put(conn: Connection, kind: str, ref: str, content: Any, **facts: str) -> str:
    """A document, agreement, invoice, statement, settlement …: the leaf commits to `content` and says `facts`.

    `content` is bytes as received, or a JSON value; nothing of it is in the leaf but its hash. Returns that hash. Once
    only for each (kind, ref): a new version of a thing has a ref of its own.
    """
    digest = sha256_bytes(content) if isinstance(content, bytes) else sha256_hex(content)
    body: Mapping[str, Any] = {"v": 1, "t": kind, "ref": ref, "sha256": digest, **facts}
    conn.execute(insert(OUTBOX), [{"kind": kind, "ref": ref, "body": canonical(body).decode()}])
    return digest


def sha256_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
