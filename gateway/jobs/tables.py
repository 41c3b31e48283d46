"""Jobs, their attempts, their runs, and what happened to them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Index, Integer, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from gateway.db import Base, UtcDateTime


class SiteRow(Base):
    """What the gateway knows of a site between restarts, and who serves it.

    `fencing` grows each time a worker takes the site; a worker that wakes up late holds an old number and its
    rows are refused (see `repository.assert_served_by`).
    """

    __tablename__ = "sites"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    fencing: Mapped[int] = mapped_column(BigInteger, default=0)
    worker: Mapped[str | None] = mapped_column(String(200))
    closed_reason: Mapped[str | None] = mapped_column(String(1000))
    stale_since: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_good_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    collected_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    facts: Mapped[dict[str, Any] | None] = mapped_column(JSON)  # queues, capacity: shown and checked against
    facts_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class HeartbeatRow(Base):
    """When the worker of a site last said that it lives (PostgreSQL). Apart from `sites`: ticks lock that row."""

    __tablename__ = "heartbeats"

    site_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)


class GatewayRow(Base):
    """One row: this gateway's id (part of every tag) and whether it takes writes."""

    __tablename__ = "gateway"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    gateway_id: Mapped[str] = mapped_column(String(4))
    recovering_since: Mapped[datetime | None] = mapped_column(UtcDateTime)


class JobRow(Base):
    """One job: what was asked, where it is, what was wished. States and reasons as in jobs/lifecycle.py."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_user", "user_id", "id"),
        Index("ix_jobs_project", "project_id", "id"),
        Index("ix_jobs_site", "site_id", "id"),
        Index("ix_jobs_state", "state", "id"),
        Index("ix_jobs_user_state", "user_id", "state", "id"),
        Index("ix_jobs_user_project", "user_id", "project_id", "id"),
        Index("ix_jobs_user_site", "user_id", "site_id", "id"),
        Index("ix_jobs_user_name", "user_id", "name", "id"),
        Index("ix_jobs_project_state", "project_id", "state", "id"),
        Index("ix_jobs_project_site", "project_id", "site_id", "id"),
        Index("ix_jobs_site_state", "site_id", "state", "id"),
        Index("ix_jobs_name", "name", "id"),
        Index("ix_jobs_site_phase", "site_id", "phase", "id"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    user_id: Mapped[str] = mapped_column(String(32))
    project_id: Mapped[str] = mapped_column(String(32))
    site_id: Mapped[str] = mapped_column(String(32))
    site_account_id: Mapped[str] = mapped_column(String(32))
    name: Mapped[str] = mapped_column(String(300))
    queue: Mapped[str] = mapped_column(String(64), default="")  # as people call it: the price may depend on it
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)
    tag: Mapped[str] = mapped_column(String(16), unique=True)

    # phase steers the ticks, state is for people: see lifecycle.Phase
    phase: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(String(32), default="")
    native_state: Mapped[str] = mapped_column(String(64), default="")
    native_reason: Mapped[str] = mapped_column(String(200), default="")
    message: Mapped[str] = mapped_column(String(2000), default="")
    exit_code: Mapped[int | None] = mapped_column()
    signal: Mapped[int | None] = mapped_column()
    observed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    missing_looks: Mapped[int] = mapped_column(Integer, default=0)
    missing_since: Mapped[datetime | None] = mapped_column(UtcDateTime)  # the first of these looks
    observed_digest: Mapped[str] = mapped_column(String(16), default="")  # of the rows last seen: equal = no change

    attempt: Mapped[int] = mapped_column(Integer, default=0)
    native_id: Mapped[str | None] = mapped_column(String(64))
    cluster: Mapped[str] = mapped_column(String(64), default="")
    native_submit_time: Mapped[datetime | None] = mapped_column(UtcDateTime)
    restarts: Mapped[int] = mapped_column(Integer, default=0)

    wish: Mapped[str] = mapped_column(String(16), default="")  # cancel, hold, release: until the site confirms it
    # asked of the site by `modify`, not yet done
    change: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    change_refusals: Mapped[int] = mapped_column(Integer, default=0)  # "not now", one after the other
    change_due_at: Mapped[datetime | None] = mapped_column(UtcDateTime)  # asked again then; None: now
    wish_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    wish_tried_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    not_before: Mapped[datetime | None] = mapped_column(UtcDateTime)
    blocked_by: Mapped[int] = mapped_column(Integer, default=0)  # dependencies not yet decided
    array_size: Mapped[int | None] = mapped_column(Integer)
    cores_charged: Mapped[int] = mapped_column(Integer, default=1)  # per task
    duration_max: Mapped[int] = mapped_column(Integer, default=0)  # seconds, of one task
    max_cost_micro: Mapped[int | None] = mapped_column(BigInteger)
    enforce_duration: Mapped[bool] = mapped_column(Boolean, default=False)
    limit_hit: Mapped[str] = mapped_column(String(16), default="")  # the limit for which the gateway itself cancels it
    estimate: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    manifest: Mapped[str] = mapped_column(String(200), default="")

    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    submitted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_event: Mapped[int] = mapped_column(Integer, default=0)
    recovered: Mapped[bool] = mapped_column(Boolean, default=False)


class AttemptRow(Base):
    """One handing-over to a site. `outcome`: intent, accepted, rejected, unknown, fenced (proved never to run)."""

    __tablename__ = "attempts"
    __table_args__ = (
        Index("ix_attempts_site_intent", "site_id", "intent_at"),
        Index("ix_attempts_native", "site_id", "native_id"),
    )

    job_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True)
    site_id: Mapped[str] = mapped_column(String(32))
    outcome: Mapped[str] = mapped_column(String(16))
    site_name: Mapped[str] = mapped_column(String(100))
    native_id: Mapped[str | None] = mapped_column(String(64))
    cluster: Mapped[str] = mapped_column(String(64), default="")
    native_submit_time: Mapped[datetime | None] = mapped_column(UtcDateTime)
    stdout_path: Mapped[str] = mapped_column(String(2000), default="")
    stderr_path: Mapped[str] = mapped_column(String(2000), default="")
    script: Mapped[bytes | None] = mapped_column(LargeBinary)  # zlib: what the site was given
    message: Mapped[str] = mapped_column(String(2000), default="")
    good_looks: Mapped[int] = mapped_column(Integer, default=0)
    looked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    intent_at: Mapped[datetime] = mapped_column(UtcDateTime)
    decided_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class RunRow(Base):
    """One run of one task (task -1: not an array). A requeue is a run of its own."""

    __tablename__ = "runs"
    __table_args__ = (Index("ix_runs_site_native", "site_id", "native_id"),)

    job_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True)
    task: Mapped[int] = mapped_column(Integer, primary_key=True)
    restart: Mapped[int] = mapped_column(Integer, primary_key=True)
    site_id: Mapped[str] = mapped_column(String(32))
    native_id: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(String(32), default="")
    native_state: Mapped[str] = mapped_column(String(64), default="")
    exit_code: Mapped[int | None] = mapped_column()
    signal: Mapped[int | None] = mapped_column()
    cores: Mapped[int | None] = mapped_column(Integer)
    submit_time: Mapped[datetime | None] = mapped_column(UtcDateTime)
    start_time: Mapped[datetime | None] = mapped_column(UtcDateTime)
    end_time: Mapped[datetime | None] = mapped_column(UtcDateTime)
    observed_at: Mapped[datetime] = mapped_column(UtcDateTime)


class DependencyRow(Base):
    """`job_id` waits for `parent_id`; `decided`: 0 open, 1 satisfied, -1 can never be."""

    __tablename__ = "job_dependencies"
    __table_args__ = (Index("ix_job_dependencies_parent", "parent_id", "decided"),)

    job_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    parent_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    condition: Mapped[str] = mapped_column(String(16), primary_key=True)
    decided: Mapped[int] = mapped_column(Integer, default=0)


class JobTagRow(Base):
    """A person's own labels on a job; `job_id` last in the key so that pages come in order."""

    __tablename__ = "job_tags"
    __table_args__ = (Index("ix_job_tags_value", "key", "value", "job_id"),)

    job_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(256))


