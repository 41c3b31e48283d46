"""What a site's dialect cannot write is refused at POST, field by field, in the words of the hand-over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from gateway.errors import Invalid
from gateway.jobs import request, unwritable
from gateway.jobs.repository import ACCOUNTS, JOBS
from site_adapters import registry
from site_adapters.config import SiteConfig
from site_adapters.errors import SiteError, SiteUnreachable
from site_adapters.types import Array, Attributes, JobSpec, Resources, SiteAccount, Submission
from tests.builders import Altered, Gateway, api, local_site, make_gateway

HERE: dict[str, Any] = {"transport": {"kind": "local"}}
SITES: dict[str, dict[str, Any]] = {
    "wuxi": {"scheduler": "sunway", "staging_root": "/home/export/online/penstock"},
    "bare": {"scheduler": "sunway", "staging_root": "/home/export/online/penstock", "sunway": {"mode": "direct"}},
    "jinan": {"scheduler": "pbs", "submit": {"forbidden": ["P"]}},
    "torque": {"scheduler": "pbs", "pbs": {"flavour": "torque"}},
    "kunshan": {"scheduler": "slurm", "submit": {"required": ["account"], "forbidden": ["nodelist"]}},
    "rest": {"scheduler": "slurm", "backend": "rest", "rest": {"url": "http://127.0.0.1:1", "api": "v0.0.38"}},
    "north": {
        "scheduler": "northbound", "transport": {"kind": "http"},
        "northbound": {"url": "http://127.0.0.1:1", "user": "op", "home": "/public/op", "login": "token",
                       "token_file": "token"},
    },
}  # fmt: skip
ME = SiteAccount("alice", "/home/alice")
_CUSTOM = "/attributes/custom_attributes/"


def asking(**attributes: Any) -> JobSpec:
    """A job for a queue and an account, and more in its attributes."""
    return JobSpec(executable="/bin/true", attributes=Attributes(duration=60, queue_name="q", **attributes))


# Site, job, and the fields that its dialect refuses.
REFUSED: list[tuple[str, JobSpec, set[str]]] = [
    ("wuxi", replace(asking(qos="high", account="a", priority=3), array=Array("0-3")),
     {"/array", "/attributes/qos", "/attributes/account", "/attributes/priority"}),
    ("wuxi", replace(asking(), resources=Resources(process_count=1, gpu_cores_per_process=2, cpu_cores_per_process=7)),
     {"/resources/gpu_cores_per_process", "/resources/cpu_cores_per_process"}),
    ("wuxi", JobSpec(executable="a"), {"/attributes/queue_name"}),
    ("wuxi", replace(asking(), directory="/home/export/base/x"), {"/directory"}),
    ("wuxi", replace(asking(), executable=None, script="#!/bin/bash\ntrue\n"), {"/script"}),
    ("wuxi", asking(custom_attributes={"sunway.mode": "x", "sunway.I": ""}),
     {_CUSTOM + "sunway.mode", _CUSTOM + "sunway.I"}),
    ("wuxi", asking(custom_attributes={"sunway.b": "x", "sunway.mpecg": "no"}),
     {_CUSTOM + "sunway.b", _CUSTOM + "sunway.mpecg"}),
    ("bare", replace(asking(), environment={"A": "b"}, launcher="mpirun", stdout_path="/o/%J"),
     {"/environment", "/launcher", "/stdout_path"}),
    ("jinan", replace(asking(qos="high", account="two words"), array=Array("0-3,9")),
     {"/array/indices", "/attributes/qos", "/attributes/account"}),
    ("jinan", asking(custom_attributes={"pbs.resource.ncpus": "9", "pbs.x": "1", "pbs.place": "excl",
                                        "pbs.chunk": "mem=1gb", "pbs.project": "p"}),
     {_CUSTOM + f"pbs.{name}" for name in ("resource.ncpus", "x", "place", "chunk", "project")}),
    ("torque", asking(reservation_id="r1"), {"/attributes/reservation_id"}),
    ("kunshan", asking(), {"/attributes/account"}),
    ("kunshan", replace(asking(account="a"), stdout_path="/o/%N", stderr_path="/o/\\e"),
     {"/stdout_path", "/stderr_path"}),
    ("kunshan", asking(account="a", custom_attributes={"slurm.nodelist": "n1", "slurm.chdir": "/", "slurm.hint": "x"}),
     {_CUSTOM + "slurm.nodelist", _CUSTOM + "slurm.chdir"}),
    ("rest", asking(custom_attributes={"slurm.wckey": "x"}), {_CUSTOM + "slurm.wckey"}),
    ("north", replace(asking(qos="high", rerunnable=True), array=Array("0-3")),
     {"/array", "/attributes/qos", "/attributes/rerunnable"}),
    ("north", JobSpec(executable="a", attributes=Attributes(custom_attributes={"northbound.x": "y"})),
     {"/attributes/queue_name", _CUSTOM + "northbound.x"}),
]  # fmt: skip


def adapter_of(site: str) -> Any:
    config = SiteConfig.model_validate({"site": site, **HERE, **SITES[site]})
    return registry.build(config, keys=lambda _username: None)


def told(adapter: Any, spec: JobSpec) -> list[Any]:
    return list(unwritable.problems_of(adapter, spec, ME, [], project_id="p1", queue="q"))


@pytest.mark.parametrize(("site", "spec", "fields"), REFUSED)
def test_each_field_that_the_dialect_refuses_is_told_at_once(site: str, spec: JobSpec, fields: set[str]) -> None:
    problems = told(adapter_of(site), spec)

    assert {problem.pointer for problem in problems} == fields
    assert all(problem.detail.startswith(f"{site} cannot run it so: ") and problem.remedy for problem in problems)


@pytest.mark.parametrize(("site", "spec", "fields"), REFUSED)
def test_it_is_what_would_be_said_at_hand_over(site: str, spec: JobSpec, fields: set[str]) -> None:
    adapter = adapter_of(site)
    tag = "pgate0123456789a"

    with pytest.raises(SiteError) as refused:
        adapter.management.render(Submission(spec, ME, tag, 1, f"job-{tag}.1", "pst1:j", "u1", "p1"))

    assert told(adapter, spec)[0].detail == f"{site} cannot run it so: {refused.value}."


@pytest.mark.parametrize("site", SITES)
def test_what_can_be_written_is_refused_nowhere(site: str) -> None:
    account = {"account": "a"} if site == "kunshan" else {}
    assert told(adapter_of(site), asking(**account)) == []


def test_a_centre_that_has_not_told_how_it_writes_scripts_refuses_nothing() -> None:
    def not_yet(_submission: Submission) -> None:
        raise SiteUnreachable("wuxi has not yet told how it renders scripts")

    wuxi = adapter_of("wuxi")
    silent = replace(wuxi, management=Altered(wuxi.management, assert_renders=not_yet))

    assert told(silent, asking(qos="high")) == []


# ---------------------------------------------------------------- through the gateway


@pytest.fixture
def gateway(db_url: str, tmp_path: Path) -> Gateway:
    """This machine, a PBS and a Slurm that wants an account; neither of their schedulers is there to be asked."""
    sites = [local_site(tmp_path), *({"site": name, **HERE, **SITES[name]} for name in ("jinan", "kunshan"))]
    return make_gateway(tmp_path, db_url, *sites)


@pytest.fixture
def client(gateway: Gateway) -> Iterator[httpx.Client]:
    with api(gateway) as made:
        yield made


def job(*sites: str, **attributes: Any) -> dict[str, Any]:
    return {"executable": "/bin/true", "attributes": {"duration": 60, **attributes},
            "placement": {"resource_ids": list(sites)}}  # fmt: skip


def test_a_job_for_one_centre_that_cannot_write_it_is_not_accepted(client: httpx.Client) -> None:
    answer = client.post("/jobs", json=job("jinan", qos="high", custom_attributes={"pbs.x": "1"}))

    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert {(e["pointer"], e["detail"]) for e in answer.json()["errors"]} == {
        ("/attributes/qos", "jinan cannot run it so: PBS has no QOS: choose a queue."),
        (_CUSTOM + "pbs.x", "jinan cannot run it so: pbs.x cannot be set: it is no option that goes through."),
    }
    assert client.get("/jobs").json()["items"] == []


def test_the_dry_run_and_a_list_of_jobs_say_the_same(client: httpx.Client) -> None:
    wanted = job("jinan", qos="high")
    posted = client.post("/jobs", json=wanted).json()["errors"]

    planned = client.post("/jobs:plan", json=wanted).json()
    listed = client.post("/jobs:bulk", json={"jobs": [wanted, job("jinan")]}).json()["results"]

    assert planned["problems"] == posted and not planned["ok"]
    assert planned["candidates"][0]["problems"] == posted
    assert (listed[0]["problem"]["errors"], listed[1]["status"]) == (posted, 202)


def test_another_centre_that_can_write_it_takes_it(client: httpx.Client) -> None:
    accepted = client.post("/jobs", json=job("jinan", "kunshan", qos="high", account="a"))

    assert (accepted.status_code, accepted.json()["site"]) == (202, "kunshan")


def test_where_none_can_each_says_why(client: httpx.Client) -> None:
    answer = client.post("/jobs", json=job("jinan", "kunshan", qos="high"))

    assert answer.status_code == 422
    assert {(e["pointer"], e["detail"].partition(" ")[0]) for e in answer.json()["errors"]} == {
        ("/attributes/qos", "jinan"), ("/attributes/account", "kunshan")
    }  # fmt: skip


def test_an_account_that_was_opened_for_the_project_is_the_jobs(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The centre requires one, and what is handed over has it."""
    wanted = replace(asking(), attributes=Attributes(duration=60), placement=request.JobSpec().placement)
    with gateway.services.db.read() as conn:
        facts = request.Facts(conn)
        opened = SiteOpening(gateway.project_id)
        monkeypatch.setitem(facts._opened, "kunshan", [opened])
        spec = replace(wanted, placement=replace(wanted.placement, resource_ids=("kunshan",)))
        prepared = request.prepare(gateway.services, facts, gateway.person, spec, project=None,
                                   now=gateway.services.clock())  # fmt: skip
        with pytest.raises(Invalid):
            request.prepare(gateway.services, request.Facts(conn), gateway.person, spec, project=None,
                            now=gateway.services.clock())  # fmt: skip
    assert prepared.site_id == "kunshan"


