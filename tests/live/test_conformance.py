"""The conformance kit against real centres, over each way to dock: what it finds wrong is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from site_adapters.centre.conformance import report
from site_adapters.centre.conformance.kit import Target
from site_adapters.centre.conformance.run import Found, run
from site_adapters.if2 import keys
from tests.docking import dock, slurm_at_the_centre
from tests.lab.slurm import SlurmLab

pytestmark = pytest.mark.live


def told(found: Found) -> str:
    return "\n".join(f"{r.name}: {r.detail}" for r in found.failed)


def test_real_slurm_passes_at_the_centre(tmp_path: Path, slurm_alpha: SlurmLab) -> None:
    tmp_path.chmod(0o755)
    docked = dock(tmp_path, slurm_at_the_centre(slurm_alpha))
    centre = docked.compose()
    try:
        found = run(Target.at_the_centre(centre, "lab_alice", None), say=print)
    finally:
        slurm_alpha.cancel_all()
        centre.close()
    assert not found.failed, told(found)
    assert found.count("passed") >= 150
    file = tmp_path / "conformance.json"
    report.write(file, found, site="alpha", key=keys.load(docked.home.key_file))
    assert report.verified(file).startswith("good: alpha")
