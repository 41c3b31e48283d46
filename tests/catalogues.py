"""What a command says, read from its source: for the tests that compare it with a catalogue of translations."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po


def translated(catalogue: Path) -> dict[str, str]:
    """Text → its translation, of those that have one."""
    with catalogue.open("rb") as file:
        return {str(m.id): str(m.string) for m in read_po(file) if m.id and m.string}


def compiled(catalogue: Path, folder: Path, domain: str) -> Path:
    """A locale folder with this catalogue in it, as a build makes it."""
    made = folder / catalogue.stem / "LC_MESSAGES" / f"{domain}.mo"
    made.parent.mkdir(parents=True, exist_ok=True)
    with catalogue.open("rb") as file, made.open("wb") as out:
        write_mo(out, read_po(file))
    return folder


def helps(command: click.Command) -> Iterator[str]:
    """The help of a command, its options and its subcommands."""
    yield command.help or ""
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield parameter.help or ""
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), name)
            assert found is not None
            yield from helps(found)


def calls(files: Iterable[Path]) -> Iterator[tuple[str, str, ast.Call]]:
    """(file and line, what is called, the call)."""
    for file in sorted(files):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                yield f"{file.name}:{node.lineno}", ast.unparse(node.func), node


def literals(files: Iterable[Path]) -> Iterator[str]:
    """The texts in `tr(…)`."""
    for _, name, call in calls(files):
        if name == "tr" and isinstance(call.args[0], ast.Constant):
            yield str(call.args[0].value)


def bare_words(node: ast.AST, allowed: str = "") -> Iterator[str]:
    """Words in what is printed or raised for people that go round `tr` and `said`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("tr", "said", "local_time"):
        return
    if isinstance(node, ast.Subscript | ast.Attribute):  # a key, not a word
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value.replace(allowed, "") if allowed else node.value
        yield from re.findall(r"[A-Za-z]{3,} [A-Za-z]{2,}", text)
    for child in ast.iter_child_nodes(node):
        yield from bare_words(child, allowed)


def sentences(file: Path) -> Iterator[str]:
    """Every text of a module that holds two words: its places are `{}`, docstrings and commands are left out."""
    tree = ast.parse(file.read_text("utf-8"))
    skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Command", "ValueError", "conn.exec_driver_sql"):
            skipped |= {id(child) for child in ast.walk(node)}
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values if isinstance(part, ast.Constant)}
    for node in ast.walk(tree):
        text = template(node)
        if text is not None and id(node) not in skipped and re.search(r"[A-Za-z]{2,}:? [a-z]{2,}", text):
            yield text


def template(node: ast.AST) -> str | None:
    """A literal, or an f-string with `{}` for each value; None for what is neither."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values)
    return None


def places(text: str) -> list[str]:
    return sorted(re.findall(r"\{[^}]*\}", text))
