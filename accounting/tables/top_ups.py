"""Which money of the bank a top-up is: so that what was recorded by hand and imported later is booked once."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Boolean, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from accounting.tables.base import HISTORY, Base, UtcTime


class TopUpReceiptRow(Base):
    """A top-up and the bank's transaction that it came by, by the entry that says so; a transaction may bring several
    top-ups. A negative amount takes a match back: what a top-up has is the sum."""

    __tablename__ = "top_up_receipt"
    __table_args__ = (
        Index("ix_top_up_receipt_transaction", "transaction_id"),
        Index("ix_top_up_receipt_payment", "payment_id"),
        HISTORY,
    )

    entry_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    payment_id: Mapped[str] = mapped_column(String(32))
    transaction_id: Mapped[int] = mapped_column(BigInteger)
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    how: Mapped[str] = mapped_column(String(200))
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class TopUpUndoRow(Base):
    """A person asked to take the match of a top-up back."""

    __tablename__ = "top_up_undo"
    __table_args__ = (Index("ix_top_up_undo_payment", "payment_id"), HISTORY)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    payment_id: Mapped[str] = mapped_column(String(32))
    receipt_entry_id: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str] = mapped_column(String(500))
    four_eyes: Mapped[bool] = mapped_column(Boolean)
    requested_by: Mapped[str] = mapped_column(String(32))
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class TopUpUndoDecisionRow(Base):
    """`posted` or `refused`, once."""

    __tablename__ = "top_up_undo_decision"
    __table_args__ = HISTORY

    undo_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    decision: Mapped[str] = mapped_column(String(8))
    decided_by: Mapped[str] = mapped_column(String(32))
    entry_id: Mapped[int | None] = mapped_column(BigInteger)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)
