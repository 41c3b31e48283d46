"""Who may do what: the whole table of roles, verbs and objects, and the list that must agree with it."""

from __future__ import annotations

from itertools import product

import pytest

from gateway.identity.access import SCOPE_OF, Person, Verb, can
from gateway.jobs.repository import Owner

ALL = frozenset({"read", "submit", "admin"})
JOB = ("job", Owner("author", "project", "site"))
PROJECT, SITE = ("project", "project"), ("site", "site")

PEOPLE = {
    "author": Person("author", "author", scopes=ALL, roles={"project": "researcher"}),
    "member": Person("member", "member", scopes=ALL, roles={"project": "researcher"}),
    "owner": Person("owner", "owner", scopes=ALL, roles={"project": "owner"}),
    "staff": Person("staff", "staff", scopes=ALL, staff_of=frozenset({"site"})),
    "operator": Person("operator", "operator", True, scopes=ALL),
    "owner of another project": Person("other", "other", scopes=ALL, roles={"elsewhere": "owner"}),
    "staff of another site": Person("else", "else", scopes=ALL, staff_of=frozenset({"elsewhere"})),
    "stranger": Person("stranger", "stranger", scopes=ALL),
}
OBJECTS = {"job": JOB, "project": PROJECT, "site": SITE, "gateway": None}

# Everything that is allowed; what is not here is refused.
ALLOWED = {
    *(("author", verb, "job") for verb in (Verb.SEE_JOB, Verb.CHANGE_JOB, Verb.CANCEL_JOB, Verb.DECIDE_JOB,
                                           Verb.READ_OUTPUT)),
    *(("owner", verb, "job") for verb in (Verb.SEE_JOB, Verb.CANCEL_JOB)),
    ("staff", Verb.SEE_JOB, "job"),
    *(("operator", verb, "job") for verb in (Verb.SEE_JOB, Verb.CANCEL_JOB, Verb.DECIDE_JOB)),
    *((who, verb, "project") for who in ("author", "member", "owner") for verb in (Verb.SUBMIT, Verb.SEE_PROJECT)),
    ("owner", Verb.MANAGE_PROJECT, "project"),
    ("owner", Verb.SEE_BILL, "project"),
    ("owner", Verb.DISPUTE_BILL, "project"),
    ("operator", Verb.SEE_BILL, "project"),
    ("staff", Verb.ANSWER_DISPUTE, "site"),
    ("staff", Verb.SIGN_SETTLEMENT, "site"),
    ("staff", Verb.BILL_SITE, "site"),
    ("operator", Verb.SEE_PROJECT, "project"),
    ("operator", Verb.MANAGE_PROJECT, "project"),
    ("staff", Verb.SEE_SITE, "site"),
    ("operator", Verb.SEE_SITE, "site"),
    ("operator", Verb.OPERATE, "gateway"),
    *((who, Verb.OWN_ACCOUNTS, "gateway") for who in PEOPLE),
}  # fmt: skip


def test_the_whole_table_of_roles_verbs_and_objects() -> None:
    found = {
        (who, verb, what) for who, verb, what in product(PEOPLE, Verb, OBJECTS)
        if can(PEOPLE[who], verb, OBJECTS[what])
    }  # fmt: skip

    assert found == ALLOWED


def test_every_verb_needs_a_scope_and_is_refused_without_it() -> None:
    assert SCOPE_OF.keys() == set(Verb)
    for who, verb, what in ALLOWED:
        person = PEOPLE[who]
        less = Person(person.user_id, person.name, person.operator_admin, ALL - {SCOPE_OF[verb]}, person.staff_of,
                      person.roles)  # fmt: skip
        assert not can(less, verb, OBJECTS[what])


def test_an_operator_changes_what_is_anothers_with_the_admin_scope_only() -> None:
    everyday = Person("operator", "operator", True, scopes=ALL - {"admin"}, roles={"own": "owner"})
    for who, verb, what in ALLOWED:
        if who == "operator" and verb is not Verb.OWN_ACCOUNTS:
            assert can(everyday, verb, OBJECTS[what]) == (SCOPE_OF[verb] == "read"), (verb, what)
    assert can(everyday, Verb.MANAGE_PROJECT, ("project", "own"))


@pytest.mark.parametrize("target", [("job", "text"), ("nothing", "x"), ("project", JOB[1]), ("gateway", "x")])
def test_an_object_of_no_known_kind_is_refused_to_everybody(target: tuple[str, str]) -> None:
    for person, verb in product(PEOPLE.values(), Verb):
        assert not can(person, verb, target)
