"""The demo as somebody types it: the second run shows what is there; a folder of another version is told in words."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.slurm import wait_for

ROOT = Path(__file__).parents[2]
SITES = ("local", "kunshan", "jinan", "wuxi")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("demo")
    yield made
    demo(made, "--stop")


def demo(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`make demo` without make, with its state in a folder of the test and a port of its own."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")}
    env |= {
        "HOME": str(folder / "home"),
        "PENSTOCK_DEMO_HOME": str(folder / "state"),
        "PENSTOCK_DEMO_PORT": _port(folder),
    }
    (folder / "home").mkdir(exist_ok=True)
    return subprocess.run([sys.executable, "-m", "gateway.admin.demo", *words], cwd=ROOT, env=env, capture_output=True,
                          text=True, check=False)  # fmt: skip


def _port(folder: Path) -> str:
    file = folder / "port"
    if not file.exists():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            file.write_text(str(probe.getsockname()[1]))
    return file.read_text()


def test_first_run_shows_a_job_at_every_centre_and_says_which_are_emulated(folder: Path) -> None:
    done = demo(folder)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("pi-by-mpi: completed") == len(SITES)
    for site in SITES[1:]:
        assert f"--- {site}: EMULATED" in done.stdout
    assert "#PBS" in done.stdout and "dcu:1" in done.stdout
    assert f"http://127.0.0.1:{_port(folder)}" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_second_run_runs_nothing_and_shows_what_is_there(folder: Path) -> None:
    jobs = json.loads((folder / "state" / "demo.json").read_text())["jobs"]
    before = os.times().children_user

    done = demo(folder)

    assert done.returncode == 0, done.stdout + done.stderr
    assert set(jobs) == set(SITES)
    for job_id in jobs.values():
        assert job_id in done.stdout
    assert f"http://127.0.0.1:{_port(folder)}" in done.stdout
    assert "EMULATED" in done.stdout
    assert "penstock run" not in done.stdout
    assert json.loads((folder / "state" / "demo.json").read_text())["jobs"] == jobs
    # Processor time, not the clock: the machine may be busy.
    assert os.times().children_user - before < 5


def test_stopped_demo_starts_again_without_running_anything(folder: Path) -> None:
    pid = int((folder / "state" / "gateway.pid").read_text())
    stopped = demo(folder, "--stop")
    wait_for(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text(), "its end")

    done = demo(folder)

    assert "stopped" in stopped.stdout
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("completed") == len(SITES)
    assert "penstock run" not in done.stdout


def test_address_that_somebody_else_serves_is_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "port").write_text(_port(folder))

    done = demo(tmp_path)

    assert done.returncode == 1
    assert "another" in done.stderr and "PENSTOCK_DEMO_PORT" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("what", ["no state", "another version", "unknown schema"])
def test_folder_of_another_version_is_a_sentence_that_says_what_to_do(tmp_path: Path, what: str) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "penstock.db").write_bytes(b"")
    if what != "no state":
        made_by = "0123" if what == "another version" else None
        (state / "demo.json").write_text(json.dumps({"token": "t", "sites": [], "made_by": made_by}))

    done = demo(tmp_path)

    assert done.returncode == 1
    assert "make demo-reset" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1

    reset = demo(tmp_path, "--reset")
    assert reset.returncode == 0
    assert not state.exists()
