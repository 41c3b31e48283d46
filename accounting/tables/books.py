"""The ledger: entries, postings, charges, and the standing of each project."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Index, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from accounting.bound import WIDTH
from accounting.tables.base import HISTORY, Base, Id, UtcTime


class AccountRow(Base):
    """An account in one commodity: a currency (micro-units), `core-seconds`, `shots`, `core-seconds@site:S` …"""

    __tablename__ = "account"
    __table_args__ = (UniqueConstraint("code", "commodity"), HISTORY)

    id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=True)
    code: Mapped[str] = mapped_column(String(150))
    commodity: Mapped[str] = mapped_column(String(WIDTH))


class JournalEntryRow(Base):
    """One balanced entry; `idem_key` makes booking it twice impossible.

    It counts in the period that `effective_at` is in; `service_at` is when the work was, where that is earlier: a late
    record of a closed period. `recorded_at` is when the books knew it. `linked_entry_id`: the entry that this one
    goes with (its overage) or takes back.
    """

    __tablename__ = "journal_entry"
    __table_args__ = (Index("ix_journal_entry_effective", "tenant", "effective_at"), HISTORY)

    id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=True)
    tenant: Mapped[str] = mapped_column(String(32))
    idem_key: Mapped[str] = mapped_column(String(200), unique=True)
    content_sha256: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(32))
    effective_at: Mapped[datetime] = mapped_column(UtcTime)
    service_at: Mapped[datetime | None] = mapped_column(UtcTime)
    linked_entry_id: Mapped[int | None] = mapped_column(BigInteger)
    memo: Mapped[str] = mapped_column(String(500))
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class PostingRow(Base):
    """A line of an entry; debits are positive."""

    __tablename__ = "posting"
    __table_args__ = (
        Index("ix_posting_account", "account_id"),
        {"sqlite_with_rowid": False, **HISTORY},
    )

    entry_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    line: Mapped[int] = mapped_column(Integer, primary_key=True)
    account_id: Mapped[int] = mapped_column(BigInteger)
    amount: Mapped[int] = mapped_column(BigInteger)


class ChargeRow(Base):
    """The price of one reading, with the arithmetic; at most one for each reading.

    `amount_micro` is what the project owes, `gross_micro` the price of all that was metered. `gross - amount` is borne
    by the operator (`borne_micro`) or was never earned by the centre (the rest); `reason` says why. Of gross less what
    the centre bears, `centre_micro` is the centre's, `tax_micro` tax, and the rest the operator's. `payers`: who owes
    which part of the amount; None: the whole project. `list_…_micro`: gross and centre's share had no order paid for
    a part of it; None: none did.
    """

    __tablename__ = "charge"
    __table_args__ = (
        Index("ix_charge_job", "job_id"),
        Index("ix_charge_project", "project_id"),
        Index("ix_charge_entry", "entry_id"),
        HISTORY,
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=True)
    usage_record_id: Mapped[int] = mapped_column(BigInteger, unique=True)
    entry_id: Mapped[int] = mapped_column(BigInteger)
    job_id: Mapped[str] = mapped_column(String(32))
    project_id: Mapped[str] = mapped_column(String(32))
    meter: Mapped[str] = mapped_column(String(8))
    currency: Mapped[str] = mapped_column(String(3))
    amount_micro: Mapped[int] = mapped_column(BigInteger)
    gross_micro: Mapped[int] = mapped_column(BigInteger)
    borne_micro: Mapped[int] = mapped_column(BigInteger)
    centre_micro: Mapped[int] = mapped_column(BigInteger)
    tax_micro: Mapped[int] = mapped_column(BigInteger)
    core_seconds: Mapped[int] = mapped_column(BigInteger)
    agreement_id: Mapped[str | None] = mapped_column(String(32))
    agreement_version: Mapped[int | None] = mapped_column(Integer)
    policy_version: Mapped[str] = mapped_column(String(32))
    grade: Mapped[str] = mapped_column(String(32))
    user_class: Mapped[str] = mapped_column(String(32))
    payers: Mapped[dict[str, int] | None] = mapped_column(JSON(none_as_null=True))
    rule: Mapped[str] = mapped_column(String(300))
    reason: Mapped[str] = mapped_column(String(64))
    segments: Mapped[list[Any]] = mapped_column(JSON)
    overage: Mapped[bool] = mapped_column(Boolean)
    list_gross_micro: Mapped[int | None] = mapped_column(BigInteger)
    list_centre_micro: Mapped[int | None] = mapped_column(BigInteger)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class ChargeReversalRow(Base):
    """A charge that another reading has replaced."""

    __tablename__ = "charge_reversal"
    __table_args__ = HISTORY

    charge_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    by_usage_record_id: Mapped[int] = mapped_column(BigInteger)
    entry_id: Mapped[int] = mapped_column(BigInteger)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class BalanceRow(Base):
    """A project's standing in one commodity: a cache of the ledger that the limit is checked against.

    `posted` is what it used, `held` what is set aside, `limit_amount` what it was given: credit, payments, grants less
    what was paid back or expired. `limit_amount` None: not limited in this commodity.
    """

    __tablename__ = "balance"

    project_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    commodity: Mapped[str] = mapped_column(String(WIDTH), primary_key=True)
    posted: Mapped[int] = mapped_column(BigInteger)
    held: Mapped[int] = mapped_column(BigInteger)
    limit_amount: Mapped[int | None] = mapped_column(BigInteger)


class HoldRow(Base):
    """Credit set aside for a job. `state`: open, released; `phase`: committed (waits), in_flight (runs)."""

    __tablename__ = "hold"
    __table_args__ = (Index("ix_hold_project", "project_id", "state", "phase"),)

    job_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    commodity: Mapped[str] = mapped_column(String(WIDTH), primary_key=True)
    project_id: Mapped[str] = mapped_column(String(32))
    amount: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(16))
    phase: Mapped[str] = mapped_column(String(16))
    placed_at: Mapped[datetime] = mapped_column(UtcTime)
    released_at: Mapped[datetime | None] = mapped_column(UtcTime)


class PeriodRow(Base):
    """A month of the billing calendar of a tenant, [starts_at, ends_at): open, closing, closed; never open again."""

    __tablename__ = "period"

    tenant: Mapped[str] = mapped_column(String(32), primary_key=True)
    starts_at: Mapped[datetime] = mapped_column(UtcTime, primary_key=True)
    ends_at: Mapped[datetime] = mapped_column(UtcTime)
    zone: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    closed_at: Mapped[datetime | None] = mapped_column(UtcTime)


class PeriodEventRow(Base):
    """A step of a period, by whom; the last one carries the hash over the balances of all accounts."""

    __tablename__ = "period_event"
    __table_args__ = HISTORY

    tenant: Mapped[str] = mapped_column(String(32), primary_key=True)
    starts_at: Mapped[datetime] = mapped_column(UtcTime, primary_key=True)
    state: Mapped[str] = mapped_column(String(16), primary_key=True)
    by: Mapped[str] = mapped_column(String(64))
    seal_sha256: Mapped[str] = mapped_column(String(64))
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class TierCountRow(Base):
    """What a project used and was charged under one tiered price in one month: a cache of its live charges."""

    __tablename__ = "tier_count"

    project_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    tier_key: Mapped[str] = mapped_column(String(100), primary_key=True)
    quantity: Mapped[int] = mapped_column(BigInteger)
    amount_micro: Mapped[int] = mapped_column(BigInteger)


class AccrualRow(Base):
    """What a run that was still going at the end of a period had cost until then; taken back by its final record."""

    __tablename__ = "accrual"
    __table_args__ = (UniqueConstraint("site_id", "run_key", "period_end"), Index("ix_accrual_job", "job_id"), HISTORY)

    id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=True)
    site_id: Mapped[str] = mapped_column(String(32))
    run_key: Mapped[str] = mapped_column(String(100))
    period_end: Mapped[datetime] = mapped_column(UtcTime)
    job_id: Mapped[str] = mapped_column(String(32))
    task: Mapped[int | None] = mapped_column(Integer)
    project_id: Mapped[str] = mapped_column(String(32))
    currency: Mapped[str] = mapped_column(String(3))
    amount_micro: Mapped[int] = mapped_column(BigInteger)
    core_seconds: Mapped[int] = mapped_column(BigInteger)
    entry_id: Mapped[int] = mapped_column(BigInteger)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class AccrualReversalRow(Base):
    """An accrual that was taken back."""

    __tablename__ = "accrual_reversal"
    __table_args__ = HISTORY

    accrual_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    entry_id: Mapped[int] = mapped_column(BigInteger)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)
