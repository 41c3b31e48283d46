"""What people read, in their language: English, or Simplified Chinese where LANGUAGE, LC_ALL or LANG say so.

The catalogue is `locale/zh_CN.po`, compiled when the package is built. Click looks its own texts up in it too.
"""

from __future__ import annotations

import gettext

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
