"""An old backup is put into an empty place while jobs ran on: `recover` finds them at the real Slurm by their tags."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from gateway import recovery
from gateway.backup import BackupRefused, backup, restore
from gateway.bootstrap import compose
from gateway.errors import NotReady
from gateway.jobs import repository, standby
from gateway.jobs.ids import tag_of
from gateway.jobs.service import IdempotencyKey
from site_adapters.types import Array, Attributes, JobSpec, Placement, SiteAccount
from tests.builders import OPENED, Gateway, make_gateway, slurm_site
from tests.lab.slurm import SlurmLab

pytestmark = pytest.mark.live

KEY = IdempotencyKey(hashlib.sha256(b"key").hexdigest(), hashlib.sha256(b"content").hexdigest())


@pytest.fixture
def gateway(tmp_path: Path, db_url: str, slurm_alpha: SlurmLab) -> Iterator[Gateway]:
    (tmp_path / "old").mkdir()
    yield make_gateway(tmp_path / "old", db_url, slurm_site(slurm_alpha))
    slurm_alpha.cancel_all()


@pytest.fixture
def mark(slurm_alpha: SlurmLab) -> Iterator[Path]:
    file = slurm_alpha.root / "home" / "lab_alice" / f"restore-{os.urandom(4).hex()}"
    yield file
    file.unlink(missing_ok=True)


def cli(home: Path, url: str, *words: str, code: int = 0) -> str:
    env = {**os.environ, "PENSTOCK_HOME": str(home), "PENSTOCK_DATABASE_URL": url}
    done = subprocess.run([sys.executable, "-m", "gateway", "admin", *words], env=env, capture_output=True, text=True,
                          check=False, cwd=home)  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def script(mark: Path, seconds: float = 0) -> str:
    return f'#!/bin/bash\necho "$PENSTOCK_JOB_TAG $PENSTOCK_ARRAY_TASK" >>{mark}\nsleep {seconds:g}\n'


def reopened(gateway: Gateway, home: Path, url: str) -> Gateway:
    settings = gateway.services.settings.model_copy(update={"home": home, "database_url": url})
    services = compose(settings)
    OPENED.append(services)
    return Gateway(services, gateway.person, gateway.project_id, gateway.secret)


def test_after_an_old_backup_every_job_at_the_site_is_found_and_none_runs_twice(
    gateway: Gateway, mark: Path, tmp_path: Path, db_url: str, other_url: str
) -> None:
    home, copy, new_home = tmp_path / "old", tmp_path / "copy.backup", tmp_path / "new"
    ended = gateway.submit("alpha", script(mark))
    gateway.until(ended, "completed")
    running = gateway.submit("alpha", script(mark, 15))
    gateway.until(running, "active")
    waiting = gateway.submit("alpha", script(mark))  # accepted, not handed over yet
    with _writing(gateway):
        assert str(copy) in cli(home, db_url, "backup", str(copy))
    assert copy.stat().st_mode & 0o077 == 0

    later = gateway.submit("alpha", script(mark, 2))
    array = gateway.submit("alpha", script(mark), array=Array("0-2"))
    keyed = gateway.accept(_spec(mark), KEY)
    for job_id in (waiting, later, array, keyed):
        gateway.until(job_id, "completed", "active")
    gateway.services.close()
    new_home.mkdir()
    shutil.copytree(home / "sites", new_home / "sites")
    shutil.copy(home / "master.key", new_home / "master.key")
    cli(new_home, other_url, "restore", str(copy))

    fresh = reopened(gateway, new_home, other_url)
    with pytest.raises(NotReady), fresh.services.db.read() as conn:
        standby.assert_accepting(conn)
    told = json.loads(cli(new_home, other_url, "recover").splitlines()[-1])

    assert set(told["rebuilt"]) == {later, array, keyed}
    assert waiting in told["attached"]
    assert (told["unreachable"], standby.accepting(fresh.services.db)) == ({}, True)
    jobs = (ended, running, waiting, later, array, keyed)
    for job_id in jobs:
        fresh.until(job_id, "completed")
    assert fresh.accept(_spec(mark), KEY) == keyed  # a client that tries again finds its job
    expected = sorted(_lines(fresh, job_id, 3 if job_id == array else 1) for job_id in jobs)
    assert sorted(mark.read_text().splitlines()) == sorted(line for lines in expected for line in lines)
    for job_id in jobs:
        fresh.charged(job_id)
    fresh.check_books()


def test_site_that_does_not_answer_keeps_the_gateway_on_standby(gateway: Gateway, slurm_alpha: SlurmLab) -> None:
    services = gateway.services
    job_id = gateway.submit("alpha")
    with services.db.write() as conn:
        standby.begin(conn, services.clock())
    slurm_alpha.kill("ctld")
    try:
        report = recovery.recover(services, back=timedelta(hours=1), now=services.clock())
        assert set(report.unreachable) == {"alpha"}
        assert not standby.accepting(services.db)
    finally:
        slurm_alpha.start()

    report = recovery.recover(services, back=timedelta(hours=1), now=services.clock())

    assert standby.accepting(services.db)
    gateway.until(job_id, "completed")


def test_job_that_another_login_made_to_look_like_ours_is_not_adopted(
    gateway: Gateway, slurm_alpha: SlurmLab, mark: Path
) -> None:
    """A tag and a manifest are readable by everybody at the site: bob writes alice's into a job of his own."""
    services = gateway.services
    known = gateway.submit("alpha", script(mark))
    gateway.until(known, "completed")
    unknown = "j00000000000000000000000000"
    for job_id in (known, unknown):
        tag = f"{tag_of(services.gateway_id, job_id)}.7"
        manifest = f"pst1:{job_id}:{gateway.project_id}:{gateway.person.user_id}:7:0:0"
        slurm_alpha.run("sbatch", "-o", "/dev/null", f"--job-name=x-{tag}", f"--comment={manifest}", "--wrap", "true",
                        user="lab_bob")  # fmt: skip
    accounts_of_both = [*_accounts(gateway), replace(_accounts(gateway)[0], username="lab_bob")]

    look = services.sites["alpha"].management.find([], accounts=accounts_of_both, since=services.clock())
    assert {run.username for run in look.runs} >= {"lab_bob"}
    report = recovery.recover(services, back=timedelta(hours=1), now=services.clock())

    assert (report.attached, report.rebuilt) == ([], [])
    assert gateway.show(known)["attempt"] == 1


