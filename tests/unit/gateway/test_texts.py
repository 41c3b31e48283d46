"""Every text of the pages is there in Simplified Chinese."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import penstock
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

from gateway import errors, web
from gateway.jobs import pending
from gateway.web import texts
from site_adapters import registry
from site_adapters.local import reasons as local
from site_adapters.northbound import reasons as northbound
from site_adapters.pbs import reasons as pbs
from site_adapters.slurm import reasons as slurm
from site_adapters.sunway import reasons as sunway
from tests import catalogues

WEB = Path(web.__file__).parent
CLIENT = Path(penstock.__file__).parent / "locale" / "zh_CN.po"


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


def test_every_sentence_about_where_a_job_is_is_said_in_chinese() -> None:
    """Of pages and of `penstock why`: each end, each wait at each kind of scheduler, with values or without."""
    files = [Path(str(module.__file__)) for module in (pending, registry, local, northbound, pbs, slurm, sunway)]
    asked = {
        re.sub(r"{\w+}", "{}", text) for file in files for text in catalogues.sentences(file) if text.endswith(".")
    }
    assert len(asked) > 90
    english = {text for text in asked if texts.said(text.replace("{}", "7"), "zh_Hans") == text.replace("{}", "7")}
    with_names = {re.sub(r"{\w+}", "{}", text) for text in catalogues.translated(WEB / "locale" / "zh_Hans.po")}
    assert english - with_names == set()  # a `Sentence` has its values by name
    assert asked - catalogues.translated(CLIENT).keys() == set()


def test_a_value_that_is_a_sentence_is_said_in_chinese_too() -> None:
    assert texts.said("It ended with exit code 3.", "zh_Hans") == "结束时：退出码 3。"
    assert texts.said("There is no job 'j01'.", "zh_Hans") == "没有作业“j01”。"
    assert texts.said("It ended with exit code 3.", "en") == "It ended with exit code 3."
    assert texts.said("nothing known", "zh_Hans") == "nothing known"


def test_why_a_job_waits_at_pbs_sunway_rest_and_local_centres_is_translated() -> None:
    with (WEB / "locale" / "zh_Hans.po").open("rb") as file:
        translated = {str(m.id) for m in read_po(file) if m.id and m.string}

    told = [*pbs.BY_SUBSTATE.values(), *(why for _, why in pbs.BY_COMMENT), pbs.reason_of("Q", "", ""),
            pbs.reason_of("H", "", ""), *sunway.REASONS.values(), *northbound.BY_STATUS.values(),
            northbound.reason_of("", ""), local.reason_of("held"), local.reason_of("queued")]  # fmt: skip
    said = {text for why in told for text in (why.sentence, why.action) if text}
    assert said - translated == set()
