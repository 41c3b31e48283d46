"""What people read, in their language: English, or Simplified Chinese where LANGUAGE, LC_ALL or LANG say so.

The catalogue is `locale/zh_CN.po`, compiled when the package is built. Click looks its own texts up in it too.
"""

from __future__ import annotations

import gettext
import re
import struct
from functools import cache
from pathlib import Path

import click

_FOLDER = __file__.removesuffix("cli/texts.py") + "locale"
_DOMAIN = "penstock"


def use_catalogue() -> None:
    """Let this process's texts come from our catalogue."""
    gettext.bindtextdomain(_DOMAIN, _FOLDER)
    gettext.textdomain(_DOMAIN)


def tr(text: str, /, **values: object) -> str:
    """A text in the reader's language, with its values filled in."""
    found = gettext.gettext(text)
    return found.format(**values) if values else found


def said(text: str) -> str:
    """What the gateway says, in English with its values in it, in the reader's language; as it is where it is unknown.

    The catalogue has the sentence with `{}` for each value. Parts between semicolons are sentences of their own.
    """
    if not text or gettext.find(_DOMAIN, _FOLDER) is None:
        return text
    found = _said(text)
    if found == text and "; " in text:
        return "；".join(said(part) for part in text.split("; "))
    return found


def _said(text: str) -> str:
    exact = gettext.gettext(text)
    if exact != text:
        return exact
    for pattern, translated in _sentences(gettext.find(_DOMAIN, _FOLDER) or ""):
        match = pattern.fullmatch(text)
        if match is not None:
            # A value of several words is a sentence again; one word is a name, and stays.
            return translated.format(*(_said(part) if " " in part else part for part in match.groups()))
    return text


@cache
def _sentences(file: str) -> list[tuple[re.Pattern[str], str]]:
    """The catalogue's sentences with places, those with the most words first: the closest one speaks."""
    pairs = [(text, translated) for text, translated in _entries(Path(file).read_bytes()) if "{}" in text]
    pairs.sort(key=lambda pair: -len(pair[0]))
    return [(re.compile("(.*?)".join(map(re.escape, t.split("{}"))), re.DOTALL), s) for t, s in pairs]


def _entries(data: bytes) -> list[tuple[str, str]]:
    """Every text of a compiled catalogue with its translation (GNU gettext's manual, 10.3)."""
    order = "<" if data[:4] == b"\xde\x12\x04\x95" else ">"
    count, texts, translations = struct.unpack_from(f"{order}3I", data, 8)

    def word(table: int, number: int) -> str:
        length, start = struct.unpack_from(f"{order}2I", data, table + 8 * number)
        return data[start : start + length].decode()

    return [(word(texts, n), word(translations, n)) for n in range(count)]


def in_language(command: click.Command) -> click.Command:
    """A command with its help, and that of its options and subcommands, in the reader's language."""
    if command.help:
        command.help = tr(command.help)
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.help:
            parameter.help = tr(parameter.help)
    if isinstance(command, click.Group):
        for name, one in command.commands.items():
            command.commands[name] = in_language(one)
    return command
