"""Under which names the evidence log was signed: a new one after each restore, so that no name has two histories."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from accounting.tables.base import HISTORY, Base, UtcTime


class LogOriginRow(Base):
    """From `started_at` on the log is `name`; it begins with the first `size` leaves of `before`."""

    __tablename__ = "evidence_origin"
    __table_args__ = HISTORY

    started_at: Mapped[datetime] = mapped_column(UtcTime, primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    before: Mapped[str] = mapped_column(String(200))
    size: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str] = mapped_column(String(200))
