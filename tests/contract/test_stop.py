"""The switch at every kind of centre: what ignores TERM is gone long before its scheduler would kill it."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from site_adapters.centre.conformance.kit import Ran, Target
from site_adapters.centre.halt import halt, ours
from site_adapters.centre.home import Centre
from site_adapters.states import ObservedState
from site_adapters.types import Attributes
from tests.builders import local_site
from tests.docking import dock
from tests.emulators.site import pbs_centre, slurm_centre, sunway_centre

LONG = 60.0  # seconds that the scheduler itself would leave a job after TERM


def slurm(folder: Path) -> dict[str, Any]:
    return slurm_centre(folder, kill_delay_s=LONG)[1]


def openpbs(folder: Path) -> dict[str, Any]:
    return pbs_centre(folder, kill_delay_s=LONG)[1]


def torque(folder: Path) -> dict[str, Any]:
    return pbs_centre(folder, flavour="torque", kill_delay_s=LONG)[1]


def sunway(folder: Path) -> dict[str, Any]:
    return {**sunway_centre(folder, kill_delay_s=LONG)[1], "zone": "UTC"}


def docked(folder: Path, site: dict[str, Any]) -> tuple[Centre, Target]:
    centre = dock(folder, site, accounts=[getpass.getuser()], stop_after_s=1.0).compose()
    queue = "share" if site["scheduler"] == "sunway" else None
    return centre, Target.at_the_centre(centre, getpass.getuser(), queue)


def through_the_gate(centre: Centre, target: Target, script: str) -> Ran:
    """As the desk does: in at the gate, to the scheduler, the outcome kept."""
    attributes = Attributes(duration=600, queue_name=target.queue)
    one = target.submission(target.spec(script, attributes=attributes))
    ((let_in, refused),) = centre.gate.enter([one])
    assert refused is None
    (outcome,) = centre.adapter.management.submit([let_in])
    centre.gate.leave(let_in, outcome)
    return target._ran(one, outcome)


@pytest.mark.parametrize("kind", [slurm, openpbs, torque, sunway, local_site])
def test_what_ignores_term_does_not_outlive_the_switch(tmp_path: Path, kind: Callable[[Path], dict[str, Any]]) -> None:
    site = kind(tmp_path)
    centre, target = docked(tmp_path, site)
    try:
        mark = tmp_path / "traps"
        stubborn = through_the_gate(centre, target, f"trap '' TERM\n: >{mark}\nwhile true; do sleep 1; done\n")
        target.wait_state(stubborn, ObservedState.ACTIVE)
        target.wait([stubborn], lambda _job: mark.exists(), "the trap")

        report = halt(centre, reason="drill", hold=False)

        print(f"{site['scheduler']}: {report.seconds:.1f} s")
        assert (report.left, report.jobs_ended) == ((), 1), report
        assert report.seconds < LONG / 2
        assert ours(centre, []) == {} or not any(ours(centre, []).values())
    finally:
        centre.close()


def test_exit_codes_come_through_the_gate(tmp_path: Path) -> None:
    """A Sunway's exit code stands in the staging area under the attempt's own name."""
    centre, target = docked(tmp_path, sunway(tmp_path))
    try:
        job = through_the_gate(centre, target, "exit 3\n")
        (ref,) = centre.gate.open_jobs()
        assert ref.tag == job.submission.fence_name
        target.wait_ended([job])
        seen = centre.adapter.management.observe([ref])
        assert {run.exit_code for run in (*seen.queue.runs, *seen.accounting.runs)} == {3}
        waits = through_the_gate(centre, target, "sleep 30\n")
        (found,) = [ref for refs in ours(centre, []).values() for ref in refs]
        assert (found.native_id, found.tag) == (waits.native_id, waits.submission.fence_name)
        halt(centre, reason="the test is over", hold=False)
    finally:
        centre.close()
