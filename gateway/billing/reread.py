"""Read what is in quarantine again, once the reason is mended: whatever its age, from the raw text that was kept.

The collect tick looks back some weeks; what is older only its kept text still tells. A run of a closed month counts in
the open one, as any late record does. What the centre has told of a run since is newer than the kept text, and stands.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from accounting import store as books
from accounting.evidence.outbox import put_rows
from accounting.sources import read_usage
from accounting.store.readings import UNPRICED, keep_reread, kept_unread, last_told
from accounting.usage import Unreadable, UsageRecord
from gateway.billing.names import Names
from gateway.billing.preparers import Preparers
from gateway.jobs.provisional import POLICY
from gateway.services import Services
from site_adapters.types import SiteUsage

# So many readings in one transaction (bookers.py): other writers wait no longer than for a look at a centre.
_AT_ONCE = 300


@dataclass(slots=True)
class Reread:
    """What became of a site's records in quarantine. `still`: why the others cannot be read, and how many."""

    booked: int = 0
    known: int = 0
    nobody: int = 0
    no_run: int = 0
    still: dict[str, int] = field(default_factory=lambda: defaultdict(int))


@dataclass(frozen=True, slots=True)
class _Kept:
    """A record in quarantine that can be read now."""

    sha256: str
    recorded_at: datetime
    usage: SiteUsage
    record: UsageRecord | None


def reread(services: Services, site_id: str, *, by: str, now: datetime) -> Reread:
    """Read the site's quarantine again and book what can be read; a second call finds nothing new to do."""
    done = Reread()
    readable = list(_readable(services, site_id, done))
    with services.db.read() as conn:
        told = last_told(conn, site_id, {kept.record.run_key for kept in readable if kept.record is not None})
    with Preparers(services, site_id, now) as preparers:
        for at in range(0, len(readable), _AT_ONCE):
            some = readable[at : at + _AT_ONCE]
            fresh = [kept for kept in some if kept.record is not None and not _is_told(kept, told)]
            sealed = [item for part in preparers.prepared([kept.usage for kept in fresh]) for item in part.sealed]
            outcome = {kept.sha256: _outcome(kept, told, {item.record.run_key for item in sealed}) for kept in some}
            with services.db.write() as conn:
                if sealed:
                    books.record_and_book(conn, sealed, policy=POLICY, now=now)
                    put_rows(conn, site_id, [item.content_sha256 for item in sealed], [])
                keep_reread(conn, site_id, outcome, by=by, now=now)
            for word in outcome.values():
                setattr(done, word, getattr(done, word) + 1)
    return done


def _is_told(kept: _Kept, told: Mapping[str, datetime]) -> bool:
    """Whether the centre has told the run since the text came."""
    last = None if kept.record is None else told.get(kept.record.run_key)
    return last is not None and last >= kept.recorded_at


def _outcome(kept: _Kept, told: Mapping[str, datetime], ours: set[str]) -> str:
    if kept.record is None:
        return "no_run"
    if _is_told(kept, told):
        return "known"
    return "booked" if kept.record.run_key in ours else "nobody"


def _readable(services: Services, site_id: str, done: Reread) -> Iterator[_Kept]:
    """Oldest first, so that of several texts about one run the newest is its last reading."""
    with services.db.read() as conn:
        names = Names(services, conn, site_id)
        rows = [row for row in kept_unread(conn, site_id) if row.outcome in (None, "nobody")]
        raws = {row.content_sha256: names.opened(row.raw) for row in rows}
        shown = {row.content_sha256: names.shown(row.why) for row in rows}
    for row in rows:
        if row.format == UNPRICED:
            continue  # it is read, and gets its price by itself
        fields = _fields(raws[row.content_sha256])
        if fields is None:
            done.still[shown[row.content_sha256]] += 1
            continue
        found = read_usage(row.format, fields, site_id=site_id)
        if isinstance(found, Unreadable):
            done.still[found.why] += 1
        else:
            yield _Kept(row.content_sha256, row.recorded_at, SiteUsage(row.format, fields), found)


def _fields(raw: str) -> Mapping[str, str] | None:
    """A framed row's fields; None for a line that was never framed, or whose person was erased."""
    try:
        found: Any = json.loads(raw)
    except ValueError:
        return None
    fits = isinstance(found, dict) and all(isinstance(value, str) for value in found.values())
    return found if fits else None
