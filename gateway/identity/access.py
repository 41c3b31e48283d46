"""`can(person, verb, object)`: the one place that decides; everything refuses by default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol


class Verb(StrEnum):
    """What can be done; each member says on what."""

    SEE_JOB = "see_job"  # job
    CHANGE_JOB = "change_job"  # job: hold, release, modify
    CANCEL_JOB = "cancel_job"  # job
    DECIDE_JOB = "decide_job"  # job: adopt, resubmit, cancel what nobody can prove
    READ_OUTPUT = "read_output"  # job: what it printed, its script
    SUBMIT = "submit"  # project
    SEE_PROJECT = "see_project"  # project
    MANAGE_PROJECT = "manage_project"  # project: members
    SEE_BILL = "see_bill"  # project: its invoices, and what each member spent
    DISPUTE_BILL = "dispute_bill"  # project: lines of its invoices
    ANSWER_DISPUTE = "answer_dispute"  # site: what a payer disputes of it
    SIGN_SETTLEMENT = "sign_settlement"  # site: say for the centre what it is paid, cosign the log
    BILL_SITE = "bill_site"  # site: its statements, and what differs from them
    SEE_SITE = "see_site"  # site: everybody's load there
    OPERATE = "operate"  # the gateway itself: users, projects, credit, tariffs, sites
    OWN_ACCOUNTS = "own_accounts"  # oneself: tokens, site accounts


class Owned(Protocol):
    """Whose a job is."""

    @property
    def user_id(self) -> str: ...
    @property
    def project_id(self) -> str: ...
    @property
    def site_id(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks: a user with the scopes of the token in hand (`read`, `submit`, `admin`)."""

    user_id: str
    name: str
    operator_admin: bool = False
    scopes: frozenset[str] = frozenset({"read"})
    staff_of: frozenset[str] = frozenset()
    roles: Mapping[str, str] = field(default_factory=dict)


# The scope that a token needs for a verb, whatever its owner may do.
SCOPE_OF: dict[Verb, str] = {
    Verb.SEE_JOB: "read",
    Verb.READ_OUTPUT: "read",
    Verb.SEE_PROJECT: "read",
    Verb.SEE_SITE: "read",
    Verb.SEE_BILL: "read",
    Verb.DISPUTE_BILL: "submit",
    Verb.ANSWER_DISPUTE: "submit",
    Verb.SIGN_SETTLEMENT: "submit",
    Verb.BILL_SITE: "submit",
    Verb.SUBMIT: "submit",
    Verb.CHANGE_JOB: "submit",
    Verb.CANCEL_JOB: "submit",
    Verb.DECIDE_JOB: "submit",
    Verb.OWN_ACCOUNTS: "submit",
    Verb.MANAGE_PROJECT: "submit",
    Verb.OPERATE: "admin",
}

_JOB_VERBS_OF_OWNER = {
    Verb.SEE_JOB, Verb.CHANGE_JOB, Verb.CANCEL_JOB, Verb.DECIDE_JOB, Verb.READ_OUTPUT,
}  # fmt: skip
_JOB_VERBS_OF_PROJECT_OWNER = {Verb.SEE_JOB, Verb.CANCEL_JOB}
_JOB_VERBS_OF_STAFF = {Verb.SEE_JOB}
_JOB_VERBS_OF_ADMIN = {Verb.SEE_JOB, Verb.CANCEL_JOB, Verb.DECIDE_JOB}


def can(person: Person, verb: Verb, target: tuple[str, Owned | str] | None = None) -> bool:
    """Whether `person` may do `verb` on `("job", owner)`, `("project", id)`, `("site", id)` or the gateway (None)."""
    if SCOPE_OF[verb] not in person.scopes:
        return False
    if person.operator_admin and "admin" not in person.scopes and SCOPE_OF[verb] != "read":
        person = replace(person, operator_admin=False)  # an everyday token: it acts for its owner, not for the operator
    match target:
        case ("job", owner) if not isinstance(owner, str):
            return _job(person, verb, owner)
        case ("project", str(project_id)):
            return _project(person, verb, project_id)
        case ("site", str(site_id)):
            return _site(person, verb, site_id)
        case None:
            return verb is Verb.OWN_ACCOUNTS or (verb is Verb.OPERATE and person.operator_admin)
        case _:
            return False


def _job(person: Person, verb: Verb, owner: Owned) -> bool:
    return (
        (verb in _JOB_VERBS_OF_OWNER and person.user_id == owner.user_id)
        or (verb in _JOB_VERBS_OF_PROJECT_OWNER and person.roles.get(owner.project_id) == "owner")
        or (verb in _JOB_VERBS_OF_STAFF and owner.site_id in person.staff_of)
        or (verb in _JOB_VERBS_OF_ADMIN and person.operator_admin)
    )


def _project(person: Person, verb: Verb, project_id: str) -> bool:
    role = person.roles.get(project_id)
    if verb is Verb.SUBMIT:
        return role in ("owner", "researcher")
    if verb is Verb.SEE_PROJECT:
        return role is not None or person.operator_admin
    if verb is Verb.DISPUTE_BILL:
        return role == "owner"
    return verb in (Verb.MANAGE_PROJECT, Verb.SEE_BILL) and (role == "owner" or person.operator_admin)


def _site(person: Person, verb: Verb, site_id: str) -> bool:
    if verb in (Verb.ANSWER_DISPUTE, Verb.SIGN_SETTLEMENT, Verb.BILL_SITE):
        return site_id in person.staff_of
    return verb is Verb.SEE_SITE and (person.operator_admin or site_id in person.staff_of)