@pytest.mark.parametrize("harm", ["changed", "no manifest", "not empty"])
def test_what_is_no_sound_copy_is_refused_and_nothing_changes(gateway: Gateway, tmp_path: Path, harm: str) -> None:
    copy = tmp_path / "copy.backup"
    settings = gateway.services.settings
    backup(settings, copy, now=gateway.services.clock())
    manifest = copy.with_suffix(".backup.json")
    if harm == "changed":
        copy.write_bytes(copy.read_bytes() + b"x")
    elif harm == "no manifest":
        manifest.unlink()

    with pytest.raises(BackupRefused):
        restore(settings, copy, now=gateway.services.clock(), force=harm != "not empty")

    assert standby.accepting(gateway.services.db)
    with pytest.raises(BackupRefused):
        backup(settings, copy, now=gateway.services.clock())  # a copy is never written over


class _writing:
    """Somebody submits all the time."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway, self._stop = gateway, threading.Event()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _write(self) -> None:
        held = Attributes(duration=60, submit_as_hold=True)
        while not self._stop.wait(0.01):
            self._gateway.submit("alpha", attributes=held)


def _spec(mark: Path) -> JobSpec:
    return JobSpec(script=script(mark), attributes=Attributes(duration=600), placement=Placement(("alpha",)))


def _lines(gateway: Gateway, job_id: str, tasks: int) -> list[str]:
    tag = tag_of(gateway.services.gateway_id, job_id)
    return [f"{tag} {task}" if tasks > 1 else tag + " " for task in range(tasks)]


def _accounts(gateway: Gateway) -> list[SiteAccount]:
    with gateway.services.db.read() as conn:
        return repository.all_site_accounts(conn, "alpha")
