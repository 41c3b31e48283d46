"""What became of records in quarantine that could be read later."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from accounting.tables.base import HISTORY, Base, UtcTime


class QuarantineRereadRow(Base):
    """A record in quarantine that was read after all: `booked`, `known` (the centre told the run since), `nobody` (it
    is of no job of ours), `no_run`."""

    __tablename__ = "quarantine_reread"
    __table_args__ = HISTORY

    content_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    site_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    outcome: Mapped[str] = mapped_column(String(8), primary_key=True)
    by: Mapped[str] = mapped_column(String(64))
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)
