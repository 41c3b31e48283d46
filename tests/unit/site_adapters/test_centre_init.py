"""What `penstock-site init` writes is plain, and its policy binds."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from site_adapters.centre.cli import main
from site_adapters.centre.conformance.run import Target, run
from site_adapters.centre.detect import Found, site_yaml
from site_adapters.centre.home import Home, compose


def test_the_site_file_says_twice_what_is_there_twice() -> None:
    found = Found("slurm", "c", {}, ("batch",), ("root",), "UTC", (), ())
    text = site_yaml(found, site="mine", account="observer1", environment={})
    assert "&" not in text and "*id" not in text
    assert yaml.safe_load(text)["credentials"]["meter"] == {"username": "observer1"}


def test_a_site_that_no_gateway_could_name_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for name in ("River", "r", "a_b", "-a", "x" * 32, "a\n"):
        done = CliRunner().invoke(main, ["--home", str(tmp_path / "home"), "init", "--site", name])
        assert done.exit_code == 1 and "no name of a site" in done.output
    assert not (tmp_path / "home").exists()


def test_a_scheduler_is_looked_for_where_its_commands_will_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `--set PATH=…` says, and not where whoever types `init` has theirs."""
    theirs, ours, home = tmp_path / "pbs" / "bin", tmp_path / "bin", tmp_path / "home"
    for program in (theirs / "qsub", theirs / "qmove", ours / "sbatch"):
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\nexit 1\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(ours))
    words = ["--home", str(home), "init", "--site", "mine", "--set", f"PATH={theirs}"]

    done = CliRunner().invoke(main, words)
    told = CliRunner().invoke(main, ["--home", str(home), "check"]).output

    assert "scheduler pbs" in done.output
    assert yaml.safe_load((home / "site.yaml").read_text())["scheduler"] == "pbs"
    assert f"command qsub: {theirs}/qsub" in told and f"command qmove: {theirs}/qmove" in told
    assert "command qstat: qstat is not found" in told


def test_a_report_is_verified_by_anybody_without_a_login(tmp_path: Path) -> None:
    words = ["--home", str(tmp_path / "none"), "conformance", "--report", str(tmp_path / "r.json")]
    assert "the report is not good" in CliRunner().invoke(main, [*words, "--verify"]).output
    assert "--account names the login" in CliRunner().invoke(main, words).output


def test_the_policy_that_init_writes_passes_the_kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No scheduler in PATH: this machine is the centre."""
    home, login = tmp_path / "home", getpass.getuser()
    with monkeypatch.context() as nothing_there:
        nothing_there.setenv("PATH", str(tmp_path))
        done = CliRunner().invoke(main, ["--home", str(home), "init", "--site", "mine", "--act-as", login])
    assert done.exit_code == 0, done.output
    site = yaml.safe_load((home / "site.yaml").read_text())
    assert site["scheduler"] == "local"
    site["transport"]["switch_user"] = False  # tests may run as root, which is no person's login
    site["staging_root"] = str(tmp_path / "staging")
    (home / "site.yaml").write_text(yaml.safe_dump(site))

    centre = compose(Home(home))
    try:
        found = run(Target.at_the_centre(centre, login, None), only=("policy/",))
    finally:
        centre.close()

    assert [f"{r.name}: {r.detail}" for r in found.failed] == []
    passed = {r.name for r in found.results if r.outcome == "passed"}
    limits = {"queued jobs", "queued jobs of one", "submissions a minute", "calls a minute", "cores in use", "duration"}
    assert {f"policy/{limit}" for limit in limits} <= passed
