"""The language of a page: chosen by the person, else by the browser, else English."""

from __future__ import annotations

import gettext
import io
import re
from functools import cache
from pathlib import Path

from babel import negotiate_locale
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from fastapi import Request

LANGUAGES = ("en", "zh_Hans")
_FOLDER = Path(__file__).parent / "locale"


def language_of(request: Request) -> str:
    """One of `LANGUAGES`."""
    chosen = request.query_params.get("lang") or request.cookies.get("penstock_lang")
    if chosen in LANGUAGES:
        return chosen
    asked = [part.partition(";")[0].strip().replace("-", "_") for part in
             request.headers.get("accept-language", "").split(",")]  # fmt: skip
    asked = ["zh_Hans" if a.lower() in ("zh", "zh_cn", "zh_sg", "zh_hans_cn") else a for a in asked if a]
    return negotiate_locale(asked, LANGUAGES) or "en"


@cache
def translator(language: str) -> gettext.NullTranslations:
    """The catalogue of a language, compiled from its .po file at first use; English is the text itself."""
    source = _FOLDER / f"{language}.po"
    if not source.exists():
        return gettext.NullTranslations()
    compiled = io.BytesIO()
    with source.open("rb") as file:
        write_mo(compiled, read_po(file))
    compiled.seek(0)
    return gettext.GNUTranslations(compiled)


def said(text: str, language: str) -> str:
    """What is said elsewhere, with its values in it, in a language; as it is where the catalogue has no such sentence.

    The catalogue has the sentence with `{}` for each value, as those of the commands (docs/languages.md).
    """
    exact = translator(language).gettext(text) if text else text
    if exact != text:
        return exact
    for pattern, translated in _sentences(language):
        match = pattern.fullmatch(text)
        if match is not None:
            # A value of several words is a sentence again; one word is a name, and stays.
            return translated.format(*(said(part, language) if " " in part else part for part in match.groups()))
    return text


@cache
def _sentences(language: str) -> list[tuple[re.Pattern[str], str]]:
    """Those with the most words first: the closest one speaks."""
    source = _FOLDER / f"{language}.po"
    if not source.exists():
        return []
    with source.open("rb") as file:
        pairs = [(str(m.id), str(m.string)) for m in read_po(file) if "{}" in str(m.id)]
    pairs.sort(key=lambda pair: -len(pair[0]))
    return [(re.compile("(.*?)".join(map(re.escape, t.split("{}"))), re.DOTALL), told) for t, told in pairs]
