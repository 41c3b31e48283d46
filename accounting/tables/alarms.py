"""What the meters' watch has told: alarms are events, appended; the newest of a thing says whether it still stands."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from accounting.tables.base import HISTORY, Base, UtcTime


class MeterAlarmRow(Base):
    """An alarm of a site's meter was raised, changed or is over. `day`: of the calendar in UTC; empty: of no day."""

    __tablename__ = "meter_alarm"
    __table_args__ = HISTORY

    site_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    day: Mapped[str] = mapped_column(String(10), primary_key=True)
    n: Mapped[int] = mapped_column(Integer, primary_key=True)
    state: Mapped[str] = mapped_column(String(8))  # raised, over
    text: Mapped[str] = mapped_column(String(500))
    figures: Mapped[dict[str, Any]] = mapped_column(JSON)
    at: Mapped[datetime] = mapped_column(UtcTime)
