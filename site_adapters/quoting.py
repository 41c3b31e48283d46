"""Quote words for a POSIX shell: the one place where argv becomes text (DESIGN law 9)."""

from __future__ import annotations

import shlex
from collections.abc import Sequence


def quote(word: str) -> str:
    """One word that a shell reads back as it is; a NUL cannot be an argument of any program."""
    if "\0" in word:
        raise ValueError("a NUL character cannot be part of an argument")
    return shlex.quote(word)


def quote_all(argv: Sequence[str]) -> str:
    """A command line that a shell splits into exactly these words.

    The first word is always in quotes: bare, the shell would read `if` and `A=b` as its own language.
    """
    if not argv or not argv[0]:
        raise ValueError("a command needs a program")
    first = quote(argv[0])
    return " ".join([first if first.startswith("'") else f"'{first}'", *map(quote, argv[1:])])
