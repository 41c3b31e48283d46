"""Every text of the command line is there in Simplified Chinese, and is shown in it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from penstock import cli
from penstock.cli import shared, texts
from penstock.cli.recon import KINDS

from accounting import meters_watch
from accounting.payments import bank_csv, camt
from accounting.reconciling import drafts, explain, statement
from gateway.jobs import checks, grades, request, unwritable
from site_adapters.northbound import options as northbound
from site_adapters.pbs import options as pbs
from site_adapters.slurm import options as slurm
from site_adapters.sunway import options as sunway
from tests import catalogues

CLIENT = Path(cli.__file__).parents[1]
CATALOGUE = CLIENT / "locale" / "zh_CN.po"
FILES = list((CLIENT / "cli").glob("*.py"))
# What is looked up by a value that the gateway sends or a table in the code gives, not by a literal in `tr(…)`.
BY_VALUE = ("invoice", "credit note", "in the period", "corrections of earlier ones", "earned", "tax", "centre share",
            "fees", "withheld", "net", "pay", "owed before", "paid of that", "owed now",
            "Charged by the centres' meters", "Provisional, no record yet", "Charged and not billed", "In dispute",
            "Received and not matched", "PROJECT", "USER", "SITE", "QUEUE", "STATE", "DAY", "MONTH", "open",
            "closing", "closed", "core-seconds", "gpu-seconds", "node-seconds", "memory-mib-seconds", "core-hour",
            "gpu-hour", "node-hour", "core-hours", "gpu-hours", "minimum", "ours", "theirs", "with centre",
            "credited", "rejected", "withdrawn", "run", "block", "subscription", "KIND", "raise", "comment",
            "pass on", "centre answer", "credit", "reject", "withdraw", "given", "waits to begin", "not covered",
            "canceled", "cancellation asked for", "waiting", "posted", "refused", "as used", "trial", "payer",
            "operator", "centre", "webhook", "mail",
            *KINDS.values())  # fmt: skip


def literals() -> Iterator[str]:
    """Texts in `tr(…)`, headings of tables, and what `_list` and `_post` are given to show."""
    yield from catalogues.literals(FILES)
    for _, name, call in catalogues.calls(FILES):
        if name == "table":
            elements = call.args[1].elts if isinstance(call.args[1], ast.Tuple) else []
            yield from (str(e.value) for e in elements if isinstance(e, ast.Constant))
        elif name == "_list" and isinstance(call.args[2], ast.Dict):
            yield from (str(e.value) for e in call.args[2].values if isinstance(e, ast.Constant))
        elif name == "_post" and isinstance(call.args[3], ast.Constant):
            yield str(call.args[3].value)


def test_every_text_of_the_command_line_is_translated() -> None:
    asked = {text for text in (*catalogues.helps(cli.penstock), *literals(), *BY_VALUE) if text.strip()}
    asked |= {text for _, text in cli.COMMANDS.values()}
    asked -= {"{id}"}  # nothing but a value
    assert len(asked) > 300
    assert sorted(asked - catalogues.translated(CATALOGUE).keys()) == []


def test_nothing_is_said_past_the_catalogue() -> None:
    said = {}
    for where, name, call in catalogues.calls(FILES):
        if name in ("click.echo", "click.UsageError", "report.warn"):
            typed = "penstock account"  # a command to type
            words = [word for argument in call.args for word in catalogues.bare_words(argument, typed)]
            if words:
                said[where] = words
    assert said == {}


def test_every_sentence_about_a_job_a_meter_or_a_difference_is_translated() -> None:
    """Those that the gateway makes, with values in them: why a job is refused, an alarm, why two figures differ."""
    made = [request, checks, grades, unwritable, slurm, pbs, sunway, northbound, meters_watch, drafts, explain,
            statement, bank_csv, camt]  # fmt: skip
    asked = {text for module in made for text in catalogues.sentences(Path(str(module.__file__)))}
    assert len(asked) > 50
    assert sorted(t for t in asked - catalogues.translated(CATALOGUE).keys() if t != "one of: ") == []


def test_a_translation_has_the_places_of_its_text() -> None:
    for text, said in catalogues.translated(CATALOGUE).items():
        if "{}" in text:  # a sentence of the gateway's: as many values, in whichever order
            values = [f"<{n}>" for n in range(text.count("{}"))]
            shown = said.format(*values)
            assert [v for v in values if v not in shown] in ([], ["<1>"]), text  # a plural's `s` has no place
        else:
            assert catalogues.places(text) == catalogues.places(said), text


def test_help_is_shown_in_the_readers_language() -> None:
    """As it is installed: the catalogue was compiled when the package was."""
    said = {}
    for language in ("zh_CN.UTF-8", "C.UTF-8"):
        environment = {**os.environ, "LC_ALL": language, "LANGUAGE": language.partition(".")[0]}
        done = subprocess.run([sys.executable, "-c", "from penstock.cli import main; main()", "settlement", "--help"],
                              capture_output=True, text=True, check=True, env=environment)  # fmt: skip
        said[language] = done.stdout
    assert "用法" in said["zh_CN.UTF-8"] and "一份结算单，从所得到应付。" in said["zh_CN.UTF-8"]
    assert "One statement, from what was earned to what is paid." in said["C.UTF-8"]


@pytest.fixture
def chinese(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(texts, "_FOLDER", str(catalogues.compiled(CATALOGUE, tmp_path, "penstock")))
    monkeypatch.setenv("LANGUAGE", "zh_CN")
    texts.use_catalogue()
    yield
    monkeypatch.undo()
    texts.use_catalogue()


@pytest.mark.usefixtures("chinese")
def test_what_the_gateway_says_is_shown_in_the_readers_language() -> None:
    said = texts.said("+10 core-seconds, and no known cause gives them")
    assert said == "+10 核秒，没有已知原因可解释"
    assert texts.said("2 allocated cores × 5 s") == "2 个已分配核 × 5 秒"
    assert texts.said("with 117 s of suspension; seconds as hours") == "含挂起的 117 秒；秒记作小时"
    told = texts.said(
        "The job has 1 problem: The project's budget (month) is spent: 3 CNY charged and 2 CNY held of 5 CNY."
    )
    assert told == "作业有 1 个问题：项目的预算（month）已用完：已计费 3 CNY，占用 2 CNY，共 5 CNY。"
    step = "2026-11-01 00:00:00 UTC to 2026-11-01 00:00:10 UTC: 10 core-seconds × rule 1: 1 CNY per core-hour = 9 CNY"
    assert "10 核秒 × 价目 1：每核时 1 CNY = 9 CNY" in texts.said(step)
    refused = "The job has 1 problem: jinan cannot run it so: PBS has no QOS: choose a queue."
    assert texts.said(refused) == "作业有 1 个问题：jinan 不能这样运行它：PBS 没有 QOS：请选择队列。"
    too_many = "64 cores of one process is more than alpha allows (16)."
    assert texts.said(too_many) == "64 核（单进程）超过 alpha 所允许的（16）。"
    assert texts.said("what nobody knows") == "what nobody knows"


@pytest.mark.usefixtures("chinese")
def test_messages_carry_their_values_and_columns_stand_under_wide_headings(capsys: pytest.CaptureFixture[str]) -> None:
    assert texts.tr("exit code {code}", code=3) == "退出码 3"
    assert texts.tr("{id}: {state}", id="a1", state="posted", text="of an answer") == "a1：posted"
    shared.table([("a", "1"), ("b", "2")], ("PROJECT", "RUNS"))
    assert capsys.readouterr().out.splitlines() == ["项目  运行次数", "a     1", "b     2"]
