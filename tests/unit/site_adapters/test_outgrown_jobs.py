"""No job grows beyond what its fields say: not at the gate, not by an option that goes through, on no scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.jobs import checks
from site_adapters.centre.gate import Gate
from site_adapters.centre.journal import Store
from site_adapters.config import SiteConfig
from site_adapters.errors import Refused
from site_adapters.pbs import options as pbs
from site_adapters.policy import Policy
from site_adapters.slurm import options as slurm
from site_adapters.sunway import options as sunway
from site_adapters.types import Attributes, JobSpec, Queue, Rejected, Resources
from tests.fake_site import FakeSite, submission

NODES_OF_16 = Queue("batch", open=True, default=True, nodes_total=4, cores_per_node_max=16, cores_total=64)


def job(resources: Resources | None = None, **custom: str) -> JobSpec:
    attributes = Attributes(duration=60, queue_name="batch", custom_attributes=custom)
    return JobSpec(script="#!/bin/sh\ntrue\n", resources=resources or Resources(), attributes=attributes)


LARGER = {
    "a whole node": (Policy(cores_max=4), NODES_OF_16, job(Resources(exclusive_node_use=True))),
    "whole nodes that it does not name": (
        Policy(cores_max=16), NODES_OF_16, job(Resources(process_count=4, exclusive_node_use=True)),
    ),
    "a node of a queue that gives whole ones": (
        Policy(cores_in_use_max=4), Queue("batch", open=True, default=True, cores_per_node_max=16, exclusive=True),
        job(Resources(process_count=1)),
    ),
    "a core group that is one process": (
        Policy(cores_max=64), Queue("batch", open=True, default=True, cores_per_process=65), job(),
    ),
    "processes that may each have a node": (Policy(nodes_max=1), NODES_OF_16, job(Resources(process_count=40))),
    "an option that counts otherwise": (Policy(cores_max=4), NODES_OF_16, job(**{"slurm.mincpus": "16"})),
    "nodes by their names": (Policy(nodes_in_use_max=2), NODES_OF_16, job(**{"slurm.nodelist": "n[1-4]"})),
    "cores by the accelerator": (
        Policy(share_core_seconds=10_000), NODES_OF_16, job(**{"slurm.cpus-per-gpu": "64", "slurm.gpus": "8"}),
    ),
}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "site.sqlite")
    yield store
    store.close()


@pytest.mark.parametrize("name", LARGER)
def test_the_centre_refuses_what_outgrows_its_policy(name: str, store: Store) -> None:
    policy, queue, spec = LARGER[name]
    gate = Gate(store, policy, FakeSite(queue_list=(queue,)).adapter(policy), lambda: datetime.now(UTC))

    ((_, outcome),) = gate.enter([submission(spec=spec)])

    assert isinstance(outcome, Rejected) and outcome.code == "policy" and not outcome.retryable


@pytest.mark.parametrize("name", LARGER)
def test_the_gateway_says_so_before_it_accepts_the_job(name: str) -> None:
    policy, queue, spec = LARGER[name]
    problems = checks.site_limits(spec, FakeSite().adapter(policy), queue)

    assert "over_limit" in {problem.code for problem in problems}


def test_what_its_fields_say_is_let_in(store: Store) -> None:
    policy = Policy(cores_max=16, nodes_max=1)
    gate = Gate(store, policy, FakeSite(queue_list=(NODES_OF_16,)).adapter(policy), lambda: datetime.now(UTC))
    spec = job(Resources(node_count=1, process_count=16, exclusive_node_use=True))

    ((_, outcome),) = gate.enter([submission(spec=spec)])

    assert outcome is None
    assert "over_limit" not in {p.code for p in checks.site_limits(spec, FakeSite().adapter(policy), NODES_OF_16)}


def rendered(scheduler: str, spec: JobSpec, **more: Any) -> tuple[str, ...]:
    config = SiteConfig.model_validate(
        {"site": "centre", "scheduler": scheduler, "transport": {"kind": "local"}, **more}
    )
    dialect: Any = {"pbs": pbs, "slurm": slurm, "sunway": sunway}[scheduler]
    made = dialect.render(config, submission(spec=spec))
    return (*made.argv, *(line for line in made.script.splitlines() if line.startswith("#PBS")))


@pytest.mark.parametrize("name", ["select", "nodes", "walltime", "ncpus", "mem", "place", "mpiprocs", "qos"])
def test_pbs_is_not_told_twice_what_a_field_says(name: str) -> None:
    with pytest.raises(Refused):
        rendered("pbs", job(**{f"pbs.resource.{name}": "999"}))


@pytest.mark.parametrize("words", ["ncpus=64", "model=b+10:ncpus=64", "model=b:mem=1tb", "ngpus=8"])
def test_a_chunk_has_no_second_chunk_and_no_second_size(words: str) -> None:
    with pytest.raises(Refused):
        rendered("pbs", job(**{"pbs.chunk": words}))
    assert any(":model=b" in word for word in rendered("pbs", job(**{"pbs.chunk": "model=b"})))


def test_whole_nodes_are_not_taken_by_a_place() -> None:
    with pytest.raises(Refused):
        rendered("pbs", job(**{"pbs.place": "excl:group=rack"}))
    argv = rendered("pbs", job(Resources(exclusive_node_use=True), **{"pbs.place": "group=rack"}))
    assert "#PBS -l place=group=rack:excl" in argv


def test_torque_drops_no_reservation() -> None:
    spec = JobSpec(script="true\n", attributes=Attributes(duration=60, reservation_id="r1"))
    with pytest.raises(Refused):
        rendered("pbs", spec, pbs={"flavour": "torque"})


@pytest.mark.parametrize("name", ["wckey", "gres", "tmp"])
def test_option_of_slurm_without_a_value_swallows_none_of_the_centres(name: str) -> None:
    """A real sbatch (22.05) read `--wckey --hold` as the key `--hold`, and ran the job."""
    argv = rendered("slurm", job(**{f"slurm.{name}": ""}), submit={"extra": ["--qos=preemptible"]})

    assert argv[-2:] == (f"--{name}=", "--qos=preemptible")


def test_flag_of_slurm_is_one() -> None:
    assert "--contiguous" in rendered("slurm", job(**{"slurm.contiguous": ""}))
    with pytest.raises(Refused):
        rendered("slurm", job(**{"slurm.contiguous": "yes"}))


@pytest.mark.parametrize("custom", [{"sunway.host_stack": ""}, {"sunway.b": "./program-without-a-fence"}])
def test_option_of_bsub_and_its_value_go_together(custom: dict[str, str]) -> None:
    with pytest.raises(Refused):
        rendered("sunway", job(**custom))
    assert "-b" in rendered("sunway", job(**{"sunway.b": ""}))
