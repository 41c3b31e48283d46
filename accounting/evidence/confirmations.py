"""What makes readings evidence of both sides: statements that a centre signed, and which readings agreed with a line.

A confirmation's leaf commits to the root of a tree (RFC 6962) of its own, one leaf for each reading:
[site, run, meter, revision, line of the statement], in the order of the readings' numbers. So a bundle shows of a whole
centre's month only the readings that it is about. In a bundle:

received   the leaf of a centre's statement (its own bytes are not kept here: the leaf has their hash)
signed     the leaf of a signature under it, with the signature
confirmed  the leaf of a confirmation with its content; then its `runs`, and the hashes between them as `between`
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Any

from sqlalchemy import Connection, select

from accounting import tables
from accounting.evidence import log, merkle
from accounting.evidence.canonical import row_bytes
from accounting.store.schema import CHARGES, USAGE, core

CONFIRMATIONS = core(tables.RecordConfirmationRow)
SIGNATURES = core(tables.StatementSignatureRow)
_BATCH, _AT_ONCE = 1000, 10_000
_READING = (USAGE.c.site_id, USAGE.c.run_key, USAGE.c.meter, USAGE.c.revision)


def leaf_of(reading: Sequence[Any], line_no: int) -> bytes:
    """The hash of a confirmed reading (site, run, meter, revision, as its record has them) in the tree."""
    return merkle.leaf_hash(row_bytes((*reading, str(line_no))))


def content(conn: Connection, statement_id: int, run_id: int, *, sha256: str, signer: str) -> dict[str, Any]:
    """What the leaf of a comparison's confirmations commits to."""
    return _content([leaf_of(row[:4], row.line_no) for row in _rows(conn, statement_id, run_id)], sha256, signer)


def _content(leaves: Sequence[bytes], sha256: str, signer: str) -> dict[str, Any]:
    root = base64.b64encode(merkle.root(len(leaves), merkle.over(leaves))).decode()
    return {"v": 1, "t": "confirmation", "statement": sha256, "signed_by": signer, "runs": str(len(leaves)),
            "root": root}  # fmt: skip


def _rows(conn: Connection, statement_id: int, run_id: int) -> Iterator[Any]:
    """Confirmed readings in the order of the tree, some thousands at a time."""
    query = select(*_READING, CONFIRMATIONS.c.usage_record_id, CONFIRMATIONS.c.line_no)
    query = query.join(CONFIRMATIONS, CONFIRMATIONS.c.usage_record_id == USAGE.c.id)
    query = query.where(CONFIRMATIONS.c.statement_id == statement_id, CONFIRMATIONS.c.reconciliation_id == run_id)
    query = query.order_by(CONFIRMATIONS.c.usage_record_id)
    last = 0
    while rows := conn.execute(query.where(CONFIRMATIONS.c.usage_record_id > last).limit(_AT_ONCE)).all():
        yield from rows
        last = rows[-1].usage_record_id


def lines(conn: Connection, entry_ids: Sequence[int], size: int) -> Iterator[dict[str, Any]]:
    """The lines of a bundle about the readings that these entries charge, as far as a tree of this size knows."""
    if conn.execute(select(SIGNATURES.c.statement_id).limit(1)).first() is None:
        return
    wanted, comparisons, statements = _wanted(conn, entry_ids)
    known = {s: [*_statement(conn, s, size)] for s in sorted(statements)}
    for statement in known.values():
        yield from statement
    for statement_id, run_id in sorted(comparisons):
        leaf = log.find(conn, "confirmation", f"{statement_id}/{run_id}")
        if known[statement_id] and leaf is not None and leaf.seq < size:
            yield from _confirmed(leaf, _rows(conn, statement_id, run_id), wanted)


def _wanted(conn: Connection, entry_ids: Sequence[int]) -> tuple[set[int], set[tuple[int, int]], set[int]]:
    """(confirmed readings, (statement, comparison) that confirm one, every statement that a reading stands on)"""
    wanted, comparisons, statements = set[int](), set[tuple[int, int]](), set[int]()
    query = select(CHARGES.c.usage_record_id, USAGE.c.signed_by, USAGE.c.statement_id,
                   CONFIRMATIONS.c.reconciliation_id, CONFIRMATIONS.c.statement_id.label("confirmed_by"))  # fmt: skip
    query = query.join(USAGE, USAGE.c.id == CHARGES.c.usage_record_id)
    query = query.outerjoin(CONFIRMATIONS, CONFIRMATIONS.c.usage_record_id == USAGE.c.id)
    for at in range(0, len(entry_ids), _BATCH):
        for row in conn.execute(query.where(CHARGES.c.entry_id.in_(entry_ids[at : at + _BATCH]))):
            if row.signed_by and row.statement_id is not None:
                statements.add(row.statement_id)
            if row.confirmed_by is not None:
                wanted.add(row.usage_record_id)
                comparisons.add((row.confirmed_by, row.reconciliation_id))
    return wanted, comparisons, statements | {statement for statement, _ in comparisons}


def _statement(conn: Connection, statement_id: int, size: int) -> Iterator[dict[str, Any]]:
    """A statement with the signature under it; nothing where one of them is not in the tree."""
    query = select(SIGNATURES).where(SIGNATURES.c.statement_id == statement_id).order_by(SIGNATURES.c.party_id)
    received = log.find(conn, "statement", str(statement_id))
    if received is None or received.seq >= size:
        return
    for row in conn.execute(query.limit(1)).all():
        under = log.find(conn, "signature", f"statement:{statement_id}/{row.party_id}")
        if under is not None and under.seq < size:
            yield {"t": "received", "seq": received.seq, "leaf": json.loads(received.payload)}
            yield {"t": "signed", "seq": under.seq, "leaf": json.loads(under.payload), "jws": row.jws}


def _confirmed(leaf: log.Leaf, rows: Iterator[Any], wanted: Collection[int]) -> Iterator[dict[str, Any]]:
    said = json.loads(leaf.payload)
    hashes, runs, indices = [], [], []
    for index, row in enumerate(rows):
        hashes.append(leaf_of(row[:4], row.line_no))
        if row.usage_record_id in wanted:
            indices.append(index)
            runs.append([index, *row[:4], str(row.line_no)])
    told = _content(hashes, said["statement"], said["by"])
    yield {"t": "confirmed", "seq": leaf.seq, "leaf": said, "content": told}
    for at in range(0, len(runs), _BATCH):
        yield {"t": "runs", "of": leaf.ref, "runs": runs[at : at + _BATCH]}
    gaps = merkle.gaps(indices, len(hashes), merkle.over(hashes))
    while batch := [base64.b64encode(h).decode() for h in islice(gaps, _BATCH)]:
        yield {"t": "between", "of": leaf.ref, "hashes": batch}
