"""Why a job waits is told in the words of the scheduler that said so."""

from __future__ import annotations

import pytest

from site_adapters.registry import BUILDERS, WAITING, why_waiting
from site_adapters.states import Reason


@pytest.mark.parametrize(
    ("scheduler", "state", "native", "reason", "words"),
    [
        ("slurm", "PENDING", "Priority", Reason.PRIORITY, "higher priority"),
        ("pbs", "Q/10", "Not Running: Not enough free nodes available", Reason.RESOURCES, "not free yet"),
        ("pbs", "Q/10", "Can Never Run: Insufficient amount of resource: ncpus", Reason.WILL_NOT_START, "ever give"),
        ("pbs", "H/20", "", Reason.HELD_BY_USER, "It is held"),
        ("pbs", "W/30", "", Reason.BEGIN_TIME, "start time"),
        ("pbs", "Q/10", "", Reason.NONE, "has not looked at it yet"),
        ("sunway", "PEND", "RMS_USER_QUOTA_ERROR", Reason.LIMIT, "quota of core groups"),
        ("northbound", "statQ", "", Reason.RESOURCES, "gives no reason"),
        ("northbound", "statH", "", Reason.HELD_BY_CENTRE, "The centre holds it"),
        ("northbound", "statQ", "Nodes busy", Reason.RESOURCES, "The centre says: Nodes busy."),
        ("local", "queued", "", Reason.RESOURCES, "free cores of this machine"),
        ("local", "held", "", Reason.HELD_BY_USER, "It is held"),
        ("something-new", "X", "odd", Reason.OTHER, "odd"),
    ],
)
def test_each_schedulers_words_are_its_own(scheduler: str, state: str, native: str, reason: Reason, words: str) -> None:
    told = why_waiting(scheduler, state, native)
    assert told.reason is reason
    assert words in told.sentence


def test_every_scheduler_has_words() -> None:
    assert WAITING.keys() == BUILDERS.keys()
