"""Who agreed to what: parties, signed agreements and tariffs, orders and the allocations they became."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Index, Integer, LargeBinary, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from accounting.bound import WIDTH
from accounting.tables.base import HISTORY, Base, Id, UtcTime


class PartyRow(Base):
    """A party; a change is the next revision."""

    __tablename__ = "party"
    __table_args__ = HISTORY

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    revision: Mapped[int] = mapped_column(Integer, primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    legal_name: Mapped[str] = mapped_column(String(200))
    tax_id: Mapped[str] = mapped_column(String(64))
    country: Mapped[str] = mapped_column(String(2))
    did: Mapped[str] = mapped_column(String(200))
    site_ids: Mapped[list[str]] = mapped_column(JSON)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class PartyKeyRow(Base):
    """A public signing key of a party; `valid_to` may be set once."""

    __tablename__ = "party_key"

    party_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    key_id: Mapped[str] = mapped_column(String(200), primary_key=True)
    algorithm: Mapped[str] = mapped_column(String(16))
    public: Mapped[bytes] = mapped_column(LargeBinary)
    valid_from: Mapped[datetime] = mapped_column(UtcTime)
    valid_to: Mapped[datetime | None] = mapped_column(UtcTime)


class AgreementRow(Base):
    """A version of an agreement as the canonical bytes that are signed."""

    __tablename__ = "agreement"
    __table_args__ = (UniqueConstraint("sha256"), Index("ix_agreement_centre", "centre_id"), HISTORY)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True)
    operator_id: Mapped[str] = mapped_column(String(32))
    centre_id: Mapped[str] = mapped_column(String(32))
    valid_from: Mapped[datetime] = mapped_column(UtcTime)
    payload: Mapped[bytes] = mapped_column(LargeBinary)
    sha256: Mapped[str] = mapped_column(String(64))
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class TariffRow(Base):
    """A version of a tariff as the canonical bytes that are signed."""

    __tablename__ = "tariff"
    __table_args__ = (UniqueConstraint("sha256"), Index("ix_tariff_agreement", "agreement_id"), HISTORY)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True)
    agreement_id: Mapped[str] = mapped_column(String(32))
    valid_from: Mapped[datetime] = mapped_column(UtcTime)
    payload: Mapped[bytes] = mapped_column(LargeBinary)
    sha256: Mapped[str] = mapped_column(String(64))
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class SignatureRow(Base):
    """One party's signature under the document with this hash, once."""

    __tablename__ = "signature"
    __table_args__ = HISTORY

    document_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    party_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    key_id: Mapped[str] = mapped_column(String(200))
    signature: Mapped[bytes] = mapped_column(LargeBinary)
    signed_at: Mapped[datetime] = mapped_column(UtcTime)


class PriceRuleRow(Base):
    """One dated price. A rule of the operator's own is closed by `valid_to`, once; one of a signed tariff holds as
    long as its tariff does."""

    __tablename__ = "price_rule"
    __table_args__ = (Index("ix_price_rule_tariff", "tariff_sha256"),)

    id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=True)
    tariff_sha256: Mapped[str | None] = mapped_column(String(64))
    currency: Mapped[str] = mapped_column(String(3))
    price_micro: Mapped[int] = mapped_column(BigInteger)
    resource: Mapped[str] = mapped_column(String(64))
    per: Mapped[int] = mapped_column(BigInteger)
    site_id: Mapped[str | None] = mapped_column(String(32))
    queue: Mapped[str | None] = mapped_column(String(64))
    qos: Mapped[str | None] = mapped_column(String(64))
    grade: Mapped[str | None] = mapped_column(String(32))
    user_class: Mapped[str | None] = mapped_column(String(32))
    project_id: Mapped[str | None] = mapped_column(String(32))
    window: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    tier_from: Mapped[int] = mapped_column(BigInteger)
    zone: Mapped[str] = mapped_column(String(64))
    valid_from: Mapped[datetime] = mapped_column(UtcTime)
    valid_to: Mapped[datetime | None] = mapped_column(UtcTime)
    created_at: Mapped[datetime] = mapped_column(UtcTime)


