"""What others wrote (reasons, names, lines of a statement) is read on a terminal, and must not drive it.

Escape sequences move the cursor and rewrite what stands there, and marks of direction turn text round: an amount would
look like another. `penstock` has the same for researchers (`client/` imports nothing of ours).
"""

from __future__ import annotations

import re
from typing import Any, TextIO, cast

# Control characters but tab and line feed; the embeddings, overrides and isolates of direction.
_DRIVING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Harmless:
    """A stream to a terminal: each such character is shown as U+FFFD."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(_DRIVING.sub("\ufffd", text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def harmless(stream: TextIO) -> TextIO:
    """The stream itself where no person reads it: files and pipes get every byte."""
    return cast(TextIO, Harmless(stream)) if stream.isatty() else stream
