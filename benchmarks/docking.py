"""One submission over SSH docking against the same over the agent and the service, alternating, on one real Slurm."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from site_adapters.centre.halt import halt
from site_adapters.interfaces import SiteAdapter
from site_adapters.types import Accepted, Attributes, JobSpec, SiteAccount, Submission
from tests.builders import compose_gateway, make_gateway, served, slurm_site
from tests.docking import Docked, dialling, dock, serving, slurm_at_the_centre
from tests.lab.slurm import SlurmLab, missing_reason, wait_for

ROUNDS, STOPPED = 60, 10
LAB = -3000 * int(os.environ.get("PENSTOCK_LAB", "0"))


def run() -> None:
    """Milliseconds from the call to the native id."""
    reason = missing_reason()
    if reason is not None:
        print(f"skipped: {reason}")
        return
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        root = Path(folder)
        root.chmod(0o755)
        lab = SlurmLab(root / "lab", port_base=31000 + LAB, shared_port_base=30800 + LAB,
                       extra=("--extra-conf", "KillWait=60"))  # the switch must not wait for that  # fmt: skip
        try:
            lab.start()
            with ExitStack() as stack:
                _measure(lab, root, stack)
        finally:
            SlurmLab.stop_all(root / "lab")


def _measure(lab: SlurmLab, root: Path, stack: ExitStack) -> None:
    ssh = make_gateway(root / "ssh", f"sqlite:///{root / 'ssh.sqlite'}", slurm_site(lab)).services
    by_agent = dock(root / "a", slurm_at_the_centre(lab))
    agent = compose_gateway(root / "agent", f"sqlite:///{root / 'agent.sqlite'}", by_agent.site_file("agent"))
    address = stack.enter_context(served(agent))
    stack.enter_context(dialling(by_agent.compose(), address))
    by_service = dock(root / "s", slurm_at_the_centre(lab))
    url = stack.enter_context(serving(by_service.compose()))
    service = compose_gateway(root / "service", f"sqlite:///{root / 'service.sqlite'}", by_service.site_file(url=url))
    ways = {"SSH": ssh.sites, "agent": agent.sites, "service": service.sites}
    for name in ("agent", "service"):
        wait_for(lambda name=name: ways[name]["alpha"].scheduler == "slurm", name)  # type: ignore[misc]
    facts = ssh.sites["alpha"].auth.probe("lab_alice")
    account = SiteAccount(facts.username, facts.home, facts.uid)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS + 3):
        for name, sites in ways.items():
            took = _one(sites["alpha"], account, f"{name[0].lower()}{number}")
            if number >= 3:  # connections are warm
                times[name].append(took)
    base = statistics.median(times["SSH"])
    for name, each in times.items():
        p50, p95 = statistics.median(each), statistics.quantiles(each, n=20)[18]
        print(f"{name:8} p50 {p50:6.1f} ms  p95 {p95:6.1f} ms  {p50 - base:+6.1f} ms against SSH")
    _stop(lab, by_service, service.sites["alpha"], account)
    print(f"load {os.getloadavg()[0]:.1f}")
    for services in (ssh, agent, service):
        services.close()


def _stop(lab: SlurmLab, docked: Docked, adapter: SiteAdapter, account: SiteAccount) -> None:
    """The switch at the centre, over the held jobs of the measurement and running ones that ignore TERM."""
    mark = f"{account.home}/stop-{os.getpid()}"
    script = f"#!/bin/bash\ntrap '' TERM\necho deaf >>{mark}\nwhile true; do sleep 1; done\n"
    spec = JobSpec(script=script, attributes=Attributes(duration=600))
    jobs = [Submission(spec, account, f"pbnch{os.getpid() % 10**8:0>8}{n:0>3}", 1, f"stop-{n}") for n in range(STOPPED)]
    taken = [one for one in adapter.management.submit(jobs) if isinstance(one, Accepted)]
    assert len(taken) == STOPPED, taken
    deaf = Path(mark)
    wait_for(lambda: deaf.exists() and len(deaf.read_text().split()) == STOPPED, "jobs that ignore TERM", 60)
    centre = docked.compose()
    report = halt(centre, reason="benchmark", hold=False)
    centre.close()
    running = lab.run("squeue", "-h", "-t", "R,CG", "-u", account.username, "-o", "%i").split()
    print(f"stop     {report.jobs_ended} jobs of ours, {STOPPED} of them running and deaf to TERM, ended in "
          f"{report.seconds:.1f} s (target 10); still running: {len(running)}")  # fmt: skip


def _one(adapter: SiteAdapter, account: SiteAccount, number: str) -> float:
    spec = JobSpec(script="true\n", attributes=Attributes(duration=60, submit_as_hold=True))
    tag = f"pbnch{number:x>11}"
    submission = Submission(spec, account, tag, 1, f"b-{tag}.1")
    began = time.monotonic()
    outcome = adapter.management.submit([submission])[0]
    took = (time.monotonic() - began) * 1000
    assert isinstance(outcome, Accepted), outcome
    return took
