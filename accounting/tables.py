"""The tables of the books. History is appended: triggers refuse UPDATE and DELETE (DESIGN law 11)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Connection,
    DateTime,
    Dialect,
    Index,
    Integer,
    String,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from accounting.errors import BooksUnsafe


class UtcTime(TypeDecorator[datetime]):
    """Aware UTC in Python on every database."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"naive datetime {value!r}: times are aware UTC")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Accounting's own tables."""


metadata = Base.metadata
_Id = BigInteger().with_variant(Integer, "sqlite")  # SQLite only numbers a column declared INTEGER


class UsageRecordRow(Base):
    """What a meter read of one run; a changed reading is revision n+1, and the older one stays."""

    __tablename__ = "usage_record"
    __table_args__ = (
        UniqueConstraint("site_id", "run_key", "meter", "revision", name="uq_usage_record_reading"),
        Index("ix_usage_record_job", "job_id"),
        Index("ix_usage_record_project", "project_id", "end_time"),
    )

    id: Mapped[int] = mapped_column(_Id, primary_key=True, autoincrement=True)
    site_id: Mapped[str] = mapped_column(String(32))
    run_key: Mapped[str] = mapped_column(String(100))
    meter: Mapped[str] = mapped_column(String(8))
    revision: Mapped[int] = mapped_column(Integer)
    supersedes: Mapped[int | None] = mapped_column(BigInteger)
    content_sha256: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    job_id: Mapped[str | None] = mapped_column(String(32))
    project_id: Mapped[str | None] = mapped_column(String(32))
    user_id: Mapped[str | None] = mapped_column(String(32))
    native_id: Mapped[str] = mapped_column(String(64))
    task: Mapped[int | None] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(String(32))
    username: Mapped[str] = mapped_column(String(64))
    queue: Mapped[str] = mapped_column(String(64))
    cores: Mapped[int] = mapped_column(Integer)
    nodes: Mapped[int] = mapped_column(Integer)
    elapsed_s: Mapped[int] = mapped_column(BigInteger)
    suspended_s: Mapped[int] = mapped_column(BigInteger)
    core_seconds: Mapped[int] = mapped_column(BigInteger)
    node_seconds: Mapped[int] = mapped_column(BigInteger)
    gpu_seconds: Mapped[int] = mapped_column(BigInteger)
    memory_mib_seconds: Mapped[int] = mapped_column(BigInteger)
    submit_time: Mapped[datetime | None] = mapped_column(UtcTime)
    start_time: Mapped[datetime | None] = mapped_column(UtcTime)
    end_time: Mapped[datetime | None] = mapped_column(UtcTime)
    estimated: Mapped[bool] = mapped_column(Boolean)
    raw: Mapped[dict[str, Any]] = mapped_column(JSON)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class QuarantineRow(Base):
    """A raw record that could not be read or priced, kept whole for a person."""

    __tablename__ = "quarantine"

    content_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    site_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    format: Mapped[str] = mapped_column(String(32))
    raw: Mapped[str] = mapped_column(String)
    why: Mapped[str] = mapped_column(String(500))
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class PriceRuleRow(Base):
    """One dated price. A rule is closed by `valid_to`, never changed; `valid_to` may only be set once."""

    __tablename__ = "price_rule"

    id: Mapped[int] = mapped_column(_Id, primary_key=True, autoincrement=True)
    currency: Mapped[str] = mapped_column(String(3))
    micro_per_core_hour: Mapped[int] = mapped_column(BigInteger)
    site_id: Mapped[str | None] = mapped_column(String(32))
    queue: Mapped[str | None] = mapped_column(String(64))
    valid_from: Mapped[datetime] = mapped_column(UtcTime)
    valid_to: Mapped[datetime | None] = mapped_column(UtcTime)
    created_at: Mapped[datetime] = mapped_column(UtcTime)


class JournalEntryRow(Base):
    """One balanced entry; `idem_key` makes booking it twice impossible."""

    __tablename__ = "journal_entry"

    id: Mapped[int] = mapped_column(_Id, primary_key=True, autoincrement=True)
    idem_key: Mapped[str] = mapped_column(String(200), unique=True)
    content_sha256: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(32))
    effective_at: Mapped[datetime] = mapped_column(UtcTime)
    memo: Mapped[str] = mapped_column(String(500))
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class PostingRow(Base):
    """A line of an entry."""

    __tablename__ = "posting"
    __table_args__ = (Index("ix_posting_account", "account", "commodity"),)

    entry_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    line: Mapped[int] = mapped_column(Integer, primary_key=True)
    account: Mapped[str] = mapped_column(String(100))
    commodity: Mapped[str] = mapped_column(String(16))
    amount: Mapped[int] = mapped_column(BigInteger)


