"""A docked centre on a real Slurm: a job through gateway, IF2 and scheduler to its charge, over each way to dock."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from accounting.store import openings
from accounting.store.openings import Wanted
from gateway.services import Services
from site_adapters.centre.cli import main
from site_adapters.centre.conformance.kit import Target
from site_adapters.centre.home import Centre
from site_adapters.errors import Refused
from site_adapters.orders import OpeningState, Order, OrderKind
from site_adapters.types import Attributes, Rejected, Resources, SiteAccount, Submission
from tests.builders import Gateway, compose_gateway, make_gateway, people, served
from tests.docking import Docked, dialling, dock, serving, slurm_at_the_centre
from tests.lab.slurm import SlurmLab, wait_for

pytestmark = pytest.mark.live


def told(services: Services, site: str) -> None:
    wait_for(lambda: services.sites[site].scheduler == "slurm", "the centre to describe itself")


@pytest.fixture
def docked(tmp_path: Path, slurm_alpha: SlurmLab) -> Iterator[Docked]:
    tmp_path.chmod(0o755)
    yield dock(tmp_path, slurm_at_the_centre(slurm_alpha))
    slurm_alpha.cancel_all()


@pytest.fixture
def by_service(tmp_path: Path, docked: Docked) -> Iterator[Gateway]:
    with serving(docked.compose()) as url:
        gateway = make_gateway(tmp_path / "gw", f"sqlite:///{tmp_path / 'gw.sqlite'}",
                               docked.site_file(url=url), login="lab_alice")  # fmt: skip
        told(gateway.services, "alpha")
        yield gateway


@pytest.fixture
def by_agent(tmp_path: Path, docked: Docked) -> Iterator[Gateway]:
    """The gateway is there first; the centre dials in."""
    services = compose_gateway(tmp_path / "gw", f"sqlite:///{tmp_path / 'gw.sqlite'}", docked.site_file("agent"))
    with served(services) as url, dialling(docked.compose(), url):
        told(services, "alpha")
        yield people(services, docked.site_file("agent"), login="lab_alice")


@pytest.fixture(params=["by_service", "by_agent"])
def gateway(request: pytest.FixtureRequest) -> Gateway:
    found: Gateway = request.getfixturevalue(request.param)
    return found


def test_job_runs_at_a_docked_centre_and_is_charged(gateway: Gateway) -> None:
    job_id = gateway.submit("alpha", "#!/bin/bash\nsleep 1\necho done\n", resources=Resources(process_count=2))

    done = gateway.until(job_id, "completed")
    charged = gateway.charged(job_id)

    assert done["status"]["exit_code"] == 0
    assert charged["usage"]["core_seconds"] % 2 == 0
    gateway.check_books()


def submission_of(centre: Centre, username: str, script: str = "true\n", **attributes: Any) -> Submission:
    facts = centre.adapter.auth.probe(username)
    target = Target(centre.adapter, SiteAccount(facts.username, facts.home, facts.uid))
    return target.submission(target.spec(script, attributes=Attributes(duration=60, **attributes)))


def test_stop_leaves_no_running_job_and_no_credential(
    by_service: Gateway, docked: Docked, slurm_alpha: SlurmLab
) -> None:
    """One of the jobs ignores TERM; the switch needs no gateway and is thrown by another process."""
    stubborn = "#!/bin/bash\ntrap '' TERM\nwhile true; do sleep 1; done\n"
    jobs = [by_service.submit("alpha", script) for script in (stubborn, "#!/bin/sh\nsleep 300\n", stubborn)]
    for job_id in jobs:
        by_service.until(job_id, "active")

    done = CliRunner().invoke(main, ["--home", str(docked.home.folder), "stop", "--reason", "drill"])

    assert done.exit_code == 0, done.output
    assert slurm_alpha.run("squeue", "-h", "-u", "lab_alice", "-t", "R", "-o", "%i") == ""
    outcome = by_service.services.sites["alpha"].management.submit([submission_of(docked.compose(), "lab_alice")])[0]
    assert isinstance(outcome, Rejected)
    assert docked.home.trust.all() == ()


def test_people_of_a_tenant_account_are_told_apart(by_service: Gateway, docked: Docked) -> None:
    """One login of the operator; the centre's audit log and the job's comment name the person and the project."""
    job_id = by_service.submit("alpha", "#!/bin/sh\ntrue\n")
    by_service.until(job_id, "completed")
    entries = [e for e in docked.home.audit.entries() if e.get("verb") == "management.submit" and e["kind"] == "call"]
    assert entries[-1]["people"] == [by_service.person.user_id]
    assert entries[-1]["projects"] == [by_service.project_id]
    assert entries[-1]["accounts"] == ["lab_alice"]


def test_a_referral_centre_takes_nothing(docked: Docked, slurm_alpha: SlurmLab) -> None:
    docked.rewrite(policy={"permission_model": "referral", "referral_url": "https://centre.example/apply"})
    centre = docked.compose()
    try:
        ((_, outcome),) = centre.gate.enter([submission_of(centre, "lab_alice")])
    finally:
        centre.close()
    assert isinstance(outcome, Rejected) and not outcome.retryable and "centre.example/apply" in outcome.message


@pytest.fixture
def login(slurm_alpha: SlurmLab) -> Iterator[str]:
    """A sub-site user that the centre's own command makes; removed at the end."""
    name = "lab_subsite"
    yield name
    slurm_alpha.run("sacctmgr", "-i", "delete", "user", name, check=False)
    slurm_alpha.run("sacctmgr", "-i", "delete", "account", "pn_fluids", check=False)
    subprocess.run(["userdel", "-r", name], check=False, capture_output=True)


