"""Shots as Slurm's licences, on a real Slurm: asked for, held, given, told by sacct, charged and drawn."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from accounting import store as books
from accounting.store.allocations import Allocation, allocate
from accounting.tariff import PriceRule
from site_adapters.types import Attributes, Resources
from tests.builders import MICRO, Gateway, make_gateway, slurm_site
from tests.lab.slurm import SlurmLab

pytestmark = pytest.mark.live

PER_THOUSAND = PriceRule(0, "CNY", MICRO, datetime(2020, 1, 1, tzinfo=UTC), resource="unit:shots", per=1000)


@pytest.fixture
def gateway(tmp_path: Path, db_url: str, slurm_beta: SlurmLab) -> Iterator[Gateway]:
    policy = {"logins_per_second": 50, "countables": ["shots"]}
    made = make_gateway(tmp_path, db_url, slurm_site(slurm_beta, policy=policy))
    now = made.services.clock()
    with made.services.db.write() as conn:
        books.add_tariff(conn, PER_THOUSAND, now=now)
        allocate(conn, Allocation("a1", made.project_id, "shots", 5000, now), now=now)
    yield made
    slurm_beta.cancel_all()


def shots(gateway: Gateway) -> tuple[int, int]:
    """Drawn and held."""
    with gateway.services.db.read() as conn:
        (found,) = [e for e in books.exposure(conn, gateway.project_id) if e.commodity == "shots"]
    return found.settled, found.committed + found.in_flight


def test_what_slurm_gave_as_licences_is_charged_by_number(gateway: Gateway) -> None:
    job = gateway.submit("beta", "#!/bin/sh\ntrue\n", resources=Resources(units={"shots": 1500}),
                         attributes=Attributes(duration=120))  # fmt: skip
    assert shots(gateway) == (0, 1500)
    gateway.until(job, "completed")
    gateway.charged(job)
    assert shots(gateway) == (1500, 0)
    with gateway.services.db.read() as conn:
        (line,) = books.charges_of_job(conn, job)
        found = books.explain(conn, line.charge_id)
    assert found is not None and found.reading.units == {"shots": 1500}
    (counted,) = [s for s in found.charge.segments if s["resource"] == "unit:shots"]
    assert (counted["quantity"], counted["amount_micro"]) == (1500, 1_500_000)
    gateway.check_books()
