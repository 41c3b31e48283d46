"""The API over real HTTP: what a client sees from submit to charge, and what hostile input gets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.builders import Gateway, api, local_site, make_gateway, served

JOB: dict[str, Any] = {"script": "#!/bin/sh\necho hello\n", "attributes": {"duration": 60},
                       "inherit_environment": False, "placement": {"resource_ids": ["local"]}}  # fmt: skip


@pytest.fixture
def gateway(tmp_path: Path, db_url: str) -> Gateway:
    return make_gateway(tmp_path, db_url, local_site(tmp_path, policy={"cores_max": 4}))


@pytest.fixture
def client(gateway: Gateway) -> Iterator[httpx.Client]:
    with api(gateway) as found:
        yield found


def test_a_job_can_be_read_at_once_followed_and_paid(gateway: Gateway, client: httpx.Client) -> None:
    made = client.post("/jobs", json=JOB)
    job_id = made.json()["id"]
    assert made.status_code == 202 and client.get(f"/jobs/{job_id}").json()["status"]["state"] == "new"

    gateway.until(job_id, "completed")
    gateway.charged(job_id)

    log = client.get(f"/jobs/{job_id}/log")
    assert (log.content, log.headers["x-size"], log.headers["x-eof"]) == (b"hello\n", "6", "true")
    assert client.get(f"/jobs/{job_id}/log", params={"offset": 3}).content == b"lo\n"
    stream = client.get(f"/jobs/{job_id}/log", headers={"Accept": "text/event-stream", "Last-Event-ID": "2"}).text
    assert "id: 6\nevent: chunk" in stream and '"llo\\n"' in stream and "event: end" in stream
    kinds = [e["kind"] for e in client.get(f"/jobs/{job_id}/events").json()["items"]]
    assert kinds[0] == "accepted_by_gateway" and kinds[-1] == "finished"
    assert "penstock_fence" in client.get(f"/jobs/{job_id}/script").text
    assert client.get(f"/jobs/{job_id}/charges").json()["provisional"] is False
    assert client.get(f"/jobs/{job_id}/why").json()["sentence"] == "It ended well."


def test_the_same_key_makes_one_job_and_other_content_is_refused(client: httpx.Client) -> None:
    first = client.post("/jobs", json=JOB, headers={"Idempotency-Key": "k1"})
    again = client.post("/jobs", json=JOB, headers={"Idempotency-Key": "k1"})
    other = client.post("/jobs", json={**JOB, "name": "x"}, headers={"Idempotency-Key": "k1"})
    assert first.json()["id"] == again.json()["id"]
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


def test_every_problem_comes_at_once_with_its_pointer(client: httpx.Client) -> None:
    wrong = {"script": "#!/bin/sh\n", "executable": "x", "resources": {"node_count": -1, "cores": 2},
             "attributes": {"duration": "soon"}, "container": {}}  # fmt: skip
    answer = client.post("/jobs", json=wrong)
    pointers = {e["pointer"] for e in answer.json()["errors"]}
    assert answer.status_code == 422
    assert {"/resources/node_count", "/resources/cores", "/attributes/duration", "/container"} <= pointers


HOSTILE: list[tuple[str, dict[str, Any]]] = [
    ("pipes and quotes", {**JOB, "name": "a|b\"c'd\n`e`$(f)"}),
    ("emoji", {**JOB, "name": "🚀" * 60}),
    ("a long name", {**JOB, "name": "x" * 5000}),
    ("100 kB of script", {**JOB, "script": "#!/bin/sh\n" + "# x\n" * 25_000}),
    ("six megabytes of script", {**JOB, "script": "#!/bin/sh\n" + "# x\n" * 1_500_000}),
    ("no shebang", {**JOB, "script": "echo hi\n"}),
    ("a NUL", {**JOB, "script": "#!/bin/sh\n\0"}),
    ("half a surrogate pair", {**JOB, "name": "\ud800"}),
    ("negative nodes", {**JOB, "resources": {"node_count": -5}}),
    ("huge numbers", {**JOB, "resources": {"node_count": 10**30}}),
    ("a float of cores", {**JOB, "resources": {"process_count": 1.5}}),
    ("a bad array", {**JOB, "array": {"indices": "9-1"}}),
    ("a million tasks", {**JOB, "array": {"indices": "0-99999999"}}),
    ("an unknown field", {**JOB, "sudo": True}),
    ("an unknown site", {**JOB, "placement": {"resource_ids": ["moon"]}}),
    ("an unknown parent", {**JOB, "dependencies": [{"job_id": "j0"}]}),
    ("a bad variable", {**JOB, "environment": {"A B": "c"}}),
    ("a foreign directive", {**JOB, "script": "#!/bin/sh\n#SBATCH --uid=0\ntrue\n"}),
    ("a free lunch", {**JOB, "budget": {"max_cost": {"amount": "-1", "currency": "CNY"}}}),
    ("a naive time", {**JOB, "attributes": {"start_time": "2026-01-01T00:00:00"}}),
]


@pytest.mark.parametrize("body", [b for _, b in HOSTILE], ids=[n for n, _ in HOSTILE])
def test_hostile_input_is_refused_in_words_or_works(one_client: httpx.Client, body: dict[str, Any]) -> None:
    answer = one_client.post("/jobs", content=json.dumps(body))
    assert answer.status_code in (202, 413, 422), answer.text
    if answer.status_code != 202:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"]


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"name": "\xc3\x28"}', b"[" * 50_000])
def test_bodies_that_are_no_json_are_problems(one_client: httpx.Client, raw: bytes) -> None:
    assert one_client.post("/jobs", content=raw).status_code in (400, 422)


@pytest.fixture(scope="module")
def one_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("hostile")
    gateway = make_gateway(folder, f"sqlite:///{folder / 'p.sqlite'}", local_site(folder), credit=10**6)
    with api(gateway) as found:
        yield found


def test_strangers_see_nothing(gateway: Gateway, client: httpx.Client) -> None:
    job_id = client.post("/jobs", json=JOB).json()["id"]
    with served(gateway.services) as url:
        for headers in ({}, {"Authorization": "Bearer pst_nobody"}):
            assert httpx.get(f"{url}/api/v2/jobs/{job_id}", headers=headers).status_code == 401
    assert client.get("/jobs/j0000").status_code == 404


def test_credit_that_does_not_cover_the_most_is_refused_with_figures(gateway: Gateway, client: httpx.Client) -> None:
    big = {**JOB, "attributes": {"duration": 3_000_000}, "resources": {"process_count": 4}}
    answer = client.post("/jobs", json=big)
    assert (answer.status_code, answer.json()["code"]) == (402, "credit_exhausted")
    assert "1200.00 CNY" in answer.json()["detail"]


def test_pages_do_not_repeat_or_skip_while_jobs_come_in(client: httpx.Client) -> None:
    ids = [client.post("/jobs", json=JOB).json()["id"] for _ in range(7)]
    first = client.get("/jobs", params={"limit": 3}).json()
    client.post("/jobs", json=JOB)
    rest = client.get("/jobs", params={"limit": 10, "cursor": first["next_cursor"]}).json()
    assert [j["id"] for j in first["items"] + rest["items"]] == ids[::-1]


def test_pages_for_people_show_jobs_in_both_languages(gateway: Gateway) -> None:
    job_id = gateway.submit("local", name="<b>bold</b>")
    with served(gateway.services) as url, httpx.Client(base_url=url, follow_redirects=True) as browser:
        assert "Sign in" in browser.get("/").text
        assert "alice" in browser.post("/login", data={"token": gateway.secret}).text
        page = browser.get(f"/jobs/{job_id}").text
        assert "&lt;b&gt;bold" in page and "<b>bold" not in page
        assert "作业" in browser.get("/jobs?lang=zh_Hans").text
        assert browser.post(f"/jobs/{job_id}/cancel", headers={"Origin": "http://evil.example"}).status_code == 403
        browser.post(f"/jobs/{job_id}/cancel")
    assert gateway.state(job_id) == "canceled"
