"""What orders cost: a price for each allocation that an order gave, and the document that each payer's part is on."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, BigInteger, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from accounting.tables.base import HISTORY, Base, UtcTime


class OrderPriceRow(Base):
    """The price of a block, or of one month of a subscription, as its entry divided it; once for each allocation.

    `centre_micro` is the centre's, `tax_micro` tax inside the price, the rest the operator's; `payers`: who owes which
    part, where the project's terms share it. `site_id` is empty where no centre is meant. `month_…`: what a whole month
    of a subscription is, and in whose calendar; None of all else.
    """

    __tablename__ = "order_price"
    __table_args__ = (Index("ix_order_price_project", "project_id"), Index("ix_order_price_entry", "entry_id"), HISTORY)

    allocation_id: Mapped[str] = mapped_column(String(80), primary_key=True)
    entry_id: Mapped[int] = mapped_column(BigInteger)
    order_id: Mapped[str] = mapped_column(String(32))
    project_id: Mapped[str] = mapped_column(String(32))
    site_id: Mapped[str] = mapped_column(String(32))
    kind: Mapped[str] = mapped_column(String(16))
    commodity: Mapped[str] = mapped_column(String(32))
    quantity: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str] = mapped_column(String(3))
    price_micro: Mapped[int] = mapped_column(BigInteger)
    centre_micro: Mapped[int] = mapped_column(BigInteger)
    tax_micro: Mapped[int] = mapped_column(BigInteger)
    agreement_id: Mapped[str | None] = mapped_column(String(32))
    agreement_version: Mapped[int | None] = mapped_column(Integer)
    payers: Mapped[dict[str, int] | None] = mapped_column(JSON(none_as_null=True))
    service_start: Mapped[datetime] = mapped_column(UtcTime)
    service_end: Mapped[datetime] = mapped_column(UtcTime)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)
    month_quantity: Mapped[int | None] = mapped_column(BigInteger)
    month_micro: Mapped[int | None] = mapped_column(BigInteger)
    month_zone: Mapped[str | None] = mapped_column(String(64))


class OrderItemRow(Base):
    """A price, or a payer's part of it, on a document: at most once, for ever. `part` as of billing_item."""

    __tablename__ = "order_item"
    __table_args__ = (Index("ix_order_item_document", "document"), HISTORY)

    allocation_id: Mapped[str] = mapped_column(String(80), primary_key=True)
    part: Mapped[str] = mapped_column(String(32), primary_key=True)
    document: Mapped[str] = mapped_column(String(32))
    amount_micro: Mapped[int] = mapped_column(BigInteger)
