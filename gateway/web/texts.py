"""The language of a page: chosen by the person, else by the browser, else English."""

from __future__ import annotations

import gettext
import io
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
