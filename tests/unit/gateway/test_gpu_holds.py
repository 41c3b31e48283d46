"""What a job may cost, and what is set aside for it, counts its accelerators too."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
from sqlalchemy import select

from accounting import store as books
from accounting.store.allocations import Allocation, allocate
from accounting.store.schema import USAGE
from accounting.tariff import PriceRule
from tests.builders import MICRO, Gateway

GPU_PRICE = PriceRule(0, "CNY", 300 * MICRO, datetime(2020, 1, 1, tzinfo=UTC), resource="gpu_seconds")


def job(hours: int, gpus: int = 1, processes: int = 1) -> dict[str, object]:
    return {
        "script": "#!/bin/sh\ntrue\n", "placement": {"resource_ids": ["local"]},
        "attributes": {"duration": hours * 3600},
        "resources": {"gpu_cores_per_process": gpus, "process_count": processes},
    }  # fmt: skip


def test_a_job_with_accelerators_must_be_covered_with_their_price(gateway: Gateway, client: httpx.Client) -> None:
    with gateway.services.db.write() as conn:
        books.add_tariff(conn, GPU_PRICE, now=gateway.services.clock())
    made = client.post("jobs", json=job(1, processes=2))
    assert (made.status_code, made.json()["estimate"]["amount"]) == (202, "600.72")
    refused = client.post("jobs", json=job(2))
    assert refused.status_code == 402 and "600.72 CNY" in refused.json()["detail"]  # of 1,000 are 399.28 left
    gateway.check_books()


def test_nodes_and_memory_with_a_price_count_too_and_the_least_that_a_run_costs(
    gateway: Gateway, client: httpx.Client
) -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    per_node = PriceRule(0, "CNY", 10 * MICRO, long_ago, resource="node_seconds")
    per_gib = PriceRule(0, "CNY", MICRO, long_ago, resource="memory_mib_seconds", per=1024 * 3600)
    least = PriceRule(0, "CNY", 20 * MICRO, long_ago, resource="minimum", per=1)
    with gateway.services.db.write() as conn:
        for rule in (per_node, per_gib, least):
            books.add_tariff(conn, rule, now=gateway.services.clock())

    def costs(hours: int, **more: object) -> str:
        wanted = job(hours, gpus=0)
        wanted["resources"] = {"memory": 2 * 2**30}
        made = client.post("jobs", json=wanted | more)
        assert made.status_code == 202, made.text
        return str(made.json()["estimate"]["amount"])

    assert costs(2) == "24.72"  # 2 × (0.36 + 10 + 2)
    assert costs(1) == "20.00"  # and not 12.36
    assert costs(1, array={"indices": "1-3"}) == "60.00"


def test_gpu_hours_that_a_project_was_given_are_set_aside_for_its_jobs(gateway: Gateway, client: httpx.Client) -> None:
    with gateway.services.db.write() as conn:
        now = gateway.services.clock()
        allocate(conn, Allocation("a1", gateway.project_id, "gpu-seconds", 3 * 3600, now), now=now)
    assert client.post("jobs", json=job(1, gpus=2)).status_code == 202
    shown = {e["commodity"]: e for e in client.get("projects/demo").json()["exposure"]}
    assert (shown["gpu-hours"]["limit"], shown["gpu-hours"]["available"]) == ("3.00", "1.00")
    refused = client.post("jobs", json=job(2))
    assert refused.status_code == 402
    assert "2.0 gpu-hours, and 1.0 are left" in refused.json()["detail"]
    assert client.post("jobs", json=job(2, gpus=0)).status_code == 202


def test_what_the_gateway_saw_of_a_job_counts_its_accelerators_too(gateway: Gateway, client: httpx.Client) -> None:
    """Until the centre tells, and for ever where it tells nothing, this is the bill."""
    asked = job(1, gpus=2, processes=2) | {"script": "#!/bin/sh\nsleep 2\n"}
    made = client.post("jobs", json=asked).json()["id"]
    gateway.until(made, "completed")
    with gateway.services.db.read() as conn:
        query = select(USAGE.c.elapsed_s, USAGE.c.gpu_seconds).where(USAGE.c.job_id == made, USAGE.c.meter == "gateway")
        (seen,) = conn.execute(query)
    assert seen.elapsed_s > 0
    assert seen.gpu_seconds == 4 * seen.elapsed_s


def test_other_units_are_shown_as_they_are_counted(gateway: Gateway, client: httpx.Client) -> None:
    with gateway.services.db.write() as conn:
        now = gateway.services.clock()
        allocate(conn, Allocation("a1", gateway.project_id, "shots", 5000, now), now=now)
    shown = {e["commodity"]: e["limit"] for e in client.get("projects/demo").json()["exposure"]}
    assert shown["shots"] == "5000"
