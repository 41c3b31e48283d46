"""Jobs over HTTP: accepted once, shown at once, acted on, listed; every problem of a request at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from gateway.api import answers
from gateway.jobs.repository import JOBS
from tests.builders import Gateway
from tests.unit.accounting.makers import add_rules, agree, agreement, rule

# Without the login environment: what a profile on this machine does, or waits for, is not the subject.
TRUE: dict[str, Any] = {"executable": "/bin/true", "attributes": {"duration": 60}, "inherit_environment": False}

Login = Callable[..., dict[str, str]]


def submitted(client: httpx.Client, **more: Any) -> str:
    answer = client.post("/jobs", json=TRUE | more)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def pointers(answer: httpx.Response) -> set[str]:
    assert answer.status_code == 422, answer.text
    return {problem["pointer"] for problem in answer.json()["errors"]}


def count_jobs(gateway: Gateway) -> int:
    with gateway.services.db.read() as conn:
        return int(conn.scalar(select(func.count()).select_from(JOBS)) or 0)


def test_an_accepted_job_can_be_read_at_once(client: httpx.Client) -> None:
    answer = client.post("/jobs", json=TRUE | {"name": "a|b\n'\"🎉"})

    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/api/v2/jobs/{job['id']}"
    assert client.get(f"/jobs/{job['id']}").json() == job
    assert (job["name"], job["status"]["state"], job["job_spec"]["executable"]) == ("a|b\n'\"🎉", "new", "/bin/true")
    assert job["waiting"] == {"ahead": 0, "sentence": "0 jobs were accepted earlier for local; people take turns."}


def test_every_answer_has_the_documented_shape(client: httpx.Client, gateway: Gateway) -> None:
    job_id = submitted(client)
    gateway.until(job_id, "completed")
    gateway.charged(job_id)

    answers.Job.model_validate(client.get(f"/jobs/{job_id}").json())
    answers.JobPage.model_validate(client.get("/jobs").json())
    for name, model in {"events": answers.Events, "why": answers.Why, "runs": answers.Runs,
                        "charges": answers.Charges}.items():  # fmt: skip
        model.model_validate(client.get(f"/jobs/{job_id}/{name}").json())
    answers.Plan.model_validate(client.post("/jobs:plan", json=TRUE).json())
    answers.Results.model_validate(client.post("/jobs:status", json={"ids": [job_id, "no"]}).json())
    answers.Problem.model_validate(client.post("/jobs", json={}).json())


def test_a_charged_job_shows_what_it_used_and_costs(client: httpx.Client, gateway: Gateway) -> None:
    job_id = submitted(client)
    gateway.until(job_id, "completed")
    gateway.charged(job_id)

    job, charges = client.get(f"/jobs/{job_id}").json(), client.get(f"/jobs/{job_id}/charges").json()

    assert job["usage"]["source"] == "centre"
    assert job["charge"] == charges["total"] | {"provisional": False}
    assert job["usage"]["core_seconds"] == charges["core_seconds"]
    assert client.get("/jobs").json()["items"][0]["charge"] == job["charge"]


def test_the_same_key_makes_one_job_however_often_it_is_sent(client: httpx.Client, gateway: Gateway) -> None:
    def send(_: int) -> httpx.Response:
        return client.post("/jobs", json=TRUE, headers={"Idempotency-Key": "k1"})

    with ThreadPoolExecutor(8) as pool:
        sent = list(pool.map(send, range(16)))

    assert {answer.status_code for answer in sent} == {202}
    assert len({answer.json()["id"] for answer in sent}) == 1
    assert count_jobs(gateway) == 1


def test_a_key_with_other_content_is_refused(client: httpx.Client) -> None:
    key = {"Idempotency-Key": "k1"}
    submitted_once = client.post("/jobs", json=TRUE, headers=key)

    other = client.post("/jobs", json=TRUE | {"name": "other"}, headers=key)
    same = client.post("/jobs", content=json.dumps(dict(sorted(TRUE.items())), indent=3), headers=key)

    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    assert same.json()["id"] == submitted_once.json()["id"]


def test_a_retry_finds_its_job_though_it_would_be_refused_by_now(client: httpx.Client, gateway: Gateway) -> None:
    key = {"Idempotency-Key": "k1"}
    first = client.post("/jobs", json=TRUE, headers=key)
    with gateway.services.db.write() as conn:
        conn.exec_driver_sql("UPDATE site_accounts SET status = 'suspended'")

    assert client.post("/jobs", json=TRUE).status_code == 422
    assert client.post("/jobs", json=TRUE, headers=key).json()["id"] == first.json()["id"]


def test_all_problems_of_a_request_come_at_once(client: httpx.Client) -> None:
    answer = client.post("/jobs", json={
        **TRUE, "directory": "", "nodes": 3, "container": {"image": "x"},
        "resources": {"node_count": -1, "memory": 1.5}, "attributes": {"duration": "1 hour", "queue_name": "no"},
    })  # fmt: skip

    assert pointers(answer) == {
        "/directory", "/nodes", "/container", "/resources/node_count", "/resources/memory", "/attributes/duration",
        "/attributes/queue_name",
    }  # fmt: skip
    assert "7 problems" in answer.json()["detail"]


@pytest.mark.parametrize("field", ["container", "stage_in", "stage_out", "cleanup", "template"])
def test_what_is_not_offered_yet_is_told_apart_from_a_typing_mistake(client: httpx.Client, field: str) -> None:
    answer = client.post("/jobs", json=TRUE | {field: []})

    assert f"'{field}' is not offered by this gateway yet" in answer.json()["detail"]


def test_no_credit_is_402_and_leaves_nothing_behind(client: httpx.Client, gateway: Gateway) -> None:
    answer = client.post("/jobs", json=TRUE | {"attributes": {"duration": 300_000_000}})

    assert (answer.status_code, answer.json()["code"]) == (402, "credit_exhausted")
    assert count_jobs(gateway) == 0
    gateway.check_books()


def test_a_token_that_may_only_read_submits_nothing(client: httpx.Client, login: Login) -> None:
    reader = login("rita", role="researcher", scopes=("read",))

    assert client.post("/jobs", json=TRUE, headers=reader).status_code == 403
    assert client.get("/jobs", headers=reader).status_code == 200


def test_a_token_that_may_submit_sees_what_became_of_it(gateway: Gateway, client: httpx.Client, login: Login) -> None:
    job_id = submitted(client)
    ci = login("ci", role="owner", scopes=("submit",))

    assert client.get(f"/jobs/{job_id}", headers=ci).status_code == 200


def test_a_stranger_finds_no_job(client: httpx.Client, login: Login) -> None:
    job_id, stranger = submitted(client), login("mallory")

    for method, path in [("GET", ""), ("GET", "/log"), ("GET", "/script"), ("GET", "/events"), ("GET", "/why"),
                         ("GET", "/charges"), ("GET", "/runs"), ("DELETE", ""), ("POST", "/hold")]:  # fmt: skip
        assert client.request(method, f"/jobs/{job_id}{path}", headers=stranger).status_code == 404
    assert client.get("/jobs", headers=stranger).json()["items"] == []
    assert client.post("/jobs:status", json={"ids": [job_id]}, headers=stranger).json()["results"][0]["status"] == 404


def test_a_project_owner_sees_the_job_but_not_its_texts(client: httpx.Client, login: Login) -> None:
    job_id, owner = submitted(client, environment={"SECRET": "x"}), login("olga", role="owner")

    seen = client.get(f"/jobs/{job_id}", headers=owner)

    assert seen.status_code == 200
    assert "environment" not in seen.json()["job_spec"] and "executable" not in seen.json()["job_spec"]
    assert client.get(f"/jobs/{job_id}/script", headers=owner).status_code == 403
    assert client.get(f"/jobs/{job_id}/log", headers=owner).status_code == 403
    assert client.post(f"/jobs/{job_id}/hold", headers=owner).status_code == 403
    assert client.delete(f"/jobs/{job_id}", headers=owner).status_code == 202


def test_a_job_in_the_line_is_held_released_and_canceled(client: httpx.Client) -> None:
    job_id = submitted(client)

    states = [client.post(f"/jobs/{job_id}/{verb}").json()["status"]["state"] for verb in ("hold", "release", "cancel")]

    assert states == ["held", "new", "canceled"]
    assert client.post(f"/jobs/{job_id}/cancel").status_code == 202  # already over: the wish is fulfilled
    assert client.post(f"/jobs/{job_id}/hold").status_code == 409


def test_a_job_in_the_line_is_modified(client: httpx.Client) -> None:
    job_id = submitted(client)

    changed = client.patch(f"/jobs/{job_id}", json={"attributes": {"duration": "PT30S"}})

    assert changed.json()["job_spec"]["attributes"]["duration"] == 30
    assert client.patch(f"/jobs/{job_id}", json={"attributes": {"duration": 600}}).status_code == 202  # held for
    too_long = client.patch(f"/jobs/{job_id}", json={"attributes": {"duration": 300_000_000}})
    assert (too_long.status_code, too_long.json()["code"]) == (402, "credit_exhausted")
    assert pointers(client.patch(f"/jobs/{job_id}", json={"attributes": {"duration": -1}})) == {"/attributes/duration"}


def test_many_jobs_are_accepted_each_on_its_own(client: httpx.Client, gateway: Gateway) -> None:
    jobs = [TRUE | {"name": f"n{i}"} for i in range(60)]
    jobs[7] = {"executable": "/bin/true", "nodes": 1}
    jobs[30] = TRUE | {"attributes": {"duration": 300_000_000}}

    results = client.post("/jobs:bulk", json={"jobs": jobs}, headers={"Idempotency-Key": "b"}).json()["results"]
    again = client.post("/jobs:bulk", json={"jobs": jobs}, headers={"Idempotency-Key": "b"}).json()["results"]

    assert [r["status"] for r in results] == [422 if i == 7 else 402 if i == 30 else 202 for i in range(60)]
    assert [r["job"]["name"] for r in results if "job" in r] == [f"n{i}" for i in range(60) if i not in (7, 30)]
    assert [r.get("id") for r in again] == [r.get("id") for r in results]
    assert count_jobs(gateway) == 58
    gateway.check_books()


def test_many_jobs_are_canceled_each_on_its_own(client: httpx.Client) -> None:
    ids = [submitted(client) for _ in range(3)]

    results = client.post("/jobs:cancel", json={"ids": [ids[0], "jnone", ids[2]]}).json()["results"]

    assert [r["status"] for r in results] == [202, 404, 202]
    assert [client.get(f"/jobs/{i}").json()["status"]["state"] for i in ids] == ["canceled", "new", "canceled"]


def test_a_plan_shows_script_price_and_candidates_and_keeps_nothing(client: httpx.Client, gateway: Gateway) -> None:
    plan = client.post("/jobs:plan", json=TRUE | {"resources": {"process_count": 1}}).json()

    assert plan["ok"] and plan["site"] == "local" and "/bin/true" in plan["script"]
    assert plan["estimate"]["amount"] == "0.006" and plan["estimate"]["core_seconds_max"] == 60
    assert count_jobs(gateway) == 0


def test_a_plan_says_what_credit_it_lacks_in_units_of_money(client: httpx.Client) -> None:
    body = TRUE | {"attributes": {"duration": 20_000_000}, "resources": {"process_count": 1}}
    plan = client.post("/jobs:plan", json=body).json()

    assert [p["detail"] for p in plan["problems"]] == ["The project lacks 1000.00 CNY for the most this can cost."]


@pytest.mark.parametrize("indices", ["٣-٥", "0-3, 7", "0-3,\n7"])
def test_indices_that_a_scheduler_would_not_read_are_refused(client: httpx.Client, indices: str) -> None:
    assert pointers(client.post("/jobs", json=TRUE | {"array": {"indices": indices}})) == {"/array/indices"}


def test_a_page_goes_on_where_the_last_one_ended_whatever_comes_between(client: httpx.Client) -> None:
    ids = [submitted(client) for _ in range(5)]
    first = client.get("/jobs", params={"limit": 2}).json()
    submitted(client)

    second = client.get("/jobs", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    third = client.get("/jobs", params={"limit": 2, "cursor": second["next_cursor"]}).json()

    assert [job["id"] for page in (first, second, third) for job in page["items"]] == ids[::-1]
    assert third["next_cursor"] is None
    assert all(job["job_spec"] is None for job in first["items"])


def test_a_cursor_that_is_none_of_ours_is_refused(client: httpx.Client) -> None:
    for cursor in ("", "%00", "AAAA", "ÿ", "x" * 500, "ajAwMDA="):
        assert client.get("/jobs", params={"cursor": cursor}).status_code in (200, 422), cursor


def test_the_log_is_read_by_byte(client: httpx.Client, gateway: Gateway) -> None:
    script = {"executable": None, "script": "#!/bin/sh\necho åß日\n"}
    job_id = submitted(client, **script)
    assert client.get(f"/jobs/{job_id}/log").status_code == 404  # no site has it yet
    gateway.until(job_id, "completed")

    whole, part = client.get(f"/jobs/{job_id}/log"), client.get(f"/jobs/{job_id}/log", params={"offset": 2, "limit": 2})
    behind = client.get(f"/jobs/{job_id}/log", params={"offset": 99})

    assert whole.content == "åß日\n".encode()
    assert (part.content, part.headers["x-offset"], part.headers["x-eof"]) == ("ß".encode(), "2", "false")
    assert (behind.content, behind.headers["x-offset"], behind.headers["x-size"]) == (b"", "8", "8")
    assert "echo åß日" in client.get(f"/jobs/{job_id}/script").text


def test_an_array_has_an_output_for_each_task(client: httpx.Client, gateway: Gateway) -> None:
    script = {"executable": None, "script": "#!/bin/sh\necho task\n"}
    job_id = submitted(client, **script, array={"indices": "0-1"})
    gateway.until(job_id, "completed")

    assert client.get(f"/jobs/{job_id}").json()["array"] == {"size": 2, "counts": {"completed": 2}}
    assert client.get(f"/jobs/{job_id}/log").status_code == 404
    assert client.get(f"/jobs/{job_id}/log", params={"task": 1}).content == b"task\n"


def test_an_estimate_is_of_the_grade_that_the_agreement_gives_the_queue(gateway: Gateway, client: httpx.Client) -> None:
    agree(gateway.services.db, agreement(site_ids=("local",), grades={"*": "quality"}))
    add_rules(gateway.services.db, rule(0, 3_600_000, grade="quality"))
    plan = client.post("/jobs:plan", json=TRUE | {"resources": {"process_count": 1}}).json()
    assert (plan["estimate"]["amount"], plan["estimate"]["core_seconds_max"]) == ("0.06", 60)
