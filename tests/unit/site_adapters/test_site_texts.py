"""Every text of `penstock-site`, and of the adapters' checks that it shows, is there in Simplified Chinese."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from site_adapters import centre
from site_adapters.centre import cli
from site_adapters.centre.conformance.run import Found, Result
from site_adapters.texts import SITE, pattern_of
from tests import catalogues

CENTRE = Path(centre.__file__).parent
ADAPTERS = CENTRE.parent
CATALOGUE = ADAPTERS / "locale" / "zh_CN.po"
SPOKEN = [CENTRE / "cli.py", CENTRE / "conformance" / "report.py"]
CHECKS = [*ADAPTERS.glob("*/checks.py"), ADAPTERS / "login_node" / "auth.py", CENTRE / "checks.py"]
# Looked up by a value: rows and outcomes that a table gives, names of checks that are made of the checks' own.
BY_VALUE = ("jobs", "cores", "nodes", "submits/min", "core-hours", "passed  ", "failed  ", "skipped ", "observer login",
            "meter login", "controller", "hidden jobs", "history", "accounting", "clock skew", "limits enforced",
            "staging", "credentials", "good", "open", "none", "planned: {}")  # fmt: skip
OF_CLICK = ("Usage:", "Options", "Commands", "default: {default}", "required", "Error: {message}",
            "Try '{command} {option}' for help.", "Missing argument", "Missing option", "No such command {name!r}.",
            "No such option {name!r}.", "Invalid value for {param_hint}: {message}",
            "Show this message and exit.")  # fmt: skip


def of_checks() -> Iterator[str]:
    """What `check` says: the sentences of the modules that look, and the names of what they looked at."""
    for file in CHECKS:
        yield from catalogues.sentences(file)
    for _, name, call in catalogues.calls(CHECKS):
        if name in ("_say", "CheckResult") and (text := catalogues.template(call.args[0])) is not None:
            yield text


def of_conformance() -> Iterator[str]:
    """Remedies, and why a check was skipped; what was seen is shown as the signed report has it."""
    files = sorted((CENTRE / "conformance").glob("*.py"))
    yield from catalogues.sentences(CENTRE / "conformance" / "run.py")
    for _, name, call in catalogues.calls(files):
        position = {"Check": 2, "Skipped": 0}.get(name)
        if position is not None and (text := catalogues.template(call.args[position])) is not None:
            yield text
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).lower().endswith("remedy"):
                text = catalogues.template(node.value)
                yield text if text is not None and " " in text else ""


def test_every_text_of_the_command_is_translated() -> None:
    asked = {*catalogues.helps(cli.main), *catalogues.literals(SPOKEN), *BY_VALUE, *OF_CLICK} - {""}
    assert len(asked) > 100
    assert sorted(asked - catalogues.translated(CATALOGUE).keys()) == []


def test_every_text_of_a_check_is_translated() -> None:
    known = catalogues.translated(CATALOGUE)
    told = {*of_checks(), *of_conformance(), *catalogues.sentences(CENTRE / "audit.py")} - {""}
    assert len(told) > 150
    assert sorted(told - known.keys()) == []


def test_nothing_is_said_past_the_catalogue() -> None:
    said = {}
    for where, name, call in catalogues.calls(SPOKEN):
        if name in ("click.echo", "click.ClickException"):
            words = [word for argument in call.args for word in catalogues.bare_words(argument)]
            if words:
                said[where] = words
    assert said == {}


def test_a_translation_has_the_places_of_its_text() -> None:
    for text, said in catalogues.translated(CATALOGUE).items():
        if "{}" in text:  # a sentence made elsewhere: as many values, in whichever order
            pattern_of(text)
            values = [f"<{n}>" for n in range(text.count("{}"))]
            assert sorted(re.findall(r"<\d>", said.format(*values))) == sorted(values), text
        else:
            assert catalogues.places(text) == catalogues.places(said), text


@pytest.fixture
def chinese(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(SITE, "folder", catalogues.compiled(CATALOGUE, tmp_path / "locale", SITE.domain))
    monkeypatch.setenv("LANGUAGE", "zh_CN")
    SITE.use()
    yield
    monkeypatch.undo()
    SITE.use()


@pytest.mark.usefixtures("chinese")
def test_a_sentence_made_elsewhere_is_shown_with_its_values() -> None:
    assert SITE.said("12 ended jobs are kept, 2 of the first 5 cannot be read") == (
        "保留 12 个已结束的作业，前 5 个中有 2 个无法读取"
    )
    assert SITE.said("not asked: everybody's jobs are visible") == "未查询：可见所有人的作业"
    assert SITE.said("Name it in site.yaml: commands: {qsub: …}") == "请在 site.yaml 中写明：commands: {qsub: …}"
    assert SITE.said("slurm_load_jobs error: Unable to contact") == "slurm_load_jobs error: Unable to contact"
    assert SITE.said("") == ""
    found = Found([Result("a/b", "", "passed", "", "", 0.1)])
    assert SITE.said(found.summary) == "共 1 项检查：通过 1，未通过 0，略过 0"


@pytest.mark.usefixtures("chinese")
def test_check_speaks_chinese_to_people_and_english_to_programs(tmp_path: Path) -> None:
    def call(*words: str) -> str:
        return str(CliRunner().invoke(cli.main, ["--home", str(tmp_path / "home"), *words]).output)

    assert "下一步：把此密钥交给运营方" in call("init", "--site", "here", "--account", "root")
    told = call("check")
    assert "未通过  网关密钥: 信任网关的 0 把密钥\n      → 运行 penstock-site trust ed25519:…" in told
    assert "未通过\n" in told.splitlines(keepends=True)[-1]
    assert '"name": "gateway key"' in call("check", "--json")
    assert call("trust", "nonsense").startswith("错误：")


def test_a_broken_catalogue_stops_no_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = catalogues.compiled(CATALOGUE, tmp_path / "locale", SITE.domain)
    file = folder / "zh_CN" / "LC_MESSAGES" / f"{SITE.domain}.mo"
    file.write_bytes(b"\0" + file.read_bytes()[1:])
    monkeypatch.setattr(SITE, "folder", folder)
    monkeypatch.setenv("LANGUAGE", "zh_CN")
    done = CliRunner().invoke(cli.main, ["--home", str(tmp_path / "home"), "key"])
    assert done.exit_code == 0 and done.output.startswith("ed25519:"), done.output
    monkeypatch.undo()
    SITE.use()


def test_help_is_shown_in_the_readers_language() -> None:
    """As it is installed: the catalogue was compiled when the package was."""
    for language, wanted in (("zh_CN", "总开关：拒绝一切调用"), ("C", "The one switch: refuse every call")):
        argv = [sys.executable, "-m", "site_adapters.centre.cli", "stop", "--help"]
        done = subprocess.run(argv, capture_output=True, text=True, check=True,
                              env={"LC_ALL": "C.UTF-8", "LANGUAGE": language})  # fmt: skip
        assert wanted in done.stdout.replace("\n ", "")
