"""Statements that arrive: a long one is kept line by line in many short transactions, and shows when it is whole."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from accounting.tables.base import HISTORY, Base, UtcTime


class StatementArrivalRow(Base):
    """The number under which a statement's lines are kept. One without a statement was cut off, and is never looked at:
    the same bytes, sent again, arrive under another number."""

    __tablename__ = "centre_statement_arrival"
    __table_args__ = HISTORY

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    site_id: Mapped[str] = mapped_column(String(32))
    sha256: Mapped[str] = mapped_column(String(64))
    arrived_at: Mapped[datetime] = mapped_column(UtcTime)
