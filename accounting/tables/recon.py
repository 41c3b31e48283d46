"""The tables of reconciliation: statements as received, what was compared, breaks and what people did with them.

All of it is history: a break's state is the last of its events.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Index, Integer, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from accounting.tables.base import HISTORY, Base, Id, UtcTime


class StatementRow(Base):
    """One document of a centre, once: the same bytes again are the same statement."""

    __tablename__ = "centre_statement"
    __table_args__ = (
        UniqueConstraint("site_id", "sha256", name="uq_centre_statement_bytes"),
        Index("ix_centre_statement_period", "site_id", "period", "currency"),
        HISTORY,
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=True)
    site_id: Mapped[str] = mapped_column(String(32))
    period: Mapped[str] = mapped_column(String(10))
    starts_at: Mapped[datetime] = mapped_column(UtcTime)
    ends_at: Mapped[datetime] = mapped_column(UtcTime)
    currency: Mapped[str] = mapped_column(String(3))
    number: Mapped[str] = mapped_column(String(100))
    format: Mapped[str] = mapped_column(String(32))
    sha256: Mapped[str] = mapped_column(String(64))
    signer: Mapped[str] = mapped_column(String(200))
    signature_refused: Mapped[str] = mapped_column(String(500))
    lines: Mapped[int] = mapped_column(BigInteger)
    problems: Mapped[int] = mapped_column(BigInteger)
    core_seconds: Mapped[int] = mapped_column(BigInteger)
    amount_micro: Mapped[int | None] = mapped_column(BigInteger)
    said_lines: Mapped[int | None] = mapped_column(BigInteger)
    said_core_seconds: Mapped[int | None] = mapped_column(BigInteger)
    said_amount_micro: Mapped[int | None] = mapped_column(BigInteger)
    received_by: Mapped[str] = mapped_column(String(100))
    received_at: Mapped[datetime] = mapped_column(UtcTime)


class StatementSignatureRow(Base):
    """A centre's good signature under a statement: a JWS over the very bytes, without them (RFC 7515, appendix F)."""

    __tablename__ = "centre_statement_signature"
    __table_args__ = HISTORY

    statement_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    party_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    key_id: Mapped[str] = mapped_column(String(200))
    jws: Mapped[str] = mapped_column(Text)
    received_at: Mapped[datetime] = mapped_column(UtcTime)


class StatementLineRow(Base):
    """A line as the centre wrote it, beside what was read in it. Times are epoch seconds; `units` as of a usage record,
    None where the line names none."""

    __tablename__ = "centre_statement_line"
    __table_args__ = (
        # With what a comparison asks of each line: it reads no row of those that agree.
        Index("ix_centre_statement_line_key", "statement_id", "run_key", "line_no", "core_seconds", "amount_micro",
              "username", "account"),
        Index("ix_centre_statement_line_units", "statement_id",
              sqlite_where=text("units IS NOT NULL"), postgresql_where=text("units IS NOT NULL")),
        HISTORY,
    )  # fmt: skip

    statement_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    line_no: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    run_key: Mapped[str] = mapped_column(String(100))
    native_id: Mapped[str] = mapped_column(String(64))
    task: Mapped[int | None] = mapped_column(Integer)
    username: Mapped[str] = mapped_column(String(64))
    account: Mapped[str] = mapped_column(String(100))
    queue: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(32))
    cores: Mapped[int] = mapped_column(Integer)
    nodes: Mapped[int] = mapped_column(Integer)
    started: Mapped[int | None] = mapped_column(BigInteger)
    ended: Mapped[int | None] = mapped_column(BigInteger)
    elapsed_s: Mapped[int] = mapped_column(BigInteger)
    suspended_s: Mapped[int] = mapped_column(BigInteger)
    core_seconds: Mapped[int] = mapped_column(BigInteger)
    gpu_seconds: Mapped[int] = mapped_column(BigInteger)
    amount_micro: Mapped[int | None] = mapped_column(BigInteger)
    units: Mapped[dict[str, int] | None] = mapped_column(JSON(none_as_null=True))
    raw: Mapped[dict[str, Any]] = mapped_column(JSON)


class StatementProblemRow(Base):
    """A line that cannot be read, kept whole: it stays visible until the centre corrects it."""

    __tablename__ = "centre_statement_problem"
    __table_args__ = HISTORY

    statement_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    ordinal: Mapped[int] = mapped_column(Integer, primary_key=True)
    line_no: Mapped[int] = mapped_column(BigInteger)
    raw: Mapped[str] = mapped_column(String)
    why: Mapped[str] = mapped_column(String(500))


class ReconciliationRow(Base):
    """One comparison of a statement with the books as they were then."""

    __tablename__ = "reconciliation"
    __table_args__ = (Index("ix_reconciliation_statement", "statement_id"), HISTORY)

    id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=True)
    statement_id: Mapped[int] = mapped_column(BigInteger)
    site_id: Mapped[str] = mapped_column(String(32))
    period: Mapped[str] = mapped_column(String(10))
    rules: Mapped[dict[str, Any]] = mapped_column(JSON)
    counts: Mapped[dict[str, Any]] = mapped_column(JSON)
    by: Mapped[str] = mapped_column(String(100))
    at: Mapped[datetime] = mapped_column(UtcTime)


class BreakRow(Base):
    """One difference, once, however often it is looked for. Deltas are the centre's figure minus ours."""

    __tablename__ = "recon_break"
    __table_args__ = (
        UniqueConstraint("break_key", name="uq_recon_break_key"),
        Index("ix_recon_break_site", "site_id", "period"),
        Index("ix_recon_break_statement", "statement_id"),
        Index("ix_recon_break_run", "usage_record_id"),
        HISTORY,
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=True)
    break_key: Mapped[str] = mapped_column(String(120))
    reconciliation_id: Mapped[int] = mapped_column(BigInteger)
    statement_id: Mapped[int] = mapped_column(BigInteger)
    site_id: Mapped[str] = mapped_column(String(32))
    period: Mapped[str] = mapped_column(String(10))
    category: Mapped[str] = mapped_column(String(3))
    tier: Mapped[str] = mapped_column(String(2))
    line_no: Mapped[int | None] = mapped_column(BigInteger)
    usage_record_id: Mapped[int | None] = mapped_column(BigInteger)
    native_id: Mapped[str] = mapped_column(String(64))
    username: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str | None] = mapped_column(String(32))
    project_id: Mapped[str | None] = mapped_column(String(32))
    currency: Mapped[str] = mapped_column(String(3))
    ours_core_seconds: Mapped[int] = mapped_column(BigInteger)
    theirs_core_seconds: Mapped[int] = mapped_column(BigInteger)
    ours_micro: Mapped[int | None] = mapped_column(BigInteger)
    theirs_micro: Mapped[int | None] = mapped_column(BigInteger)
    causes: Mapped[list[Any]] = mapped_column(JSON)
    explanation: Mapped[str] = mapped_column(String(1000))
    opened_at: Mapped[datetime] = mapped_column(UtcTime)


class BreakEventRow(Base):
    """One act on a break; `seq` 1 is its opening. Two people who act at once: one of them has the number."""

    __tablename__ = "recon_break_event"
    __table_args__ = HISTORY

    break_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    seq: Mapped[int] = mapped_column(Integer, primary_key=True)
    act: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    by: Mapped[str] = mapped_column(String(100))
    note: Mapped[str] = mapped_column(String(1000))
    resolution: Mapped[str] = mapped_column(String(8))
    entry_key: Mapped[str] = mapped_column(String(200))
    at: Mapped[datetime] = mapped_column(UtcTime)
