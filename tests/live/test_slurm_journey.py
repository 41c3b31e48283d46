"""Law 1 on a real Slurm over SSH: a job runs exactly once, whatever is cut, renamed, requeued, forgotten."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import select

from accounting import store as books
from gateway.jobs.repository import ATTEMPTS, JOBS
from site_adapters.errors import OutcomeUnknown
from site_adapters.types import (
    Accepted,
    Array,
    Attributes,
    Condition,
    Resources,
    Submission,
    SubmitOutcome,
    Unknown,
)
from tests.builders import Gateway, local_site, make_gateway, reopen, slurm_site, submitting_by
from tests.lab.slurm import SlurmLab, wait_for

pytestmark = pytest.mark.live


@pytest.fixture
def gateway(tmp_path: Path, db_url: str, slurm_alpha: SlurmLab) -> Iterator[Gateway]:
    yield make_gateway(tmp_path, db_url, slurm_site(slurm_alpha))
    slurm_alpha.start()  # whatever the test killed
    slurm_alpha.cancel_all()


@pytest.fixture
def one(tmp_path: Path, slurm_alpha: SlurmLab) -> Iterator[Gateway]:
    """On SQLite only: what is tested lies at the site, not in the database."""
    site = slurm_site(slurm_alpha, lost_after_s=0)  # looks alone decide what is lost
    yield make_gateway(tmp_path, f"sqlite:///{tmp_path / 'penstock.sqlite'}", site)
    slurm_alpha.start()
    slurm_alpha.cancel_all()


@pytest.fixture
def mark(slurm_alpha: SlurmLab, tmp_path: Path) -> Path:
    """A file in which each run of a script leaves a line: runs are counted by what they did."""
    file = slurm_alpha.root / "home" / "lab_alice" / f"mark-{tmp_path.name}"
    file.unlink(missing_ok=True)  # homes outlive a run of the tests
    return file


def runs(mark: Path) -> int:
    return len(mark.read_text().splitlines()) if mark.exists() else 0


def script(mark: Path, *, seconds: float = 0) -> str:
    return f"#!/bin/bash\necho ran $SLURM_JOB_ID >> {mark}\nsleep {seconds}\n"


def native_id(gateway: Gateway, job_id: str) -> str:
    return str(gateway.show(job_id)["native_job_id"])


def test_job_runs_once_and_the_centres_record_governs(gateway: Gateway, mark: Path) -> None:
    job_id = gateway.submit("alpha", script(mark, seconds=2), resources=Resources(process_count=3))

    done = gateway.until(job_id, "completed")
    charged = gateway.charged(job_id)

    assert runs(mark) == 1
    assert done["status"]["exit_code"] == 0
    assert charged["usage"]["core_seconds"] % 3 == 0
    assert charged["charge"]["provisional"] is False
    gateway.check_books()


def test_answer_lost_before_it_was_seen_is_adopted_by_tag(one: Gateway, mark: Path) -> None:
    real_submit = one.services.sites["alpha"].management.submit

    def cut(submissions: Sequence[Submission]) -> list[SubmitOutcome]:
        real_submit(submissions)
        return [Unknown("cut") for _ in submissions]

    job_id = one.submit("alpha", script(mark))
    with submitting_by(one, "alpha", cut):
        one.tick("dispatch")
    assert one.state(job_id) == "unknown"

    one.until(job_id, "completed")

    assert "adopted" in one.events(job_id)
    assert runs(mark) == 1


def test_submission_that_lands_late_runs_nothing_after_its_fence_was_taken(
    one: Gateway, mark: Path, slurm_alpha: SlurmLab
) -> None:
    """The answer was cut, the gateway found nothing and submitted again; then the first copy arrives."""
    kept: list[Submission] = []

    def swallow(submissions: Sequence[Submission]) -> list[SubmitOutcome]:
        kept.extend(submissions)
        return [Unknown("cut") for _ in submissions]

    job_id = one.submit("alpha", script(mark))
    with submitting_by(one, "alpha", swallow) as real_submit:
        one.tick("dispatch")
    done = one.until(job_id, "completed")
    late = real_submit(kept)[0]
    assert isinstance(late, Accepted)
    live = ("squeue", "-h", "-t", "PD,R,CG", "-o", "%i")
    wait_for(lambda: late.native_id not in slurm_alpha.run(*live).split(), "the end of the late copy")

    assert done["attempt"] == 2
    assert runs(mark) == 1
    wait_for(lambda: "75:0" in slurm_alpha.run("sacct", "-nXj", late.native_id, "-o", "exitcode"), "its record")
    charged = one.charged(job_id)
    one.tick("collect")
    assert one.show(job_id)["charge"] == charged["charge"]  # the fenced copy costs nothing
    one.check_books()


def test_worker_that_died_while_submitting_loses_and_doubles_nothing(one: Gateway, mark: Path) -> None:
    real_submit = one.services.sites["alpha"].management.submit

    def die_after(submissions: Sequence[Submission]) -> list[SubmitOutcome]:
        real_submit(submissions)
        raise KeyboardInterrupt

    jobs = [one.submit("alpha", script(mark)) for _ in range(5)]
    with submitting_by(one, "alpha", die_after), pytest.raises(KeyboardInterrupt):
        one.tick("dispatch")
    restarted = reopen(one)

    for job_id in jobs:
        restarted.until(job_id, "completed")

    assert runs(mark) == 5


def test_owner_who_renames_the_job_does_not_lose_it(one: Gateway, mark: Path, slurm_alpha: SlurmLab) -> None:
    job_id = one.submit("alpha", script(mark, seconds=4))
    one.until(job_id, "active")
    native = native_id(one, job_id)

    slurm_alpha.run("scontrol", "update", f"jobid={native}", "name=mine", "comment=mine", user="lab_alice")

    assert one.until(job_id, "completed")["native_job_id"] == native
    assert one.charged(job_id)["usage"]["core_seconds"] >= 4
    assert runs(mark) == 1


def test_requeued_job_goes_on_and_is_charged_for_both_runs(one: Gateway, mark: Path, slurm_alpha: SlurmLab) -> None:
    attributes = Attributes(duration=600, rerunnable=True)
    job_id = one.submit("alpha", script(mark, seconds=6), attributes=attributes)
    one.until(job_id, "active")
    wait_for(lambda: runs(mark) == 1, "the first run")
    native = native_id(one, job_id)
    wait_for(lambda: slurm_alpha.run("squeue", "-h", "-j", native, "-o", "%M") >= "0:02", "two seconds of it")

    slurm_alpha.run("scontrol", "requeue", native)
    one.tick("watch")
    one.until(job_id, "completed", seconds=120)  # Slurm holds a requeued job back until its credential has expired

    assert runs(mark) == 2  # the fence lets its own owner pass again
    one.charged(job_id)

    def both() -> bool:
        one.tick("collect")
        return len(one_charges(one, job_id)) == 2

    wait_for(both, "the records of both runs", every=0.5)
    one.check_books()


def one_charges(gateway: Gateway, job_id: str) -> list[object]:
    with gateway.services.db.read() as conn:
        return [c for c in books.charges_of_job(conn, job_id) if c.core_seconds]


def queued_behind_another(gateway: Gateway, mark: Path, lab: SlurmLab) -> str:
    lab.run("sbatch", "--parsable", "-N4", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 300", user="lab_bob")
    job_id = gateway.submit("alpha", script(mark), attributes=Attributes(duration=600, queue_name="normal"))
    gateway.until(job_id, "queued")
    return job_id


def give_to_a_stranger(lab: SlurmLab, lost_id: str) -> None:
    for _ in range(int(lost_id)):
        stranger = lab.run("sbatch", "--parsable", "-H", "-o", "/dev/null", "--wrap", "true", user="lab_bob")
        if stranger == lost_id:
            return
    raise AssertionError(f"the controller did not give {lost_id} again")


def test_controller_that_forgot_the_job_and_gave_its_id_to_a_stranger(
    one: Gateway, mark: Path, slurm_alpha: SlurmLab
) -> None:
    """Nobody remembers the job: accounting was down, and the controller died with what it had for it."""
    slurm_alpha.kill("slurmdbd")
    job_id = queued_behind_another(one, mark, slurm_alpha)
    lost_id = native_id(one, job_id)
    slurm_alpha.forget_jobs_and_restart()
    give_to_a_stranger(slurm_alpha, lost_id)

    done = one.until(job_id, "completed", seconds=90)

    assert done["attempt"] == 2
    assert done["native_job_id"] != lost_id
    assert runs(mark) == 1


def test_job_that_only_accounting_remembers_ends_as_accounting_says(
    one: Gateway, mark: Path, slurm_alpha: SlurmLab
) -> None:
    """A controller without memory tells slurmdbd to close what it had: cancelled before it began."""
    job_id = queued_behind_another(one, mark, slurm_alpha)
    lost_id = native_id(one, job_id)
    wait_for(lambda: slurm_alpha.run("sacct", "-nXj", lost_id, "-o", "jobid"), "accounting to know it")
    slurm_alpha.forget_jobs_and_restart()
    give_to_a_stranger(slurm_alpha, lost_id)

    done = one.until(job_id, "canceled", seconds=90)

    assert (done["attempt"], done["native_job_id"]) == (1, lost_id)
    assert "foreign_id" in one.events(job_id)  # the stranger's job was seen under our id, and left alone
    assert runs(mark) == 0
    assert slurm_alpha.run("squeue", "-h", "-j", lost_id, "-o", "%u") == "lab_bob"


def test_array_task_canceled_at_the_site_is_lost_and_the_others_count(
    one: Gateway, mark: Path, slurm_alpha: SlurmLab
) -> None:
    held = Attributes(duration=600)
    job_id = one.submit("alpha", script(mark, seconds=2), array=Array("0-2", 1), attributes=held)
    one.until(job_id, "active")

    slurm_alpha.run("scancel", f"{native_id(one, job_id)}_2", user="lab_alice")
    done = one.until(job_id, "failed", seconds=90)

    assert done["array"]["counts"] == {"completed": 2, "failed": 1}
    assert runs(mark) == 2
    one.check_books()


def test_slurmdbd_down_changes_no_job_and_hurts_no_submission(one: Gateway, mark: Path, slurm_alpha: SlurmLab) -> None:
    slurm_alpha.pause("slurmdbd")
    try:
        job_id = one.submit("alpha", script(mark, seconds=2))
        assert one.until(job_id, "completed")
    finally:
        slurm_alpha.resume("slurmdbd")
    assert one.show(job_id)["charge"]["provisional"] is True
    one.charged(job_id)
    one.check_books()


def test_controller_down_keeps_states_and_says_since_when(one: Gateway, mark: Path, slurm_alpha: SlurmLab) -> None:
    job_id = one.submit("alpha", script(mark, seconds=12))
    one.until(job_id, "active")
    slurm_alpha.wait_until_saved(native_id(one, job_id))
    slurm_alpha.kill("ctld")

    wait_for(lambda: one.tick("watch") or one.show(job_id)["status"]["stale_since"], "staleness", every=0.5)
    assert one.state(job_id) == "active"
    waiting = one.submit("alpha", script(mark))
    one.tick("dispatch")
    assert one.state(waiting) == "new"
    slurm_alpha.start()

    assert one.until(job_id, "completed", seconds=90)
    assert one.until(waiting, "completed", seconds=90)
    assert runs(mark) == 2


def test_dependencies_hold_across_centres(tmp_path: Path, slurm_alpha: SlurmLab, mark: Path) -> None:
    url = f"sqlite:///{tmp_path / 'penstock.sqlite'}"
    gateway = make_gateway(tmp_path, url, slurm_site(slurm_alpha), local_site(tmp_path))
    parent = gateway.submit("alpha", script(mark, seconds=1))
    child = gateway.after(parent, "local", Condition.AFTEROK)

    gateway.until(parent, "active")
    assert gateway.state(child) == "new"
    gateway.until(child, "completed")
    assert gateway.state(parent) == "completed"


def test_the_gateways_environment_never_reaches_a_job(
    one: Gateway, slurm_alpha: SlurmLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_SECRET_PLANTED", "leak")
    job_id = one.submit("alpha", "#!/bin/bash\nenv\n", environment={"ASKED": "for, this|too"})
    one.until(job_id, "completed")
    with one.services.db.read() as conn:
        row = conn.execute(select(ATTEMPTS.c.stdout_path, JOBS.c.id).join(JOBS, JOBS.c.id == ATTEMPTS.c.job_id)).one()
    printed = Path(row.stdout_path).read_text()

    assert "leak" not in printed
    assert "ASKED=for, this|too\n" in printed
    assert not re.search(r"^SLURM_EXPORT_ENV", printed, re.MULTILINE)


def test_outcome_unknown_is_an_error_of_its_own() -> None:
    assert not OutcomeUnknown("cut").retryable
