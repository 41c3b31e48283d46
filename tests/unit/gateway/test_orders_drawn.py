"""Core-hours bought for one centre, as people see them: jobs there draw them, jobs elsewhere cost money."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests import builders
from tests.builders import Gateway, local_site, make_gateway
from tests.unit.gateway.test_api_books import payer


@pytest.fixture
def gateway(tmp_path: Path, db_url: str) -> Iterator[Gateway]:
    """A gateway with two centres."""
    there = local_site(tmp_path, site="there")
    made = make_gateway(tmp_path, db_url, local_site(tmp_path), there)
    yield made
    builders.OPENED.clear()
    made.services.close()


def job(site: str, hours: int = 1) -> dict[str, object]:
    return {"script": "#!/bin/sh\nsleep 1\n", "placement": {"resource_ids": [site]},
            "attributes": {"duration": hours * 3600}}  # fmt: skip


def test_a_block_for_one_centre_is_drawn_there_alone(
    gateway: Gateway, client: httpx.Client, operator: dict[str, str], type_: Callable[..., str]
) -> None:
    payer(client, operator, "uni")
    type_("orders", "place", "demo", "block", "10", "--price", "8", "--payer", "uni", "--site", "local")
    here, there = (client.post("jobs", json=job(site)).json() for site in ("local", "there"))
    assert (here["estimate"]["amount"], there["estimate"]["amount"]) == ("0.00", "0.36")
    alice = {"Authorization": f"Bearer {gateway.secret}"}
    lines = [line.split() for line in type_("balance", as_=alice).splitlines()]
    assert ["demo", "core-hours", "@", "unagreed:local", "0.00", "0.00", "1.00", "10.00", "9.00"] in lines, lines
    assert ["demo", "core-hours", "0.00", "0.00", "1.00", "–", "–"] in lines, lines
    refused = client.post("jobs", json=job("local", 10))
    assert refused.status_code == 402
    assert "10.0 core-hours @ unagreed:local" in refused.json()["detail"]
    assert client.post("jobs", json=job("there", 10)).status_code == 202

    for made in (here, there):
        gateway.until(made["id"], "completed")
        gateway.charged(made["id"])
    drawn, paid = (client.get(f"jobs/{made['id']}/charges").json()["charges"][0] for made in (here, there))
    assert drawn["amount"] == "0.00" and paid["core_seconds"] > 0
    why = client.get(f"billing/charges/{drawn['id']}").json()["steps"]
    assert f"drawn from what was bought: {drawn['core_seconds']} core-seconds@unagreed:local" in why, why
    [row] = client.get("projects/demo/allocations").json()["items"]
    assert (row["place"], row["commodity"]) == ("unagreed:local", "core-seconds")
    assert row["remaining"] == 36_000 - drawn["core_seconds"]
    gateway.check_books()
