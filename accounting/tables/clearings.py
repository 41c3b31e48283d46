"""Documents that are cleared without money of the bank: who asked for it and why, and what was decided."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Boolean, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from accounting.tables.base import HISTORY, Base, UtcTime


class ClearingRow(Base):
    """`amount_minor` of a document is cleared: written off, from a deposit, set off against `source`, or paid back."""

    __tablename__ = "document_clearing"
    __table_args__ = (
        Index("ix_document_clearing_document", "document"),
        Index("ix_document_clearing_source", "source"),
        HISTORY,
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    document: Mapped[str] = mapped_column(String(32))
    source: Mapped[str | None] = mapped_column(String(32))
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str] = mapped_column(String(3))
    reason: Mapped[str] = mapped_column(String(500))
    four_eyes: Mapped[bool] = mapped_column(Boolean)
    requested_by: Mapped[str] = mapped_column(String(32))
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class ClearingDecisionRow(Base):
    """`posted` or `refused`, once."""

    __tablename__ = "document_clearing_decision"
    __table_args__ = HISTORY

    clearing_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    decision: Mapped[str] = mapped_column(String(8))
    decided_by: Mapped[str] = mapped_column(String(32))
    entry_id: Mapped[int | None] = mapped_column(BigInteger)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)
