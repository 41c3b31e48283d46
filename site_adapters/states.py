"""The closed sets an adapter answers with: states, reasons, credential kinds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ObservedState(StrEnum):
    """What a site says about one run, in the words that all sites share."""

    QUEUED = "queued"  # waits for resources or for its turn
    HELD = "held"  # a person or an administrator holds it
    ACTIVE = "active"  # has its resources
    SUSPENDED = "suspended"  # started, stopped for now, keeps (some of) its resources
    REQUEUED = "requeued"  # this run ended, the scheduler has queued the next one itself
    COMPLETED = "completed"  # ended with exit code 0
    FAILED = "failed"  # ended in any other way than by a person's wish
    CANCELED = "canceled"  # ended by a person's wish
    UNKNOWN = "unknown"  # the site used a word that we do not know

    @property
    def final(self) -> bool:
        return self in {ObservedState.COMPLETED, ObservedState.FAILED, ObservedState.CANCELED}


class Reason(StrEnum):
    """Why a job is in its state (DESIGN section 2); the closed vocabulary of `status.reason`."""

    NONE = ""
    WAITING_LINE = "waiting_line"  # waits in the gateway: the centre's policy lets no more in now
    DEPENDENCY = "dependency"
    PRIORITY = "priority"
    RESOURCES = "resources"
    RESERVATION = "reservation"
    BEGIN_TIME = "begin_time"
    LIMIT = "limit"
    HELD_BY_USER = "held_by_user"
    HELD_BY_CENTRE = "held_by_centre"
    WILL_NOT_START = "will_not_start"  # the scheduler accepted what it can never run
    TIME_LIMIT = "time_limit"
    COST_LIMIT = "cost_limit"
    OUT_OF_MEMORY = "out_of_memory"
    NODE_FAIL = "node_fail"
    PREEMPTED = "preempted"
    DEADLINE = "deadline"
    LAUNCH_FAILED = "launch_failed"
    NONZERO_EXIT = "nonzero_exit"
    USER_SIGNAL = "user_signal"
    REJECTED = "rejected"  # the site refused the submission
    DEPENDENCY_FAILED = "dependency_failed"
    FENCED = "fenced"  # a late copy that the fence turned away
    LOST = "lost"  # no trace at the site after repeated good looks
    NEEDS_DECISION = "needs_decision"  # only a person may say what happens next
    SITE_UNREACHABLE = "site_unreachable"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Why:
    """A reason, a sentence for people, and what they can do (empty: nothing but wait)."""

    reason: Reason
    sentence: str
    action: str = ""


class CredentialKind(StrEnum):
    """Whose power an act at a site uses (DESIGN section 3)."""

    ACTOR = "actor"  # the person: runs, cancels, reads own files
    OBSERVER = "observer"  # sees the queue of everybody
    METER = "meter"  # reads the accounting of everybody
    PROVISIONER = "provisioner"  # opens accounts and sets limits; only ever at the centre


class PermissionModel(StrEnum):
    """How people of the federation appear at a centre; chosen per agreement."""

    OWN_ACCOUNT = "own_account"  # the person's own login, linked or provisioned
    SUB_SITE = "sub_site"  # a user of the operator's sub-site at the centre
    TENANT = "tenant"  # one account of the operator; the gateway tells people apart
    REFERRAL = "referral"  # the centre is only pointed at; nothing is submitted
