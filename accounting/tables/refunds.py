"""Deposits that are paid back: who asked for it and why, and what was decided."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Boolean, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from accounting.tables.base import HISTORY, Base, UtcTime


class DepositRefundRow(Base):
    """`amount_micro` of what came in for a project, and that it has not used, is to be paid back."""

    __tablename__ = "deposit_refund"
    __table_args__ = (Index("ix_deposit_refund_project", "project_id"), HISTORY)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    project_id: Mapped[str] = mapped_column(String(32))
    currency: Mapped[str] = mapped_column(String(3))
    amount_micro: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str] = mapped_column(String(500))
    four_eyes: Mapped[bool] = mapped_column(Boolean)
    requested_by: Mapped[str] = mapped_column(String(32))
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class DepositRefundDecisionRow(Base):
    """`posted` or `refused`, once."""

    __tablename__ = "deposit_refund_decision"
    __table_args__ = HISTORY

    refund_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    decision: Mapped[str] = mapped_column(String(8))
    decided_by: Mapped[str] = mapped_column(String(32))
    entry_id: Mapped[int | None] = mapped_column(BigInteger)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)
