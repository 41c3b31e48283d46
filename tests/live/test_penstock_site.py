"""`penstock-site` as a centre's staff use it: installed from wheels without network, its commands on a real Slurm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from site_adapters.centre.cli import main
from tests.lab.slurm import SlurmLab

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]


# The lab keeps jobs' environments in its accounting, which a centre should not.
OF_THE_LAB = {"no environments in accounting"}


def call(home: Path, *words: str, code: int = 0) -> str:
    """One command, as typed."""
    from click.testing import CliRunner

    done = CliRunner().invoke(main, ["--home", str(home), *words])
    assert done.exit_code == code, done.output
    return str(done.output)


def initialised(home: Path, lab: SlurmLab) -> None:
    call(home, "init", "--site", "alpha", "--account", "lab_gw", "--act-as", "lab_alice",
         "--set", f"SLURM_CONF={lab.env['SLURM_CONF']}")  # fmt: skip


def test_init_finds_the_scheduler_and_check_says_what_is_missing(tmp_path: Path, slurm_alpha: SlurmLab) -> None:
    initialised(tmp_path / "home", slurm_alpha)

    text = call(tmp_path / "home", "check", "--json", code=1)
    checks = {c["name"]: c for c in json.loads(text)}

    assert len(checks) >= 25
    failed = {name for name, c in checks.items() if not c["ok"]}
    assert failed == {"gateway key", *OF_THE_LAB}, failed
    assert "penstock-site trust" in checks["gateway key"]["remedy"]


def test_check_finds_nothing_more_once_the_gateway_is_trusted(tmp_path: Path, slurm_alpha: SlurmLab) -> None:
    initialised(tmp_path / "home", slurm_alpha)
    call(tmp_path / "home", "trust", call(tmp_path / "home", "key").strip())

    text = call(tmp_path / "home", "check", "--json", code=1)
    assert {c["name"] for c in json.loads(text) if not c["ok"]} == OF_THE_LAB

    assert "good, last hash" in call(tmp_path / "home", "audit", "verify")
    assert call(tmp_path / "home", "audit", "export", "--format", "cef").startswith("CEF:0|Penstock|")


def test_wheels_install_without_network_and_bring_nothing_of_the_gateway(tmp_path: Path) -> None:
    """The needs are taken from this environment: only our own wheel is built and installed."""
    house, source = tmp_path / "wheels", str(ROOT / "packaging/penstock-site")
    argv = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(house), source]
    built = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    place = tmp_path / "venv"
    venv.create(place, with_pip=False, symlinks=True)
    site = next((place / "lib").glob("python*")) / "site-packages"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", str(site),
                    *map(str, house.glob("*.whl"))], check=True, capture_output=True)  # fmt: skip
    ours = next(p for p in map(Path, sys.path) if p.name == "site-packages" and (p / "pydantic").exists())
    (site / "needs.pth").write_text(str(ours) + "\n")
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    script = (
        "import site_adapters.centre.cli as c, job_templates, sys; print(c.__file__); print('gateway' in sys.modules)"
    )
    shown = subprocess.run([place / "bin" / "python", "-c", script], capture_output=True, text=True, cwd=tmp_path,
                           env=env, check=False)  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    assert str(site) in shown.stdout and "False" in shown.stdout
    assert (site / "job_templates/dialects/slurm.sh.j2").exists()
    assert not (site / "gateway").exists() and not (site / "accounting").exists()
    assert (site / "site_adapters/centre/systemd/penstock-site.service").exists()
    argv = [place / "bin" / "python", "-m", "site_adapters.centre.cli", "key", "--help"]
    chinese = {**env, "LANGUAGE": "zh_CN", "LC_ALL": "C.UTF-8"}
    spoken = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path, env=chinese,
                            check=True)  # fmt: skip
    assert "输出本中心的公钥，供运营方使用。" in spoken.stdout
