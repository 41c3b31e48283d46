"""A docked centre on a real Slurm: a job through gateway, IF2 and scheduler to its charge, over each way to dock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.services import Services
from site_adapters.types import Resources
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
