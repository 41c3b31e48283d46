"""What cannot end before a centre's maintenance waits in the gateway's line, and says so; what can goes on."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import pytest
from sqlalchemy import select

from gateway.jobs import pending
from gateway.jobs.repository import JOBS
from gateway.services import Sites
from site_adapters.errors import SiteUnreachable
from site_adapters.types import Attributes, Reservation
from tests.builders import Gateway


class Planned:
    """The centre's own facts, and the reservations that its scheduler tells."""

    def __init__(self, resource: Any, spans: list[Reservation]) -> None:
        self._resource, self.spans, self.down = resource, spans, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._resource, name)

    def reservations(self) -> list[Reservation]:
        if self.down:
            raise SiteUnreachable("no answer")
        return self.spans


@pytest.fixture
def planned(gateway: Gateway) -> Planned:
    sites = cast(Sites, gateway.services.sites)
    adapter = dict.__getitem__(sites, "local")
    made = Planned(adapter.resource, [])
    dict.__setitem__(sites, "local", replace(adapter, resource=cast(Any, made)))
    return made


def why(gateway: Gateway, job_id: str) -> str:
    with gateway.services.db.read() as conn:
        job = conn.execute(select(JOBS).where(JOBS.c.id == job_id)).one()
        return pending.why(gateway.services, conn, job, gateway.services.clock()).sentence


def test_only_what_ends_before_the_maintenance_is_handed_over(gateway: Gateway, planned: Planned) -> None:
    now = gateway.services.clock()
    planned.spans[:] = [
        Reservation("maint-1", now + timedelta(hours=1), now + timedelta(hours=5), "ALL", True),
        Reservation("course", now, now + timedelta(hours=5), "n1", False),  # nodes of somebody else: not our business
    ]
    gateway.tick("facts")
    long = gateway.submit("local", attributes=Attributes(duration=7200))
    short = gateway.submit("local", attributes=Attributes(duration=600))
    gateway.until(short, "completed")
    assert gateway.state(long) == "new"
    assert "could not end before the maintenance" in why(gateway, long)

    planned.down = True  # a centre that does not answer has not called its maintenance off
    gateway.tick("facts", "dispatch")
    assert gateway.state(long) == "new"
    planned.down, planned.spans[:] = False, []
    gateway.tick("facts")
    gateway.until(long, "completed")


def test_under_maintenance_nothing_is_handed_over(gateway: Gateway, planned: Planned) -> None:
    now = gateway.services.clock()
    planned.spans[:] = [Reservation("maint-1", now - timedelta(hours=1), now + timedelta(hours=1), "ALL", True)]
    gateway.tick("facts")
    job = gateway.submit("local", attributes=Attributes(duration=1))
    gateway.tick("dispatch")
    assert gateway.state(job) == "new"
    assert "is under maintenance until" in why(gateway, job)
