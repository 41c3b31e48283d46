"""Queue what will be a leaf, in the transaction that writes the thing itself: both are there, or neither."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from sqlalchemy import ColumnElement, Connection, Table, exists, func, insert, or_, select

from accounting.evidence.canonical import canonical, sha256_hex
from accounting.tables.evidence import LeafRow, OutboxRow

OUTBOX, LEAVES = cast(Table, OutboxRow.__table__), cast(Table, LeafRow.__table__)
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


def put_source(conn: Connection, kind: str, content: Any, **facts: str) -> str:
    """A source document, by its hash: what comes again, also at the same time, is no new leaf. Returns the hash."""
    digest = sha256_bytes(content) if isinstance(content, bytes) else sha256_hex(content)
    if conn.dialect.name == "postgresql":  # two that bring one file at once would both find that it is new
        number = int.from_bytes(hashlib.sha256(f"{kind}:{digest}".encode()).digest()[:8], signed=True)
        conn.execute(select(func.pg_advisory_xact_lock(number)))
    if conn.scalar(select(or_(waits(kind, digest), _stands(kind, digest)))):
        return digest
    return put(conn, kind, digest, content, **facts)


def waits(kind: str, ref: str) -> ColumnElement[bool]:
    """Whether a document is in the outbox: by an index of documents, as entries wait there by the million."""
    return exists().where(OUTBOX.c.kind == kind, OUTBOX.c.ref == ref, OUTBOX.c.body.is_not(None))


def _stands(kind: str, ref: str) -> ColumnElement[bool]:
    return exists().where(LEAVES.c.kind == kind, LEAVES.c.ref == ref)


def put_rows(conn: Connection, site_id: str, records: Sequence[str], unreadable: Sequence[str]) -> str:
    """What a centre's meter gave becomes a leaf with what is kept of it: each row by its hash, unreadable ones too."""
    content = {"v": 1, "site": site_id, "records": list(records), "unreadable": list(unreadable)}
    return put_source(conn, "meter_log", content, site=site_id)


def sha256_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
