"""The tables of invoices, credit notes, disputes and payments. All of it is appended, but for the number counters."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from accounting.tables.base import HISTORY, Base, Id, UtcTime


class LegalEntityRow(Base):
    """Who issues or pays, by revision: a document keeps a copy of the one it was made with."""

    __tablename__ = "legal_entity"
    __table_args__ = HISTORY

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    revision: Mapped[int] = mapped_column(Integer, primary_key=True)
    issuer: Mapped[bool] = mapped_column(Boolean)
    legal_name: Mapped[str] = mapped_column(String(200))
    address: Mapped[str] = mapped_column(String(500))
    country: Mapped[str] = mapped_column(String(2))
    tax_id: Mapped[str] = mapped_column(String(40))
    bank_details: Mapped[str] = mapped_column(String(500))
    language: Mapped[str] = mapped_column(String(8))
    zone: Mapped[str] = mapped_column(String(64))
    payment_days: Mapped[int] = mapped_column(Integer)
    prefix: Mapped[str] = mapped_column(String(12))
    tax_code: Mapped[str] = mapped_column(String(32))  # of an issuer: what it charges; of a payer: overrides it
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class ProjectPayerRow(Base):
    """Who pays for a project from a moment on; the newest that has begun holds."""

    __tablename__ = "project_payer"
    __table_args__ = HISTORY

    id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=True)
    project_id: Mapped[str] = mapped_column(String(32), index=True)
    payer_id: Mapped[str] = mapped_column(String(32))
    valid_from: Mapped[datetime] = mapped_column(UtcTime)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class TaxRuleRow(Base):
    """A dated tax rule. It is closed by a later one of the same code, never changed."""

    __tablename__ = "tax_rule"
    __table_args__ = (UniqueConstraint("code", "valid_from"), HISTORY)

    id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=True)
    code: Mapped[str] = mapped_column(String(32))
    kind: Mapped[str] = mapped_column(String(16))
    rate_ppm: Mapped[int] = mapped_column(Integer)
    inclusive: Mapped[bool] = mapped_column(Boolean)
    valid_from: Mapped[datetime] = mapped_column(UtcTime)
    name_en: Mapped[str] = mapped_column(String(100))
    name_zh: Mapped[str] = mapped_column(String(100))
    note_en: Mapped[str] = mapped_column(String(500))
    note_zh: Mapped[str] = mapped_column(String(500))
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class DocumentSeriesRow(Base):
    """The next number of an issuer's invoices or credit notes: this row is locked while one is made."""

    __tablename__ = "document_series"
    __table_args__ = (UniqueConstraint("prefix"),)

    issuer_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    prefix: Mapped[str] = mapped_column(String(12))
    next_number: Mapped[int] = mapped_column(BigInteger)


class BillingDocumentRow(Base):
    """An invoice or credit note as issued. `snapshot` is its canonical text, `sha256` of it the evidence's leaf."""

    __tablename__ = "billing_document"
    __table_args__ = (
        UniqueConstraint("issuer_id", "kind", "serial"),
        Index("ix_billing_document_project", "project_id", "issued_at"),
        Index("ix_billing_document_payer", "payer_id", "issued_at"),
        Index("ix_billing_document_corrects", "corrects"),
        HISTORY,
    )

    number: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    issuer_id: Mapped[str] = mapped_column(String(32))
    serial: Mapped[int] = mapped_column(BigInteger)
    payer_id: Mapped[str] = mapped_column(String(32))
    project_id: Mapped[str] = mapped_column(String(32))
    currency: Mapped[str] = mapped_column(String(3))
    period_start: Mapped[datetime] = mapped_column(UtcTime)
    period_end: Mapped[datetime] = mapped_column(UtcTime)
    issued_at: Mapped[datetime] = mapped_column(UtcTime)
    due_at: Mapped[datetime] = mapped_column(UtcTime)
    net_minor: Mapped[int] = mapped_column(BigInteger)
    tax_minor: Mapped[int] = mapped_column(BigInteger)
    gross_minor: Mapped[int] = mapped_column(BigInteger)
    corrects: Mapped[str | None] = mapped_column(String(32))
    entry_id: Mapped[int] = mapped_column(BigInteger)
    snapshot: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(String(64))
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class BillingItemRow(Base):
    """A charge (or the reversal of a billed charge) on a document: at most once, for ever.

    `part`: whose part of it where payers share it; empty where one pays the whole.
    """

    __tablename__ = "billing_item"
    __table_args__ = (Index("ix_billing_item_document", "document", "site_id", "user_id", "service_start"), HISTORY)

    kind: Mapped[str] = mapped_column(String(8), primary_key=True)  # charge, reversal
    charge_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    part: Mapped[str] = mapped_column(String(32), primary_key=True)
    document: Mapped[str] = mapped_column(String(32))
    site_id: Mapped[str] = mapped_column(String(32))
    user_id: Mapped[str] = mapped_column(String(32))
    service_start: Mapped[datetime] = mapped_column(UtcTime)
    service_end: Mapped[datetime] = mapped_column(UtcTime)
    core_seconds: Mapped[int] = mapped_column(BigInteger)
    amount_micro: Mapped[int] = mapped_column(BigInteger)


