"""Hostile and broken input: 4xx with the place and a remedy, or it works; never a 500, and nothing half done."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select
from structlog.testing import capture_logs

from gateway.jobs.repository import JOBS
from tests.builders import Gateway, api, compose_gateway, link, local_site, people
from tests.lab.slurm import wait_for

TRUE: dict[str, Any] = {"executable": "/bin/true", "attributes": {"duration": 60}}


def with_(place: str, value: Any) -> bytes:
    """A good job with one field set to something."""
    spec: dict[str, Any] = json.loads(json.dumps(TRUE))
    *parents, last = place.split(".")
    inner = spec
    for name in parents:
        inner = inner.setdefault(name, {})
    inner[last] = value
    return json.dumps(spec).encode()


BODIES: dict[str, bytes] = {
    "nothing": b"",
    "half an object": b'{"executable": "/bin/true"',
    "a list": b"[]",
    "null": b"null",
    "no UTF-8": b'{"executable": "/bin/\xff\xfe"}',
    "UTF-16": '{"executable": "/bin/true"}'.encode("utf-16"),
    "very deep": b"[" * 100_000,
    "deep inside": b'{"tags": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}",
    "NaN": b'{"executable": NaN}',
    "infinite memory": b'{"executable": "/bin/true", "resources": {"memory": 1e400}}',
    "a number of 5000 digits": b'{"executable": "/bin/true", "resources": {"memory": ' + b"9" * 5000 + b"}}",
    "half a surrogate pair": b'{"executable": "/bin/true", "name": "\\ud800"}',
    "half a surrogate pair as a field": b'{"executable": "/bin/true", "\\udfff": 1}',
    "negative nodes": with_("resources.node_count", -3),
    "nodes as text": with_("resources.node_count", "3"),
    "true nodes": with_("resources.node_count", True),
    "more processes than a number holds": with_("resources.process_count", 2**63),
    "more cores than exist": with_("resources.process_count", 2**31 - 1),
    "a time that is none": with_("attributes.duration", "soon"),
    "an endless time": with_("attributes.duration", "P99999999999999999999999D"),
    "no time": with_("attributes.duration", 0),
    "a start without a zone": with_("attributes.start_time", "2030-01-01T00:00:00"),
    "a start before all time": with_("attributes.start_time", "0001-01-01T00:00:00+14:00"),
    "a start after all time": with_("attributes.start_time", "9999-12-31T23:59:59-12:00"),
    "a start as a number": with_("attributes.start_time", 1e300),
    "a moment beyond all calendars in a directive": json.dumps({
        "script": "#!/bin/sh\n#SBATCH --begin=9999-12-31T23:59:59-14:00\ntrue\n", "attributes": {"duration": 60},
    }).encode(),
    "a task's output of a job without tasks": with_("stdout_path", "out.{task}"),
    "an output under a sign of ours": with_("stderr_path", "out.{native}"),
    "a NUL in the name": with_("name", "a\0b"),
    "a NUL in a tag": with_("tags", {"k": "\0"}),
    "a NUL in a tag's key": with_("tags", {"k\0": "v"}),
    "a NUL in the environment": with_("environment", {"A": "\0"}),
    "a NUL in the project": with_("project", "\0"),
    "a NUL in a dependency": with_("dependencies", [{"job_id": "\0"}]),
    "a NUL in a site": with_("placement.resource_ids", ["\0"]),
    "a NUL in the queue": with_("attributes.queue_name", "\0"),
    "an option that is none": with_("attributes.custom_attributes", {"slurm.x": "a\nb"}),
    "no variable name": with_("environment", {"A=B; rm -rf /": "x"}),
    "too many array tasks": with_("array", {"indices": "0-999999999"}),
    "an array backwards": with_("array", {"indices": "9-1"}),
    "an amount with an exponent": with_("budget.max_cost", {"amount": "1e5", "currency": "CNY"}),
    "an amount beyond counting": with_("budget.max_cost", {"amount": "999999999999999", "currency": "CNY"}),
    "a currency that is none": with_("budget.max_cost", {"amount": "1", "currency": "¥"}),
    "a launcher that is a program": with_("launcher", "mpirun; rm -rf /"),
    "a job that waits for itself": with_("dependencies", [{"job_id": "j"}]),
    "a directive against a field": json.dumps(
        {"script": "#!/bin/sh\n#SBATCH --time=5\ntrue", "attributes": {"duration": 60}}
    ).encode(),
    "a script and an executable": with_("script", "true"),
    "neither": b'{"attributes": {"duration": 60}}',
    "arrays, ages and processes beyond counting": json.dumps({
        "executable": "/bin/true", "array": {"indices": "0-999"}, "resources": {"process_count": 2**31 - 1},
        "attributes": {"duration": 315_000_000},
    }).encode(),
}  # fmt: skip


def test_more_cores_than_a_column_holds_are_refused_though_they_could_be_paid(tmp_path: Path, db_url: str) -> None:
    """At a centre whose queues nobody knows yet: neither a limit nor a price stands before the database."""
    site = local_site(tmp_path)
    gateway = people(compose_gateway(tmp_path, db_url, site), credit=10**9)
    link(gateway, site)
    body = json.dumps({**TRUE, "resources": {"process_count": 2**31 - 1, "cpu_cores_per_process": 2}})

    with api(gateway) as client:
        answer = client.post("/jobs", content=body)

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["code"] == "over_limit"


@pytest.mark.parametrize("path", ["/jobs", "/jobs:plan"])
def test_what_is_wrong_is_refused_with_a_problem(client: httpx.Client, gateway: Gateway, path: str) -> None:
    for name, body in BODIES.items():
        answer = client.post(path, content=body)
        planned_badly = path == "/jobs:plan" and answer.status_code == 200 and answer.json()["ok"] is False
        assert planned_badly or 400 <= answer.status_code < 500, (name, answer.status_code, answer.text)
        if not planned_badly:
            assert answer.headers["content-type"] == "application/problem+json", name
            assert answer.json()["detail"], name
    with gateway.services.db.read() as conn:
        assert conn.scalar(select(func.count()).select_from(JOBS)) == 0
    gateway.check_books()


@pytest.mark.parametrize(
    "name",
    [
        "a|b",
        "a\nb",
        'it\'s "quoted"',
        "🎉 日本",
        "$(rm -rf /)",
        "`id`",
        "%s%n",
        "a" * 255,
        "../../etc/passwd",
        " ",
        "-n",
    ],
)
def test_a_hostile_name_is_only_a_name(client: httpx.Client, name: str) -> None:
    job = client.post("/jobs", json=TRUE | {"name": name, "tags": {name[:64]: name}}).json()

    assert client.get(f"/jobs/{job['id']}").json()["name"] == name
    assert [j["id"] for j in client.get("/jobs", params={"name": name}).json()["items"]] == [job["id"]]
    assert [j["id"] for j in client.get("/jobs", params={"tag": f"{name[:64]}:{name}"}).json()["items"]] == [job["id"]]


def test_a_script_of_100_kb_is_taken_and_one_of_9_mb_is_not(client: httpx.Client) -> None:
    long = {"script": "#!/bin/sh\n" + "echo aaaaaaaaaaaaaa\n" * 5000, "attributes": {"duration": 60}}
    longer = {"script": "#!/bin/sh\n" + "x" * 9_000_000, "attributes": {"duration": 60}}

    assert client.post("/jobs", json=long).status_code == 202
    assert client.post("/jobs", json=longer).status_code == 413
    assert client.post("/jobs", content=(b"x" * 65536 for _ in range(150))).status_code == 413  # without a length
    assert client.post("/jobs", json={"script": "#!/bin/sh\n" + "x" * 5_000_000}).status_code == 422


QUERIES = [
    "limit=0", "limit=-1", "limit=99999999999999999999", "limit=x", "cursor=%00", "cursor=%FF", "state=x", "state=",
    "tag=a", "tag=%00:x", "tag=a:%00", "site=%00", "project=%00", "user=%00", "name=%00", "created_after=x",
    "created_after=2026-01-01T00:00:00", "created_after=0001-01-01T00:00:00%2B12:00",
    "created_before=9999-12-31T23:59:59-12:00", "created_before=5",
]  # fmt: skip


@pytest.mark.parametrize("query", QUERIES)
def test_a_broken_filter_is_refused(client: httpx.Client, query: str) -> None:
    answer = client.get(f"/jobs?{query}")

    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"].split("/")[1] == query.partition("=")[0]


def test_no_path_and_no_header_is_a_server_error(client: httpx.Client) -> None:
    paths = ["/jobs/%00", "/jobs/%FF", "/jobs/" + "x" * 3000, "/jobs/a%2Fb", "/projects/%00", "/sites/%00", "/nothing",
             "/jobs/x/script?attempt=99999999999999999999", "/jobs/x/log?offset=99999999999999999999",
             "/jobs/x/log?task=-1", "/jobs/x/events?after=99999999999999999999"]  # fmt: skip
    for path in paths:
        assert 400 <= client.get(path).status_code < 500, path
    for method in ("PUT", "TRACE", "PROPFIND"):
        assert client.request(method, "/jobs").status_code == 405
    for value in (b"Bearer \xff", b"Bearer", b"Basic eDp4", b"", b"Bearer pst_" + b"a" * 5000):
        assert client.get("/jobs", headers={"Authorization": value}).status_code == 401
    key = {"Idempotency-Key": b"\xff" * 300}
    assert client.post("/jobs", json=TRUE, headers=key).status_code == 422


CREATES: dict[str, list[Any]] = {
    "/users": [{}, {"name": "A b"}, {"name": "\0"}, {"name": "a" * 300}, {"name": 5}, {"name": "x", "is_root": True}],
    "/projects": [{}, {"name": "X"}, {"name": "p", "currency": "yuan"}, {"name": "p", "title": "t" * 500}],
    "/projects/demo/credit": [{}, {"amount": "-1"}, {"amount": "9" * 20}, {"amount": "1", "core_hours": 1},
                              {"amount": "1e9"}, {"core_hours": 10**30}, {"amount": "0"}],
    "/projects/demo/members": [{}, {"user": "\0"}, {"user": "nobody"}, {"user": "alice", "role": "king"}],
    "/tariffs": [{}, {"currency": "CNY", "price_per_core_hour": "x"}, {"currency": "CNY", "price_per_core_hour": "-1"},
                 {"currency": "CNY", "price_per_core_hour": "1"}, {"currency": "CNY", "price_per_core_hour": "9" * 20},
                 {"currency": "CNY", "price_per_core_hour": "1", "valid_from": "2026-01-01"}],
    "/tariffs/99/close": [{}, {"valid_to": "x"}],
    "/tokens": [{"scopes": ["root"]}, {"scopes": []}, {"lifetime_days": 0}, {"lifetime_days": 10**9}, []],
    "/site-accounts": [{}, {"site": "no", "username": "x"}, {"site": "local", "username": "a b"},
                       {"site": "local", "username": "x", "private_key": "\0"}, {"site": "\0", "username": "x"}],
}  # fmt: skip


@pytest.mark.parametrize("path", CREATES)
def test_whatever_is_created_is_checked(client: httpx.Client, operator: dict[str, str], path: str) -> None:
    for body in CREATES[path]:
        answer = client.post(path, json=body, headers=operator)
        assert 400 <= answer.status_code < 500, (body, answer.status_code, answer.text)


def test_a_bug_of_ours_tells_a_number_and_nothing_else(
    gateway: Gateway, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> Callable[..., Any]:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("gateway.jobs.views.show_each", broken)

    with capture_logs() as logged:
        answer = client.get("/jobs/x")

    number = next(entry["incident"] for entry in logged if entry["event"] == "request_failed")
    assert number in answer.json()["detail"]
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "secret" not in answer.text and answer.headers["content-type"] == "application/problem+json"


def test_a_client_that_goes_in_the_middle_of_its_body_is_no_bug_of_ours(gateway: Gateway, client: httpx.Client) -> None:
    with capture_logs() as logged:
        with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as half:
            head = f"POST /api/v2/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.secret}\r\n"
            half.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
            wait_for(lambda: client.get("/healthz").status_code == 200, "the server to have read this far")
        wait_for(lambda: any(entry["event"] == "client_gone" for entry in logged), "the server to notice")

    assert not [entry for entry in logged if entry["event"] == "request_failed"]
