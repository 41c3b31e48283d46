"""Breaks: what kinds of difference there are, what may cause them, and how people settle them.

A break's facts never change; its state is the last of its events, and `TRANSITIONS` is the whole of the workflow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Category(StrEnum):
    """The fourteen kinds of difference between our books and a centre's statement."""

    MISSING_AT_CENTRE = "B01"  # we have a run that the centre does not bill
    UNKNOWN_TO_US = "B02"  # the centre bills a run that never went through Penstock, or that we never saw
    QUANTITY = "B03"  # the same run, other core-seconds
    PRICE = "B04"  # the same quantity, rated by another version of the tariff
    EXCHANGE_RATE = "B05"  # converted at the rate of another date
    DUPLICATE = "B06"  # one run billed twice
    CUT_OFF = "B07"  # counted in another period, or only the part inside the period
    IDENTITY = "B08"  # billed to another person or account
    STATE_POLICY = "B09"  # who bears a failed run
    UNIT = "B10"  # hours for seconds, nodes for cores
    TAX = "B11"  # with or without tax or fee
    CHANGED_AFTER = "B12"  # another text after both sides agreed
    SIGNATURE = "B13"  # not signed as agreed
    CONTROL_TOTAL = "B14"  # its lines do not sum to its own totals


class Cause(StrEnum):
    """What a difference is recomputed under."""

    SUSPENDED = "suspended"  # suspended time is in one figure and not in the other
    EXCLUSIVE = "exclusive"  # whole nodes against the cores asked for
    THREADS = "threads"  # hardware threads counted as cores
    REQUESTED = "requested"  # the request against the allocation
    REQUEUE = "requeue"  # all runs of a requeued job against one
    SKEW = "skew"  # two clocks, a little apart
    TRUNCATION = "truncation"  # time cut or rounded to whole minutes or hours
    CUT_OFF = "cut_off"  # only the part inside the period
    STATE = "state"  # a failed run that one side does not charge
    UNIT = "unit"  # another unit
    PRICE = "price"  # another price version
    RATE = "exchange_rate"  # the rate of another date
    TAX = "tax"  # tax or fee inside or outside
    OBSERVED = "observed"  # we only have the gateway's own observation of this run
    ACCOUNT = "account"  # the same person's run under another account
    TWICE = "twice"  # one run that the centre's log told under two keys: to post it takes one of the two back


CATEGORY_OF: dict[Cause, Category] = {
    Cause.SUSPENDED: Category.QUANTITY,
    Cause.EXCLUSIVE: Category.QUANTITY,
    Cause.THREADS: Category.QUANTITY,
    Cause.REQUESTED: Category.QUANTITY,
    Cause.REQUEUE: Category.QUANTITY,
    Cause.SKEW: Category.QUANTITY,
    Cause.TRUNCATION: Category.QUANTITY,
    Cause.OBSERVED: Category.QUANTITY,
    Cause.CUT_OFF: Category.CUT_OFF,
    Cause.STATE: Category.STATE_POLICY,
    Cause.UNIT: Category.UNIT,
    Cause.PRICE: Category.PRICE,
    Cause.RATE: Category.EXCHANGE_RATE,
    Cause.TAX: Category.TAX,
    Cause.ACCOUNT: Category.IDENTITY,
    Cause.TWICE: Category.DUPLICATE,
}

# Never by the machine alone, whatever a contract says.
NEVER_AUTOMATIC = frozenset(
    {Category.UNKNOWN_TO_US, Category.DUPLICATE, Category.SIGNATURE, Category.CHANGED_AFTER, Category.CONTROL_TOTAL}
)


class State(StrEnum):
    """Where a break stands."""

    OPEN = "open"
    EXPLAINED = "explained"
    PROPOSED = "proposed"
    COUNTERSIGNED = "countersigned"
    DISPUTED = "disputed"
    POSTED = "posted"
    WAIVED = "waived"
    GONE = "gone"


FINAL = frozenset({State.POSTED, State.WAIVED, State.GONE})


