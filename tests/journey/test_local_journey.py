"""From a submission to a charge at the local centre: on both databases, with real processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from gateway.jobs import pending
from gateway.jobs.repository import JOBS
from site_adapters.types import Array, Attributes, Condition, Resources
from tests.builders import Gateway, local_site, make_gateway


@pytest.fixture
def gateway(tmp_path: Path, db_url: str) -> Gateway:
    return make_gateway(tmp_path, db_url, local_site(tmp_path, policy={"cores_max": 4}))


def test_job_runs_once_is_metered_priced_and_booked(gateway: Gateway, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    job_id = gateway.submit("local", f"#!/bin/sh\necho ran >> {mark}\nsleep 1\n", resources=Resources(process_count=2))
    assert gateway.state(job_id) == "new"

    done = gateway.until(job_id, "completed")
    charged = gateway.charged(job_id)

    assert mark.read_text() == "ran\n"
    assert done["status"]["exit_code"] == 0
    seconds = charged["usage"]["core_seconds"]
    assert seconds in (4, 6)  # two cores for a second and a little, rounded up as schedulers do
    assert charged["charge"] == {"amount": f"0.000{seconds}", "currency": "CNY", "provisional": False}
    gateway.check_books()


def test_exit_code_signal_and_walltime_are_told(gateway: Gateway) -> None:
    failing = gateway.submit("local", "#!/bin/sh\nexit 3\n")
    killed = gateway.submit("local", "#!/bin/sh\nkill -9 $PPID\n")
    slow = gateway.submit("local", "#!/bin/sh\nsleep 60\n", attributes=Attributes(duration=1))

    assert gateway.until(failing, "failed")["status"]["exit_code"] == 3
    assert gateway.until(killed, "failed")["status"]["signal"] == 9
    assert gateway.until(slow, "failed")["status"]["reason"] == "time_limit"


def test_an_exit_code_that_tells_of_a_signal_is_explained(gateway: Gateway) -> None:
    """What Slurm says of a job that a centre's `stop` has ended is FAILED, 143: its log says nothing."""
    ended = gateway.submit("local", "#!/bin/sh\nexit 143\n")
    plain = gateway.submit("local", "#!/bin/sh\nexit 200\n")
    gateway.until(ended, "failed")
    gateway.until(plain, "failed")
    told = []
    with gateway.services.db.read() as conn:
        for job_id in (ended, plain):
            job = conn.execute(select(JOBS).where(JOBS.c.id == job_id)).one()
            told.append(pending.why(gateway.services, conn, job, gateway.services.clock()).sentence)
    assert "exit code 143: signal SIGTERM ended it, which the centre may have sent" in told[0]
    assert told[1] == "It ended with exit code 200."


def test_waiting_and_running_jobs_can_be_canceled(gateway: Gateway) -> None:
    running = gateway.submit("local", "#!/bin/sh\nsleep 60\n", resources=Resources(process_count=4))
    gateway.until(running, "active")
    waiting = gateway.submit("local", resources=Resources(process_count=4))
    gateway.until(waiting, "queued")
    unseen = gateway.submit("local")

    for job_id in (unseen, waiting, running):
        gateway.wish(job_id, "cancel")

    assert gateway.state(unseen) == "canceled"
    assert gateway.until(waiting, "canceled")["charge"] is None
    assert gateway.until(running, "canceled")["status"]["state"] == "canceled"
    gateway.check_books()


def test_array_runs_every_task_once_and_is_one_job(gateway: Gateway, tmp_path: Path) -> None:
    mark = tmp_path / "tasks"
    script = f"#!/bin/sh\necho $PENSTOCK_ARRAY_TASK >> {mark}\n[ $PENSTOCK_ARRAY_TASK != 3 ]\n"

    job_id = gateway.submit("local", script, array=Array("0-4", 2))

    done = gateway.until(job_id, "failed")
    assert sorted(mark.read_text().split()) == ["0", "1", "2", "3", "4"]
    assert done["array"] == {"size": 5, "counts": {"completed": 4, "failed": 1}}
    gateway.check_books()


def test_children_wait_for_their_parents_and_fall_with_them(gateway: Gateway) -> None:
    good, bad = gateway.submit("local"), gateway.submit("local", "#!/bin/sh\nexit 1\n")
    child = gateway.after(good, "local", Condition.AFTEROK)
    doomed = gateway.after(bad, "local", Condition.AFTEROK)
    grandchild = gateway.after(doomed, "local", Condition.AFTEROK)
    cleaner = gateway.after(bad, "local", Condition.AFTERNOTOK)

    assert gateway.until(child, "completed")
    assert gateway.until(cleaner, "completed")
    assert gateway.until(doomed, "failed")["status"]["reason"] == "dependency_failed"
    assert gateway.until(grandchild, "failed")["status"]["reason"] == "dependency_failed"
    gateway.check_books()


def test_held_job_starts_only_when_released(gateway: Gateway) -> None:
    job_id = gateway.submit("local", attributes=Attributes(duration=60, submit_as_hold=True))
    for _ in range(3):
        gateway.tick("dispatch", "watch")
    assert gateway.state(job_id) == "held"

    gateway.wish(job_id, "release")

    assert gateway.until(job_id, "completed")


def test_policy_lets_jobs_trickle_in_and_says_so(tmp_path: Path, db_url: str) -> None:
    policy = {"cores_max": 2, "queued_jobs_per_person_max": 3, "queued_jobs_max": 5}
    gateway = make_gateway(tmp_path, db_url, local_site(tmp_path, policy=policy))
    ids = [gateway.submit("local") for _ in range(12)]

    most = 0
    for _ in range(200):
        gateway.tick("dispatch", "watch")
        at_site = sum(gateway.state(i) in ("queued", "held") for i in ids)
        most = max(most, at_site)
        if all(gateway.state(i) == "completed" for i in ids):
            break

    assert all(gateway.state(i) == "completed" for i in ids)
    assert most <= 3


def test_hostile_names_and_values_arrive_as_they_are(gateway: Gateway, tmp_path: Path) -> None:
    value = "a,b|c \"d\" 'e' $HOME `id` \\ é😀\nnext"
    out = tmp_path / "value"
    job_id = gateway.submit(
        "local", f'#!/bin/sh\nprintf %s "$V" > {out}\n', name='x|y\n"; rm -rf / #😀', environment={"V": value}
    )

    gateway.until(job_id, "completed")

    assert out.read_text() == value
