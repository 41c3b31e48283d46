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
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import Connection, select, tuple_

from accounting import tables
from accounting.evidence import log, merkle
from accounting.evidence.canonical import row_bytes
from accounting.store.schema import CHARGES, USAGE, core, plain_rows
from accounting.store.schema import among as in_one

PARTS = core(tables.ConfirmedPartRow)
SIGNATURES = core(tables.StatementSignatureRow)
_BATCH, _PARTS = 1000, 20


class Said(NamedTuple):
    """A reading that a line of a statement confirms, as a comparison found."""

    reading: int
    line_no: int
    statement_id: int
    reconciliation_id: int


def leaf_of(reading: Sequence[Any], line_no: int) -> bytes:
    """The hash of a confirmed reading (site, run, meter, revision, as its record has them) in the tree."""
    return merkle.leaf_hash(row_bytes((*reading, str(line_no))))


def content(leaves: Sequence[bytes], sha256: str, signer: str) -> dict[str, Any]:
    """What the leaf of a comparison's confirmations commits to; `leaves` in the order of the readings' numbers."""
    root = base64.b64encode(merkle.root(len(leaves), merkle.over(leaves))).decode()
    return {"v": 1, "t": "confirmation", "statement": sha256, "signed_by": signer, "runs": str(len(leaves)),
            "root": root}  # fmt: skip


def runs_of(conn: Connection, statement_id: int, run_id: int | None = None) -> Iterator[tuple[int, int]]:
    """(reading, line) of what a statement confirms, or one comparison (`run_id`) of it, some hundreds at a time."""
    query = select(PARTS.c.first_reading, PARTS.c.runs).where(PARTS.c.statement_id == statement_id)
    query = query.order_by(PARTS.c.first_reading).limit(_PARTS)
    if run_id is not None:
        query = query.where(PARTS.c.reconciliation_id == run_id)
    last = 0
    while parts := conn.execute(query.where(PARTS.c.first_reading > last)).all():
        for part in parts:
            yield from map(tuple, part.runs)
        last = parts[-1].first_reading


def among(conn: Connection, record_ids: Collection[int]) -> list[Said]:
    """What is confirmed of these readings."""
    wanted = sorted(set(record_ids))
    if not wanted:
        return []
    key = (PARTS.c.statement_id, PARTS.c.first_reading)
    within = (PARTS.c.last_reading >= wanted[0], PARTS.c.first_reading <= wanted[-1])
    parts = [
        (statement_id, first)
        for statement_id, first, last in conn.execute(select(*key, PARTS.c.last_reading).where(*within))
        if bisect_left(wanted, first) < bisect_right(wanted, last)
    ]
    some = set(wanted)
    return [
        Said(reading, line_no, part.statement_id, part.reconciliation_id)
        for at in range(0, len(parts), _PARTS)
        for part in conn.execute(select(PARTS).where(tuple_(*key).in_(parts[at : at + _PARTS])))
        for reading, line_no in part.runs
        if reading in some
    ]


def readings_of(conn: Connection, runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, Sequence[Any], int]]:
    """(reading's number, reading, line) of (number, line), in the same order."""
    key = select(USAGE.c.id, USAGE.c.site_id, USAGE.c.run_key, USAGE.c.meter, USAGE.c.revision)
    runs = iter(runs)
    while some := list(islice(runs, _BATCH)):
        query = key.where(in_one(conn, USAGE.c.id, {reading for reading, _ in some}))
        found = {number: reading for rows in plain_rows(conn, query) for number, *reading in rows}
        for number, line_no in some:
            if number in found:
                yield number, found[number], line_no


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
            yield from _confirmed(leaf, readings_of(conn, runs_of(conn, statement_id, run_id)), wanted)


def _wanted(conn: Connection, entry_ids: Sequence[int]) -> tuple[set[int], set[tuple[int, int]], set[int]]:
    """(confirmed readings, (statement, comparison) that confirm one, every statement that a reading stands on)"""
    charged, statements = list[int](), set[int]()
    query = select(CHARGES.c.usage_record_id, USAGE.c.signed_by, USAGE.c.statement_id)
    query = query.join(USAGE, USAGE.c.id == CHARGES.c.usage_record_id)
    for at in range(0, len(entry_ids), _BATCH):
        for row in conn.execute(query.where(CHARGES.c.entry_id.in_(entry_ids[at : at + _BATCH]))):
            charged.append(row.usage_record_id)
            if row.signed_by and row.statement_id is not None:
                statements.add(row.statement_id)
    said = among(conn, charged)
    comparisons = {(one.statement_id, one.reconciliation_id) for one in said}
    return {one.reading for one in said}, comparisons, statements | {statement for statement, _ in comparisons}


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


def _confirmed(
    leaf: log.Leaf, rows: Iterator[tuple[int, Sequence[Any], int]], wanted: Collection[int]
) -> Iterator[dict[str, Any]]:
    said = json.loads(leaf.payload)
    hashes, runs, indices = [], [], []
    for index, (record_id, reading, line_no) in enumerate(rows):
        hashes.append(leaf_of(reading, line_no))
        if record_id in wanted:
            indices.append(index)
            runs.append([index, *reading, str(line_no)])
    told = content(hashes, said["statement"], said["by"])
    yield {"t": "confirmed", "seq": leaf.seq, "leaf": said, "content": told}
    for at in range(0, len(runs), _BATCH):
        yield {"t": "runs", "of": leaf.ref, "runs": runs[at : at + _BATCH]}
    gaps = merkle.gaps(indices, len(hashes), merkle.over(hashes))
    while batch := [base64.b64encode(h).decode() for h in islice(gaps, _BATCH)]:
        yield {"t": "between", "of": leaf.ref, "hashes": batch}
