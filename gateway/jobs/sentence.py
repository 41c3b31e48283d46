"""A sentence with values in it, which a page can say in another language."""

from __future__ import annotations

from collections.abc import Callable


class Sentence(str):
    """The English text; `said` puts the values into what a catalogue has for its pattern (`{site} is closed.`)."""

    __slots__ = ("pattern", "values")

    pattern: str
    values: dict[str, object]

    def __new__(cls, pattern: str, **values: object) -> Sentence:
        made = super().__new__(cls, pattern.format(**values) if values else pattern)
        made.pattern, made.values = pattern, values
        return made

    def said(self, translate: Callable[[str], str]) -> str:
        told = translate(self.pattern)
        return told.format(**self.values) if self.values else told


def said(text: str, translate: Callable[[str], str]) -> str:
    """Any text of ours in the reader's language."""
    return text.said(translate) if isinstance(text, Sentence) else translate(text)