class EventRow(Base):
    """What happened to a job, appended; `n` counts per job, so that a stream can resume without gaps."""

    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    n: Mapped[int] = mapped_column(Integer, primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    kind: Mapped[str] = mapped_column(String(32))
    state: Mapped[str] = mapped_column(String(16))
    payload: Mapped[dict[str, Any]] = mapped_column(JSON)


class IdempotencyRow(Base):
    """A key that a person used for a POST: kept as long as the job."""

    __tablename__ = "idempotency"
    __table_args__ = (UniqueConstraint("user_id", "key_sha256"),)

    user_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    key_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    content_sha256: Mapped[str] = mapped_column(String(64))
    status: Mapped[int] = mapped_column(Integer)
    body: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class DecisionRow(Base):
    """Something only a person may decide, or must know: `kind` needs_decision, lost, returned (was lost), foreign_id,
    duplicate, overrun."""

    __tablename__ = "job_breaks"
    __table_args__ = (Index("ix_job_breaks_job", "job_id"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    job_id: Mapped[str] = mapped_column(String(32))
    site_id: Mapped[str] = mapped_column(String(32))
    kind: Mapped[str] = mapped_column(String(32))
    detail: Mapped[dict[str, Any]] = mapped_column(JSON)
    opened_at: Mapped[datetime] = mapped_column(UtcDateTime)
    closed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    decision: Mapped[str] = mapped_column(String(32), default="")
    decided_by: Mapped[str | None] = mapped_column(String(32))
