"""Is what the site shows under this native id still our job? Pure (DESIGN law 1, *Identity*).

People rename jobs, requeues move submit times, and a controller killed within seconds of an answer forgets the
job and gives its id to a stranger. So: ours on any one proof, foreign only on positive proof, else unproved.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from site_adapters.types import ObservedRun

# Schedulers keep whole seconds, and the queue and accounting may round differently.
_SAME_TIME = timedelta(seconds=2)


class Proof(StrEnum):
    """What a row proves about the job it may belong to."""

    OURS = "ours"
    FOREIGN = "foreign"
    UNPROVED = "unproved"


@dataclass(frozen=True, slots=True)
class Known:
    """What we stored of the job: `submit_time` is the site's own, None until it was seen once."""

    username: str
    tag: str
    attempt: int
    submit_time: datetime | None
    restarts: int


def prove(known: Known, run: ObservedRun) -> Proof:
    """Whether `run`, seen under our job's native id, is our job."""
    if run.username and run.username != known.username:
        return Proof.FOREIGN
    if run.tags_seen:
        return Proof.OURS if f"{known.tag}.{known.attempt}" in run.tags_seen else Proof.FOREIGN
    if known.submit_time is None or run.submit_time is None:
        # Nothing to compare: only the submit line, written once and by nobody else, can exclude us.
        return Proof.FOREIGN if run.has_submit_line else Proof.UNPROVED
    if abs(run.submit_time - known.submit_time) <= _SAME_TIME:
        return Proof.OURS
    if run.restarts > known.restarts:
        return Proof.OURS
    return Proof.FOREIGN
