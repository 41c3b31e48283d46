"""The state machine of a job: one table of phases and events, pure.

The *phase* steers the ticks, the *state* is what people see. Final is never left (DESIGN section 2).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum

from site_adapters.states import ObservedState, Reason


class Phase(StrEnum):
    """Where a job stands between the gateway and its site."""

    WAITING = "waiting"  # accepted, in the gateway's own line; no site knows it
    SUBMITTING = "submitting"  # the intent is committed, the site's answer is outstanding
    LOOKUP = "lookup"  # the answer was lost: searched by tag
    AT_SITE = "at_site"  # the site knows it under a native id
    DECISION = "decision"  # only a person may say what happens next
    ENDED = "ended"  # final


class Event(StrEnum):
    """What can happen to a job."""

    INTENT = "intent"  # a worker claims it and is about to speak
    ACCEPTED = "accepted"  # the site answered with a native id
    REJECTED = "rejected"  # the site refuses it for good
    DEFERRED = "deferred"  # the site refuses it for now, nothing was created
    ANSWER_LOST = "answer_lost"  # the answer was cut, or the worker died
    ADOPTED = "adopted"  # found at the site by its tag or by the owner of its fence
    FENCED_OFF = "fenced_off"  # the gateway took the fence: this attempt can never run
    OBSERVED = "observed"  # a live state was seen
    FINISHED = "finished"  # a final state was seen
    LOST = "lost"  # repeated good looks found no trace
    UNPROVABLE = "unprovable"  # neither presence nor absence can be proved
    WITHDRAWN = "withdrawn"  # canceled before any site knew it
    PARENT_FAILED = "parent_failed"  # a dependency can never be satisfied
    RESUBMIT = "resubmit"  # a person decided: hand it over again


_P, _E = Phase, Event

# None: cannot change anything in that phase (a late or repeated message); the caller writes nothing.
TRANSITIONS: dict[tuple[Phase, Event], Phase | None] = {
    **{(phase, event): None for phase in Phase for event in Event},
    (_P.WAITING, _E.INTENT): _P.SUBMITTING,
    (_P.WAITING, _E.ADOPTED): _P.AT_SITE,  # after a restore: the site knows what we forgot
    (_P.WAITING, _E.WITHDRAWN): _P.ENDED,
    (_P.WAITING, _E.PARENT_FAILED): _P.ENDED,
    (_P.WAITING, _E.REJECTED): _P.ENDED,  # cannot be rendered for this site
    (_P.SUBMITTING, _E.ACCEPTED): _P.AT_SITE,
    (_P.SUBMITTING, _E.ADOPTED): _P.AT_SITE,
    (_P.SUBMITTING, _E.REJECTED): _P.ENDED,
    (_P.SUBMITTING, _E.DEFERRED): _P.WAITING,
    (_P.SUBMITTING, _E.ANSWER_LOST): _P.LOOKUP,
    (_P.LOOKUP, _E.ADOPTED): _P.AT_SITE,
    (_P.LOOKUP, _E.FENCED_OFF): _P.WAITING,
    (_P.LOOKUP, _E.UNPROVABLE): _P.DECISION,
    (_P.AT_SITE, _E.OBSERVED): _P.AT_SITE,
    (_P.AT_SITE, _E.FINISHED): _P.ENDED,
    (_P.AT_SITE, _E.LOST): _P.ENDED,
    (_P.AT_SITE, _E.FENCED_OFF): _P.WAITING,  # the site forgot it before it ran: next attempt
    (_P.AT_SITE, _E.UNPROVABLE): _P.DECISION,
    (_P.DECISION, _E.ADOPTED): _P.AT_SITE,
    (_P.DECISION, _E.RESUBMIT): _P.WAITING,
    (_P.DECISION, _E.WITHDRAWN): _P.ENDED,
}


def advance(phase: Phase, event: Event) -> Phase | None:
    """The next phase, or None where the event changes nothing in this phase."""
    return TRANSITIONS[phase, event]


class State(StrEnum):
    """What people see (DESIGN section 2)."""

    NEW = "new"
    QUEUED = "queued"
    HELD = "held"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"
    UNKNOWN = "unknown"

    @property
    def final(self) -> bool:
        return self in FINAL


FINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELED})

# The site's word as people see it. A requeued run waits again.
SEEN: dict[ObservedState, State] = {
    ObservedState.QUEUED: State.QUEUED,
    ObservedState.HELD: State.HELD,
    ObservedState.ACTIVE: State.ACTIVE,
    ObservedState.SUSPENDED: State.SUSPENDED,
    ObservedState.REQUEUED: State.QUEUED,
    ObservedState.COMPLETED: State.COMPLETED,
    ObservedState.FAILED: State.FAILED,
    ObservedState.CANCELED: State.CANCELED,
    ObservedState.UNKNOWN: State.UNKNOWN,
}

# What people see where no site state exists.
SHOWN: dict[Phase, tuple[State, Reason]] = {
    Phase.WAITING: (State.NEW, Reason.WAITING_LINE),
    Phase.SUBMITTING: (State.NEW, Reason.WAITING_LINE),
    Phase.LOOKUP: (State.UNKNOWN, Reason.SITE_UNREACHABLE),
    Phase.AT_SITE: (State.QUEUED, Reason.NONE),
    Phase.DECISION: (State.UNKNOWN, Reason.NEEDS_DECISION),
    Phase.ENDED: (State.FAILED, Reason.OTHER),
}

# Of an array's tasks, the first of these that any task is in is the array's state.
_ARRAY_RANK = (
    State.ACTIVE,
    State.SUSPENDED,
    State.QUEUED,
    State.HELD,
    State.UNKNOWN,
    State.FAILED,
    State.CANCELED,
    State.COMPLETED,
)


def array_state(tasks: Iterable[State]) -> State:
    """One state for an array from the states of its tasks: live before final, failed before completed."""
    counts = Counter(tasks)
    return next((state for state in _ARRAY_RANK if counts[state]), State.QUEUED)
