"""What changes bills beside usage and payments: adjustments on documents, and what is settled without money."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from accounting.tables.base import HISTORY, Base, Id, UtcTime


class AdjustmentItemRow(Base):
    """An adjustment, or a payer's part of it, on a document: at most once, for ever. `part` as of billing_item."""

    __tablename__ = "adjustment_item"
    __table_args__ = (Index("ix_adjustment_item_document", "document"), HISTORY)

    adjustment_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    part: Mapped[str] = mapped_column(String(32), primary_key=True)
    document: Mapped[str] = mapped_column(String(32))
    amount_micro: Mapped[int] = mapped_column(BigInteger)


class SetOffRow(Base):
    """What of an invoice is settled without money: `source` is the credit note that is set off against it, or the
    adjustment (a write-off) that gives it up. Minor units."""

    __tablename__ = "set_off"
    __table_args__ = (Index("ix_set_off_document", "document"), Index("ix_set_off_source", "source"), HISTORY)

    id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=True)
    document: Mapped[str] = mapped_column(String(32))
    source: Mapped[str] = mapped_column(String(32))
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    entry_id: Mapped[int] = mapped_column(BigInteger)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)
