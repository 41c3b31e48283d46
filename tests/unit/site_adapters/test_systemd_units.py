"""The systemd units that the wheel brings: systemd takes them, and what they start is there and does what it says."""

from __future__ import annotations

import configparser
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import click
import httpx
import pytest
import yaml

from site_adapters.centre.cli import _DEFAULT, main
from tests.builders import local_site
from tests.docking import dock
from tests.lab.slurm import wait_for

PACKAGE = Path(__file__).parents[3] / "packaging" / "penstock-site"
UNITS = sorted(PACKAGE.glob("*.service"))


def unit(path: Path) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(strict=True, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's words have capitals
    parsed.read_string(path.read_text())
    return parsed


def command(path: Path) -> list[str]:
    return unit(path)["Service"]["ExecStart"].split()


def test_both_ways_to_dock_have_a_unit() -> None:
    assert {command(path)[-1] for path in UNITS} == {"serve", "connect"}


@pytest.mark.parametrize("path", UNITS, ids=lambda p: p.name)
def test_what_a_unit_starts_is_what_the_guide_installs(path: Path) -> None:
    program, option, home, verb = command(path)
    guide = (PACKAGE.parents[1] / "docs" / "join-a-centre.md").read_text()
    scripts = (PACKAGE / "pyproject.toml").read_text()

    assert f"python3 -m venv {Path(program).parents[1]}" in guide
    assert f'{Path(program).name} = "site_adapters.centre.cli:main"' in scripts
    assert isinstance(main, click.Group) and verb in main.commands
    assert any(option in parameter.opts for parameter in main.params) and home == str(_DEFAULT)
    assert f'"{path.name}" = "site_adapters/centre/systemd/{path.name}"' in scripts


@pytest.mark.parametrize("path", UNITS, ids=lambda p: p.name)
def test_systemd_finds_nothing_wrong_with_a_unit(path: Path, tmp_path: Path) -> None:
    """With a program that is there in the place of the one that a centre installs."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze here")
    copy = tmp_path / path.name
    copy.write_text(path.read_text().replace(command(path)[0], "/bin/true"))
    argv = [analyze, "verify", "--man=no", str(copy)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    told = [line for line in done.stderr.splitlines() if path.name in line]
    assert told == [], done.stderr


def test_the_service_starts_answers_and_ends_as_systemd_asks(tmp_path: Path) -> None:
    """The unit's own words on another folder; systemd ends it with TERM."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = dock(tmp_path, local_site(tmp_path)).home
    file = home.folder / "docking.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"listen": f"127.0.0.1:{port}"}))
    _, option, _, verb = command(PACKAGE / "penstock-site.service")
    program = "import sys; from site_adapters.centre.cli import main; main(sys.argv[1:])"
    argv = [sys.executable, "-c", program, option, str(home.folder), verb]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, cwd=PACKAGE.parents[1])

    def answers() -> bool:
        assert process.poll() is None, process.stderr and process.stderr.read()
        try:
            return httpx.get(f"http://127.0.0.1:{port}/if2/versions", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_for(answers, "the service to answer", 60)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode in (0, -signal.SIGTERM)  # both are a clean end for systemd


def test_an_agent_without_an_address_says_what_is_missing(tmp_path: Path) -> None:
    home = dock(tmp_path, local_site(tmp_path)).home
    _, option, _, verb = command(PACKAGE / "penstock-site-agent.service")
    from click.testing import CliRunner

    done = CliRunner().invoke(main, [option, str(home.folder), verb])
    assert done.exit_code == 1 and "docking.yaml has no gateway_url" in done.output
