"""The conformance kit against real centres, over each way to dock: what it finds wrong is wrong."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from click import ClickException

from site_adapters.centre.conformance import report
from site_adapters.centre.conformance.kit import Target
from site_adapters.centre.conformance.run import Found, run
from site_adapters.if2 import keys
from site_adapters.interfaces import SiteAdapter
from site_adapters.types import SiteAccount
from tests.builders import compose_gateway, local_site, make_gateway, served, slurm_site
from tests.docking import dialling, dock, serving, slurm_at_the_centre
from tests.lab.slurm import SlurmLab, wait_for

pytestmark = pytest.mark.live


def told(found: Found) -> str:
    return "\n".join(f"{r.name}: {r.detail}" for r in found.failed)


FAST = ("name/", "environment/", "argument/", "script/", "exit/", "array/", "output/", "hold/", "fence/", "look/",
        "facts/", "auth/", "usage/", "log/", "docking/", "policy/", "orders/")  # fmt: skip


@contextmanager
def stopped(lab: SlurmLab, name: str) -> Iterator[None]:
    """One daemon killed, and all well again afterwards."""
    lab.kill(name)
    try:
        yield
    finally:
        lab.start()


def faults(lab: SlurmLab) -> dict[str, Callable[[], AbstractContextManager[None]]]:
    return {"scheduler_down": lambda: stopped(lab, "ctld"), "accounting_down": lambda: stopped(lab, "slurmdbd")}


@pytest.mark.soak
def test_real_slurm_keeps_every_rule_at_the_centre(tmp_path: Path, slurm_alpha: SlurmLab) -> None:
    """All checks, the slow ones and those that a laboratory can provoke included; the report is signed."""
    tmp_path.chmod(0o755)
    docked = dock(tmp_path, slurm_at_the_centre(slurm_alpha))
    centre = docked.compose()
    target = Target.at_the_centre(centre, "lab_alice", None)
    target.faults = faults(slurm_alpha)
    try:
        found = run(target, say=print)
    finally:
        slurm_alpha.start()
        slurm_alpha.cancel_all()
        centre.close()
    assert not found.failed, told(found)
    assert found.count("passed") >= 150
    file = tmp_path / "conformance.json"
    report.write(file, found, site="alpha", key=keys.load(docked.home.key_file))
    assert report.verified(file).startswith("good: alpha")
    file.write_text(file.read_text().replace('"outcome": "skipped"', '"outcome": "passed"'))
    with pytest.raises(ClickException, match="changed"):
        report.verified(file)


@pytest.fixture(params=["service", "agent", "ssh"])
def adapter(request: pytest.FixtureRequest, tmp_path: Path, slurm_alpha: SlurmLab) -> Iterator[SiteAdapter]:
    """The same Slurm as the gateway sees it, over each way to dock."""
    tmp_path.chmod(0o755)
    url = f"sqlite:///{tmp_path / 'gw.sqlite'}"
    if request.param == "ssh":
        gateway = make_gateway(tmp_path / "gw", url, slurm_site(slurm_alpha))
        yield gateway.services.sites["alpha"]
    elif request.param == "service":
        docked = dock(tmp_path, slurm_at_the_centre(slurm_alpha))
        with serving(docked.compose()) as address:
            services = compose_gateway(tmp_path / "gw", url, docked.site_file(url=address))
            wait_for(lambda: services.sites["alpha"].scheduler == "slurm", "the centre to describe itself")
            yield services.sites["alpha"]
    else:
        docked = dock(tmp_path, slurm_at_the_centre(slurm_alpha))
        services = compose_gateway(tmp_path / "gw", url, docked.site_file("agent"))
        with served(services) as address, dialling(docked.compose(), address):
            wait_for(lambda: services.sites["alpha"].scheduler == "slurm", "the centre to describe itself")
            yield services.sites["alpha"]
    slurm_alpha.cancel_all()


def test_real_slurm_keeps_the_rules_over_each_way_to_dock(adapter: SiteAdapter) -> None:
    facts = adapter.auth.probe("lab_alice")
    target = Target(adapter, SiteAccount(facts.username, facts.home, facts.uid), slow=False)
    found = run(target, only=FAST, say=print)
    assert not found.failed, told(found)
    assert found.count("passed") >= 130


def test_this_machine_keeps_the_rules_at_the_centre(tmp_path: Path) -> None:
    login = getpass.getuser()
    docked = dock(tmp_path, local_site(tmp_path), accounts=[login])
    centre = docked.compose()
    try:
        target = Target.at_the_centre(centre, login, None)
        target.slow = False
        found = run(target, only=FAST, say=print)
    finally:
        centre.close()
    assert not found.failed, told(found)
    assert found.count("passed") >= 120
