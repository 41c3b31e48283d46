"""The two hot routes: what comes by the short way and what FastAPI reads are judged alike."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.routing import Match

from gateway.api import hot

JOB: dict[str, Any] = {"executable": "/bin/true", "attributes": {"duration": 60}, "inherit_environment": False}


def taken(method: str, path: str, *headers: tuple[bytes, bytes], root_path: str = "", query: bytes = b"") -> bool:
    """Whether one of the hot routes takes such a request."""
    app = FastAPI()
    hot.install(app)
    scope = {"type": "http", "method": method, "path": path, "headers": list(headers), "root_path": root_path,
             "query_string": query}  # fmt: skip
    return any(route.matches(scope)[0] is Match.FULL for route in app.router.routes[:2])


def test_only_what_is_plain_comes_by_the_short_way() -> None:
    key = b"idempotency-key"
    assert taken("POST", "/api/v2/jobs")
    assert taken("POST", "/api/v2/jobs", (key, b"k" * 255))
    assert not taken("POST", "/api/v2/jobs", (key, b"k" * 256))
    assert not taken("POST", "/api/v2/jobs", (key, b""))
    assert not taken("POST", "/api/v2/jobs/")
    assert not taken("POST", "/api/v2/jobs:bulk")
    assert taken("GET", "/api/v2/jobs/j01m89trz6fgc25kfx5q1mjxkm1")
    assert not taken("GET", "/api/v2/jobs/" + "j" * 65)
    assert not taken("GET", "/api/v2/jobs/j1/script")
    assert not taken("GET", "/api/v2/jobs/\x00")
    assert not taken("GET", "/api/v2/jobs/j1\n")
    assert not taken("DELETE", "/api/v2/jobs/j1")
    assert not taken("GET", "/prefix/api/v2/jobs/j1", root_path="/prefix")
    assert not taken("GET", "/api/v2/jobs/j1", query=b"full=1")


@pytest.mark.parametrize("key", ["short", "long" * 100], ids=["by the short way", "by FastAPI"])
def test_who_has_no_token_is_turned_away_before_anything_else_is_judged(client: httpx.Client, key: str) -> None:
    answer = client.post("/jobs", json=JOB, headers={"Authorization": "", "Idempotency-Key": key})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_a_cookie_may_look_but_not_submit(client: httpx.Client) -> None:
    job_id = client.post("/jobs", json=JOB).json()["id"]
    secret = client.headers["Authorization"].removeprefix("Bearer ")
    with httpx.Client(base_url=client.base_url, cookies={"penstock_token": secret}) as page:
        assert page.get(f"/jobs/{job_id}").status_code == 200
        assert page.post("/jobs", json=JOB).status_code == 401


def test_a_key_that_is_too_long_is_a_problem_with_its_place(client: httpx.Client) -> None:
    answer = client.post("/jobs", json=JOB, headers={"Idempotency-Key": "k" * 256})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("job_id", ["j_none", "j" * 65, "j-none", "%00", "a%0A"])
def test_an_id_that_is_nobodys_is_refused_in_words(client: httpx.Client, job_id: str) -> None:
    answer = client.get(f"/jobs/{job_id}")
    assert answer.status_code in (404, 422)
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_same_key_gets_the_same_job(client: httpx.Client) -> None:
    first, again = (client.post("/jobs", json=JOB, headers={"Idempotency-Key": "k1"}) for _ in range(2))
    assert first.status_code == again.status_code == 202
    assert first.json()["id"] == again.json()["id"]
    other = client.post("/jobs", json=JOB | {"name": "other"}, headers={"Idempotency-Key": "k1"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


def test_a_body_that_is_too_long_is_refused(client: httpx.Client) -> None:
    assert client.post("/jobs", content=b" " * (8 * 1024 * 1024 + 1)).status_code == 413
