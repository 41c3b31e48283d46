"""Why a PBS job waits: its state, substate and the scheduler's comment in our words."""

from __future__ import annotations

import re

from site_adapters.states import Reason, Why

_R = Reason

# (state, substate) of `man qstat`; the comment is only looked at where this says nothing.
BY_SUBSTATE: dict[tuple[str, str], Why] = {
    ("H", "20"): Why(_R.HELD_BY_USER, "It is held.", "Release it."),
    ("H", "22"): Why(_R.DEPENDENCY, "It waits for another job."),
    ("W", "30"): Why(_R.BEGIN_TIME, "Its start time has not come."),
}
# Beginnings of comments, as the scheduler of 23.06 writes them (src/scheduler/constant.h).
BY_COMMENT: tuple[tuple[re.Pattern[str], Why], ...] = tuple(
    (re.compile(pattern), why)
    for pattern, why in (
        (r"Can Never Run", Why(_R.WILL_NOT_START, "It asks for more than the centre can ever give.", "Ask for less.")),
        (r"Queue not started", Why(_R.LIMIT, "Its queue is stopped.", "Wait, or choose another queue.")),
        (r"limit|[Mm]ax(imum)? ", Why(_R.LIMIT, "A limit is reached.", "Wait until some of your jobs have ended.")),
        (r"[Rr]eservation", Why(_R.RESERVATION, "A reservation keeps the nodes it needs.")),
        (r"dedicated time|would (conflict|cross)", Why(_R.RESERVATION, "Dedicated time of the centre is near.")),
        (r"Not enough|Insufficient amount|No available", Why(_R.RESOURCES, "Its cores are not free yet.")),
        (r"higher priority|strict ordering|fairshare", Why(_R.PRIORITY, "Jobs with higher priority are ahead of it.")),
        (r"held by", Why(_R.HELD_BY_USER, "It is held.", "Release it.")),
    )
)


def reason_of(letter: str, substate: str, comment: str) -> Why:
    """The reason behind what PBS says; a comment that we do not know is kept and told."""
    known = BY_SUBSTATE.get((letter, substate))
    if known is not None:
        return known
    for pattern, why in BY_COMMENT:
        if pattern.search(comment):
            return why
    if letter == "H":
        return Why(_R.HELD_BY_CENTRE, "It is held.", "Ask the centre.")
    return (
        Why(_R.OTHER, f"The scheduler says: {comment}.")
        if comment
        else Why(_R.NONE, "The scheduler has not looked at it yet.")
    )
