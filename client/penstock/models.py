"""Typed answers. Fields that a newer gateway adds are ignored."""

from __future__ import annotations

from typing import Any

import msgspec

FINAL = frozenset({"completed", "failed", "canceled"})


class Money(msgspec.Struct, frozen=True):
    """`amount` is a decimal string."""

    amount: str
    currency: str
    provisional: bool = False

    def __str__(self) -> str:
        return f"{self.amount} {self.currency}" + (" (provisional)" if self.provisional else "")


class Status(msgspec.Struct, frozen=True):
    """What became of it; `native_state` in the site's word."""

    state: str
    reason: str = ""
    native_state: str = ""
    native_reason: str = ""
    exit_code: int | None = None
    signal: int | None = None
    message: str = ""
    observed_at: str | None = None
    stale_since: str | None = None

    @property
    def final(self) -> bool:
        return self.state in FINAL


class Usage(msgspec.Struct, frozen=True):
    """`core_seconds` charged; `final` once the centre's own record has come."""

    core_seconds: int
    final: bool = False


class Job(msgspec.Struct, frozen=True):
    """One job as the gateway shows it. Times are RFC 3339 in UTC."""

    id: str
    name: str
    project: str
    user: str
    site: str
    status: Status
    attempt: int = 0
    native_job_id: str | None = None
    queue: str = ""
    wish: str = ""
    array: dict[str, Any] | None = None
    created_at: str | None = None
    submitted_at: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    usage: Usage | None = None
    charge: Money | None = None
    estimate: Money | None = None

    def _repr_html_(self) -> str:
        from html import escape

        charge = f" · {self.charge}" if self.charge else ""
        return f"<b>{escape(self.name or self.id)}</b> {escape(self.status.state)} at {escape(self.site)}{charge}"


class Plan(msgspec.Struct, frozen=True):
    """A dry run."""

    ok: bool
    problems: list[dict[str, str]]
    site: str | None = None
    script: str | None = None
    argv: list[str] = []
    estimate: dict[str, Any] | None = None
    candidates: list[dict[str, Any]] = []
    asked: dict[str, Any] = {}
    given: dict[str, Any] = {}
    charged: dict[str, Any] = {}


class Page(msgspec.Struct, frozen=True):
    items: list[Job]
    next_cursor: str | None = None


class Chunk(msgspec.Struct, frozen=True):
    """Bytes of an output from `offset`; `eof` when nothing is behind them now."""

    data: bytes
    offset: int
    size: int

    @property
    def eof(self) -> bool:
        return self.offset + len(self.data) >= self.size


class Event(msgspec.Struct, frozen=True):
    """One server-sent event."""

    kind: str
    id: int
    data: dict[str, Any]
