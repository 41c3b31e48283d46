"""Quote words for a POSIX shell: the one place where argv becomes text (DESIGN law 9)."""

from __future__ import annotations

import shlex
from collections.abc import Iterable


def quote(word: str) -> str:
    """One word that a shell reads back as it is; a NUL cannot be an argument of any program."""
    if "\0" in word:
        raise ValueError("a NUL character cannot be part of an argument")
    return shlex.quote(word)


def quote_all(argv: Iterable[str]) -> str:
    """A command line that a shell splits into exactly these words."""
    return " ".join(quote(word) for word in argv)
