"""Emulated centres as site files: one call makes the centre, its commands and what the gateway needs to know of it."""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import core
import pbs
import slurm
import sunway

PATH = os.pathsep.join(("/usr/local/bin", "/usr/bin", "/bin"))


PbsCluster, SlurmCluster, SunwayCluster = pbs.PbsCluster, slurm.SlurmCluster, sunway.SunwayCluster


def install_pbs(folder: Path, **settings: Any) -> pbs.PbsCluster:
    """A PBS whose commands are in `bin` and whose state is in `state`."""
    cluster = pbs.PbsCluster(folder / "state")
    for name, value in settings.items():
        cluster.put(name, value)
    core.install(pbs.PROGRAMS, cluster.program, cluster.root, folder / "bin")
    return cluster


def pbs_centre(folder: Path, **settings: Any) -> tuple[pbs.PbsCluster, dict[str, Any]]:
    """A PBS centre of 3 nodes with 4 cores each, and its site file."""
    cluster = install_pbs(folder / "pbs", **{"nodes": 3, "cores_per_node": 4, **settings})
    torque = {"flavour": "torque"} if settings.get("flavour") == "torque" else {}
    return cluster, {
        "site": "jinan", "scheduler": "pbs", "transport": {"kind": "local"},
        "credentials": {"observer": {"username": getpass.getuser()}, "meter": {"username": getpass.getuser()}},
        "staging_root": str(folder / "pbs" / "staging"),
        "environment": {"PATH": f"{folder / 'pbs' / 'bin'}{os.pathsep}{PATH}"},
        "pbs": {"accounting_log": str(cluster.root / "accounting"), **torque},
    }  # fmt: skip


def install_slurm(folder: Path, **settings: Any) -> slurm.SlurmCluster:
    """A Slurm whose commands are in `bin` and whose state is in `state`."""
    cluster = slurm.SlurmCluster(folder / "state")
    for name, value in settings.items():
        cluster.put(name, value)
    core.install(slurm.PROGRAMS, cluster.program, cluster.root, folder / "bin")
    return cluster


def slurm_centre(folder: Path, **settings: Any) -> tuple[slurm.SlurmCluster, dict[str, Any]]:
    """A Slurm centre of 3 nodes with 4 cores each, and its site file."""
    wanted = {"cluster": "kunshan", "nodes": 3, "cores_per_node": 4, **settings}
    cluster = install_slurm(folder / "slurm", **wanted)
    own = {"username": getpass.getuser()}
    return cluster, {
        "site": "kunshan", "scheduler": "slurm", "transport": {"kind": "local"},
        "credentials": {"observer": own, "meter": own}, "staging_root": str(folder / "slurm" / "staging"),
        "environment": {"PATH": f"{folder / 'slurm' / 'bin'}{os.pathsep}{PATH}"},
    }  # fmt: skip


def sunway_centre(folder: Path, **settings: Any) -> tuple[sunway.SunwayCluster, dict[str, Any]]:
    """A Sunway centre of 4 nodes with 4 core groups each, and its site file."""
    cluster = sunway.SunwayCluster(folder / "sunway" / "state")
    for name, value in {"nodes": 4, "cores_per_node": 4, **settings}.items():
        cluster.put(name, value)
    core.install(sunway.PROGRAMS, cluster.program, cluster.root, folder / "sunway" / "bin")
    return cluster, {
        "site": "wuxi", "scheduler": "sunway", "transport": {"kind": "local"},
        "staging_root": str(folder / "sunway" / "online" / "{user}"),
        "environment": {"PATH": f"{folder / 'sunway' / 'bin'}{os.pathsep}{PATH}"},
        "queues": {"share": {"native": "q_sw_share"}, "test": {"native": "q_sw_expr"}},
        "zone": "Asia/Shanghai",
    }  # fmt: skip
