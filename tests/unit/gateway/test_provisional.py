"""What the gateway itself saw of a run, until the centre tells: by the same agreement as the centre's record."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select

from accounting.meter import MeteringPolicy, meter
from accounting.store.readings import record_of
from accounting.store.schema import USAGE
from site_adapters.states import ObservedState
from tests.unit.gateway.test_lost import Centre
from tests.unit.gateway.test_lost import centre as centre
from tests.unit.gateway.test_lost import centre_of as centre_of


def test_threads_that_a_scheduler_counts_are_cores_in_the_gateways_own_figure_too(centre: Centre) -> None:
    """9 threads of 2 a core for 100 s: 5 cores; the hold was for cores, and twice as much would be an overage."""
    job = centre.gateway.submit("local")
    centre.gateway.tick("dispatch")
    native, began = centre.gateway.show(job)["native_job_id"], centre.now
    ended = began + timedelta(seconds=100)
    centre.shown = [centre.run(native, ObservedState.COMPLETED, cores=9, start_time=began, end_time=ended)]
    centre.look(after=101)

    with centre.gateway.services.db.read() as conn:
        record = record_of(conn.execute(select(USAGE).where(USAGE.c.job_id == job)).one())
    assert meter(record, MeteringPolicy(threads_per_core={"*": 2})).core_seconds == 500
    assert meter(record, MeteringPolicy()).core_seconds == 900
