"""DESIGN section 5 on a real Slurm, clause by clause: what test_slurm_journey.py does not show yet."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from accounting import store as books
from gateway.jobs.ids import tag_of
from site_adapters.types import Array, Attributes, Budget, JobSpec, Placement
from tests.builders import Gateway, make_gateway, slurm_site
from tests.lab.slurm import SlurmLab, wait_for

pytestmark = pytest.mark.live

LIVE = ("squeue", "-h", "-t", "PD,R,CG", "-o", "%i")


@pytest.fixture
def mark(slurm_alpha: SlurmLab) -> Iterator[Path]:
    file = slurm_alpha.root / "home" / "lab_alice" / f"law-{os.urandom(4).hex()}"
    yield file
    file.unlink(missing_ok=True)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'penstock.sqlite'}"


@pytest.fixture
def gateway(tmp_path: Path, url: str, slurm_alpha: SlurmLab) -> Iterator[Gateway]:
    yield make_gateway(tmp_path, url, slurm_site(slurm_alpha))
    slurm_alpha.start()
    slurm_alpha.cancel_all()


def runs(mark: Path) -> list[str]:
    return mark.read_text().splitlines() if mark.exists() else []


def script(mark: Path, seconds: float = 0) -> str:
    return f"#!/bin/bash\necho ran $SLURM_ARRAY_TASK_ID >>{mark}\nsleep {seconds:g}\n"


def test_sbatch_that_outlives_its_cut_connection_lands_late_and_runs_nothing(
    tmp_path: Path, url: str, mark: Path, slurm_alpha: SlurmLab
) -> None:
    """For real: a slow login node holds the first sbatch back, the connection is cut, and the process lives on."""
    gate, slow = mark.with_suffix(".gate"), mark.with_suffix(".sbatch")
    slow.write_text(f"#!/bin/sh\ncase \"$*\" in *.1\\ *) while [ ! -e {gate} ]; do sleep 0.1; done;; esac\n"
                    'exec sbatch "$@"\n')  # fmt: skip
    slow.chmod(0o755)
    gateway = make_gateway(tmp_path, url, slurm_site(slurm_alpha, commands={"sbatch": str(slow)}))
    job_id = gateway.submit("alpha", script(mark))
    tag = tag_of(gateway.services.gateway_id, job_id)
    ticking = threading.Thread(target=lambda: gateway.tick("dispatch"))
    ticking.start()
    wait_for(lambda: _running(f"{tag}.1"), "sbatch at the login node")
    gateway.services.sites["alpha"].close()  # the connection is cut, whatever runs on it
    ticking.join(60)
    assert gateway.state(job_id) == "unknown"

    done = gateway.until(job_id, "completed")
    assert _running(f"{tag}.1")
    gate.touch()
    late = ("sacct", "-nXP", "-S", "now-1hour", "-E", "now", "-s", "F", "-o", "jobname,exitcode")
    wait_for(lambda: f"{tag}.1|75:0" in slurm_alpha.run(*late), "the end of the late copy", 60, every=0.3)

    assert done["attempt"] == 2
    assert len(runs(mark)) == 1
    gateway.charged(job_id)
    gateway.tick("collect")
    assert len(runs(mark)) == 1
    gateway.check_books()


def _running(tag: str) -> bool:
    """Whether a process on this machine bears the tag in its words and waits to submit."""
    for place in Path("/proc").iterdir():
        try:
            words = (place / "cmdline").read_bytes() if place.name.isdigit() else b""
        except OSError:
            continue
        if tag.encode() in words and b".sbatch" in words:
            return True
    return False


def test_requeued_array_task_goes_on_and_each_run_is_charged(
    gateway: Gateway, mark: Path, slurm_alpha: SlurmLab
) -> None:
    attributes = Attributes(duration=600, rerunnable=True)
    job_id = gateway.submit("alpha", script(mark, 3), array=Array("0-2"), attributes=attributes)
    gateway.until(job_id, "active")
    wait_for(lambda: len(runs(mark)) == 3, "all tasks to run")
    native = gateway.show(job_id)["native_job_id"]
    wait_for(lambda: slurm_alpha.run("squeue", "-h", "-r", "-j", f"{native}_1", "-o", "%M") >= "0:01", "a second of it")

    slurm_alpha.run("scontrol", "requeue", f"{native}_1")
    done = gateway.until(job_id, "completed", seconds=120)

    assert done["array"]["counts"] == {"completed": 3}
    assert sorted(runs(mark)) == ["ran 0", "ran 1", "ran 1", "ran 2"]

    def charges() -> int:
        gateway.tick("collect")
        with gateway.services.db.read() as conn:
            found = books.charges_of_job(conn, job_id)
        return sum(1 for charge in found if charge.meter == "centre" and charge.core_seconds)

    wait_for(lambda: charges() == 4, "a charge for each of four runs", 60, every=0.5)
    gateway.check_books()


def test_one_centre_down_leaves_the_other_at_work(
    tmp_path: Path, url: str, slurm_alpha: SlurmLab, slurm_beta: SlurmLab, mark: Path
) -> None:
    gateway = make_gateway(tmp_path, url, slurm_site(slurm_alpha), slurm_site(slurm_beta))
    held_up = gateway.submit("beta", script(mark, 20))
    gateway.until(held_up, "active")
    slurm_beta.wait_until_saved(str(gateway.show(held_up)["native_job_id"]))
    slurm_beta.kill("ctld")
    try:
        for _ in range(3):
            gateway.until(gateway.submit("alpha", script(mark)), "completed")
        waiting = gateway.submit("beta", script(mark))
        gateway.tick("dispatch", "watch")

        assert gateway.state(held_up) == "active"
        assert gateway.show(held_up)["status"]["stale_since"] is not None
        assert gateway.state(waiting) == "new"
    finally:
        slurm_beta.start()
    for job_id in (held_up, waiting):
        gateway.until(job_id, "completed", seconds=120)
    assert len(runs(mark)) == 5
    assert gateway.show(held_up)["native_job_id"]


@contextmanager
def hidden_jobs(lab: SlurmLab) -> Iterator[None]:
    """PrivateData=jobs: `squeue` and `sacct` answer *empty, exit 0* about other people's jobs."""
    conf = lab.folder / "slurm.conf"
    before = conf.read_text()
    conf.write_text(before + "PrivateData=jobs\n")
    lab.run("scontrol", "reconfigure")
    wait_for(lambda: "jobs" in _private(lab), "the controller to hide jobs")
    try:
        yield
    finally:
        conf.write_text(before)
        lab.run("scontrol", "reconfigure")
        wait_for(lambda: "jobs" not in _private(lab), "the controller to show jobs")


