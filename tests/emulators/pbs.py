"""OpenPBS 23.06 as its users see it, over a folder: qsub qstat qdel qhold qrls qalter qmove qselect pbsnodes qrerun.

It answers the recorded commands as the real one did (tests/unit/emulators replays them): exit codes are error numbers
modulo 256, an outage is valid JSON without `Jobs`, a hidden job is an empty listing with exit code 0, values are
mangled in JSON, ended jobs need `-x`. With `flavour: torque` it speaks Torque's text.

`python tests/emulators/pbs.py install STATE BIN [SETTING=VALUE …]` makes a centre.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import core
from core import Answer
from pbs_acts import act
from pbs_qstat import as_json, pbsnodes, qselect, qstat
from pbs_qsub import qsub
from pbs_reservations import pbs_rdel, pbs_rstat, pbs_rsub
from pbs_server import PbsCluster

PROGRAMS = (
    "qsub", "qstat", "qdel", "qhold", "qrls", "qalter", "qmove", "qsig", "qselect", "pbsnodes", "qrerun",
    "pbs_rstat", "pbs_rsub", "pbs_rdel",
)  # fmt: skip


def answer(c: PbsCluster, name: str, words: list[str], data: str | None = None) -> Answer:
    """One command's answer."""
    if name == "qsub":
        return qsub(c, words, data)
    if name == "qstat":
        with c.locked():
            c.schedule()
        return qstat(c, words)
    if name == "qselect":
        return qselect(c, words)
    if name == "pbsnodes":
        return pbsnodes(c, words)
    if name == "pbs_rstat":
        return pbs_rstat(c, words)
    if name == "pbs_rsub":
        return pbs_rsub(c, words)
    if name == "pbs_rdel":
        return pbs_rdel(c, words)
    return act(c, name, words)


def down(c: PbsCluster, name: str, words: list[str]) -> Answer:
    """Nobody listens: JSON is still printed, and looks like no jobs."""
    refused = "Connection refused\n"
    if name == "qstat":
        out = as_json(c, {}) if "json" in words else ""
        return Answer(out, f"{refused}qstat: cannot connect to server {c.server} (errno=15010)\n", 255)
    if name == "pbsnodes":
        return Answer("", f"{refused}pbsnodes: cannot connect to server {c.server}, error=15010\n", 1)
    if name == "qdel":
        return Answer("", f"{refused}Couldn't connect to cluster: {c.server}\n", 162)
    return Answer("", f"{refused}{name}: cannot connect to server {c.server} (errno=15010)\n", 162)


if __name__ == "__main__":
    sys.exit(core.main(sys.argv[1:], PbsCluster, PROGRAMS, answer, down))
