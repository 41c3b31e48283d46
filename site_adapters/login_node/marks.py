"""Our own marks on a job at a site: its tag, its manifest, and the exit codes of our script's first lines."""

from __future__ import annotations

import re

FENCED = 75  # a second copy that the fence turned away
NOT_STARTED = (73, 74)  # no directory; no fence could be written

_TAG = re.compile(r"(?<![A-Za-z0-9])p[a-z0-9]{15}\.\d+(?![0-9])")
_MANIFEST = re.compile(r"(?<![A-Za-z0-9])pst1:[A-Za-z0-9:._-]+")


def tags_in(text: str) -> tuple[str, ...]:
    """All tags of gateways in a name, a comment or a command line, each once."""
    return tuple(sorted(set(_TAG.findall(text))))


def manifest_in(text: str) -> str:
    """The manifest that `recover` rebuilds a row from; empty where there is none."""
    match = _MANIFEST.search(text)
    return match[0] if match else ""
