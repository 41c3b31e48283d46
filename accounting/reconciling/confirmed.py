"""Make the evidence of runs two-sided: what agreed with a line that the centre signed, the centre has confirmed.

A reading and its leaf stay as they are (`one_sided`: we read it at the centre). The confirmation is a leaf of its own:

  {v, t: confirmation, statement: sha256 of its bytes, signed_by: party, runs: how many, root: of a tree of them}

(evidence/confirmations.py): who holds a record is shown that it is among them and by which line, and nobody else's run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from accounting.evidence.confirmations import CONFIRMATIONS, content
from accounting.evidence.outbox import put
from accounting.reconciling.statement_store import STATEMENTS, signer_of
from accounting.store.schema import insert_rows

_CHUNK = 5000


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The centre's own word for a reading: the line of a statement, and whose signature that bears."""

    statement_id: int
    line_no: int
    signed_by: str
    sha256: str


def confirm(conn: Connection, row: Any, agreed: Iterable[tuple[int, int]], *, run_id: int) -> int:
    """Keep that these (reading, line) agreed with a signed statement, and queue the leaf; how many are new.

    A statement that nobody has signed confirms nothing: compare it again once its signature is there.
    """
    signer = signer_of(conn, row.id)
    if not signer:
        return 0
    known = set(conn.scalars(select(CONFIRMATIONS.c.usage_record_id).where(CONFIRMATIONS.c.statement_id == row.id)))
    fresh = [(record, line) for record, line in agreed if record not in known]
    for at in range(0, len(fresh), _CHUNK):
        rows = [(record, row.id, line, run_id) for record, line in fresh[at : at + _CHUNK]]
        insert_rows(conn, CONFIRMATIONS, ("usage_record_id", "statement_id", "line_no", "reconciliation_id"), rows)
    if fresh:
        said = content(conn, row.id, run_id, sha256=row.sha256, signer=signer)
        put(conn, "confirmation", f"{row.id}/{run_id}", said, site=row.site_id, statement=row.sha256, by=signer)
    return len(fresh)


def confirmed(conn: Connection, record_ids: Collection[int]) -> dict[int, Confirmed]:
    """What the centre has confirmed of these readings; the first statement that did."""
    query = (
        select(CONFIRMATIONS, STATEMENTS.c.sha256)
        .join(STATEMENTS, STATEMENTS.c.id == CONFIRMATIONS.c.statement_id)
        .where(CONFIRMATIONS.c.usage_record_id.in_(sorted(record_ids)))
        .order_by(CONFIRMATIONS.c.statement_id.desc())
    )
    signers: dict[int, str] = {}
    found = {}
    for r in conn.execute(query).all():
        signer = signers.setdefault(r.statement_id, signer_of(conn, r.statement_id))
        found[r.usage_record_id] = Confirmed(r.statement_id, r.line_no, signer, r.sha256)
    return found