class SiteOpening:
    """A block of core-hours that a centre opened."""

    kind, native_username, native_account, qos, queue = "core_hours", "", "acct7", "", None

    def __init__(self, project_id: str) -> None:
        self.project_id = project_id


def test_a_waiting_job_is_not_changed_to_what_cannot_be_written(gateway: Gateway, client: httpx.Client) -> None:
    sites: Any = gateway.services.sites
    sites["jinan"] = replace(sites["jinan"], capabilities=sites["jinan"].capabilities | {"modify"})
    job_id = gateway.submit("jinan")

    refused = client.patch(f"/jobs/{job_id}", json={"attributes": {"qos": "high"}})

    assert refused.status_code == 422
    assert [(e["pointer"], e["detail"]) for e in refused.json()["errors"]] == [
        ("/attributes/qos", "jinan cannot run it so: PBS has no QOS: choose a queue.")
    ]


def test_no_centre_is_asked(gateway: Gateway, client: httpx.Client) -> None:
    sites: Any = gateway.services.sites
    real = sites["jinan"]
    only = Altered(None, assert_renders=real.management.assert_renders)  # any other method fails
    sites["jinan"] = replace(real, management=only, resource=None, auth=None, billing=None, log=None)

    assert client.post("/jobs", json=job("jinan", qos="high")).status_code == 422
    assert client.post("/jobs", json=job("jinan")).status_code == 202


