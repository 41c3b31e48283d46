"""Which runs of a line a person means: what is given back of them, and what is disputed."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from accounting.tables.base import HISTORY, Base, UtcTime


class CreditedRunRow(Base):
    """A run (by a charge of it that is on the line) that `source` is about: `credit note:line`, or a dispute's id.

    A source without any is about its whole line.
    """

    __tablename__ = "credited_run"
    __table_args__ = (HISTORY,)

    source: Mapped[str] = mapped_column(String(96), primary_key=True)
    charge_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)
