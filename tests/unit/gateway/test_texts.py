"""Every text of the pages is there in Simplified Chinese."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

from gateway import errors, web
from site_adapters.local import reasons as local
from site_adapters.northbound import reasons as northbound
from site_adapters.pbs import reasons as pbs
from site_adapters.sunway import reasons as sunway

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

    source = ast.parse((WEB.parent / "jobs" / "pending.py").read_text())
    texts = [n.value for n in ast.walk(source) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    patterns = {text for text in texts if re.search(r"{\w+}", text)}

    assert len(patterns) >= 10
    for pattern in patterns:
        assert set(re.findall(r"{\w+}", translated[pattern])) == set(re.findall(r"{\w+}", pattern))


def test_why_a_job_waits_at_pbs_sunway_rest_and_local_centres_is_translated() -> None:
    with (WEB / "locale" / "zh_Hans.po").open("rb") as file:
        translated = {str(m.id) for m in read_po(file) if m.id and m.string}

    told = [*pbs.BY_SUBSTATE.values(), *(why for _, why in pbs.BY_COMMENT), pbs.reason_of("Q", "", ""),
            pbs.reason_of("H", "", ""), *sunway.REASONS.values(), *northbound.BY_STATUS.values(),
            northbound.reason_of("", ""), local.reason_of("held"), local.reason_of("queued")]  # fmt: skip
    said = {text for why in told for text in (why.sentence, why.action) if text}
    assert said - translated == set()
