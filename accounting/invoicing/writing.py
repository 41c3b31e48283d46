"""Show names of any script on a page: fonts for what the page's own lacks, and right-to-left text as it is drawn.

The page is drawn glyph by glyph from the left, so that Arabic is joined and turned first. What no font has is shown as
its letter without marks, or as a box: a name never vanishes from a bill.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

import arabic_reshaper
import fontpkg_noto_sans
import fontpkg_noto_sans_arabic
from bidi.algorithm import get_display
from fpdf import FPDF

# Noto Sans for Latin of Europe and Africa, Greek, Cyrillic, Devanagari; each is loaded only where it is needed.
FALLBACKS = {
    "latin": Path(fontpkg_noto_sans.__file__).parent / "files" / "NotoSans[wdth,wght].ttf",
    "arabic": Path(fontpkg_noto_sans_arabic.__file__).parent / "files" / "NotoSansArabic[wdth,wght].ttf",
}
_BOX = "\u25a1"


def printable(text: str) -> str:
    """Without what a page cannot show: control characters and marks that turn the writing round."""
    return "".join(c for c in text if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn"))


def add_fonts(page: FPDF, main: str, texts: str) -> frozenset[int]:
    """Give a page the fonts that its texts need beside its own; the characters that it can show then."""
    known = set(_characters(page, main))
    needed = {ord(c) for c in turned(printable(texts)) if c != "\n"}
    used = []
    for name, path in FALLBACKS.items():
        if not needed - known:
            break
        page.add_font(name, "", path)
        if (needed - known) & (has := set(_characters(page, name))):
            used.append(name)
            known |= has
    if used:
        page.set_fallback_fonts(used)
    return frozenset(known)


def turned(text: str) -> str:
    """As it is drawn from the left: joined and turned where a line of it is written from the right."""
    return "\n".join(
        str(get_display(arabic_reshaper.reshape(line))) if any(map(_from_the_right, line)) else line
        for line in text.split("\n")
    )


def shown(text: str, known: frozenset[int]) -> str:
    """With a letter without its marks, or a box, for what cannot be shown."""
    return "".join(c if c == "\n" or ord(c) in known else "".join(_instead(c, known)) for c in text)


def _instead(c: str, known: frozenset[int]) -> Iterator[str]:
    letters = [x for x in unicodedata.normalize("NFKD", c) if not unicodedata.combining(x)]
    yield from letters if letters and all(ord(x) in known for x in letters) else [_BOX]


def _from_the_right(c: str) -> bool:
    return unicodedata.bidirectional(c) in ("R", "AL")


def _characters(page: FPDF, name: str) -> Iterator[int]:
    yield from getattr(page.fonts[name], "cmap", ())
