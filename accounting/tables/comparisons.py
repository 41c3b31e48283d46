"""Comparisons that are being kept: of many differences one after the other, in many short transactions."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from accounting.tables.base import HISTORY, Base, UtcTime


class ComparisonStageRow(Base):
    """How far a comparison has come. `begun`: its number; what is kept under that shows once there is a reconciliation
    of the number. `settled`: all that it had to do beside is done; where this is missing, the next one does it."""

    __tablename__ = "comparison_stage"
    __table_args__ = (Index("ix_comparison_stage_statement", "statement_id"), HISTORY)

    reconciliation_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    stage: Mapped[str] = mapped_column(String(8), primary_key=True)
    statement_id: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[datetime] = mapped_column(UtcTime)
