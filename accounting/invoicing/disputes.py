"""A payer disputes a line: the states, who may take which step, and the clock. One table says it all."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from accounting.errors import InvoiceRefused

# The payer may dispute a line for so long after the invoice was issued; the operator owes an answer within so long.
DISPUTE_WITHIN = timedelta(days=60)
ANSWER_WITHIN = timedelta(days=14)
CENTRE_ANSWERS_WITHIN = timedelta(days=10)


class DisputeState(StrEnum):
    """Where a dispute stands."""

    OPEN = "open"  # the payer has said what is wrong
    WITH_CENTRE = "with_centre"  # passed on as a break: the centre must answer
    CREDITED = "credited"  # a credit note was issued for it
    REJECTED = "rejected"  # the bill stands, with a reason
    WITHDRAWN = "withdrawn"  # the payer took it back


class Step(StrEnum):
    """What can be done with a dispute."""

    RAISE = "raise"
    COMMENT = "comment"  # more evidence, from either side
    PASS_ON = "pass_on"  # noqa: S105 - a step, no password
    CENTRE_ANSWER = "centre_answer"
    CREDIT = "credit"
    REJECT = "reject"
    WITHDRAW = "withdraw"


class Side(StrEnum):
    """Who takes a step."""

    PAYER = "payer"
    OPERATOR = "operator"
    CENTRE = "centre"


_OPEN, _WITH = DisputeState.OPEN, DisputeState.WITH_CENTRE
_BOTH = frozenset({Side.PAYER, Side.OPERATOR})

# (state, step) → (next state, who may). What is not here is refused.
TABLE: dict[tuple[DisputeState | None, Step], tuple[DisputeState, frozenset[Side]]] = {
    (None, Step.RAISE): (_OPEN, frozenset({Side.PAYER})),
    (_OPEN, Step.COMMENT): (_OPEN, _BOTH),
    (_OPEN, Step.PASS_ON): (_WITH, frozenset({Side.OPERATOR})),
    (_OPEN, Step.CREDIT): (DisputeState.CREDITED, frozenset({Side.OPERATOR})),
    (_OPEN, Step.REJECT): (DisputeState.REJECTED, frozenset({Side.OPERATOR})),
    (_OPEN, Step.WITHDRAW): (DisputeState.WITHDRAWN, frozenset({Side.PAYER})),
    (_WITH, Step.COMMENT): (_WITH, _BOTH | {Side.CENTRE}),
    (_WITH, Step.CENTRE_ANSWER): (_OPEN, frozenset({Side.CENTRE, Side.OPERATOR})),
    (_WITH, Step.CREDIT): (DisputeState.CREDITED, frozenset({Side.OPERATOR})),
    (_WITH, Step.REJECT): (DisputeState.REJECTED, frozenset({Side.OPERATOR})),
    (_WITH, Step.WITHDRAW): (DisputeState.WITHDRAWN, frozenset({Side.PAYER})),
}
LIVE = frozenset({_OPEN, _WITH})  # the amount is out of dunning


@dataclass(frozen=True, slots=True)
class Dispute:
    """One line of one invoice, disputed. `amount_minor` is gross; `due_at` is when somebody owes the next answer;
    `charges`: which runs of the line it names, none: all."""

    id: str
    invoice: str
    line: int
    amount_minor: int
    currency: str
    state: DisputeState
    opened_at: datetime
    due_at: datetime
    site_id: str
    reason: str
    charges: tuple[int, ...] = ()

    @property
    def live(self) -> bool:
        return self.state in LIVE

    def overdue(self, now: datetime) -> bool:
        return self.live and self.due_at < now


def advance(state: DisputeState | None, step: Step, by: Side) -> DisputeState:
    """The next state; raises `InvoiceRefused` where the table has no such step, or not for this side."""
    found = TABLE.get((state, step))
    if found is None:
        raise InvoiceRefused(f"a dispute that is {state or 'not there'} takes no step {step.value!r}")
    after, allowed = found
    if by not in allowed:
        raise InvoiceRefused(f"{step.value!r} is for the {' or '.join(sorted(allowed))}")
    return after


def answer_due(state: DisputeState, at: datetime) -> datetime:
    """When the next answer is owed after a step into `state`."""
    return at + (CENTRE_ANSWERS_WITHIN if state is _WITH else ANSWER_WITHIN)
