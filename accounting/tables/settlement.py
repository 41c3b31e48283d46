"""Settlements with centres: statements, what is in them, who signed, how they ended; and dated exchange rates."""

from __future__ import annotations

from datetime import date, datetime

from sqlalchemy import BigInteger, Date, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from accounting.tables.base import HISTORY, Base, UtcTime


class FxRateRow(Base):
    """`num`/`den` of `quote` for one `base` on a day, from a named source."""

    __tablename__ = "fx_rate"
    __table_args__ = HISTORY

    base: Mapped[str] = mapped_column(String(3), primary_key=True)
    quote: Mapped[str] = mapped_column(String(3), primary_key=True)
    day: Mapped[date] = mapped_column(Date, primary_key=True)
    source: Mapped[str] = mapped_column(String(64), primary_key=True)
    num: Mapped[int] = mapped_column(BigInteger)
    den: Mapped[int] = mapped_column(BigInteger)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class SettlementRow(Base):
    """A statement as the canonical text that is signed; a withdrawn one is followed by the next revision."""

    __tablename__ = "settlement"
    __table_args__ = (UniqueConstraint("centre_id", "currency", "starts_at", "ends_at", "revision"), HISTORY)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    centre_id: Mapped[str] = mapped_column(String(32))
    currency: Mapped[str] = mapped_column(String(3))
    starts_at: Mapped[datetime] = mapped_column(UtcTime)
    ends_at: Mapped[datetime] = mapped_column(UtcTime)
    revision: Mapped[int] = mapped_column(Integer)
    statement: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(String(64))
    drawn_at: Mapped[datetime] = mapped_column(UtcTime)


class SettlementItemRow(Base):
    """A journal entry that a statement settles."""

    __tablename__ = "settlement_item"
    __table_args__ = (Index("ix_settlement_item_entry", "entry_id"), {"sqlite_with_rowid": False, **HISTORY})

    settlement_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    entry_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)


class SettlementSignatureRow(Base):
    """The JWS of one side: `operator` or `centre`."""

    __tablename__ = "settlement_signature"
    __table_args__ = HISTORY

    settlement_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    side: Mapped[str] = mapped_column(String(8), primary_key=True)
    key_id: Mapped[str] = mapped_column(String(200))
    jws: Mapped[str] = mapped_column(Text)
    signed_at: Mapped[datetime] = mapped_column(UtcTime)


class SettlementEndRow(Base):
    """How it ended, once: `agreed` (both signed; `entry_id` is what was booked) or `withdrawn`, with the reason."""

    __tablename__ = "settlement_end"
    __table_args__ = HISTORY

    settlement_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    outcome: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(String(500))
    decided_by: Mapped[str] = mapped_column(String(64))
    entry_id: Mapped[int | None] = mapped_column(BigInteger)
    ended_at: Mapped[datetime] = mapped_column(UtcTime)


class SettlementPaymentRow(Base):
    """Money that was paid to a centre for a settlement; `reference` is the bank's own key."""

    __tablename__ = "settlement_payment"
    __table_args__ = HISTORY

    settlement_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    reference: Mapped[str] = mapped_column(String(100), primary_key=True)
    amount_micro: Mapped[int] = mapped_column(BigInteger)
    cost_micro: Mapped[int] = mapped_column(BigInteger)
    entry_id: Mapped[int] = mapped_column(BigInteger)
    paid_at: Mapped[datetime] = mapped_column(UtcTime)
