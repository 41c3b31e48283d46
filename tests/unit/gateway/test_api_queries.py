"""A query parameter that a route does not know is refused by its name: a mistyped filter answers nothing."""

from __future__ import annotations

from types import ModuleType

import httpx
import pytest
from fastapi.routing import APIRoute, APIRouter

from gateway import app
from gateway.api.queries import names_known
from gateway.app import create_app
from tests.builders import Gateway


@pytest.mark.parametrize(
    ("asked", "wrong", "perhaps"),
    [
        ("billing/invoices?projet=demo", "projet", "project"), ("billing/reports?mounth=2026-11", "mounth", "month"),
        ("billing/breaks?site=local&statte=open", "statte", "state"), ("billing/disputes?sites=local", "sites", "site"),
        ("billing/statements?periods=2026-11", "periods", "period"), ("jobs?stat=active", "stat", "state"),
        ("billing/payments?unalocated=true", "unalocated", "unallocated"),
    ],
)  # fmt: skip
def test_a_mistyped_filter_is_named_with_what_is_meant(
    client: httpx.Client, operator: dict[str, str], asked: str, wrong: str, perhaps: str
) -> None:
    got = client.get(asked, headers=operator)
    assert (got.status_code, got.headers["content-type"]) == (422, "application/problem+json")
    [error] = got.json()["errors"]
    assert (error["pointer"], error["code"]) == (f"/{wrong}", "unknown")
    assert repr(wrong) in error["detail"] and error["remedy"] == f"Is it {perhaps!r}?"


def test_every_unknown_parameter_is_told_at_once_and_nothing_is_done(
    client: httpx.Client, operator: dict[str, str]
) -> None:
    got = client.get("billing/periods?a=1&b=2&a=3", headers=operator).json()
    assert [e["pointer"] for e in got["errors"]] == ["/a", "/b"]
    assert got["errors"][0]["remedy"] == "It takes none."
    refused = client.post("billing/periods?zone=UTC", json={"year": 2026, "month": 7, "zone": "UTC"}, headers=operator)
    assert refused.status_code == 422
    assert client.get("billing/periods", headers=operator).json()["items"] == []


def test_who_has_no_token_is_told_only_that(client: httpx.Client) -> None:
    assert client.get("billing/invoices?projet=demo", headers={"Authorization": ""}).status_code == 401


def test_the_hot_routes_refuse_it_too(client: httpx.Client) -> None:
    body = {"script": "#!/bin/sh\ntrue\n", "attributes": {"duration": 60}}
    assert client.post("jobs?dry=1", json=body).status_code == 422
    job = client.post("jobs", json=body).json()["id"]
    assert client.get(f"jobs/{job}?full=1").status_code == 422
    assert client.get(f"jobs/{job}").status_code == 200


def test_every_route_refuses_what_it_does_not_know(gateway: Gateway, client: httpx.Client) -> None:
    """Whatever is added later, too."""
    api = create_app(gateway.services)
    document = api.openapi()["paths"]
    api.state.lanes.close()
    asked = [(verb, path) for path, verbs in document.items() for verb in verbs if path.startswith("/api/v2/")]
    for verb, path in asked:
        if path.rpartition("/")[2] not in ("healthz", "metrics"):
            got = client.request(verb, path.removeprefix("/api/v2") + "?no_such_filter=1")
            assert (got.status_code, "'no_such_filter'" in got.text) == (422, True), (verb, path, got.text)
    assert len(asked) > 60


def test_every_documented_parameter_is_known(gateway: Gateway) -> None:
    api = create_app(gateway.services)
    document = api.openapi()["paths"]
    api.state.lanes.close()
    modules = [m for m in vars(app).values() if isinstance(m, ModuleType) and m.__name__.startswith("gateway.api.")]
    routers = {id(r): r for m in modules for r in vars(m).values() if isinstance(r, APIRouter)}
    routes = [route for router in routers.values() for route in router.routes if isinstance(route, APIRoute)]
    assert len(routes) > 60
    for route in routes:
        for verb in route.methods:
            said = document.get(f"/api/v2{route.path}", {}).get(verb.lower(), {})
            names = {p["name"] for p in said.get("parameters", ()) if p["in"] == "query"}
            assert names <= names_known(route), (verb, route.path)
