"""Handing over to a real Slurm through SSH against a bare local loop of sbatch, both in one run; needs root."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from site_adapters import registry
from site_adapters.config import SiteConfig
from site_adapters.types import Accepted, Attributes, JobSpec, SiteAccount, Submission
from tests.builders import slurm_site
from tests.lab.slurm import SlurmLab, missing_reason

COUNT = 300


def run() -> None:
    """Submissions per second of held jobs."""
    reason = missing_reason()
    if reason is not None:
        print(f"skipped: {reason}")
        return
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        lab = SlurmLab(Path(folder), port_base=31000, shared_port_base=30800)
        try:
            lab.start()
            _measure(lab)
        finally:
            SlurmLab.stop_all(Path(folder))


def _measure(lab: SlurmLab) -> None:
    script = "#!/bin/sh\ntrue\n"
    (lab.root / "job.sh").write_text(script)
    (lab.root / "job.sh").chmod(0o755)
    loop = f"for i in $(seq {COUNT}); do sbatch --parsable -H -o /dev/null {lab.root / 'job.sh'} >/dev/null; done"
    began = time.monotonic()
    lab.run("sh", "-c", loop, user="lab_alice")
    bare = COUNT / (time.monotonic() - began)
    print(f"bare local sbatch loop  {bare:6.0f}/s")
    lab.cancel_all()
    key = lab.user_key_path.read_text()
    rest = {"backend": "rest", "rest": {"url": lab.rest_url, "jwt_key_file": str(lab.jwt_key_path)}}
    for name, more in (("CLI over SSH", {}), ("slurmrestd", rest)):
        adapter = registry.build(SiteConfig.model_validate(slurm_site(lab, **more)), keys=lambda _user: key)
        facts = adapter.auth.probe("lab_alice")
        account = SiteAccount(facts.username, facts.home, facts.uid)
        spec = JobSpec(script=script, attributes=Attributes(duration=60, custom_attributes={"slurm.nice": "1"}))
        made = [Submission(spec, account, f"pbnch{i:011d}", 1, f"b-pbnch{i:011d}.1") for i in range(COUNT)]
        adapter.management.submit(made[:1])
        lab.run("scontrol", "update", "partitionname=normal", "state=down")
        began = time.monotonic()
        outcomes = adapter.management.submit(made[1:])
        rate = (COUNT - 1) / (time.monotonic() - began)
        accepted = sum(isinstance(o, Accepted) for o in outcomes)
        print(f"{name:22}  {rate:6.0f}/s   {rate / bare:4.2f} × the bare loop   {accepted} of {COUNT - 1} accepted")
        lab.run("scontrol", "update", "partitionname=normal", "state=up")
        lab.cancel_all()
