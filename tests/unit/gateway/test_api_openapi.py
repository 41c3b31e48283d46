"""The OpenAPI document: every route is described, every reference leads somewhere, no route is forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.app import create_app
from tests.builders import api, make_gateway

METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("document")
    gateway = make_gateway(folder, f"sqlite:///{folder / 'd.sqlite'}")
    found: dict[str, Any] = create_app(gateway.services).openapi()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert method in METHODS
            yield path, method, operation


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_the_document_is_openapi_3_1_and_all_its_references_lead_somewhere(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    schemas = document["components"]["schemas"]
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas, reference


def test_every_operation_says_what_it_does_answers_and_refuses(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        where = f"{method} {path}"
        assert operation.get("description"), where
        responses = operation["responses"]
        good = [code for code in responses if code.startswith("2")]
        assert len(good) == 1, where
        assert good == ["204"] or "content" in responses[good[0]], where
        assert "application/problem+json" in responses["default"]["content"], where
        if method in ("post", "patch") and "requestBody" in operation:
            assert "$ref" in operation["requestBody"]["content"]["application/json"]["schema"], where


def test_every_post_that_creates_takes_an_idempotency_key(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        creates = method == "post" and ("201" in operation["responses"] or path.endswith(("/jobs", "/jobs:bulk")))
        if creates and not path.endswith("/members"):  # joining twice is joining once
            assert "Idempotency-Key" in {p["name"] for p in operation.get("parameters", [])}, path


def test_everything_but_health_needs_a_token(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        open_to_all = path.rpartition("/")[2] in ("healthz", "metrics")
        assert ("security" in operation) is not open_to_all, f"{method} {path}"


def test_no_route_answers_without_a_token(tmp_path: Path, document: dict[str, Any]) -> None:
    gateway = make_gateway(tmp_path / "served", f"sqlite:///{tmp_path / 's.sqlite'}")
    with api(gateway) as client, httpx.Client(base_url=str(client.base_url).removesuffix("/api/v2/")) as bare:
        for path, method, operation in operations(document):
            filled = path.replace("{rule_id}", "1").replace("{transaction_id}", "1").replace("{line}", "1")
            status = bare.request(method, filled).status_code
            assert status == (401 if "security" in operation else 200), f"{method} {path}: {status}"


def test_health_and_metrics_are_plain(tmp_path: Path) -> None:
    gateway = make_gateway(tmp_path, f"sqlite:///{tmp_path / 'm.sqlite'}")
    with api(gateway) as client:
        assert client.get("/healthz").json() == {"ok": True, "accepting": True}
        text = client.get("/metrics").text
    assert "# TYPE penstock_jobs_live gauge" in text
    for line in text.splitlines():
        assert line.startswith("#") or len(line.rpartition(" ")[2]) > 0