class ChargeRow(Base):
    """The price of one reading, with the arithmetic; at most one for each reading."""

    __tablename__ = "charge"
    __table_args__ = (Index("ix_charge_job", "job_id"),)

    id: Mapped[int] = mapped_column(_Id, primary_key=True, autoincrement=True)
    usage_record_id: Mapped[int] = mapped_column(BigInteger, unique=True)
    entry_id: Mapped[int] = mapped_column(BigInteger)
    job_id: Mapped[str] = mapped_column(String(32))
    project_id: Mapped[str] = mapped_column(String(32))
    meter: Mapped[str] = mapped_column(String(8))
    currency: Mapped[str] = mapped_column(String(3))
    amount_micro: Mapped[int] = mapped_column(BigInteger)
    core_seconds: Mapped[int] = mapped_column(BigInteger)
    policy_version: Mapped[str] = mapped_column(String(32))
    rule: Mapped[str] = mapped_column(String(200))
    segments: Mapped[list[Any]] = mapped_column(JSON)
    overage: Mapped[bool] = mapped_column(Boolean)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class ChargeReversalRow(Base):
    """A charge that another reading has replaced."""

    __tablename__ = "charge_reversal"

    charge_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    by_usage_record_id: Mapped[int] = mapped_column(BigInteger)
    entry_id: Mapped[int] = mapped_column(BigInteger)
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class BalanceRow(Base):
    """A project's standing in one commodity: a cache of the ledger that the limit is checked against.

    `limit_amount` None: not limited in this commodity.
    """

    __tablename__ = "balance"

    project_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    commodity: Mapped[str] = mapped_column(String(16), primary_key=True)
    posted: Mapped[int] = mapped_column(BigInteger)
    held: Mapped[int] = mapped_column(BigInteger)
    limit_amount: Mapped[int | None] = mapped_column(BigInteger)


class HoldRow(Base):
    """Credit set aside for a job. `state`: open, released; `phase`: committed (waits), in_flight (runs)."""

    __tablename__ = "hold"
    __table_args__ = (Index("ix_hold_project", "project_id", "state", "phase"),)

    job_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    commodity: Mapped[str] = mapped_column(String(16), primary_key=True)
    project_id: Mapped[str] = mapped_column(String(32))
    amount: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(16))
    phase: Mapped[str] = mapped_column(String(16))
    placed_at: Mapped[datetime] = mapped_column(UtcTime)
    released_at: Mapped[datetime | None] = mapped_column(UtcTime)


BILLING = (  # invoice_tables.py
    "legal_entity", "project_payer", "tax_rule", "billing_document", "billing_item", "dispute", "dispute_event",
    "bank_transaction", "invoice_payment",
)  # fmt: skip
APPEND_ONLY = ("usage_record", "quarantine", "journal_entry", "posting", "charge", "charge_reversal", *BILLING)


def append_only_triggers(dialect: str) -> list[str]:
    """DDL that refuses UPDATE and DELETE on history, for `sqlite` or `postgresql`; safe to run again."""
    if dialect == "sqlite":
        return [
            f"CREATE TRIGGER IF NOT EXISTS {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            for table in APPEND_ONLY
            for verb in ("UPDATE", "DELETE")
        ]
    function = (
        "CREATE OR REPLACE FUNCTION penstock_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
    )
    triggers = [
        f"CREATE OR REPLACE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
        f"FOR EACH {'STATEMENT' if verb == 'TRUNCATE' else 'ROW'} EXECUTE FUNCTION penstock_append_only()"
        for table in APPEND_ONLY
        for verb in ("UPDATE", "DELETE", "TRUNCATE")
    ]
    return [function, *triggers]


def assert_append_only(connection: Connection) -> None:
    """Raise `BooksUnsafe` where a trigger is missing (a migration in batch mode drops them silently)."""
    if connection.dialect.name == "sqlite":
        query = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        verbs: tuple[str, ...] = ("update", "delete")
    else:
        query = "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgenabled <> 'D'"
        verbs = ("update", "delete", "truncate")
    found = set(connection.scalars(text(query)))
    wanted = {f"{table}_no_{verb}" for table in APPEND_ONLY for verb in verbs}
    if missing := sorted(wanted - found):
        raise BooksUnsafe(f"append-only triggers are missing: {', '.join(missing)}")
