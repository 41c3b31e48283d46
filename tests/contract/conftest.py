"""Every centre of the contract suite; each is made once for a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.centre import Centre
from tests.contract.emulated_centres import openpbs, openpbs_own_logins, slurm, sunway, torque
from tests.contract.local_centre import local
from tests.contract.northbound_centre import rest
from tests.contract.slurm_centres import alpha_here, alpha_rest, alpha_ssh, beta_enforced

CENTRES: dict[str, Callable[[pytest.FixtureRequest, Path], Iterator[Centre]]] = {
    "local": local,
    "slurm-ssh": alpha_ssh,
    "slurm-here": alpha_here,
    "slurm-rest": alpha_rest,
    "slurm-enforced": beta_enforced,
    "slurm-emulated": slurm,
    "pbs-emulated": openpbs,
    "pbs-hidden-emulated": openpbs_own_logins,
    "torque-emulated": torque,
    "sunway-emulated": sunway,
    "northbound-emulated": rest,
}


@pytest.fixture(scope="session", params=list(CENTRES))
def centre(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Centre]:
    yield from CENTRES[request.param](request, tmp_path_factory.mktemp(request.param))