def _private(lab: SlurmLab) -> str:
    return next(line for line in lab.run("scontrol", "show", "config").splitlines() if line.startswith("PrivateData"))


@pytest.mark.parametrize("observer", ["lab_bob", None, "lab_gw"])
def test_where_jobs_are_hidden_a_blind_observer_is_told_and_finishes_no_job(
    tmp_path: Path, url: str, slurm_alpha: SlurmLab, mark: Path, observer: str | None
) -> None:
    key = str(slurm_alpha.user_key_path)
    operator = {"username": "lab_gw", "key_file": key}
    credentials = {"meter" if observer else "provisioner": operator}  # a provisioner's login is not used to look
    if observer:
        credentials["observer"] = {"username": observer, "key_file": key}
    site = slurm_site(slurm_alpha)
    with hidden_jobs(slurm_alpha):
        gateway = make_gateway(tmp_path, url, {**site, "credentials": credentials})
        checks = {check.name: check for check in gateway.services.sites["alpha"].auth.check()}
        job_id = gateway.submit("alpha", script(mark, 3))
        gateway.until(job_id, "active")
        gateway.until(job_id, "completed")

    assert checks["hidden jobs"].ok is (observer != "lab_bob")
    assert (observer != "lab_bob") or "Operator" in checks["hidden jobs"].remedy
    assert gateway.show(job_id)["attempt"] == 1
    assert len(runs(mark)) == 1


def test_gateway_ends_what_runs_longer_than_was_asked_where_the_centre_does_not(
    tmp_path: Path, url: str, slurm_alpha: SlurmLab, mark: Path
) -> None:
    gateway = make_gateway(tmp_path, url, slurm_site(slurm_alpha, enforce_walltime=True))
    job_id = gateway.submit("alpha", script(mark, 300), attributes=Attributes(duration=60))
    gateway.until(job_id, "active")
    wait_for(lambda: runs(mark), "the job to run")
    gateway.tick("watch")
    assert gateway.state(job_id) == "active"

    later(gateway, timedelta(seconds=60 + 31))
    ended = gateway.until(job_id, "failed")

    assert ended["status"]["reason"] == "time_limit"
    assert len(runs(mark)) == 1


def test_gateway_ends_what_would_cost_more_than_was_allowed(gateway: Gateway, mark: Path) -> None:
    budget = Budget(max_cost_micro=50_000, currency="CNY")  # 500 core-seconds
    spec = JobSpec(script=script(mark, 300), attributes=Attributes(duration=400), placement=Placement(("alpha",)))
    job_id = gateway.accept(replace(spec, budget=budget))
    gateway.until(job_id, "active")

    later(gateway, timedelta(seconds=501))
    ended = gateway.until(job_id, "failed")

    assert ended["status"]["reason"] == "cost_limit"


def later(gateway: Gateway, by: timedelta) -> None:
    """From now on the gateway's clock is ahead by so much."""
    real = gateway.services.clock

    def clock() -> datetime:
        return real() + by

    gateway.services = replace(gateway.services, clock=clock)
