"""The demo's centres: the site files of site_configs/centres, with an emulated scheduler behind each."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

HONESTLY = (
    "The centres kunshan, jinan and wuxi are EMULATED: small schedulers with these centres' commands that run real "
    "processes on this machine.\nNothing leaves it, and nothing here was tried at the real centres."
)
# What each centre of the demo really is.
WHAT = {
    "local": "processes of this machine",
    "kunshan": "EMULATED: a Slurm with DCU accelerators that stands for NSCC Kunshan; nothing leaves this machine",
    "jinan": "EMULATED: a PBS that stands for NSCC Jinan; nothing leaves this machine",
    "wuxi": "EMULATED: a Sunway that stands for NSCC Wuxi; nothing leaves this machine",
    "slurm": "this machine's own Slurm",
}
QUEUE = {"kunshan": "test", "wuxi": "share"}  # by our names for them; the others have a default
_EMULATORS: dict[str, tuple[str, ...]] = {
    "kunshan": ("slurm", "cluster=kunshan", 'gres={"dcu": 4}', 'association={"accounts": ["demo"], "qos": ["normal"]}',
                'partitions={"kshctest": {"default": true, "max": 1440}, "kshctest02": {"max": 1440}}'),
    "jinan": ("pbs",),
    "wuxi": ("sunway",),
}  # fmt: skip


def write(home: Path) -> list[str]:
    """Make the emulated centres that are not there yet, and the site file of every centre; their names."""
    folder = home / "sites"
    folder.mkdir(exist_ok=True)
    _put(folder, {"site": "local", "title": {"en": "This machine", "zh": "本机"}, "scheduler": "local",
                  "transport": {"kind": "local"}, "staging_root": str(home.resolve() / "staging")})  # fmt: skip
    for site, (kind, *settings) in _EMULATORS.items():
        root = (home / site).resolve()
        argv = [sys.executable, f"tests/emulators/{kind}.py", "install", str(root / "state"), str(root / "bin")]
        subprocess.run([*argv, "nodes=2", "cores_per_node=4", *settings], check=True)
        _put(folder, _emulated(site, root))
    (folder / "slurm.yaml").unlink(missing_ok=True)
    if not _slurm_answers():
        return ["local", *_EMULATORS]
    conf = os.environ.get("SLURM_CONF")
    _put(folder, {"site": "slurm", "title": {"en": "Slurm of this machine", "zh": "本机 Slurm"}, "scheduler": "slurm",
                  "transport": {"kind": "local"}, "credentials": {"observer": {"username": getpass.getuser()}},
                  "environment": {"SLURM_CONF": conf} if conf else {}})  # fmt: skip
    return ["local", *_EMULATORS, "slurm"]


def _emulated(site: str, root: Path) -> dict[str, Any]:
    """The centre's own site file; only how one gets in, where files go and the clock are this machine's."""
    content: dict[str, Any] = yaml.safe_load(Path(f"site_configs/centres/{site}.yaml").read_text("utf-8"))
    own = {"username": getpass.getuser()}
    content |= {
        "title": {"en": f"{content['title']['en']}, emulated", "zh": f"{content['title']['zh']}（模拟）"},
        "transport": {"kind": "local"}, "credentials": {"observer": own, "meter": own}, "zone": _zone(),
        "staging_root": str(root / "staging"),
        "environment": {"PATH": f"{root / 'bin'}:/usr/local/bin:/usr/bin:/bin"},
    }  # fmt: skip
    if content["scheduler"] == "pbs":
        content["pbs"] = {**content.get("pbs", {}), "accounting_log": str(root / "state" / "accounting")}
    return content


def _zone() -> str:
    file = Path("/etc/timezone")
    return (file.read_text().strip() if file.exists() else "").removeprefix("Etc/") or "UTC"


def _put(folder: Path, content: dict[str, Any]) -> None:
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    (folder / f"{content['site']}.yaml").write_text(text, "utf-8")


def _slurm_answers() -> bool:
    if shutil.which("scontrol") is None:
        return False
    try:
        return subprocess.run(["scontrol", "ping"], capture_output=True, timeout=20, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False
