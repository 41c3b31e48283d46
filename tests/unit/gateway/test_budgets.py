"""A budget with a stop counts what is charged and what jobs hold, over HTTP on both databases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx

from tests.builders import Gateway
from tests.unit.gateway.test_api_books import charge, ok
from tests.unit.gateway.test_money_races import at_once, statuses

HOUR = {"script": "#!/bin/sh\nsleep 600\n", "attributes": {"duration": 3600}}  # 0.36 CNY at most


def budget(client: httpx.Client) -> dict[str, Any]:
    (only,) = ok(client.get("billing/budgets", params={"project": "demo"}))["items"]
    return dict(only)


def test_what_waiting_jobs_hold_counts_against_the_stop(gateway: Gateway, client: httpx.Client) -> None:
    ok(client.post("billing/budgets", json={"project": "demo", "amount": "0.80", "stop": True}), 201)
    first = ok(client.post("jobs", json=HOUR), 202)["id"]
    ok(client.post("jobs", json=HOUR), 202)
    found = budget(client)
    assert (found["spent"], found["held"], found["left"], found["reached"]) == ("0.00", "0.72", "0.08", [50, 80])

    refused = client.post("jobs", json=HOUR)
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (422, "budget_spent")
    assert "It may cost 0.36 CNY; of the project's budget (month) of 0.80 CNY, 0.08 CNY" in refused.text
    planned = ok(client.post("/jobs:plan", json=HOUR))
    assert not planned["ok"] and planned["problems"][0]["code"] == "budget_spent"
    assert budget(client) == found, "a refused job holds nothing"

    ok(client.post(f"jobs/{first}/cancel"), 202)
    assert budget(client)["held"] == "0.36"
    ok(client.post("jobs", json=HOUR), 202)


def test_charged_and_held_together_leave_nothing(gateway: Gateway, client: httpx.Client) -> None:
    charge(gateway)  # 1.44 CNY
    ok(client.post("billing/budgets", json={"project": "demo", "amount": "1.80", "stop": True}), 201)
    ok(client.post("jobs", json=HOUR), 202)
    refused = client.post("jobs", json=HOUR)
    said = "The project's budget (month) is spent: 1.44 CNY charged and 0.36 CNY held of 1.80 CNY."
    assert refused.status_code == 422 and refused.json()["errors"][0]["detail"] == said


def test_eight_submissions_at_once_stay_within_a_budget(gateway: Gateway, client: httpx.Client) -> None:
    ok(client.post("billing/budgets", json={"project": "demo", "amount": "1.10", "stop": True}), 201)
    answers = at_once(client, *[("jobs", HOUR, {})] * 8)
    assert statuses(answers) == {202: 3, 422: 5}
    assert {a.json()["code"] for a in answers if a.status_code == 422} == {"invalid"}
    assert budget(client)["held"] == "1.08"


def test_a_change_holds_no_more_than_a_budget_has_left(gateway: Gateway, client: httpx.Client) -> None:
    ok(client.post("billing/budgets", json={"project": "demo", "amount": "0.30", "stop": True}), 201)
    half = HOUR | {"attributes": {"duration": 1800}}
    job = ok(client.post("jobs", json=half), 202)["id"]
    refused = client.patch(f"jobs/{job}", json={"attributes": {"duration": 3600}})
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (422, "budget_spent")
    assert refused.json()["errors"][0]["pointer"] == "/attributes/duration"
    assert budget(client)["held"] == "0.18"
    ok(client.patch(f"jobs/{job}", json={"attributes": {"duration": 2400}}), 202)
    assert budget(client)["held"] == "0.24"
    ok(client.post("billing/budgets", json={"project": "demo", "amount": "0.10", "stop": True}), 201)
    ok(client.patch(f"jobs/{job}", json={"attributes": {"duration": 600}}), 202)


def test_the_command_shows_what_is_held(client: httpx.Client, gateway: Gateway, type_: Callable[..., str]) -> None:
    alice = {"Authorization": str(client.headers["authorization"])}
    ok(client.post("jobs", json=HOUR), 202)
    assert "0.00 of 0.36 CNY spent, 0.36 held" in type_("billing", "budget", "demo", "--set", "0.36", as_=alice)
    assert "100.0" in type_("billing", "budget", "demo", as_=alice)
    assert "! demo: 100 % of the budget of 0.36 CNY is spent or held\n" in type_("balance", as_=alice)
