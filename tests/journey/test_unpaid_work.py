"""What a person may try so that work is not paid for, or is paid for by somebody else."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.jobs import repository
from gateway.jobs.ids import site_name, tag_of
from site_adapters.types import SiteAccount, SiteUsage, UsageBatch
from tests.builders import Altered, Gateway, local_site, make_gateway


@pytest.fixture
def gateway(tmp_path: Path, db_url: str) -> Gateway:
    return make_gateway(tmp_path, db_url, local_site(tmp_path, policy={"cores_max": 4}))


def accounts(gateway: Gateway) -> tuple[SiteAccount, ...]:
    with gateway.services.db.read() as conn:
        return tuple(repository.all_site_accounts(conn, "local"))


def test_job_that_ends_with_the_fences_exit_code_failed_by_itself_and_is_charged(gateway: Gateway) -> None:
    job_id = gateway.submit("local", "#!/bin/sh\nsleep 1\nexit 75\n")

    ended = gateway.until(job_id, "failed")
    charged = gateway.charged(job_id)

    assert (ended["status"]["reason"], ended["status"]["exit_code"]) == ("nonzero_exit", 75)
    assert ended["attempt"] == 1
    assert charged["usage"]["core_seconds"] >= 1
    gateway.check_books()


def test_attempt_whose_fence_is_the_gateways_runs_as_the_next_one(gateway: Gateway, tmp_path: Path) -> None:
    """A backup from before the fence was taken was restored: the same attempt is handed over again."""
    mark = tmp_path / "mark"
    job_id = gateway.submit("local", f"#!/bin/sh\necho ran >>{mark}\n")
    services = gateway.services
    fence = f"{tag_of(services.gateway_id, job_id)}.1"
    services.sites["local"].management.take_fences(accounts(gateway)[0], [fence])

    done = gateway.until(job_id, "completed")

    assert done["attempt"] == 2
    assert mark.read_text() == "ran\n"


def test_name_that_looks_like_another_jobs_tag_is_no_tag_at_the_site() -> None:
    victim, own = tag_of("gate", "j1"), tag_of("gate", "j2")

    name = site_name(f"{victim}.1", own, 1)

    assert re.findall(r"\bp[a-z0-9]{15}\.\d+\b", name) == [f"{own}.1"]


def test_record_under_another_login_is_not_charged_to_the_job_whose_tag_it_bears(gateway: Gateway) -> None:
    job_id = gateway.submit("local", "#!/bin/sh\nsleep 1\n")
    gateway.until(job_id, "completed")
    gateway.charged(job_id)
    before = gateway.show(job_id)["charge"]
    sites: Any = gateway.services.sites
    real = sites["local"]
    now = gateway.services.clock()
    seen = real.billing.usage(now - timedelta(hours=1), now, accounts(gateway)).usages[0]
    forged = SiteUsage(seen.format, {**seen.fields, "run_key": "forged", "username": "mallory"})
    sites["local"] = replace(real, billing=Altered(real.billing, usage=lambda *_: UsageBatch((forged,), ())))

    gateway.tick("collect")

    assert gateway.show(job_id)["charge"] == before
    gateway.check_books()
