"""Every text of `gateway admin` is there in Simplified Chinese."""

from __future__ import annotations

import argparse
import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from accounting import meters_watch
from accounting.meters_watch import AlarmKind
from accounting.reconciling import statement
from accounting.reconciling.breaks import Category
from gateway import admin, backup
from gateway.admin import commands
from site_adapters.texts import pattern_of
from tests import catalogues

ADMIN = Path(admin.__file__).parent
CATALOGUE = ADMIN / "locale" / "zh_CN.po"
FILES = [file for file in ADMIN.glob("*.py") if not file.name.startswith("demo")]
# Sentences that services make and these commands show.
SHOWN = [Path(str(module.__file__)) for module in (backup, meters_watch, statement)] + [ADMIN / "checking.py"]
OF_ARGPARSE = ("usage: ", "positional arguments", "options", "show this help message and exit",
               "%(prog)s: error: %(message)s\n", "the following arguments are required: %s")  # fmt: skip
BY_VALUE = ("core-hours", "everywhere", "open", "closing", "closed", "not opened: nothing is closed")


def helps(parser: argparse.ArgumentParser) -> Iterator[str]:
    """What a command and its arguments are for; an argument without a word about it is none."""
    yield parser.description or ""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from helps(command)
        else:
            assert action.help, f"{parser.prog}: {action.dest}"
            yield action.help


def every_command(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers under it that run something."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for group in groups:
        for command in group.choices.values():
            yield from every_command(command)
    if not groups:
        yield parser


def told() -> Iterator[str]:
    """Texts in `tr(…)`, and those that are chosen before as `told`."""
    yield from catalogues.literals(FILES)
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "told":
                chosen = node.value
                parts = (chosen.body, chosen.orelse) if isinstance(chosen, ast.IfExp) else (chosen,)
                yield from (str(part.value) for part in parts if isinstance(part, ast.Constant))
            if isinstance(node, ast.keyword) and node.arg == "remedy" and isinstance(node.value, ast.Constant):
                yield str(node.value.value)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="gateway", description="Run and look after a Penstock gateway.")
    commands.add_to(made.add_subparsers())
    return made


def test_every_text_of_the_commands_is_translated() -> None:
    asked = {*helps(parser()), *told(), *OF_ARGPARSE, *BY_VALUE} - {""}
    assert len(asked) > 120
    assert sorted(asked - catalogues.translated(CATALOGUE).keys()) == []


def test_every_sentence_of_a_copy_a_meter_or_a_statement_is_translated() -> None:
    kinds = {kind.name.lower() for kind in Category} | {kind.value for kind in AlarmKind}
    asked = {text for file in SHOWN for text in catalogues.sentences(file)} | kinds
    assert sorted(asked - catalogues.translated(CATALOGUE).keys()) == []


def test_nothing_is_said_past_the_catalogue() -> None:
    said = {}
    for where, name, call in catalogues.calls(FILES):
        if name in ("print", "Invalid", "NotFound", "Conflict", "SiteUnreachableError", "GatewayError"):
            words = [word for argument in call.args for word in catalogues.bare_words(argument)]
            if words:
                said[where] = words
    assert said == {}


def test_a_translation_has_the_places_of_its_text() -> None:
    for text, said in catalogues.translated(CATALOGUE).items():
        if "{}" in text:
            pattern_of(text)
            values = [f"<{n}>" for n in range(text.count("{}"))]
            assert sorted(re.findall(r"<\d>", said.format(*values))) == sorted(values), text
        else:
            assert catalogues.places(text) == catalogues.places(said), text
            assert sorted(re.findall(r"%(?:\(\w+\))?[sr]", text)) == sorted(re.findall(r"%(?:\(\w+\))?[sr]", said))


def test_help_and_errors_are_in_the_readers_language(tmp_path: Path, db_url: str) -> None:
    """As it is installed: the catalogue was compiled when the package was."""
    env = {**os.environ, "LC_ALL": "C.UTF-8", "LANGUAGE": "zh_CN", "PENSTOCK_HOME": str(tmp_path),
           "PENSTOCK_DATABASE_URL": db_url}  # fmt: skip

    def call(*words: str) -> str:
        argv = [sys.executable, "-m", "gateway", "admin", *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env)
        return done.stdout + done.stderr

    assert "以项目币种计的金额，或核时数" in call("credit", "--help")
    assert call("credit", "nobody's", "10") == "gateway: 没有项目 nobody's。\n"