def test_order_opens_an_account_that_runs_jobs_and_closing_ends_that(
    tmp_path: Path, slurm_alpha: SlurmLab, login: str
) -> None:
    """A sub-site user and a block of core-hours by order: asked over the wire, approved by staff, run, closed."""
    tmp_path.chmod(0o755)
    hook = ["useradd", "-m", "-b", str(slurm_alpha.root / "home"), "{username}"]
    docked = dock(tmp_path, slurm_at_the_centre(slurm_alpha), accounts=[], orders={"login_command": hook})
    centre = docked.compose()
    with serving(centre) as url:
        services = compose_gateway(tmp_path / "gw", f"sqlite:///{tmp_path / 'gw.sqlite'}", docked.site_file(url=url))
        told(services, "alpha")
        ordering, auth = services.sites["alpha"].ordering, services.sites["alpha"].auth
        account = Order("o-1", OrderKind.ACCOUNT, "fluids", person="u1", username=login)
        block = Order("o-2", OrderKind.CORE_HOURS, "fluids", core_seconds=360_000)

        assert ordering.open(account).state is OpeningState.REQUESTED
        with pytest.raises(Refused):
            auth.probe(login)  # not given yet
        opened = centre.orders.approve("o-1", by="staff")
        assert (opened.state, opened.native_account, opened.username) == (OpeningState.OPEN, "pn_fluids", login)
        ordering.open(block)
        assert centre.orders.approve("o-2", by="staff").state is OpeningState.OPEN
        assert ordering.open(account) == ordering.opening("o-1")  # asked again: the same opening
        limit = slurm_alpha.run("sacctmgr", "-nP", "show", "assoc", "account=pn_fluids", "format=grptresmins")
        assert "cpu=6000" in limit

        facts = auth.probe(login)
        target = Target(services.sites["alpha"], SiteAccount(facts.username, facts.home, facts.uid))
        job = target.run(target.spec("printf ran\n", attributes=Attributes(duration=60, account="pn_fluids")))
        target.wait_ended([job])
        assert job.ended().state.value == "completed"
        row = slurm_alpha.run("sacct", "-nXP", "-j", job.native_id, "-o", "user,account")
        assert row == f"{login}|pn_fluids"  # traced: order -> account -> job -> the centre's own record

        centre.orders.suspend(login)  # as `stop` does
        with pytest.raises(Refused, match="has not given us"):
            auth.probe(login)
        assert centre.orders.approve("o-1", by="staff").state is OpeningState.OPEN
        assert auth.probe(login) == facts

        assert ordering.close("o-1").state is OpeningState.CLOSED
        late = services.sites["alpha"].management.submit([target.submission(target.spec())])[0]
        assert isinstance(late, Rejected)


def test_a_job_of_an_opening_is_charged_at_the_centre_to_what_was_opened(
    by_service: Gateway, docked: Docked, slurm_alpha: SlurmLab
) -> None:
    """The gateway's own order of a block, and an account for a login that is there: nobody names a charge account."""
    services, project = by_service.services, by_service.project_id
    now = services.clock()
    with services.db.write() as conn:
        block = Wanted("op1", project, "alpha", "core_hours", core_seconds=360_000)
        account = Wanted("op2", project, "alpha", "account", username="lab_alice")
        for wanted in (block, account):
            openings.place(conn, wanted, by="operator", now=now)
    centre = docked.compose()
    try:
        by_service.tick("orders")
        native = [centre.orders.approve(order, by="staff").native_account for order in ("op1", "op2")]
        with services.db.write() as conn:
            conn.execute(text("UPDATE opening SET tried_at = NULL"))
        by_service.tick("orders")
        job_id = by_service.submit("alpha", "#!/bin/bash\ntrue\n")
        shown = by_service.until(job_id, "completed")
        row = slurm_alpha.run("sacct", "-nXP", "-j", shown["native_job_id"], "-o", "user,account%60")
        assert native[0] == native[1] != ""
        assert row == f"lab_alice|{native[0]}"
    finally:
        centre.close()
        slurm_alpha.run("sacctmgr", "-i", "delete", "user", "lab_alice", f"account={native[0]}", "cluster=alpha")
        slurm_alpha.run("sacctmgr", "-i", "delete", "account", native[0], "cluster=alpha")
