"""Money that moves beside usage: payments, adjustments, vouchers, budgets."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, BigInteger, Boolean, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from accounting.tables.base import HISTORY, Base, UtcTime


class PaymentRow(Base):
    """Money received (or, negative, paid back); `source` and `reference` together are the bank's own key."""

    __tablename__ = "payment"
    __table_args__ = (UniqueConstraint("source", "reference"), Index("ix_payment_payer", "payer_id"), HISTORY)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    payer_id: Mapped[str] = mapped_column(String(32))
    currency: Mapped[str] = mapped_column(String(3))
    amount_micro: Mapped[int] = mapped_column(BigInteger)
    received_at: Mapped[datetime] = mapped_column(UtcTime)
    source: Mapped[str] = mapped_column(String(64))
    reference: Mapped[str] = mapped_column(String(200))
    entry_id: Mapped[int] = mapped_column(BigInteger)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class PaymentAllocationRow(Base):
    """Which project (and invoice) a part of a payment is for."""

    __tablename__ = "payment_allocation"
    __table_args__ = (Index("ix_payment_allocation_project", "project_id"), HISTORY)

    entry_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    payment_id: Mapped[str] = mapped_column(String(32))
    project_id: Mapped[str] = mapped_column(String(32))
    invoice_id: Mapped[str | None] = mapped_column(String(64))
    amount_micro: Mapped[int] = mapped_column(BigInteger)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class AdjustmentRow(Base):
    """A change that a person asked for, with a reason: `adjustment`, `refund`, `write_off`."""

    __tablename__ = "adjustment"
    __table_args__ = (Index("ix_adjustment_project", "project_id"), HISTORY)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    project_id: Mapped[str] = mapped_column(String(32))
    currency: Mapped[str] = mapped_column(String(3))
    amount_micro: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str] = mapped_column(String(500))
    charge_id: Mapped[int | None] = mapped_column(BigInteger)
    four_eyes: Mapped[bool] = mapped_column(Boolean)
    requested_by: Mapped[str] = mapped_column(String(32))
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class AdjustmentDecisionRow(Base):
    """What became of an adjustment: `posted` or `refused`, once."""

    __tablename__ = "adjustment_decision"
    __table_args__ = HISTORY

    adjustment_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    decision: Mapped[str] = mapped_column(String(16))
    decided_by: Mapped[str] = mapped_column(String(32))
    entry_id: Mapped[int | None] = mapped_column(BigInteger)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class VoucherRow(Base):
    """A code (its hash) that is worth an amount, once."""

    __tablename__ = "voucher"
    __table_args__ = HISTORY

    code_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    commodity: Mapped[str] = mapped_column(String(32))
    amount: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[datetime | None] = mapped_column(UtcTime)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class VoucherUseRow(Base):
    """A voucher that was used."""

    __tablename__ = "voucher_use"
    __table_args__ = HISTORY

    code_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    project_id: Mapped[str] = mapped_column(String(32))
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class BudgetRow(Base):
    """What a project means to spend in a month of `zone` (or in all, `span` = total); alerts in per cent of it."""

    __tablename__ = "budget"
    __table_args__ = (Index("ix_budget_project", "project_id"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    project_id: Mapped[str] = mapped_column(String(32))
    commodity: Mapped[str] = mapped_column(String(32))
    amount: Mapped[int] = mapped_column(BigInteger)
    span: Mapped[str] = mapped_column(String(8))
    zone: Mapped[str] = mapped_column(String(64))
    thresholds: Mapped[list[int]] = mapped_column(JSON)
    stop: Mapped[bool] = mapped_column(Boolean)
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    closed_at: Mapped[datetime | None] = mapped_column(UtcTime)


class BudgetAlertRow(Base):
    """A threshold that was passed in a span, told once."""

    __tablename__ = "budget_alert"
    __table_args__ = HISTORY

    budget_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    span_start: Mapped[datetime] = mapped_column(UtcTime, primary_key=True)
    threshold: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    spent: Mapped[int] = mapped_column(BigInteger)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)
