"""What the documents name is there: files, links, commands with their options, routes of the API."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from penstock.cli import penstock

from gateway.admin import commands
from site_adapters.centre.cli import main as penstock_site

ROOT = Path(__file__).parents[3]
DOCUMENTS = [ROOT / "README.md", ROOT / "site_configs" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_FOLDERS = "accounting|benchmarks|client|docs|gateway|job_templates|packaging|site_adapters|site_configs|tests"
_PLACED = {"site_adapters/centre/systemd/"}  # where the wheel puts what is in packaging/


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="gateway")
    commands.add_to(made.add_subparsers())
    return made


def code(text: str) -> Iterator[str]:
    """What stands in blocks of code, without its comments, and between backticks."""
    fenced = False
    for line in text.splitlines():
        if line.strip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield re.split(r" #|\s{3,}", line.strip().removeprefix("$ "))[0]
        else:
            yield from re.findall(r"`([^`]+)`", line)


def words_of(text: str) -> list[str]:
    plain = re.sub(r"[\[\]]", " ", text).replace("…", "")
    try:
        return shlex.split(plain)
    except ValueError:
        return plain.split()


def problem(command: click.Command, words: list[str]) -> str | None:
    """The first word that is no command or no option of it."""
    context = click.Context(command)
    if words[:1] == ["--home"]:  # of penstock-site itself
        words = words[2:]
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = [command.get_command(context, name) for name in words[0].split("|")]
        if None in found:
            return words[0]
        command, words = found[0] or command, words[1:]
    known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)} | {"--help", "--version"}
    given = words[: words.index("--")] if "--" in words else words
    return next((w for w in given if w.startswith("--") and w.partition("=")[0].rstrip(",;:)") not in known), None)


def admin_problem(words: list[str]) -> str | None:
    choices = {}
    for action in parser()._actions:
        choices |= action.choices or {}  # type: ignore[operator]
    inner = next(a.choices for a in choices["admin"]._actions if a.choices)
    assert isinstance(inner, dict)
    for name in words[:1]:
        for one in name.split("|"):
            if one not in inner:
                return one
        known = inner[name.split("|")[0]]._option_string_actions
        return next((w for w in words[1:] if w.startswith("--") and w.partition("=")[0] not in known), None)
    return None


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_files_are_there(document: Path) -> None:
    text = document.read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if not link.startswith("http")]
    lost = [link for link in links if not (document.parent / link).exists()]
    named = set(re.findall(rf"`((?:{_FOLDERS})/[\w./-]*)`", text)) - _PLACED
    assert lost + [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_their_options_are_there(document: Path) -> None:
    wrong = []
    for typed in code(document.read_text("utf-8")):
        for start, group in (("penstock-site ", penstock_site), ("penstock ", penstock)):
            if typed.startswith(start) and (bad := problem(group, words_of(typed.removeprefix(start)))):
                wrong.append((typed, bad))
        for start in ("python -m gateway admin ", "gateway admin ", "admin "):
            if typed.startswith(start) and (bad := admin_problem(words_of(typed.removeprefix(start)))):
                wrong.append((typed, bad))
    assert wrong == []


def test_a_file_that_the_code_names_in_docs_is_there() -> None:
    named = {
        (match, file.relative_to(ROOT).as_posix())
        for folder in _FOLDERS.split("|") if folder not in ("docs", "tests")
        for file in (ROOT / folder).rglob("*.py")
        for match in re.findall(r"docs/[\w/-]+\.(?:md|py|json)", file.read_text("utf-8"))
    }  # fmt: skip
    assert sorted(one for one in named if not (ROOT / one[0]).exists()) == []