class Act(StrEnum):
    """What is done to a break."""

    EXPLAIN = "explain"  # the engine names the cause
    ACCEPT = "accept"  # the contract lets the centre's figure stand, without a person
    PROPOSE = "propose"  # a person says how to settle it
    COUNTERSIGN = "countersign"  # another person agrees
    POST = "post"  # the difference is booked
    WAIVE = "waive"  # it is let go
    DISPUTE = "dispute"  # one side does not agree
    REOPEN = "reopen"  # arbitration, or new facts
    VANISH = "vanish"  # a later look finds no difference any more
    RETURN = "return"  # a still later one finds it again


TRANSITIONS: dict[tuple[State, Act], State] = {
    (State.OPEN, Act.EXPLAIN): State.EXPLAINED,
    (State.OPEN, Act.PROPOSE): State.PROPOSED,
    (State.OPEN, Act.DISPUTE): State.DISPUTED,
    (State.OPEN, Act.VANISH): State.GONE,
    (State.EXPLAINED, Act.ACCEPT): State.COUNTERSIGNED,
    (State.EXPLAINED, Act.PROPOSE): State.PROPOSED,
    (State.EXPLAINED, Act.DISPUTE): State.DISPUTED,
    (State.EXPLAINED, Act.VANISH): State.GONE,
    (State.PROPOSED, Act.COUNTERSIGN): State.COUNTERSIGNED,
    (State.PROPOSED, Act.DISPUTE): State.DISPUTED,
    (State.PROPOSED, Act.REOPEN): State.OPEN,
    (State.COUNTERSIGNED, Act.POST): State.POSTED,
    (State.COUNTERSIGNED, Act.WAIVE): State.WAIVED,
    (State.DISPUTED, Act.PROPOSE): State.PROPOSED,
    (State.DISPUTED, Act.REOPEN): State.OPEN,
    (State.GONE, Act.RETURN): State.OPEN,
}


class Refused(Exception):
    """This act is not possible now, or not for this person; the text says why."""


@dataclass(frozen=True, slots=True)
class Event:
    """One act: who did it, when, why. `resolution` (`post` or `waive`) is what a proposal asks for."""

    act: Act
    state: State
    by: str
    at: datetime
    note: str = ""
    resolution: str = ""


CONTRACT = "contract"  # who accepts where no person does


def act_on(history: Sequence[Event], act: Act, *, by: str, at: datetime, note: str = "", resolution: str = "") -> Event:
    """The next event of a break; raises `Refused` where the workflow or four eyes forbid it."""
    state = history[-1].state if history else State.OPEN
    target = TRANSITIONS.get((state, act))
    if target is None:
        raise Refused(f"this break is {state.value}: {_may_now(state)}")
    if act is Act.PROPOSE and resolution not in (Act.POST, Act.WAIVE):
        raise Refused("a proposal is to post the difference or to waive it")
    proposal = next((e for e in reversed(history) if e.act in (Act.PROPOSE, Act.ACCEPT)), None)
    if act is Act.COUNTERSIGN and proposal is not None and proposal.by == by:
        raise Refused("who proposed it does not countersign it: the other side does, with its own token")
    if act in (Act.POST, Act.WAIVE) and (proposal is None or proposal.resolution != act):
        raise Refused(f"what was agreed is to {proposal.resolution if proposal else 'do nothing yet'}")
    if act in (Act.PROPOSE, Act.DISPUTE, Act.REOPEN) and not note.strip():
        raise Refused("say why")
    wanted = Act.POST.value if act is Act.ACCEPT else resolution
    return Event(act, target, by, at, note, wanted)


def _may_now(state: State) -> str:
    """What people may do to a break in this state, in the words of the commands."""
    people = (Act.PROPOSE, Act.COUNTERSIGN, Act.DISPUTE, Act.REOPEN)
    may = [act.value for act in people if (state, act) in TRANSITIONS]
    return f"what may be done now: {', '.join(may)}" if may else "nothing more is to be done"
