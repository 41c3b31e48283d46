"""What of a project's orders is opened at a centre: one row for each, and what happened to it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Boolean, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from accounting.tables.base import HISTORY, Base, UtcTime


class OpeningRow(Base):
    """What is wanted at one centre under an id that the centre keeps too; states in accounting/store/openings.py.

    `revision` counts what was wanted, `told` is the last of them that the centre answered: they differ until it has.
    """

    __tablename__ = "opening"
    __table_args__ = (
        Index("ix_opening_site", "site_id", "state"),
        Index("ix_opening_project", "project_id"),
        Index("ix_opening_order", "order_id"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    order_id: Mapped[str | None] = mapped_column(String(32))
    project_id: Mapped[str] = mapped_column(String(32))
    site_id: Mapped[str] = mapped_column(String(32))
    kind: Mapped[str] = mapped_column(String(16))
    person_id: Mapped[str] = mapped_column(String(32))
    username: Mapped[str] = mapped_column(String(64))
    queue: Mapped[str | None] = mapped_column(String(64))
    core_seconds: Mapped[int | None] = mapped_column(BigInteger)
    cores: Mapped[int | None] = mapped_column(Integer)
    valid_until: Mapped[datetime | None] = mapped_column(UtcTime)
    revision: Mapped[int] = mapped_column(Integer)
    told: Mapped[int] = mapped_column(Integer)
    closing: Mapped[bool] = mapped_column(Boolean)
    close_reason: Mapped[str] = mapped_column(String(500))
    state: Mapped[str] = mapped_column(String(16))
    detail: Mapped[str] = mapped_column(String(500))
    native_account: Mapped[str] = mapped_column(String(64))
    native_username: Mapped[str] = mapped_column(String(64))
    qos: Mapped[str] = mapped_column(String(64))
    tried_at: Mapped[datetime | None] = mapped_column(UtcTime)
    opened_at: Mapped[datetime | None] = mapped_column(UtcTime)
    closed_at: Mapped[datetime | None] = mapped_column(UtcTime)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class OpeningEventRow(Base):
    """What was wanted or answered, appended; `n` counts within the opening."""

    __tablename__ = "opening_event"
    __table_args__ = HISTORY

    opening_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    n: Mapped[int] = mapped_column(Integer, primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcTime)
    act: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    detail: Mapped[str] = mapped_column(String(500))
    by: Mapped[str] = mapped_column(String(100))
