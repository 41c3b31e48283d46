"""Whose run a centre's record is of."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import update

from gateway.billing.prepare import prepare
from gateway.identity import vault
from gateway.jobs.repository import ATTEMPTS, JOBS
from site_adapters.types import SiteUsage
from tests.builders import Gateway
from tests.unit.gateway.test_preparers import rows


def test_a_component_of_a_heterogeneous_job_is_of_the_job_that_was_submitted(gateway: Gateway) -> None:
    """Its record bears no tag of ours: job id, login and submit time tell."""
    job_id = gateway.submit("local")
    gateway.tick("dispatch")
    (usage,) = rows(gateway, 1)
    submitted = datetime.fromtimestamp(int(usage.fields["Submit"]), UTC)
    with gateway.services.db.write() as conn:
        conn.execute(update(JOBS).values(native_submit_time=submitted))
        conn.execute(update(ATTEMPTS).values(native_id="123"))
        vault.keys_of(gateway.services, conn, {gateway.person.user_id}, gateway.services.clock())
    told = [
        SiteUsage(
            "sacct/1", {**usage.fields, "JobID": name, "JobName": "x", "SubmitLine": "sbatch x", "DBIndex": index}
        )
        for name, index in (("123+0", "1"), ("123+1", "2"), ("124", "3"))
    ]
    found = prepare(gateway.services, "local", told)
    assert [(item.job_id, item.record.native_id) for item in found.sealed] == [(job_id, "123+0"), (job_id, "123+1")]
