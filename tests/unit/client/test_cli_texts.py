"""Every text of the command line is there in Simplified Chinese, and is shown in it."""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from penstock import cli
from penstock.cli import shared, texts

CLIENT = Path(cli.__file__).parents[1]
CATALOGUE = CLIENT / "locale" / "zh_CN.po"
# What is looked up by a value that the gateway sends or a table in the code gives, not by a literal in `tr(…)`.
BY_VALUE = ("invoice", "credit note", "in the period", "corrections of earlier ones", "earned", "tax", "centre share",
            "fees", "withheld", "net", "pay", "opening", "paid", "closing", "Charged by the centres' meters",
            "Provisional, no record yet", "Charged and not billed", "In dispute", "Received and not matched", "PROJECT",
            "USER", "SITE", "QUEUE", "STATE", "DAY", "MONTH")  # fmt: skip


def translated() -> dict[str, str]:
    with CATALOGUE.open("rb") as file:
        return {str(m.id): str(m.string) for m in read_po(file) if m.id and m.string}


def helps(command: click.Command) -> Iterator[str]:
    yield command.help or ""
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield parameter.help or ""
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), name)
            assert found is not None
            yield from helps(found)


def literals() -> Iterator[str]:
    """Texts in `tr(…)`, headings of tables, and what `_list` and `_post` are given to show."""
    for file in sorted((CLIENT / "cli").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            name = node.func.id
            if name == "tr" and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value)
            elif name == "table":
                elements = node.args[1].elts if isinstance(node.args[1], ast.Tuple) else []
                yield from (str(e.value) for e in elements if isinstance(e, ast.Constant))
            elif name == "_list" and isinstance(node.args[2], ast.Dict):
                yield from (str(e.value) for e in node.args[2].values if isinstance(e, ast.Constant))
            elif name == "_post" and isinstance(node.args[3], ast.Constant):
                yield str(node.args[3].value)


def test_every_text_of_the_command_line_is_translated() -> None:
    asked = {text for text in (*helps(cli.penstock), *literals(), *BY_VALUE) if text.strip()}
    asked |= {text for _, text in cli.COMMANDS.values()}
    asked -= {"{id}"}  # nothing but a value
    assert len(asked) > 300
    assert sorted(asked - translated().keys()) == []


def bare_words(node: ast.AST) -> Iterator[str]:
    """Words in what is printed or raised for people that go round `tr`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("tr", "local_time"):
        return
    if isinstance(node, ast.Subscript | ast.Attribute):  # a key, not a word
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from re.findall(
            r"[A-Za-z]{3,} [A-Za-z]{2,}", node.value.replace("penstock account", "")
        )  # a command to type
    for child in ast.iter_child_nodes(node):
        yield from bare_words(child)


def test_nothing_is_said_past_the_catalogue() -> None:
    said = {}
    for file in sorted((CLIENT / "cli").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "click.echo",
                "click.UsageError",
                "report.warn",
            ):
                words = [word for argument in node.args for word in bare_words(argument)]
                if words:
                    said[f"{file.name}:{node.lineno}"] = words
    assert said == {}


def test_a_translation_has_the_places_of_its_text() -> None:
    places = re.compile(r"\{[^}]*\}")
    wrong = [
        text for text, said in translated().items() if sorted(places.findall(text)) != sorted(places.findall(said))
    ]
    assert wrong == []


def test_help_is_shown_in_the_readers_language() -> None:
    """As it is installed: the catalogue was compiled when the package was."""
    said = {}
    for language in ("zh_CN.UTF-8", "C.UTF-8"):
        environment = {**os.environ, "LC_ALL": language, "LANGUAGE": language.partition(".")[0]}
        done = subprocess.run([sys.executable, "-c", "from penstock.cli import main; main()", "settlement", "--help"],
                              capture_output=True, text=True, check=True, env=environment)  # fmt: skip
        said[language] = done.stdout
    assert "用法" in said["zh_CN.UTF-8"] and "一份结算单，从所得到应付。" in said["zh_CN.UTF-8"]
    assert "One statement, from what was earned to what is paid." in said["C.UTF-8"]


@pytest.fixture
def chinese(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / "zh_CN" / "LC_MESSAGES"
    folder.mkdir(parents=True)
    compiled = io.BytesIO()
    with CATALOGUE.open("rb") as file:
        write_mo(compiled, read_po(file))
    (folder / "penstock.mo").write_bytes(compiled.getvalue())
    monkeypatch.setattr(texts, "_FOLDER", str(tmp_path))
    monkeypatch.setenv("LANGUAGE", "zh_CN")
    texts.use_catalogue()
    yield
    monkeypatch.undo()
    texts.use_catalogue()


@pytest.mark.usefixtures("chinese")
def test_messages_carry_their_values_and_columns_stand_under_wide_headings(capsys: pytest.CaptureFixture[str]) -> None:
    assert texts.tr("exit code {code}", code=3) == "退出码 3"
    assert texts.tr("{id}: {state}", id="a1", state="posted", text="of an answer") == "a1：posted"
    shared.table([("a", "1"), ("b", "2")], ("PROJECT", "RUNS"))
    assert capsys.readouterr().out.splitlines() == ["项目  运行次数", "a     1", "b     2"]
