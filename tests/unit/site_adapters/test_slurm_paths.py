"""Output paths as a real sbatch (22.05) reads them: what it would write elsewhere is refused, or found again there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from site_adapters.config import SiteConfig
from site_adapters.errors import Refused
from site_adapters.slurm.options import render
from site_adapters.types import Array, JobSpec
from tests.fake_site import submission

CONFIG = SiteConfig.model_validate({"site": "centre", "scheduler": "slurm", "transport": {"kind": "local"}})


def test_backslash_is_refused_as_sbatch_leaves_it_out_of_the_name() -> None:
    """`a\\b.out` was written as `ab.out`, and not found again."""
    for spec in (JobSpec(script="true\n", stdout_path="a\\b.out"),
                 JobSpec(script="true\n", directory="/w\\x", stdout_path="b.out")):  # fmt: skip
        with pytest.raises(Refused):
            render(CONFIG, submission(spec=spec))


def test_task_of_a_job_without_tasks_is_the_number_that_slurm_writes() -> None:
    spec = JobSpec(script="true\n", stdout_path="/w/out.%a")

    assert render(CONFIG, submission(spec=spec)).stdout_path == "/w/out.4294967294"
    assert render(CONFIG, submission(spec=replace(spec, array=Array("0-3")))).stdout_path == "/w/out.{task}"
