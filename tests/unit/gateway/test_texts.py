"""Every text of the pages is there in Simplified Chinese."""

from __future__ import annotations

import re
from pathlib import Path

from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

from gateway import errors, web

WEB = Path(web.__file__).parent


def test_every_text_of_a_template_is_translated() -> None:
    with (WEB / "locale" / "zh_Hans.po").open("rb") as file:
        translated = {str(m.id) for m in read_po(file) if m.id and m.string}

    found = extract_from_dir(WEB / "templates", method_map=[("**.html", "jinja2.ext:babel_extract")])
    asked = {str(message) for _, _, message, _, _ in found}

    assert len(asked) > 20
    assert asked - translated == set()


def test_every_title_of_a_problem_is_translated() -> None:
    with (WEB / "locale" / "zh_Hans.po").open("rb") as file:
        translated = {str(m.id) for m in read_po(file) if m.id and m.string}

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.GatewayError)]

    assert {kind.title for kind in kinds} - translated == set()


def test_every_sentence_with_values_is_translated_with_the_same_values() -> None:
    with (WEB / "locale" / "zh_Hans.po").open("rb") as file:
        translated = {str(m.id): str(m.string) for m in read_po(file) if m.id and m.string}

    keywords = {"Sentence": None}
    found = extract_from_dir(WEB.parent / "jobs", method_map=[("**.py", "python")], keywords=keywords)
    patterns = {str(message) for _, _, message, _, _ in found}

    assert len(patterns) >= 8
    for pattern in patterns:
        assert set(re.findall(r"{\w+}", translated[pattern])) == set(re.findall(r"{\w+}", pattern))
