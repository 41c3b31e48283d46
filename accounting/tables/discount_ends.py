"""Contracts' ratios that end before their time."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger
from sqlalchemy.orm import Mapped, mapped_column

from accounting.tables.base import HISTORY, Base, UtcTime


class DiscountEndRow(Base):
    """A discount that holds no longer from `ends_at` on, once: what it was for is no more."""

    __tablename__ = "discount_end"
    __table_args__ = HISTORY

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)  # of the discount
    ends_at: Mapped[datetime] = mapped_column(UtcTime)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)
