"""From a submission to a charge at an emulated PBS centre: real processes, PBS's own quirks."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.jobs import repository
from site_adapters.types import Array, Attributes, Resources
from tests.builders import Gateway, make_gateway
from tests.emulators.site import pbs_centre


@pytest.fixture
def centre(tmp_path: Path, db_url: str) -> tuple[Gateway, object]:
    cluster, site = pbs_centre(tmp_path)
    return make_gateway(tmp_path, db_url, site), cluster


def test_job_runs_once_under_its_fence(centre: tuple[Gateway, object], tmp_path: Path) -> None:
    gateway, cluster = centre
    mark = tmp_path / "mark"
    job_id = gateway.submit(
        "jinan",
        f"#!/bin/sh\necho ran >> {mark}\nsleep 1\n",
        resources=Resources(process_count=2),
        inherit_environment=False,
    )

    done = gateway.until(job_id, "completed")

    assert mark.read_text() == "ran\n"
    assert done["status"]["exit_code"] == 0
    assert done["status"]["native_state"] == "F/92"
    gateway.check_books()
