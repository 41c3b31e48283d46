"""Handing over to a real Slurm by SSH and by slurmrestd, against a bare local loop of sbatch; needs root."""

from __future__ import annotations

import time
from typing import Any

from benchmarks import stage
from benchmarks.stage import Row
from site_adapters import registry
from site_adapters.config import SiteConfig
from site_adapters.types import Accepted, Attributes, JobSpec, SiteAccount, Submission
from tests.builders import slurm_site
from tests.lab.slurm import SlurmLab

COUNT, ROUNDS = 150, 3
SCRIPT = "#!/bin/sh\ntrue\n"


def run() -> None:
    """Submissions per second of jobs that stay in the queue, in turns, so that all meet the same machine."""
    reason = stage.missing(scheduler=True)
    if reason is not None:
        print(f"skipped: {reason}")
        return
    with stage.centre() as lab:
        lab.run("scontrol", "update", "partitionname=normal", "state=down")  # jobs queue, none runs
        rest = {"backend": "rest", "rest": {"url": lab.rest_url, "jwt_key_file": str(lab.jwt_key_path)}}
        ways: dict[str, tuple[dict[str, Any], str]] = {"CLI over SSH": ({}, "≥ 0.9 ×"), "slurmrestd": (rest, "≥ 2.5 ×")}
        rates: dict[str, list[float]] = {"loop": [], **{name: [] for name in ways}}
        for number in range(ROUNDS):
            rates["loop"].append(_loop(lab))
            for name, (more, _) in ways.items():
                rates[name].append(_gateway(lab, more, number))
        bare = _middle(rates["loop"])
        stage.report(
            [
                Row(f"hand-over, {name}", f"{_middle(rates[name]):.0f}/s",
                    f"{_middle(rates[name]) / bare:.2f} × a bare local loop of sbatch ({bare:.0f}/s)", target)
                for name, (_, target) in ways.items()
            ]
        )  # fmt: skip


def _middle(rates: list[float]) -> float:
    return sorted(rates)[len(rates) // 2]


def _loop(lab: SlurmLab) -> float:
    file = lab.root / "job.sh"
    file.write_text(SCRIPT)
    file.chmod(0o755)
    loop = f"for i in $(seq {COUNT}); do sbatch --parsable -H -o /dev/null {file} >/dev/null; done"
    began = time.monotonic()
    lab.run("sh", "-c", loop, user="lab_alice")
    rate = COUNT / (time.monotonic() - began)
    lab.cancel_all()
    return rate


def _gateway(lab: SlurmLab, more: dict[str, Any], number: int) -> float:
    """What the worker's hand-over does, without its database."""
    key = lab.user_key_path.read_text()
    adapter = registry.build(SiteConfig.model_validate(slurm_site(lab, **more)), keys=lambda _user: key)
    facts = adapter.auth.probe("lab_alice")
    account = SiteAccount(facts.username, facts.home, facts.uid)
    spec = JobSpec(script=SCRIPT, attributes=Attributes(duration=60, custom_attributes={"slurm.nice": "1"}))
    tags = [f"pbnch{number}{len(more)}{i:09d}" for i in range(COUNT + 1)]
    made = [Submission(spec, account, tag, 1, f"b-{tag}.1") for tag in tags]
    adapter.management.submit(made[:1])  # logs in, prepares the staging area
    began = time.monotonic()
    outcomes = adapter.management.submit(made[1:])
    rate = COUNT / (time.monotonic() - began)
    assert all(isinstance(outcome, Accepted) for outcome in outcomes), outcomes
    adapter.close()
    lab.cancel_all()
    return rate
