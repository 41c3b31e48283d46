"""The embedded worker: what is accepted while jobs are handed over does not wait for the next second."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from gateway.embedded import EmbeddedWorker
from site_adapters.types import Submission
from tests.builders import Gateway, submitting_by
from tests.lab.slurm import wait_for


def test_a_job_that_is_accepted_during_a_hand_over_follows_at_once(gateway: Gateway) -> None:
    gateway.services.settings.dispatch_s = 3600
    busy, go_on = threading.Event(), threading.Event()

    def slowly(jobs: Sequence[Submission]) -> Any:
        busy.set()
        assert go_on.wait(60)
        return real(jobs)

    worker = EmbeddedWorker(gateway.services)
    with submitting_by(gateway, "local", slowly) as real:
        first = gateway.submit("local")
        worker.start()
        try:
            assert busy.wait(60)
            second = gateway.submit("local")
            worker.wake("local")
            go_on.set()
            wait_for(lambda: all(gateway.show(j)["native_job_id"] for j in (first, second)), "both to be handed over")
        finally:
            go_on.set()
            worker.stop()
