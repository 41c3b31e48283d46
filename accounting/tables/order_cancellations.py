"""Orders that are canceled: who asked for it and why, and what was decided."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Boolean, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from accounting.tables.base import HISTORY, Base, UtcTime


class OrderCancellationRow(Base):
    """A person asked to cancel what is left of an order."""

    __tablename__ = "order_cancellation"
    __table_args__ = (Index("ix_order_cancellation_order", "order_id"), HISTORY)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    order_id: Mapped[str] = mapped_column(String(32))
    reason: Mapped[str] = mapped_column(String(500))
    four_eyes: Mapped[bool] = mapped_column(Boolean)
    requested_by: Mapped[str] = mapped_column(String(32))
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class OrderCancellationDecisionRow(Base):
    """`posted` or `refused`, once."""

    __tablename__ = "order_cancellation_decision"
    __table_args__ = HISTORY

    cancellation_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    decision: Mapped[str] = mapped_column(String(8))
    decided_by: Mapped[str] = mapped_column(String(32))
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)
