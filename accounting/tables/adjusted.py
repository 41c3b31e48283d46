"""Adjustments on documents."""

from __future__ import annotations

from sqlalchemy import BigInteger, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from accounting.tables.base import HISTORY, Base


class AdjustmentItemRow(Base):
    """An adjustment, or a payer's part of it, on a document: at most once, for ever. `part` as of billing_item."""

    __tablename__ = "adjustment_item"
    __table_args__ = (Index("ix_adjustment_item_document", "document"), HISTORY)

    adjustment_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    part: Mapped[str] = mapped_column(String(32), primary_key=True)
    document: Mapped[str] = mapped_column(String(32))
    amount_micro: Mapped[int] = mapped_column(BigInteger)
