"""When a centre is closed for maintenance, from its scheduler's own reservations, and what cannot end before that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, select

from gateway.jobs.repository import SITES


@dataclass(frozen=True, slots=True)
class Maintenance:
    """A span in which nothing of ours may run there."""

    name: str
    start: datetime
    end: datetime


def kept(spans: Iterable[Any]) -> list[dict[str, str]]:
    """A centre's reservations for maintenance as they are kept with its facts."""
    return [{"name": s.name, "start": s.start.isoformat(), "end": s.end.isoformat()} for s in spans if s.maintenance]


def planned(conn: Connection, site_id: str) -> tuple[Maintenance, ...]:
    """What was last learned of it, earliest first."""
    facts = conn.scalar(select(SITES.c.facts).where(SITES.c.id == site_id)) or {}
    found = [Maintenance(s["name"], datetime.fromisoformat(s["start"]), datetime.fromisoformat(s["end"]))
             for s in facts.get("maintenance", ())]  # fmt: skip
    return tuple(sorted(found, key=lambda m: m.start))


def in_the_way(spans: Iterable[Maintenance], duration_s: int, now: datetime) -> Maintenance | None:
    """The first one that a job which starts now would run into."""
    ends = now + timedelta(seconds=duration_s)
    return next((m for m in spans if now < m.end and m.start < ends), None)
