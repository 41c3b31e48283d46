"""Docked centres for tests: a folder of `penstock-site` over a lab or this machine, served on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
import yaml

from site_adapters.centre.agent import Agent
from site_adapters.centre.home import Centre, Home, compose
from site_adapters.centre.service import create_app
from site_adapters.if2 import keys
from tests.builders import _QuickServer
from tests.lab.slurm import SlurmLab, wait_for


def slurm_at_the_centre(lab: SlurmLab, **more: Any) -> dict[str, Any]:
    """The lab as its own staff describe it: commands on its own machine, as root acting for people."""
    own = {"username": "lab_gw"}
    credentials = {"observer": own, "meter": own, "provisioner": {"username": "root"}}
    return {"site": lab.cluster, "scheduler": "slurm", "transport": {"kind": "local", "switch_user": True},
            "environment": lab.env, "credentials": credentials, **more}  # fmt: skip


@dataclass(slots=True)
class Docked:
    """A centre's folder and the gateway's key towards it."""

    home: Home
    site: dict[str, Any]
    gateway_key: Path

    @property
    def name(self) -> str:
        return str(self.site["site"])

    def compose(self, **more: Any) -> Centre:
        return compose(self.home, **more)

    def site_file(self, kind: str = "service", url: str = "", **more: Any) -> dict[str, Any]:
        """The gateway's own file about this centre."""
        dock = {"kind": kind, "key_file": str(self.gateway_key),
                "centre_keys": [keys.public_text(keys.load_or_create(self.home.key_file).public)]}  # fmt: skip
        dock |= {"url": url} if url else {}
        return {"site": self.name, "scheduler": "if2", "dock": dock, **more}

    def rewrite(self, **changes: Any) -> None:
        """Change the centre's own site file; it is read when the centre is composed."""
        self.site = {**self.site, **changes}
        (self.home.folder / "site.yaml").write_text(yaml.safe_dump(self.site))


def dock(folder: Path, site: dict[str, Any], **docking: Any) -> Docked:
    """Both sides' keys made and exchanged, as `penstock-site init`, `trust` and `gateway admin dock` do."""
    home = Home(folder / "centre")
    home.folder.mkdir(parents=True)
    (home.folder / "site.yaml").write_text(yaml.safe_dump(site))
    docking.setdefault("accounts", ["lab_alice", "lab_bob"])
    (home.folder / "docking.yaml").write_text(yaml.safe_dump(docking))
    gateway_key = folder / "gateway.key"
    home.trust.add(keys.load_or_create(gateway_key).public)
    keys.load_or_create(home.key_file)
    return Docked(home, site, gateway_key)


@contextmanager
def dialling(centre: Centre, url: str) -> Iterator[Agent]:
    """The centre's agent, connected to the gateway at `url` (http://…)."""
    agent = Agent(centre.desk, url.replace("http", "ws", 1) + "/if2/agent", "penstock",
                  lambda: keys.load(centre.home.key_file), centre.home.trust, stopped=centre.home.stopped)  # fmt: skip
    thread = threading.Thread(target=agent.run, daemon=True)
    thread.start()
    try:
        yield agent
    finally:
        agent.close()
        thread.join(20)
        centre.close()


@contextmanager
def serving(centre: Centre) -> Iterator[str]:
    """The centre's service on a free loopback port; its address."""
    app = create_app(centre.desk, lambda: centre.gate.load(centre.home.stopped()), centre.home.page_password())
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", access_log=False)
    server = _QuickServer(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_for(lambda: server.started, "the centre's service", every=0.005)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        centre.close()