class DisputeRow(Base):
    """A line that a payer disputes; at most one live at a time (checked under the issuer's lock)."""

    __tablename__ = "dispute"
    __table_args__ = (Index("ix_dispute_document", "document", "line"), Index("ix_dispute_site", "site_id"), HISTORY)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    document: Mapped[str] = mapped_column(String(32))
    line: Mapped[int] = mapped_column(Integer)
    site_id: Mapped[str] = mapped_column(String(32))
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str] = mapped_column(String(3))
    reason: Mapped[str] = mapped_column(String(2000))
    opened_at: Mapped[datetime] = mapped_column(UtcTime)


class DisputeEventRow(Base):
    """A step of a dispute: `state` is what it led to. The newest event is where the dispute stands."""

    __tablename__ = "dispute_event"
    __table_args__ = HISTORY

    dispute_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    n: Mapped[int] = mapped_column(Integer, primary_key=True)
    step: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    side: Mapped[str] = mapped_column(String(16))
    by: Mapped[str] = mapped_column(String(64))
    text: Mapped[str] = mapped_column(String(2000))
    evidence: Mapped[list[Any]] = mapped_column(JSON)  # [{name, sha256}]: what was shown, by its hash
    credit_note: Mapped[str | None] = mapped_column(String(32))
    due_at: Mapped[datetime] = mapped_column(UtcTime)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class BankTransactionRow(Base):
    """Money that came in (or went back, negative), known by the bank's reference: importing it twice is once."""

    __tablename__ = "bank_transaction"
    __table_args__ = (UniqueConstraint("account", "bank_ref"), HISTORY)

    id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=True)
    account: Mapped[str] = mapped_column(String(64))
    bank_ref: Mapped[str] = mapped_column(String(140))
    content_sha256: Mapped[str] = mapped_column(String(64))
    source: Mapped[str] = mapped_column(String(16))
    booked_on: Mapped[datetime] = mapped_column(UtcTime)
    currency: Mapped[str] = mapped_column(String(3))
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    payer_name: Mapped[str] = mapped_column(String(200))
    remittance: Mapped[str] = mapped_column(String(1000))
    payer_account: Mapped[str] = mapped_column(String(64), server_default="")
    entry_id: Mapped[int] = mapped_column(BigInteger)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class InvoicePaymentRow(Base):
    """Part of a transaction that pays a document; a negative one takes it back."""

    __tablename__ = "invoice_payment"
    __table_args__ = (Index("ix_invoice_payment_document", "document"), HISTORY)

    id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=True)
    transaction_id: Mapped[int] = mapped_column(BigInteger, index=True)
    document: Mapped[str] = mapped_column(String(32))
    amount_minor: Mapped[int] = mapped_column(BigInteger)
    how: Mapped[str] = mapped_column(String(200))
    entry_id: Mapped[int] = mapped_column(BigInteger)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)
