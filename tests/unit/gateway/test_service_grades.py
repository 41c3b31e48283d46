"""A job asks for a service grade: the centre must offer it, it costs its own price, and plan and bill say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from penstock.cli import penstock

from accounting import store as books
from accounting.tariff import PriceRule
from tests.builders import Gateway
from tests.unit.accounting.makers import LONG_AGO, agree, agreement

SCRIPT = {"script": "#!/bin/sh\ntrue\n", "inherit_environment": False}


@pytest.fixture
def graded(gateway: Gateway) -> Gateway:
    """Economy at 0.36 by default, quality at 0.72; one queue is super and nothing else."""
    services = gateway.services
    agree(services.db, agreement(site_ids=("local",), grades={"*": "economy", "fast": "super"}))
    with services.db.write() as conn:
        rule = PriceRule(0, "CNY", 720_000, LONG_AGO, site_id="local", grade="quality")
        books.add_tariff(conn, rule, now=LONG_AGO)
    return gateway


def job(**attributes: Any) -> dict[str, Any]:
    return SCRIPT | {"attributes": {"duration": 3600} | attributes}


def test_a_job_costs_the_price_of_the_grade_it_asks_for(graded: Gateway, client: httpx.Client) -> None:
    plain = client.post("/jobs:plan", json=job()).json()
    better = client.post("/jobs:plan", json=job(service_grade="quality")).json()
    assert (plain["charged"]["grade"], better["charged"]["grade"]) == ("economy", "quality")
    assert (plain["asked"]["service_grade"], better["asked"]["service_grade"]) == (None, "quality")
    assert float(better["estimate"]["amount"]) == 2 * float(plain["estimate"]["amount"])
    made = client.post("jobs", json=job(service_grade="quality")).json()["id"]
    graded.until(made, "completed")
    graded.charged(made)
    (charge,) = [c for c in client.get("billing/charges", params={"project": "demo"}).json()["items"]
                 if c["job"] == made and not c["replaced"]]  # fmt: skip
    assert (charge["grade"], charge["meter"]) == ("quality", "centre")
    steps = client.get(f"billing/charges/{charge['id']}").json()["steps"]
    assert "service grade quality: ordered with the job" in steps
    assert any("0.72 CNY per core-hour" in step for step in steps)
    graded.check_books()


def test_a_grade_that_the_centre_does_not_offer_is_refused_with_those_that_it_does(
    graded: Gateway, client: httpx.Client
) -> None:
    refused = client.post("jobs", json=job(service_grade="golden"))
    (problem,) = refused.json()["errors"]
    assert (refused.status_code, problem["pointer"], problem["code"]) == (
        422, "/attributes/service_grade", "unknown_grade")  # fmt: skip
    assert problem["remedy"] == "Offered there: economy, quality, super."
    for wrong in ("", "x" * 33, "a\nb", 5):
        assert client.post("jobs", json=job(service_grade=wrong)).status_code == 422, wrong


def test_a_queue_that_the_agreement_names_is_of_its_grade_only(gateway: Gateway, client: httpx.Client) -> None:
    gateway.tick("facts")
    queue = client.get("sites/local").json()["queues"][0]["name"]
    agree(gateway.services.db, agreement(site_ids=("local",), grades={"*": "economy", queue: "super"}))
    (problem,) = client.post("jobs", json=job(service_grade="economy", queue_name=queue)).json()["errors"]
    assert problem["code"] == "grade_of_queue"
    assert problem["remedy"] == "Name another queue, or leave the grade out."
    found = client.post("/jobs:plan", json=job(service_grade="super")).json()
    assert (found["charged"]["grade"], found["given"]["queue_name"]) == ("super", queue)  # found for it


def test_the_shell_asks_for_a_grade_and_shows_it(graded: Gateway, client: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "job.sh").write_text("#!/bin/sh\ntrue\n")
    env = {"PENSTOCK_URL": str(client.base_url).removesuffix("/api/v2/"), "PENSTOCK_TOKEN": graded.secret}
    words = ["plan", "--grade", "quality", "--time", "1h", str(tmp_path / "job.sh")]
    done = CliRunner().invoke(penstock, words, env=env, standalone_mode=False)
    assert "Service grade: quality" in done.output, done.output
