"""Which money of the bank a top-up is: so that what was recorded by hand and imported later is booked once."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from accounting.tables.base import HISTORY, Base, UtcTime


class TopUpReceiptRow(Base):
    """A top-up and the bank's transaction that it came by; a transaction may bring several top-ups."""

    __tablename__ = "top_up_receipt"
    __table_args__ = (Index("ix_top_up_receipt_transaction", "transaction_id"), HISTORY)

    payment_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    transaction_id: Mapped[int] = mapped_column(BigInteger)
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    how: Mapped[str] = mapped_column(String(200))
    entry_id: Mapped[int] = mapped_column(BigInteger)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)
