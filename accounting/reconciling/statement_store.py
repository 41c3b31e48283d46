"""Keep centres' statements with every line, and read them back. Nothing here commits."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select

from accounting import tables
from accounting.evidence.outbox import put
from accounting.reconciling.spool import COLUMNS
from accounting.reconciling.statement import BadLine, Signed, Statement
from accounting.store.schema import core, insert_all, insert_rows, lock, upsert

STATEMENTS, LINES = core(tables.StatementRow), core(tables.StatementLineRow)
SIGNATURES = core(tables.StatementSignatureRow)
PROBLEMS, ARRIVALS = core(tables.StatementProblemRow), core(tables.StatementArrivalRow)


def known_statement(conn: Connection, statement: Statement) -> int | None:
    """The statement that these bytes are, where they were received before."""
    where = (STATEMENTS.c.site_id == statement.site_id, STATEMENTS.c.sha256 == statement.sha256)
    return conn.scalar(select(STATEMENTS.c.id).where(*where))


def arrive(conn: Connection, statement: Statement, *, now: datetime) -> int:
    """A number for a statement whose lines are kept one after the other; it shows once it is `complete`."""
    lock(conn, {"statement-arrival"})
    taken = (conn.scalar(select(func.max(table.c.id))) or 0 for table in (ARRIVALS, STATEMENTS))
    number = max(taken) + 1
    row = {"id": number, "site_id": statement.site_id, "sha256": statement.sha256, "arrived_at": now}
    conn.execute(insert(ARRIVALS), [row])
    return int(number)


def save_lines(conn: Connection, number: int, rows: Sequence[tuple[Any, ...]]) -> None:
    """Some of the lines, as rows of `spool.COLUMNS`."""
    insert_rows(conn, LINES, ("statement_id", *COLUMNS), [(number, *row) for row in rows], encoded=("raw",))


def save_problems(conn: Connection, number: int, problems: Sequence[BadLine], *, first: int = 1) -> None:
    """Some of the lines that cannot be read; `first` is the ordinal of the first of them."""
    rows = [
        {"statement_id": number, "ordinal": n, "line_no": p.line_no, "raw": p.raw.replace("\0", "\ufffd"), "why": p.why}
        for n, p in enumerate(problems, first)
    ]
    insert_all(conn, PROBLEMS, rows)


def complete(
    conn: Connection, number: int, statement: Statement, document: bytes, signed: Signed, *, by: str, now: datetime
) -> tuple[int, bool]:
    """The statement itself, with the hash of its bytes as a leaf: all lines are kept. Its id; whether it is new."""
    header, read = statement.header, statement.read
    row = {
        "id": number, "site_id": statement.site_id, "period": header.period.name, "starts_at": header.period.start,
        "ends_at": header.period.end, "currency": header.currency, "number": header.number[:100],
        "format": statement.format, "sha256": statement.sha256, "signer": signed.signer[:200],
        "signature_refused": signed.refused[:500], "lines": read.lines,
        "problems": len(statement.problems), "core_seconds": read.core_seconds,
        "amount_micro": read.amount_micro, "said_lines": header.lines,
        "said_core_seconds": header.core_seconds, "said_amount_micro": header.amount_micro, "received_by": by,
        "received_at": now,
    }  # fmt: skip
    made = conn.execute(upsert(conn, STATEMENTS).on_conflict_do_nothing().returning(STATEMENTS.c.id), row).scalar()
    if made is None:
        known = known_statement(conn, statement)
        assert known is not None  # the same bytes arrived twice at the same time
        return known, False
    put(conn, "statement", str(made), document, site=statement.site_id, period=header.period.name,
        currency=header.currency)  # fmt: skip
    return int(made), True


def sign_statement(conn: Connection, statement_id: int, signed: Signed, *, now: datetime) -> None:
    """Keep a centre's good signature under a statement, also one that comes later than the document; once."""
    row = {"statement_id": statement_id, "party_id": signed.signer, "key_id": signed.key_id, "jws": signed.jws,
           "received_at": now}  # fmt: skip
    kept = upsert(conn, SIGNATURES).on_conflict_do_nothing().returning(SIGNATURES.c.party_id)
    if conn.execute(kept, [row]).all():
        facts = {"key": signed.key_id, "public": base64.b64encode(signed.public).decode()}
        put(conn, "signature", f"statement:{statement_id}/{signed.signer}", signed.jws.encode(), **facts)


def signer_of(conn: Connection, statement_id: int) -> str:
    """The party whose good signature a statement bears; empty where there is none."""
    query = select(SIGNATURES.c.party_id).where(SIGNATURES.c.statement_id == statement_id)
    return str(conn.scalar(query.limit(1)) or "")


def statements(conn: Connection, *, site_ids: Iterable[str] | None = None, period: str = "") -> list[Any]:
    """Statements as received, newest first; `site_ids` None: of every centre."""
    query = select(STATEMENTS).order_by(STATEMENTS.c.id.desc())
    if site_ids is not None:
        query = query.where(STATEMENTS.c.site_id.in_(sorted(site_ids)))
    if period:
        query = query.where(STATEMENTS.c.period == period)
    return list(conn.execute(query))


def statement_row(conn: Connection, statement_id: int) -> Any | None:
    return conn.execute(select(STATEMENTS).where(STATEMENTS.c.id == statement_id)).one_or_none()


def statement_problems(conn: Connection, statement_id: int) -> list[BadLine]:
    """The lines that could not be read, as they came."""
    query = select(PROBLEMS).where(PROBLEMS.c.statement_id == statement_id).order_by(PROBLEMS.c.ordinal)
    return [BadLine(r.line_no, r.raw, r.why) for r in conn.execute(query)]
