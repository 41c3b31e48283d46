"""The texts of `penstock-site` in the reader's language; the checks' own, too, wherever they were made."""

from __future__ import annotations

from typing import Any

import click

from site_adapters.texts import SITE

tr, said = SITE.tr, SITE.said


class Spoken(click.Group):
    """A command whose help is in the reader's language, with that of its options and subcommands."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        SITE.use()
        _translate(self)
        return super().main(*args, **kwargs)


def _translate(command: click.Command) -> None:
    command.help = tr(command.help or "")
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.help:
            parameter.help = tr(parameter.help)
    if isinstance(command, click.Group):
        for one in command.commands.values():
            _translate(one)
