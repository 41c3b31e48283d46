"""What a centre allows us there, and which of two such rules binds: the stricter one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, time
from fnmatch import fnmatchcase
from typing import Any
from zoneinfo import ZoneInfo

from site_adapters.states import PermissionModel


@dataclass(frozen=True, slots=True)
class Policy:
    """The centre's own limits on what we may do; None (or empty) means none. Binding for the gateway's waiting line.

    `hours` are local opening spans (`("18:00", "08:00")`) in the site's `zone` in which we may submit.
    `people_admitted` and `projects_admitted` are names or patterns (`team-*`). `*_in_use_max` bind all our jobs there
    together, waiting ones included. `share_core_seconds` is what was contracted until `share_until`; `qos_allowed[0]`
    is given to a job that names none. `verbs_refused` are verbs of IF2, as `log.read`. `countables`: what a job may ask
    for by number, and the centre's meter tells.
    """

    queued_jobs_max: int | None = None
    queued_jobs_per_person_max: int | None = None
    submits_per_minute: int | None = None
    logins_per_second: float = 2.0
    cores_max: int | None = None
    nodes_max: int | None = None
    duration_max: int | None = None
    array_tasks_max: int | None = None
    hours: tuple[tuple[str, str], ...] = ()
    zone: str = "UTC"
    permission_model: PermissionModel = PermissionModel.OWN_ACCOUNT
    calls_per_minute: int | None = None
    cores_in_use_max: int | None = None
    nodes_in_use_max: int | None = None
    people_admitted: tuple[str, ...] = ()
    projects_admitted: tuple[str, ...] = ()
    qos_allowed: tuple[str, ...] = ()
    share_core_seconds: int | None = None
    share_until: datetime | None = None
    log_interval_s: float = 0.0
    log_bytes_max: int | None = None
    verbs_refused: tuple[str, ...] = ()
    countables: tuple[str, ...] = ()
    referral_url: str = ""


_SMALLER = (
    "queued_jobs_max", "queued_jobs_per_person_max", "submits_per_minute", "logins_per_second", "cores_max",
    "nodes_max", "duration_max", "array_tasks_max", "calls_per_minute", "cores_in_use_max", "nodes_in_use_max",
    "share_core_seconds", "share_until", "log_bytes_max",
)  # fmt: skip
_BOTH = ("people_admitted", "projects_admitted", "qos_allowed")  # what both admit; empty admits everything


def stricter(ours: Policy, theirs: Policy) -> Policy:
    """What satisfies both: smaller limits, what both admit, what either refuses; hours, zone and model are theirs."""
    bound: dict[str, Any] = {}
    for name in _SMALLER:
        both = [v for v in (getattr(ours, name), getattr(theirs, name)) if v is not None]
        bound[name] = min(both, default=None)
    for name in _BOTH:
        bound[name] = _both(getattr(ours, name), getattr(theirs, name))
    bound["log_interval_s"] = max(ours.log_interval_s, theirs.log_interval_s)
    bound["verbs_refused"] = tuple(sorted({*ours.verbs_refused, *theirs.verbs_refused}))
    if not theirs.hours:
        bound["hours"], bound["zone"] = ours.hours, ours.zone
    bound["referral_url"] = theirs.referral_url or ours.referral_url
    return replace(theirs, **bound)


NOBODY = "\x00nobody"


def _both(ours: tuple[str, ...], theirs: tuple[str, ...]) -> tuple[str, ...]:
    if not ours or not theirs:
        return ours or theirs
    common = tuple(p for p in theirs if admitted(p, ours)) + tuple(p for p in ours if admitted(p, theirs))
    return tuple(dict.fromkeys(common)) or (NOBODY,)


def admitted(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name fits one of the patterns; no pattern at all admits everything."""
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


def open_at(policy: Policy, now: datetime) -> bool:
    """Whether the centre lets us submit at this hour, on its own clock; a span may pass midnight."""
    if not policy.hours:
        return True
    clock = now.astimezone(ZoneInfo(policy.zone)).time()
    return any(_within(clock, time.fromisoformat(start), time.fromisoformat(end)) for start, end in policy.hours)


def _within(clock: time, start: time, end: time) -> bool:
    if start <= end:
        return start <= clock < end
    return clock >= start or clock < end