def test_a_job_that_was_accepted_before_is_still_refused_at_hand_over(gateway: Gateway) -> None:
    """A centre may change its rules while a job waits."""
    job_id = gateway.submit("jinan")
    with gateway.services.db.write() as conn:
        spec = {**conn.execute(JOBS.select().where(JOBS.c.id == job_id)).one().spec}
        spec["attributes"] = {**spec["attributes"], "qos": "high"}
        conn.execute(update(JOBS).where(JOBS.c.id == job_id).values(spec=spec))

    gateway.tick("dispatch", site="jinan")

    assert gateway.show(job_id)["status"]["reason"] == "rejected"


def test_a_qos_that_the_centres_policy_does_not_allow_is_refused_before_the_centre_does(
    gateway: Gateway, client: httpx.Client
) -> None:
    sites: Any = gateway.services.sites
    sites["kunshan"] = replace(sites["kunshan"], policy=replace(sites["kunshan"].policy, qos_allowed=("low",)))

    refused = client.post("/jobs", json=job("kunshan", account="a", qos="high"))

    assert [(e["pointer"], e["detail"], e["remedy"]) for e in refused.json()["errors"]] == [
        ("/attributes/qos", "kunshan allows us no QOS 'high'.", "It allows: low.")
    ]
    assert client.post("/jobs", json=job("kunshan", account="a", qos="low")).status_code == 202


@pytest.mark.parametrize(("by_key", "remedy"), [
    (True, "`penstock account link jinan USERNAME` says what to do."),
    (False, "Ask the operator to link your login there."),
])  # fmt: skip
def test_who_has_no_login_there_is_told_what_can_be_done_there(gateway: Gateway, by_key: bool, remedy: str) -> None:
    """Where no key proves a claim, only the operator links: `account link` would refuse it."""
    sites: Any = gateway.services.sites
    sites["jinan"] = replace(sites["jinan"], logins_by_key=by_key)
    with gateway.services.db.write() as conn:
        conn.execute(update(ACCOUNTS).values(status="suspended"))

    with pytest.raises(Invalid) as refused:
        gateway.submit("jinan")

    assert [problem.remedy for problem in refused.value.problems] == [remedy]
