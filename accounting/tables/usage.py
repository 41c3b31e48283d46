"""What meters read: usage records, and what could not be read."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Index, Integer, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from accounting.tables.base import HISTORY, Base, Id, UtcTime

_SUPERSEDES = text("supersedes IS NOT NULL")
_WHERE_NOT_NULL: Any = {"sqlite_where": _SUPERSEDES, "postgresql_where": _SUPERSEDES}


class UsageRecordRow(Base):
    """What a meter read of one run; a changed reading is revision n+1, and the older one stays.

    `ordered_grade`: the service grade that the job asked for; None: the agreement's for its queue.
    `statement_id`: the reading is a line of that centre statement, posted from a break; `signed_by`: the party whose
    signature under it the gateway has verified. Nothing that a raw record says can set them.
    """

    __tablename__ = "usage_record"
    __table_args__ = (
        UniqueConstraint("site_id", "run_key", "meter", "revision", name="uq_usage_record_reading"),
        Index("ix_usage_record_job", "job_id"),
        Index("ix_usage_record_project", "project_id", "end_time"),
        # A centre's runs by time, with what a comparison asks of each: it reads no row of those that agree.
        Index(
            "ix_usage_record_site",
            "site_id",
            "end_time",
            "kind",
            "meter",
            "run_key",
            "cores",
            "core_seconds",
            "username",
            "account",
        ),
        Index("ix_usage_record_native", "native_id"),
        # Few readings take the place of another.
        Index("ix_usage_record_supersedes", "supersedes", **_WHERE_NOT_NULL),
        HISTORY,
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=True)
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
    account: Mapped[str] = mapped_column(String(64))
    queue: Mapped[str] = mapped_column(String(64))
    qos: Mapped[str] = mapped_column(String(64))
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
    exclusive: Mapped[bool] = mapped_column(Boolean)
    requested_cores: Mapped[int | None] = mapped_column(Integer)
    cpus: Mapped[int | None] = mapped_column(Integer)
    threads_per_core: Mapped[int] = mapped_column(Integer)
    units: Mapped[dict[str, int] | None] = mapped_column(JSON)
    raw: Mapped[dict[str, Any]] = mapped_column(JSON)
    ordered_grade: Mapped[str | None] = mapped_column(String(32))
    statement_id: Mapped[int | None] = mapped_column(BigInteger)
    signed_by: Mapped[str | None] = mapped_column(String(32))
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)


class QuarantineRow(Base):
    """A raw record that could not be read or priced, kept whole for a person."""

    __tablename__ = "quarantine"
    __table_args__ = HISTORY

    content_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    site_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    format: Mapped[str] = mapped_column(String(32))
    raw: Mapped[str] = mapped_column(String)
    why: Mapped[str] = mapped_column(String(500))
    recorded_at: Mapped[datetime] = mapped_column(UtcTime)
