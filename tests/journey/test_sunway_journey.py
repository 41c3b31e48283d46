"""From a submission to a charge at an emulated Sunway centre: words only, no exit code, nothing found is no error."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import Invalid
from site_adapters.types import Attributes, Resources
from tests.builders import Gateway, make_gateway
from tests.emulators.site import SunwayCluster, sunway_centre
from tests.lab.slurm import wait_for


@dataclass(frozen=True, slots=True)
class Centre:
    gateway: Gateway
    cluster: SunwayCluster
    folder: Path

    def submit(self, script: str | None, **wanted: Any) -> str:
        attributes = wanted.pop("attributes", Attributes(duration=600, queue_name="share"))
        text = None if script is None else f"#!/bin/sh\n{script}\n"
        return self.gateway.submit("wuxi", text, inherit_environment=False, attributes=attributes, **wanted)


def make(tmp_path: Path, db_url: str = "", **settings: Any) -> Centre:
    cluster, site = sunway_centre(tmp_path, **settings)
    site["zone"] = "UTC"
    return Centre(make_gateway(tmp_path, db_url or f"sqlite:///{tmp_path}/p.db", site), cluster, tmp_path)


@pytest.fixture
def centre(tmp_path: Path) -> Centre:
    return make(tmp_path)


def test_job_runs_once_and_is_charged_by_core_groups(tmp_path: Path, db_url: str) -> None:
    centre = make(tmp_path, db_url)
    mark = tmp_path / "mark"

    job_id = centre.submit(f"echo ran >> {mark}; sleep 1", resources=Resources(process_count=2))
    done = centre.gateway.until(job_id, "completed")
    charged = centre.gateway.charged(job_id)

    assert mark.read_text() == "ran\n"
    assert done["status"]["exit_code"] == 0
    assert charged["usage"]["core_seconds"] % (2 * 65) == 0  # two core groups of 1 + 64 cores
    assert charged["usage"]["core_seconds"] > 0
    centre.gateway.check_books()


def test_exit_code_is_the_wrappers_and_limits_are_the_gateways(centre: Centre) -> None:
    failing = centre.submit("exit 3")
    slow = centre.submit("sleep 60", attributes=Attributes(duration=1, queue_name="share"))
    canceled = centre.submit("sleep 60")
    centre.gateway.until(canceled, "active")
    centre.gateway.wish(canceled, "cancel")

    assert centre.gateway.until(failing, "failed")["status"]["exit_code"] == 3
    assert centre.gateway.until(slow, "failed")["status"]["reason"] == "time_limit"
    assert centre.gateway.until(canceled, "canceled")


def test_job_without_an_id_in_its_environment_still_tells_its_end(tmp_path: Path) -> None:
    centre = make(tmp_path, id_variable="")

    assert centre.gateway.until(centre.submit("exit 4"), "failed")["status"]["exit_code"] == 4


def test_binary_is_handed_over_as_it_is(centre: Centre) -> None:
    attributes = Attributes(duration=60, queue_name="share", custom_attributes={"sunway.mode": "direct"})
    job_id = centre.submit(None, executable="/bin/true", attributes=attributes)

    done = centre.gateway.until(job_id, "completed")

    assert done["status"]["exit_code"] is None  # Sunway tells none, and none is invented
    assert centre.cluster.jobs()[0].argv == ["/bin/true"]


def test_lost_answer_about_a_bare_binary_needs_a_decision(centre: Centre) -> None:
    centre.cluster.fault("bsub", late_s=300, times=1)
    attributes = Attributes(duration=60, queue_name="share", custom_attributes={"sunway.mode": "direct"})
    job_id = centre.submit(None, executable="/bin/true", attributes=attributes)

    def undecided() -> bool:
        centre.gateway.tick("dispatch")
        return str(centre.gateway.show(job_id)["status"]["reason"]) == "needs_decision"

    wait_for(undecided, "the question to a person", 60, every=0.2)
    assert centre.cluster.jobs() == []


def test_lost_answer_about_a_script_is_settled_by_its_fence(centre: Centre) -> None:
    mark = centre.folder / "mark"
    centre.cluster.fault("bsub", late_s=2.0, times=1)
    job_id = centre.submit(f"echo ran >> {mark}")

    centre.gateway.until(job_id, "completed")
    wait_for(lambda: len(centre.cluster.jobs()) == 2 and all(j.state == "ended" for j in centre.cluster.jobs()),
             "the late copy to end")  # fmt: skip

    assert mark.read_text() == "ran\n"


def test_scheduler_that_is_down_changes_no_job(centre: Centre) -> None:
    job_id = centre.submit("sleep 1")
    centre.gateway.until(job_id, "active")
    centre.cluster.fault("*", down=True)

    for _ in range(6):
        centre.gateway.tick("dispatch", "watch")
    assert centre.gateway.state(job_id) == "active"

    centre.cluster.heal()
    assert centre.gateway.until(job_id, "completed")


@pytest.mark.parametrize(("script", "why"), [("#!/bin/bash\ntrue\n", "no bash")])
def test_what_the_machine_cannot_do_is_refused_in_words(centre: Centre, script: str, why: str) -> None:
    with pytest.raises(Invalid, match=why):
        centre.gateway.submit("wuxi", script, attributes=Attributes(duration=60, queue_name="share"))
