"""Site accounts: a claim is proved by its own key, one login is one person's, keys are sealed."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from gateway.errors import Conflict, Invalid, NotFound, SiteUnreachableError
from gateway.identity import service
from gateway.identity.keys import MasterKey, load_or_create, new_key_pair
from gateway.identity.service import ACCOUNTS, key_source
from site_adapters.errors import CredentialRefused, SiteUnreachable
from site_adapters.types import AccountFacts
from tests.builders import Altered, Gateway


class Centre:
    """A login node that knows which keys may log in to which account."""

    def __init__(self, gateway: Gateway, master: MasterKey) -> None:
        self.installed: dict[str, str] = {}
        self.used: list[str] = []
        self.away = False
        self._keys = key_source(gateway.services.db, master, "far")

    def probe(self, username: str) -> AccountFacts:
        if self.away:
            raise SiteUnreachable("no route")
        key = self._keys(username)
        self.used.append(key or "")
        if key is None or self.installed.get(username) != key:
            raise CredentialRefused("permission denied (publickey)")
        return AccountFacts(username, 4242, f"/home/{username}")

    def install(self, gateway: Gateway, account_id: str, master: MasterKey) -> None:
        with gateway.services.db.read() as conn:
            row = conn.execute(select(ACCOUNTS).where(ACCOUNTS.c.id == account_id)).one()
        self.installed[row.username] = master.open(row.sealed_key, owner=row.id)


@pytest.fixture
def master(gateway: Gateway) -> MasterKey:
    return load_or_create(gateway.services.settings.effective_master_key_file)


@pytest.fixture
def centre(gateway: Gateway, master: MasterKey) -> Centre:
    made = Centre(gateway, master)
    sites: Any = gateway.services.sites
    local = sites["local"]
    sites["far"] = replace(local, site_id="far", logins_by_key=True, auth=Altered(local.auth, probe=made.probe))
    return made


@pytest.fixture
def mallory(gateway: Gateway) -> str:
    with gateway.services.db.write() as conn:
        return service.create_user(conn, name="mallory", now=gateway.services.clock())


def claim(gateway: Gateway, master: MasterKey, user_id: str, username: str = "alice", key: str | None = None) -> str:
    s = gateway.services
    with s.db.write() as conn:
        made = service.link_account(
            conn, s.sites["far"], master, user_id=user_id, username=username, private_key=key, now=s.clock()
        )
    return made.account_id


def verify(gateway: Gateway, account_id: str, user_id: str) -> None:
    service.verify_account(gateway.services, account_id=account_id, user_id=user_id, now=gateway.services.clock())


def row_of(gateway: Gateway, account_id: str) -> Any:
    with gateway.services.db.read() as conn:
        return conn.execute(select(ACCOUNTS).where(ACCOUNTS.c.id == account_id)).one()


def test_a_claim_is_linked_once_its_key_logs_in(gateway: Gateway, master: MasterKey, centre: Centre) -> None:
    alice = gateway.person.user_id
    account = claim(gateway, master, alice)
    with pytest.raises(Conflict, match="does not let us in") as refused:
        verify(gateway, account, alice)
    assert row_of(gateway, account).public_key in refused.value.remedy
    assert (row_of(gateway, account).status, bool(row_of(gateway, account).last_error)) == ("pending", True)

    centre.install(gateway, account, master)
    verify(gateway, account, alice)

    row = row_of(gateway, account)
    assert (row.status, row.uid, row.home, row.last_error) == ("linked", 4242, "/home/alice", None)


def test_a_claim_is_not_proved_by_the_key_of_another_claim(
    gateway: Gateway, master: MasterKey, centre: Centre, mallory: str
) -> None:
    theirs = claim(gateway, master, gateway.person.user_id)
    centre.install(gateway, theirs, master)
    stolen = claim(gateway, master, mallory)

    with pytest.raises(Conflict):
        verify(gateway, stolen, mallory)
    verify(gateway, theirs, gateway.person.user_id)

    assert row_of(gateway, stolen).status == "pending"


def test_a_login_that_is_linked_is_nobody_elses_and_is_not_disturbed(
    gateway: Gateway, master: MasterKey, centre: Centre, mallory: str
) -> None:
    theirs = claim(gateway, master, gateway.person.user_id)
    centre.install(gateway, theirs, master)
    verify(gateway, theirs, gateway.person.user_id)
    probes = len(centre.used)

    with pytest.raises(Conflict, match="another person"):
        verify(gateway, claim(gateway, master, mallory), mallory)
    assert len(centre.used) == probes


def test_a_claim_that_is_not_proved_gives_its_key_to_nothing_else(
    gateway: Gateway, master: MasterKey, centre: Centre
) -> None:
    keys = key_source(gateway.services.db, master, "far")
    account = claim(gateway, master, gateway.person.user_id)
    assert keys("alice") is None

    centre.install(gateway, account, master)
    verify(gateway, account, gateway.person.user_id)
    assert keys("alice") == centre.installed["alice"]


def test_a_suspended_account_forgets_its_key_and_is_linked_anew_with_another(
    gateway: Gateway, master: MasterKey, centre: Centre
) -> None:
    alice = gateway.person.user_id
    account = claim(gateway, master, alice)
    centre.install(gateway, account, master)
    verify(gateway, account, alice)
    old = centre.installed["alice"]
    with gateway.services.db.write() as conn:
        service.suspend_account(conn, account_id=account, user_id=alice)
    assert row_of(gateway, account).sealed_key is None
    with pytest.raises(NotFound):
        verify(gateway, account, alice)

    again = claim(gateway, master, alice)

    assert again == account  # jobs of old name it
    centre.install(gateway, again, master)
    assert centre.installed["alice"] != old
    verify(gateway, again, alice)
    with pytest.raises(Conflict, match="already"):
        claim(gateway, master, alice)


def test_a_site_that_is_away_leaves_the_claim_as_it_is(gateway: Gateway, master: MasterKey, centre: Centre) -> None:
    account = claim(gateway, master, gateway.person.user_id)
    centre.away = True

    with pytest.raises(SiteUnreachableError):
        verify(gateway, account, gateway.person.user_id)

    assert row_of(gateway, account).status == "pending"


def test_an_uploaded_key_is_taken_or_refused_with_its_place(
    gateway: Gateway, master: MasterKey, centre: Centre
) -> None:
    private, public = new_key_pair("mine")
    account = claim(gateway, master, gateway.person.user_id, key=private)
    assert row_of(gateway, account).public_key == " ".join(public.split()[:2])

    with pytest.raises(Invalid) as refused:
        claim(gateway, master, gateway.person.user_id, key="-----BEGIN NONSENSE-----")
    assert refused.value.problems[0].pointer == "/private_key"


def test_a_sealed_key_opens_only_with_its_master_key_and_for_its_owner(tmp_path: Path) -> None:
    master, other = load_or_create(tmp_path / "a"), load_or_create(tmp_path / "b")
    sealed = master.seal("secret", owner="a1")

    assert load_or_create(tmp_path / "a").open(sealed, owner="a1") == "secret"
    assert b"secret" not in sealed and "secret" not in repr(master)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    for key, owner, text in ((master, "a2", sealed), (other, "a1", sealed), (master, "a1", sealed[:-1] + b"x")):
        with pytest.raises(ValueError, match="does not open"):
            key.open(text, owner=owner)


def test_all_keys_are_sealed_anew_under_a_new_master_key(
    gateway: Gateway, master: MasterKey, centre: Centre, tmp_path: Path
) -> None:
    account = claim(gateway, master, gateway.person.user_id)
    before = master.open(row_of(gateway, account).sealed_key, owner=account)
    new = load_or_create(tmp_path / "new.key")

    with gateway.services.db.write() as conn:
        assert service.reseal_all(conn, master, new) == 1

    assert new.open(row_of(gateway, account).sealed_key, owner=account) == before


# ---------------------------------------------------------------- over HTTP

Login = Callable[..., dict[str, str]]


def test_where_no_key_is_asked_only_the_operator_says_whose_a_login_is(
    client: httpx.Client, login: Login, operator: dict[str, str]
) -> None:
    bob, body = login("bob"), {"site": "local", "username": "root"}
    assert client.post("/site-accounts", json=body, headers=bob).status_code == 403
    assert client.post("/site-accounts", json=body | {"user": "bob"}, headers=bob).status_code == 403

    made = client.post("/site-accounts", json=body | {"user": "bob"}, headers=operator)

    assert (made.status_code, made.json()["public_key"]) == (201, "")
    # alice has that login here already: under the own-account model it is hers
    assert client.post(f"/site-accounts/{made.json()['id']}:verify", headers=operator).status_code == 409


def test_accounts_of_others_are_not_there(client: httpx.Client, login: Login) -> None:
    mine = client.get("/site-accounts").json()["items"][0]["id"]
    bob = login("bob")

    assert client.post(f"/site-accounts/{mine}/verify", headers=bob).status_code == 404
    assert client.delete(f"/site-accounts/{mine}", headers=bob).status_code == 404
    assert client.get("/site-accounts", headers=bob).json() == {"items": []}
    assert client.delete(f"/site-accounts/{mine}").status_code == 204


def test_a_token_makes_no_token_that_may_do_more(client: httpx.Client, login: Login) -> None:
    bob, reader = login("bob"), login("rita", scopes=("read",))

    assert client.post("/tokens", json={"scopes": ["admin"]}, headers=bob).status_code == 403
    assert client.post("/tokens", json={"scopes": ["read"]}, headers=reader).status_code == 403
    assert client.post("/tokens", json={"scopes": ["read"]}, headers=bob).status_code == 201


def test_a_retried_token_is_the_same_token_and_its_answer_is_kept_sealed(
    client: httpx.Client, gateway: Gateway
) -> None:
    key = {"Idempotency-Key": "t1"}
    first, again = (client.post("/tokens", json={"name": "ci"}, headers=key) for _ in range(2))

    assert first.json() == again.json()
    assert client.post("/tokens", json={"name": "other"}, headers=key).status_code == 422
    with gateway.services.db.read() as conn:
        body = conn.exec_driver_sql("SELECT body FROM idempotency").scalar_one()
    assert first.json()["token"].encode() not in base64.b64decode(body)


def test_only_the_operator_creates_and_twice_is_once(
    client: httpx.Client, operator: dict[str, str], login: Login
) -> None:
    key = operator | {"Idempotency-Key": "p1"}
    creates: dict[str, dict[str, Any]] = {
        "/users": {"name": "carol"}, "/projects": {"name": "climate"}, "/projects/demo/credit": {"amount": "5"},
        "/tariffs": {"currency": "EUR", "price_per_core_hour": "0.1"},
    }  # fmt: skip
    bob = login("bob", role="owner")
    for number, (path, body) in enumerate(creates.items()):
        assert client.post(path, json=body, headers=bob).status_code == 403
        key["Idempotency-Key"] = str(number)
        first, again = (client.post(path, json=body, headers=key) for _ in range(2))
        assert first.status_code == 201, first.text
        assert first.json() == again.json()
    exposure = client.get("/projects/demo").json()["exposure"]
    assert next(e["limit"] for e in exposure if e["commodity"] == "CNY") == "1005.00"


def test_an_owner_manages_members_and_a_researcher_does_not(client: httpx.Client, login: Login) -> None:
    bob = login("bob", role="researcher")
    login("carol")
    assert client.post("/projects/demo/members", json={"user": "carol"}, headers=bob).status_code == 403

    added = client.post("/projects/demo/members", json={"user": "carol"}).json()["members"]
    left = client.delete("/projects/demo/members/carol").json()["members"]

    assert {"user": "carol", "role": "researcher"} in added
    assert "carol" not in {member["user"] for member in left}


def test_a_suspended_person_is_out_until_resumed(client: httpx.Client, login: Login, operator: dict[str, str]) -> None:
    bob = login("bob")
    assert client.post("/users/bob/suspend", headers=bob).status_code == 403
    assert client.post("/users/bob/suspend", headers=operator).json()["disabled"] is True
    fresh = client.post("/users/bob/tokens", json={"name": "x"}, headers=operator).json()["token"]

    assert client.get("/whoami", headers={"Authorization": f"Bearer {fresh}"}).status_code == 401
    assert client.post("/users/bob/resume", headers=operator).json()["disabled"] is False
    assert client.get("/whoami", headers={"Authorization": f"Bearer {fresh}"}).json()["name"] == "bob"


def test_a_cookie_reads_but_changes_nothing(client: httpx.Client, gateway: Gateway) -> None:
    bare = httpx.Client(base_url=client.base_url, cookies={"penstock_token": gateway.secret})
    with bare:
        assert bare.get("/whoami").status_code == 200
        assert bare.post("/tokens", json={}).status_code == 401


def test_a_person_suspends_a_login_by_the_command_line(gateway: Gateway, type_: Callable[..., str]) -> None:
    alice = {"Authorization": f"Bearer {gateway.secret}"}
    [row] = [line.split() for line in type_("account", "list", as_=alice).splitlines() if " local " in line]
    assert type_("account", "suspend", row[0], as_=alice) == "suspended\n"
    assert type_("account", "list", as_=alice).splitlines()[1].split() == [*row[:3], "suspended"]
