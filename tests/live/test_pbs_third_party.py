"""Third parties read the PBS scripts that we write: Slurm's own reader of #PBS lines, and Debian's Torque wrappers."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from site_adapters.config import SiteConfig
from site_adapters.pbs.options import render
from site_adapters.types import Attributes, JobSpec, Resources, SiteAccount, Submission
from tests.lab.slurm import SlurmLab

TAG = "ptest00000000001"
SPEC = JobSpec(
    script="#!/bin/sh\necho hello\n", inherit_environment=False,
    resources=Resources(node_count=2, processes_per_node=3),
    attributes=Attributes(duration=3660, queue_name="normal", account="proj1"),
)  # fmt: skip


def script(flavour: str) -> str:
    site = {"site": "jinan", "scheduler": "pbs", "transport": {"kind": "local"}, "pbs": {"flavour": flavour}}
    account = SiteAccount("lab_alice", "/home/lab_alice", 0)
    submission = Submission(SPEC, account, TAG, 1, f"hello-{TAG}.1", "")
    return render(SiteConfig.model_validate(site), submission).script


@pytest.mark.parametrize("flavour", ["openpbs", "torque"])
def test_slurm_reads_our_pbs_lines_as_we_meant_them(slurm_alpha: SlurmLab, flavour: str) -> None:
    argv = ("sbatch", "--parsable", "--hold", "--chdir=/tmp")
    job_id = slurm_alpha.run(*argv, user="lab_alice", stdin=script(flavour)).partition(";")[0]
    shown = dict(re.findall(r"(\S+?)=(\S*)", slurm_alpha.run("scontrol", "show", "job", "-o", job_id)))
    slurm_alpha.run("scancel", job_id)

    assert shown["JobName"] == f"hello-{TAG}.1"
    assert shown["NumNodes"] in ("2", "2-2")
    assert shown["NumTasks" if flavour == "openpbs" else "NumCPUs"] == "6"
    assert (shown["TimeLimit"], shown["Partition"], shown["Account"]) == ("01:01:00", "normal", "proj1")


@pytest.mark.parametrize("flavour", ["openpbs", "torque"])
def test_debians_torque_wrappers_read_our_pbs_lines(slurm_alpha: SlurmLab, tmp_path: Path, flavour: str) -> None:
    if shutil.which("qsub") is None:
        pytest.skip("slurm-wlm-torque is not installed")
    file = tmp_path / "job.pbs"
    file.write_text("#!/bin/sh\ntrue\n")
    # The wrapper leaves #PBS lines to sbatch and translates words: it gets ours as words, but for what it never knew,
    # and with all resources in one, since a second -l replaces its first.
    lines = [line[5:] for line in script(flavour).splitlines() if line.startswith("#PBS ")]
    words = [word for line in lines if line[:2] in ("-N", "-q", "-A", "-r") for word in line.split(" ", 1)]
    words += ["-l", ",".join(line[3:] for line in lines if line.startswith("-l") and "place=" not in line)]

    line = slurm_alpha.run("qsub", "--sbatchline", *words, str(file))

    assert re.search(r"-N ?2\b", line) and f"hello-{TAG}.1" in line, line
    assert "proj1" in line and "normal" in line, line
    assert "01:01:00" in line or re.search(r"-t ?61\b", line), line
