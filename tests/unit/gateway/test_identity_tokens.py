"""Tokens: only their digest is kept, they end within a second, and nobody asks without end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from gateway.errors import Invalid, RateLimited, Unauthenticated
from gateway.identity import service, tokens
from gateway.identity.tokens import TOKENS, Doorkeeper
from tests.builders import Gateway, make_gateway


@dataclass
class Clock:
    """Seconds that pass when a test says so."""

    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def door(gateway: Gateway, clock: Clock) -> Doorkeeper:
    return Doorkeeper(gateway.services, monotonic=clock)


@pytest.fixture
def gateway(db_url: str, tmp_path: Path) -> Gateway:
    return make_gateway(tmp_path, db_url, requests_per_minute=60)


def revoke_all(gateway: Gateway) -> None:
    with gateway.services.db.write() as conn:
        for token_id in conn.scalars(select(TOKENS.c.id)).all():
            assert tokens.revoke(conn, token_id=token_id, user_id=None, now=gateway.services.clock())


def test_the_database_keeps_no_secret(gateway: Gateway) -> None:
    with gateway.services.db.read() as conn:
        row = conn.execute(select(TOKENS)).one()

    assert gateway.secret.startswith("pst_") and len(gateway.secret) == 47
    assert gateway.secret not in repr(tuple(row)) and gateway.secret[4:] not in repr(tuple(row))


def test_a_token_is_its_person_with_roles(gateway: Gateway, door: Doorkeeper) -> None:
    person = door.person(gateway.secret)

    assert (person.name, person.roles, person.operator_admin) == ("alice", {gateway.project_id: "owner"}, False)
    assert door.recognise(gateway.secret) == person


def test_a_revoked_token_is_refused_within_a_second_though_it_was_known(
    gateway: Gateway, door: Doorkeeper, clock: Clock
) -> None:
    other_process = Doorkeeper(gateway.services, monotonic=clock)
    for known in (door, other_process):
        known.person(gateway.secret)

    revoke_all(gateway)
    clock.seconds += 0.99

    for known in (door, other_process):
        assert known.recognise(gateway.secret) is None
        with pytest.raises(Unauthenticated):
            known.person(gateway.secret)


def test_a_suspended_person_is_refused_with_every_token(gateway: Gateway, door: Doorkeeper) -> None:
    services = gateway.services
    with services.db.write() as conn:
        service.suspend_user(conn, user_id=gateway.person.user_id, now=services.clock())
    with pytest.raises(Unauthenticated):
        door.person(gateway.secret)

    with services.db.write() as conn:
        service.resume_user(conn, user_id=gateway.person.user_id)
    assert door.person(gateway.secret).name == "alice"


def test_a_token_runs_out(gateway: Gateway, clock: Clock) -> None:
    def later() -> datetime:
        return gateway.services.clock() + timedelta(days=4)

    with pytest.raises(Unauthenticated):
        Doorkeeper(replace(gateway.services, clock=later), monotonic=clock).person(gateway.secret)


@pytest.mark.parametrize("bearer", [None, "", "pst_", "x" * 47, "pst_" + "é" * 43, "pst_" + "a" * 43, "pst_\ud800"])
def test_what_is_no_token_opens_nothing(gateway: Gateway, door: Doorkeeper, bearer: str | None) -> None:
    with pytest.raises(Unauthenticated):
        door.person(bearer)


def test_a_token_that_asks_too_often_is_told_when_to_come_back(
    gateway: Gateway, door: Doorkeeper, clock: Clock
) -> None:
    for _ in range(60):
        door.person(gateway.secret)

    with pytest.raises(RateLimited) as refused:
        door.person(gateway.secret)
    assert refused.value.retry_after_s == 1

    clock.seconds += 1
    assert door.person(gateway.secret).name == "alice"


def test_an_address_that_guesses_is_stopped_and_known_tokens_of_it_are_not(
    gateway: Gateway, door: Doorkeeper, clock: Clock
) -> None:
    door.person(gateway.secret, address="10.0.0.1")
    for guess in range(30):
        with pytest.raises(Unauthenticated):
            door.person(f"pst_{guess:043d}", address="10.0.0.1")

    with pytest.raises(RateLimited):
        door.person("pst_" + "b" * 43, address="10.0.0.1")
    clock.seconds += 0.9  # the known one must be looked up again, and may
    assert door.person(gateway.secret, address="10.0.0.1").name == "alice"
    with pytest.raises(Unauthenticated):
        door.person("pst_" + "b" * 43, address="10.0.0.2")


def test_one_query_tells_which_tokens_are_still_good(gateway: Gateway, door: Doorkeeper) -> None:
    assert door.still_valid([gateway.secret, "pst_none"]) == {gateway.secret}
    revoke_all(gateway)
    assert door.still_valid([gateway.secret]) == set()


def test_a_token_of_no_scope_or_an_unknown_one_is_not_made(gateway: Gateway) -> None:
    services = gateway.services
    for scopes in ((), ("root",), ("read", "write")):
        with services.db.write() as conn, pytest.raises(Invalid):
            tokens.issue(conn, user_id=gateway.person.user_id, name="t", scopes=scopes, lifetime=timedelta(days=1),
                         now=services.clock())  # fmt: skip
