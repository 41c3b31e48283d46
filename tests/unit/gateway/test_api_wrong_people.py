"""Who may see and do what with the money of others: members of one project, operators beside each other, a centre."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest

from gateway.billing import evidence
from gateway.errors import Conflict
from gateway.identity import service, tokens
from tests.builders import Gateway
from tests.unit.gateway.test_api_billing import Billing

Headers = dict[str, str]
Login = Callable[..., Headers]
ALL = ("read", "submit", "admin")


@pytest.fixture
def billing(gateway: Gateway, client: httpx.Client, operator: Headers) -> Billing:
    return Billing(gateway, client, operator)


def ok(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


def test_a_researcher_sees_what_the_own_work_costs_and_nobody_elses(billing: Billing, login: Login) -> None:
    gateway, client = billing.gateway, billing.client
    rita = login("rita", role="researcher")
    with gateway.services.db.read() as conn:
        rita_id = service.user_id_of(conn, "rita")
    billing.work(36_000)
    billing.work(7_200, user=rita_id)
    billing.bill()
    evidence.append(gateway.services, None, gateway.services.clock())
    both = ok(client.get("billing/charges?project=demo"))["items"]
    assert len(both) == 2
    (own,) = ok(client.get("billing/charges?project=demo", headers=rita))["items"]
    (other,) = [c for c in both if c["id"] != own["id"]]
    assert own["core_seconds"] == 7_200
    ok(client.get(f"billing/charges/{own['id']}", headers=rita))
    assert client.get(f"billing/charges/{other['id']}", headers=rita).status_code == 404

    since = (billing.within - timedelta(days=20)).isoformat()
    span = {"since": since, "until": gateway.services.clock().isoformat()}
    for asked in ({"project": "demo"}, {"project": "demo", "disclose": "true"}, {"project": "demo", "payer": "uni"}):
        assert client.get("evidence/bundle", params=asked | span, headers=rita).status_code == 404
        assert client.get("evidence/bundle", params=asked | span).status_code == 200
    leaf = {"kind": "invoice", "ref": "PS-000001"}
    assert client.get("evidence/proof", params=leaf, headers=rita).status_code == 404
    ok(client.get("evidence/proof", params=leaf))
    entries = [client.get("evidence/proof", params={"kind": "entry", "ref": str(n)}) for n in range(1, 9)]
    theirs = [client.get(e.url, headers=rita) for e in entries if e.status_code == 200]
    assert [r.status_code for r in theirs].count(200) == 1 and len(theirs) > 2


def test_an_operator_does_not_make_the_token_of_the_second_pair_of_eyes(
    gateway: Gateway, client: httpx.Client, operator: Headers, login: Login
) -> None:
    login("other", operator=True, scopes=ALL)
    login("carl", staff="local")
    for name in ("other", "carl"):
        got = client.post(f"users/{name}/tokens", json={"scopes": ["read", "submit"]}, headers=operator)
        assert got.status_code == 403, got.text
        assert f"admin token {name}" in got.json()["remedy"]
    ok(client.post("users", json={"name": "puppet", "operator_admin": True}, headers=operator), 201)
    assert client.post("users/puppet/tokens", json={"scopes": list(ALL)}, headers=operator).status_code == 403


def test_a_token_from_before_its_owner_joined_a_centre_opens_nothing_any_more(
    gateway: Gateway, client: httpx.Client, operator: Headers
) -> None:
    """The operator made it, so the operator has it; and it may have made others since."""
    ok(client.post("users", json={"name": "carl"}, headers=operator), 201)
    first = ok(client.post("users/carl/tokens", json={"scopes": ["read", "submit"]}, headers=operator), 201)["token"]
    made = {"Authorization": f"Bearer {first}"}
    second = ok(client.post("tokens", json={"scopes": ["read", "submit"]}, headers=made), 201)["token"]
    with gateway.services.db.write() as conn:
        carl, now = service.user_id_of(conn, "carl"), gateway.services.clock()
        service.add_staff(conn, site_id="local", user_id=carl, now=now)
        own = tokens.issue(conn, user_id=carl, name="", scopes=["read"], lifetime=timedelta(days=1), now=now)
        service.add_staff(conn, site_id="elsewhere", user_id=carl, now=now)
        with pytest.raises(Conflict, match="An operator does not speak for a centre"):
            service.add_staff(conn, site_id="local", user_id=service.user_id_of(conn, "operator"), now=now)
    time.sleep(1)  # a token that was looked up is believed for 0.8 s
    for token, status in ((first, 401), (second, 401), (own.secret, 200)):
        answer = client.get("whoami", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == status
    assert answer.json()["staff_of"] == ["elsewhere", "local"]
    ok(client.post("users/operator/tokens", json={"scopes": list(ALL)}, headers=operator), 201)


def test_an_operators_everyday_token_changes_no_project_that_is_not_theirs(client: httpx.Client, login: Login) -> None:
    everyday = login("olga", operator=True)
    asks = [
        ("POST", "projects/demo/members", {"user": "olga", "role": "owner"}),
        ("DELETE", "projects/demo/members/alice", None),
        ("POST", "billing/budgets", {"project": "demo", "amount": "0.01", "stop": True}),
    ]
    for method, path, body in asks:
        got = client.request(method, path, json=body, headers=everyday)
        assert got.status_code == 403, (path, got.status_code, got.text)
    assert ok(client.get("projects/demo", headers=everyday))["members"] == [{"user": "alice", "role": "owner"}]


def test_nobody_and_no_project_is_called_by_the_id_of_another(
    gateway: Gateway, client: httpx.Client, operator: Headers
) -> None:
    """Found by hand: a project that bore another's id made each look at that one by its id a 500."""
    for path, name in (("projects", gateway.project_id), ("users", gateway.person.user_id)):
        got = client.post(path, json={"name": name}, headers=operator)
        assert got.status_code == 422, (path, got.text)
    ok(client.get(f"projects/{gateway.project_id}"))
