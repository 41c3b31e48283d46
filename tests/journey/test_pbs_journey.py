"""From a submission to its end at an emulated PBS centre: real processes, PBS's own quirks and faults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.jobs import views
from site_adapters.types import Array, Attributes, Resources
from tests.builders import Gateway, make_gateway
from tests.emulators.site import PbsCluster, pbs_centre
from tests.lab.slurm import wait_for


@dataclass(frozen=True, slots=True)
class Centre:
    gateway: Gateway
    cluster: PbsCluster
    folder: Path

    def submit(self, script: str, **wanted: object) -> str:
        return self.gateway.submit("jinan", f"#!/bin/sh\n{script}\n", inherit_environment=False, **wanted)

    def native_id(self, job_id: str) -> str:
        return str(self.gateway.show(job_id)["native_job_id"])

    def runs(self, job_id: str) -> list[dict[str, Any]]:
        with self.gateway.services.db.read() as conn:
            return views.runs(conn, job_id)


def make(tmp_path: Path, **settings: object) -> Centre:
    cluster, site = pbs_centre(tmp_path, **settings)
    database = f"sqlite:///{tmp_path}/penstock.db"
    return Centre(make_gateway(tmp_path, database, site), cluster, tmp_path)


@pytest.fixture
def centre(tmp_path: Path) -> Centre:
    return make(tmp_path)


def test_job_runs_once_under_its_fence_and_is_charged_by_the_centre(tmp_path: Path, db_url: str) -> None:
    cluster, site = pbs_centre(tmp_path)
    centre = Centre(make_gateway(tmp_path, db_url, site), cluster, tmp_path)
    mark = tmp_path / "mark"

    job_id = centre.submit(f"echo ran >> {mark}; sleep 1", resources=Resources(process_count=2))
    done = centre.gateway.until(job_id, "completed")

    assert mark.read_text() == "ran\n"
    assert done["status"]["exit_code"] == 0
    assert done["status"]["native_state"] == "F/92"
    charged = centre.gateway.charged(job_id)
    seconds = charged["usage"]["core_seconds"]
    assert seconds in (2, 4, 6)  # two cores, whole seconds
    assert charged["charge"] == {"amount": f"0.000{seconds}", "currency": "CNY", "provisional": False}
    centre.gateway.check_books()


def test_exit_code_signal_and_walltime_are_told(centre: Centre) -> None:
    failing = centre.submit("exit 3")
    killed = centre.submit("sleep 60", attributes=Attributes(duration=600))
    slow = centre.submit("sleep 60", attributes=Attributes(duration=1))
    centre.gateway.until(killed, "active")
    centre.cluster.turn_clock(300)
    centre.gateway.wish(killed, "cancel")

    assert centre.gateway.until(failing, "failed")["status"]["exit_code"] == 3
    assert centre.gateway.until(slow, "failed")["status"]["reason"] == "time_limit"
    assert centre.gateway.until(killed, "canceled")["status"]["signal"] == 15


def test_array_is_one_job_and_a_failed_task_fails_it(centre: Centre) -> None:
    tasks = centre.folder / "tasks"

    job_id = centre.submit(
        f"echo $PENSTOCK_ARRAY_TASK >> {tasks}; [ $PENSTOCK_ARRAY_TASK != 3 ]", array=Array("0-4", 2)
    )

    done = centre.gateway.until(job_id, "failed")
    assert sorted(tasks.read_text().split()) == ["0", "1", "2", "3", "4"]
    assert done["array"] == {"size": 5, "counts": {"completed": 4, "failed": 1}}


def test_rerun_job_has_two_runs_and_owns_its_fence_again(centre: Centre) -> None:
    centre.cluster.put("operators", ["nobody"])
    runs, go_on = centre.folder / "runs", centre.folder / "go-on"
    job_id = centre.submit(f"echo x >> {runs}; while [ ! -e {go_on} ]; do sleep 0.1; done",
                           attributes=Attributes(duration=600, rerunnable=True))  # fmt: skip
    centre.gateway.until(job_id, "active")
    wait_for(runs.exists, "the first run")
    number = int(centre.native_id(job_id).partition(".")[0])

    with centre.cluster.locked():
        job = centre.cluster.job(number)
        assert job is not None
        centre.cluster.kill(job, "rerun")
    wait_for(lambda: runs.read_text() == "x\nx\n", "the second run")
    go_on.touch()

    done = centre.gateway.until(job_id, "completed")
    assert done["status"]["exit_code"] == 0
    assert [r["restart"] for r in centre.runs(job_id)] == [0, 1]


def test_held_job_waits_and_a_waiting_one_can_be_changed(centre: Centre) -> None:
    centre.cluster.put("scheduling", False)
    job_id = centre.submit("true")
    centre.gateway.until(job_id, "queued")

    centre.gateway.wish(job_id, "hold")
    assert centre.gateway.until(job_id, "held")["status"]["reason"] == "held_by_user"
    centre.gateway.wish(job_id, "release")
    centre.gateway.until(job_id, "queued")
    centre.cluster.put("scheduling", True)

    assert centre.gateway.until(job_id, "completed")


def test_server_that_is_down_changes_no_job(centre: Centre) -> None:
    job_id = centre.submit("sleep 1")
    centre.gateway.until(job_id, "active")
    centre.cluster.fault("*", down=True)
    for _ in range(6):
        centre.gateway.tick("dispatch", "watch")
    waiting = centre.submit("true")
    centre.gateway.tick("dispatch", "watch")

    assert centre.gateway.state(job_id) == "active"
    assert centre.gateway.show(waiting)["status"]["reason"] == "site_unreachable"

    centre.cluster.heal()
    assert centre.gateway.until(job_id, "completed")


@pytest.mark.parametrize(
    "fault", [{"banner": "Welcome to Jinan!"}, {"bad_utf8": True}, {"cut": 700}, {"exit_code": 255}]
)
def test_garbled_answers_change_no_job(centre: Centre, fault: dict[str, object]) -> None:
    job_id = centre.submit("sleep 1")
    centre.gateway.until(job_id, "active")

    centre.cluster.fault("qstat", **fault)
    for _ in range(4):
        centre.gateway.tick("watch")
        assert centre.gateway.state(job_id) in ("active", "completed")
    centre.cluster.heal()

    assert centre.gateway.until(job_id, "completed")["status"]["exit_code"] == 0


def test_hidden_jobs_are_not_taken_for_none(tmp_path: Path) -> None:
    centre = make(tmp_path)
    job_id = centre.submit("sleep 60")
    centre.gateway.until(job_id, "active")
    native_id = centre.native_id(job_id)
    with centre.cluster.locked():
        job = centre.cluster.job(int(native_id.partition(".")[0]))
        assert job is not None
        job.user = "daemon"
        centre.cluster.save(job)
    centre.cluster.put("query_other_jobs", False)

    for _ in range(8):
        centre.gateway.tick("watch")

    assert centre.gateway.state(job_id) == "active"


def test_jobs_that_end_while_another_is_forgotten_still_end(tmp_path: Path) -> None:
    """Asked for beside an id that the server does not know, it answers about the first one only."""
    cluster, site = pbs_centre(tmp_path)
    site["lost_after_s"] = 0
    centre = Centre(make_gateway(tmp_path, f"sqlite:///{tmp_path}/penstock.db", site), cluster, tmp_path)
    go_on = centre.folder / "go-on"
    ids = [centre.submit(f"while [ ! -e {go_on} ]; do sleep 0.1; done") for _ in range(4)]
    for job_id in ids:
        centre.gateway.until(job_id, "active")
    go_on.touch()
    wait_for(lambda: all(j.state == "ended" for j in centre.cluster.jobs()), "the jobs to end")
    forgotten = ids[1]
    centre.cluster.forget(int(centre.native_id(forgotten).partition(".")[0]))

    for job_id in ids[:1] + ids[2:]:
        assert centre.gateway.until(job_id, "completed", seconds=20)
    assert centre.gateway.until(forgotten, "failed", seconds=20)["status"]["reason"] == "lost"


def test_submission_that_lands_late_runs_once(centre: Centre) -> None:
    mark = centre.folder / "mark"
    centre.cluster.fault("qsub", late_s=2.5, times=1)
    job_id = centre.submit(f"echo ran >> {mark}")

    centre.gateway.until(job_id, "completed")
    wait_for(lambda: all(j.state == "ended" for j in centre.cluster.jobs()) and len(centre.cluster.jobs()) == 2,
             "the late copy to end")  # fmt: skip

    assert mark.read_text() == "ran\n"


def test_site_policy_hook_refuses_with_its_own_words(centre: Centre) -> None:
    centre.cluster.put("hook_text", "Please give a valid project with -A (site policy)")

    job_id = centre.submit("true")

    done = centre.gateway.until(job_id, "failed")
    assert done["status"]["reason"] == "rejected"
    assert "site policy" in done["status"]["message"]
