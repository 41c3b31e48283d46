"""What people read at a terminal, in their language: English, or Simplified Chinese where LANGUAGE or LANG say so.

Only a command that a person types speaks another language. What is stored, signed or sent is English; it is put into
the reader's language where it is shown: `said` finds the catalogue's sentence of which it is an instance.
"""

from __future__ import annotations

import gettext
import re
import struct
from functools import cached_property
from pathlib import Path

_PLACE = re.compile(r"\{(\w*)\}")
_WORDS = re.compile(r"[^\W\d_]{2,}")


class Catalogue:
    """The texts of one command: `locale/<language>.po` in its folder, compiled when the package is built."""

    def __init__(self, domain: str, folder: Path) -> None:
        self.domain, self.folder = domain, folder
        self._found: gettext.NullTranslations = gettext.NullTranslations()

    def use(self) -> None:
        """From now on this process speaks the reader's language; what click and argparse say is looked up here too.

        A catalogue that cannot be read stops nobody: least of all the one who types `penstock-site stop`.
        """
        try:
            self._found = gettext.translation(self.domain, self.folder, fallback=True)
        except (OSError, ValueError):
            self._found = gettext.NullTranslations()
            return
        self.__dict__.pop("_sentences", None)
        gettext.bindtextdomain(self.domain, str(self.folder))
        gettext.textdomain(self.domain)

    def tr(self, text: str, /, **values: object) -> str:
        """A text of the command's own, with its values filled in."""
        found = self._found.gettext(text) if text else text
        return found.format(**values) if values else found

    def said(self, text: str) -> str:
        """A text that was made elsewhere, in English and with its values in it; as it is where it is not known."""
        if not text or (exact := self._found.gettext(text)) != text:
            return text and exact
        for pattern, translated in self._sentences:
            if (match := pattern.fullmatch(text)) is not None:
                # A value of several words is a sentence again; one word is a name, and stays.
                return translated.format(*(self.said(part) if " " in part else part for part in match.groups()))
        return text

    @cached_property
    def _sentences(self) -> list[tuple[re.Pattern[str], str]]:
        """Sentences with places `{}`, those with the most words first: the closest one speaks."""
        file = gettext.find(self.domain, self.folder)
        pairs = [] if file is None else [(i, s) for i, s in entries(Path(file)) if "{}" in i]
        pairs.sort(key=lambda pair: -len(_PLACE.sub("", pair[0])))
        return [(pattern_of(text), translated) for text, translated in pairs]


def pattern_of(text: str) -> re.Pattern[str]:
    """What an instance of a sentence with places looks like; it must hold words, else it would fit anything."""
    if _WORDS.search(_PLACE.sub("", text)) is None:
        raise ValueError(f"no words to know it by: {text!r}")
    return re.compile("(.*?)".join(re.escape(part) for part in text.split("{}")), re.DOTALL)


def entries(file: Path) -> list[tuple[str, str]]:
    """Every (text, translation) of a compiled catalogue, by the format in GNU gettext's manual, section 10.3."""
    data = file.read_bytes()
    order = "<" if data[:4] == b"\xde\x12\x04\x95" else ">"
    count, texts, translations = struct.unpack_from(f"{order}3I", data, 8)

    def word(table: int, number: int) -> str:
        length, start = struct.unpack_from(f"{order}2I", data, table + 8 * number)
        return data[start : start + length].decode()

    return [(word(texts, n), word(translations, n)) for n in range(count)]


# The texts of `penstock-site` and of the adapters' checks; the gateway's own commands show the latter, too.
SITE = Catalogue("penstock-site", Path(__file__).parent / "locale")
