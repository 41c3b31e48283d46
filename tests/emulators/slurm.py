"""Slurm 22.05 as its users see it, over a folder: sbatch squeue sacct scancel scontrol sinfo sacctmgr.

It answers the recorded commands as the real one did (tests/unit/emulators replays them): refusals word for word, an
array's waiting tasks in one row, ids of their own for tasks that start, a row for each run with `-D`, jobs that never
were eligible missing from windows, silence and 0 for a cancel of what is over. Associations can be read, not changed.

`python tests/emulators/slurm.py install STATE BIN [SETTING=VALUE …]` makes a centre.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import core
from core import Answer
from slurm_acts import scancel, scontrol
from slurm_cluster import VERSION, SlurmCluster
from slurm_sbatch import sbatch
from slurm_show import sacct, sacctmgr, show, sinfo, squeue

PROGRAMS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo", "sacctmgr")
_COMMANDS = {"sbatch": sbatch, "squeue": squeue, "sacct": sacct, "scancel": scancel, "sinfo": sinfo,
             "sacctmgr": sacctmgr}  # fmt: skip
_CONNECT = "Unable to contact slurm controller (connect failure)\n"


def answer(c: SlurmCluster, name: str, words: list[str]) -> Answer:
    """One command's answer."""
    if "--version" in words:
        return Answer(f"slurm-wlm {VERSION}\n")
    if name != "scontrol":
        return _COMMANDS[name](c, words)
    words = [w for w in words if not w.startswith("-")]
    if words[:1] == ["ping"]:
        return Answer("Slurmctld(primary) at emulated is UP\n")
    return show(c, words[1:]) if words[:1] == ["show"] else scontrol(c, words)


def down(_c: SlurmCluster, name: str, words: list[str]) -> Answer:
    """The controller does not listen. (A real one's clients try for MessageTimeout first: fault `slow_s`.)"""
    if name == "scontrol" and "ping" in words:
        return Answer("Slurmctld(primary) at emulated is DOWN\n", "", 1)
    if name == "sbatch":
        return Answer("", f"sbatch: error: Batch job submission failed: {_CONNECT}", 1)
    if name == "scancel":
        return Answer("", "".join(f"scancel: error: Kill job error on job id {w}: {_CONNECT}" for w in words), 8)
    if name == "sinfo":
        return Answer("", f"slurm_load_partitions: {_CONNECT}", 1)
    if name in ("sacct", "sacctmgr"):  # the fault reaches slurmdbd too
        return Answer("", f"{name}: error: Problem talking to the database: Connection refused\n", 1)
    return Answer("", f"slurm_load_jobs error: {_CONNECT}", 1)


if __name__ == "__main__":
    sys.exit(core.main(sys.argv[1:], SlurmCluster, PROGRAMS, answer, down))
