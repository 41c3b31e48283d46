"""Make the evidence of runs two-sided: what agreed with a line that the centre signed, the centre has confirmed.

A reading and its leaf stay as they are (`one_sided`: we read it at the centre). The confirmation is a leaf of its own:

  {v, t: confirmation, statement: sha256 of its bytes, signed_by: party, runs: how many, root: of a tree of them}

(evidence/confirmations.py): who holds a record is shown that it is among them and by which line, and nobody else's run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from accounting.evidence.confirmations import PARTS, among, content, leaf_of, readings_of, runs_of
from accounting.evidence.outbox import put
from accounting.json_text import json_text
from accounting.reconciling.found import Agreed
from accounting.reconciling.statement_store import STATEMENTS, signer_of
from accounting.store.schema import insert_rows, lock

_PART = 500
_COLUMNS = ("statement_id", "first_reading", "last_reading", "reconciliation_id", "runs")


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The centre's own word for a reading: the line of a statement, and whose signature that bears."""

    statement_id: int
    line_no: int
    signed_by: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What a comparison confirms, ready to be kept. `before`: how many parts of the statement there were then.

    `parts`: (first reading, last reading, runs as JSON text).
    """

    before: int
    count: int
    parts: Sequence[tuple[int, int, str]]
    said: Mapping[str, Any]
    signer: str


def prepare(conn: Connection, row: Any, agreed: Agreed) -> Confirmation | None:
    """What these runs, which agreed with a statement, confirm beyond what is confirmed already; None: nothing.

    A statement that nobody has signed confirms nothing: compare it again once its signature is there.
    """
    signer = signer_of(conn, row.id)
    if not signer:
        return None
    before = _parts(conn, row.id)
    known = {reading for reading, _ in runs_of(conn, row.id)} if before else frozenset()
    runs = sorted(zip(agreed.readings, agreed.lines, strict=True))
    if known:
        runs = [run for run in runs if run[0] not in known]
    if not runs:
        return None
    parts = [(some[0][0], some[-1][0], json_text(some)) for some in _cut(runs)]
    leaves = [leaf_of(reading, line_no) for _, reading, line_no in readings_of(conn, runs)]
    said = content(leaves, row.sha256, signer)
    return Confirmation(before, len(runs), parts, said, signer)


def _cut(runs: Sequence[tuple[int, int]]) -> list[Sequence[tuple[int, int]]]:
    return [runs[at : at + _PART] for at in range(0, len(runs), _PART)]


def _parts(conn: Connection, statement_id: int) -> int:
    return int(conn.scalar(select(func.count()).where(PARTS.c.statement_id == statement_id)) or 0)


def confirm(conn: Connection, row: Any, agreed: Agreed, ready: Confirmation | None, *, run_id: int) -> int:
    """Keep what was prepared, and queue the leaf; how many runs are new. In a write transaction."""
    lock(conn, {f"confirm:{row.id}"})
    if ready is not None and _parts(conn, row.id) != ready.before:  # another comparison was faster
        ready = prepare(conn, row, agreed)
    if ready is None:
        return 0
    rows = [(row.id, first, last, run_id, runs) for first, last, runs in ready.parts]
    insert_rows(conn, PARTS, _COLUMNS, rows, encoded=("runs",))
    put(conn, "confirmation", f"{row.id}/{run_id}", ready.said, site=row.site_id, statement=row.sha256,
        by=ready.signer)  # fmt: skip
    return ready.count


def confirmed(conn: Connection, record_ids: Collection[int]) -> dict[int, Confirmed]:
    """What the centre has confirmed of these readings; the first statement that did."""
    by_statement = sorted(among(conn, record_ids), key=lambda said: -said.statement_id)
    ids = {said.statement_id for said in by_statement}
    hashes = {r.id: r.sha256 for r in conn.execute(select(STATEMENTS.c.id, STATEMENTS.c.sha256)
                                                   .where(STATEMENTS.c.id.in_(sorted(ids))))}  # fmt: skip
    signers = {number: signer_of(conn, number) for number in ids}
    return {
        said.reading: Confirmed(said.statement_id, said.line_no, signers[said.statement_id], hashes[said.statement_id])
        for said in by_statement
    }