class DiscountRow(Base):
    """A contract's ratio on the prices of a project; `order_id`: of the priced order that has paid instead; `draws`:
    what of an order runs at it are paid with."""

    __tablename__ = "discount"
    __table_args__ = (Index("ix_discount_project", "project_id"),)

    id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=True)
    project_id: Mapped[str] = mapped_column(String(32))
    numerator: Mapped[int] = mapped_column(Integer)
    denominator: Mapped[int] = mapped_column(Integer)
    site_id: Mapped[str | None] = mapped_column(String(32))
    grade: Mapped[str | None] = mapped_column(String(32))
    resource: Mapped[str | None] = mapped_column(String(64))
    reason: Mapped[str] = mapped_column(String(200))
    draws: Mapped[str | None] = mapped_column(String(WIDTH))
    valid_from: Mapped[datetime] = mapped_column(UtcTime)
    valid_to: Mapped[datetime | None] = mapped_column(UtcTime)
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    order_id: Mapped[str | None] = mapped_column(String(32))


class ProjectTermsRow(Base):
    """On what terms a project buys, from `valid_from` on: its class of user, and who pays in which parts.

    `payers`: [[party id, weight], …]; what rounding leaves goes to the first. Empty: the project itself.
    """

    __tablename__ = "project_terms"
    __table_args__ = HISTORY

    project_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    valid_from: Mapped[datetime] = mapped_column(UtcTime, primary_key=True)
    user_class: Mapped[str] = mapped_column(String(32))
    payers: Mapped[list[Any]] = mapped_column(JSON)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class OrderRow(Base):
    """What a project ordered: a block, a subscription (a block each month), a trial, or pay as used."""

    __tablename__ = "service_order"
    __table_args__ = (Index("ix_service_order_project", "project_id"), HISTORY)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    project_id: Mapped[str] = mapped_column(String(32))
    payer_id: Mapped[str] = mapped_column(String(32))
    agreement_id: Mapped[str | None] = mapped_column(String(32))
    kind: Mapped[str] = mapped_column(String(16))
    commodity: Mapped[str] = mapped_column(String(32))
    amount: Mapped[int] = mapped_column(BigInteger)
    price_micro: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str] = mapped_column(String(3))
    starts_at: Mapped[datetime] = mapped_column(UtcTime)
    ends_at: Mapped[datetime | None] = mapped_column(UtcTime)
    carry_over_max: Mapped[int] = mapped_column(BigInteger)
    zone: Mapped[str] = mapped_column(String(64))
    ordered_by: Mapped[str] = mapped_column(String(32))
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)
    site_id: Mapped[str | None] = mapped_column(String(32))


class AllocationRow(Base):
    """An amount of a commodity that a project may use in [valid_from, expires_at)."""

    __tablename__ = "allocation"
    __table_args__ = (Index("ix_allocation_project", "project_id", "commodity"), HISTORY)

    id: Mapped[str] = mapped_column(String(80), primary_key=True)
    order_id: Mapped[str | None] = mapped_column(String(32))
    project_id: Mapped[str] = mapped_column(String(32))
    commodity: Mapped[str] = mapped_column(String(WIDTH))
    amount: Mapped[int] = mapped_column(BigInteger)
    source: Mapped[str] = mapped_column(String(16))
    valid_from: Mapped[datetime] = mapped_column(UtcTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcTime)
    carry_over_max: Mapped[int] = mapped_column(BigInteger)
    entry_id: Mapped[int] = mapped_column(BigInteger)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class AllocationEventRow(Base):
    """What became of an allocation beyond use: `expired` (once), `transferred`, `canceled`, `paid` (an
    invoice: `used` of its net, `amount` of its tax)."""

    __tablename__ = "allocation_event"
    __table_args__ = (Index("ix_allocation_event_allocation", "allocation_id"), HISTORY)

    entry_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    allocation_id: Mapped[str] = mapped_column(String(80))
    kind: Mapped[str] = mapped_column(String(16))
    amount: Mapped[int] = mapped_column(BigInteger)
    used: Mapped[int] = mapped_column(BigInteger)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)
