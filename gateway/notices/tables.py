"""What goes out by itself, and how far it came."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from gateway.db import Base, UtcDateTime


class NoticeRow(Base):
    """News of a project. `body` is the JSON that is sent, the same bytes at each try; `subject` what it is about."""

    __tablename__ = "notices"
    __table_args__ = (Index("ix_notices_project", "project_id"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(40))
    project_id: Mapped[str] = mapped_column(String(32))
    subject: Mapped[str] = mapped_column(String(32))
    body: Mapped[str] = mapped_column(Text)
    recorded_at: Mapped[datetime] = mapped_column(UtcDateTime)


class NoticeDeliveryRow(Base):
    """One way that a notice goes. `recipient` is a user's id, empty for the webhook; `state`: waiting, delivered,
    given_up; `next_at`: when it is tried (again), while it is being tried when somebody else may."""

    __tablename__ = "notice_deliveries"
    __table_args__ = (Index("ix_notice_deliveries_due", "state", "next_at"),)

    notice_id: Mapped[str] = mapped_column(ForeignKey("notices.id"), primary_key=True)
    channel: Mapped[str] = mapped_column(String(16), primary_key=True)
    recipient: Mapped[str] = mapped_column(String(32), primary_key=True)
    state: Mapped[str] = mapped_column(String(12))
    tries: Mapped[int] = mapped_column(Integer)
    next_at: Mapped[datetime] = mapped_column(UtcDateTime)
    error: Mapped[str] = mapped_column(String(300))
    done_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class MailAddressRow(Base):
    """Where a person wants to be told, as they said it themselves."""

    __tablename__ = "mail_addresses"

    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), primary_key=True)
    address: Mapped[str] = mapped_column(String(254))
    set_at: Mapped[datetime] = mapped_column(UtcDateTime)
