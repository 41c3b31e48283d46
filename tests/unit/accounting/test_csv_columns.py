"""Many lines of a CSV are read at once: what is in them is what each says by itself."""

from __future__ import annotations

import random
from typing import Any

import pytest

from accounting.calendar import month
from accounting.reconciling import statement_formats
from accounting.reconciling.statement import BadLine, Header
from accounting.reconciling.statement_formats import Profile, read_statement

WORDS = {
    "run_key": ("a:1", " a:2 ", "a:" + "x" * 120, ""),
    "native_id": ("1001", "1001_7", "12[3].pbs01", "x_1", "9" * 12, "٣"),
    "task": ("", "", "5", " 0"),
    "username": ("u1", "u2 ", "", "ü"),
    "state": ("OK", "F", ""),
    "cores": ("64", "", "000000000001", " 2"),
    "start": ("1793517133", "2026-11-05T10:00:00", "0", "0000000001", "", "Unknown"),
    "end": ("1793539865", "2026-11-06 10:00:00+08:00", "", "None"),
    "elapsed": ("22732", "1-02:03:04", "12.7", ""),
    "suspended": ("", "00:01:57"),
    "gpu_seconds": ("", "10000000000"),
    "quantity": ("1454848", "12,5", "0", "9999999999"),
    "amount": ("", "2,8936", "-1", "0,0000005"),
}
WRONG = {"cores": "many", "start": "1893517133", "quantity": "", "amount": "1.2.3", "gpu_seconds": "-1", "task": "²"}
PROFILE = Profile(
    {name: name for name in WORDS}, quantity_unit="core_minutes", zone="Asia/Shanghai", delimiter=";", decimal=",",
    states={"OK": "COMPLETED"},
)  # fmt: skip


def told(dice: random.Random, name: str, wrong: float) -> str:
    if name in WRONG and dice.random() < wrong:
        return WRONG[name]
    plain, *others = WORDS[name]
    return dice.choice([plain] * 6 + others)


def read(document: str) -> tuple[list[tuple[Any, ...]], tuple[BadLine, ...], int, int | None]:
    found = read_statement(document.encode(), site_id="a", format_name="csv", header=Header(month("2026-11"), "CNY"),
                           profile=PROFILE)  # fmt: skip
    rows = [row for batch in found.read.batches() for row in batch]
    return rows, found.problems, found.read.core_seconds, found.read.amount_micro


@pytest.mark.parametrize("wrong", [0, 0.01], ids=["all can be read", "some cannot"])
def test_lines_read_at_once_are_those_that_are_read_one_by_one(monkeypatch: pytest.MonkeyPatch, wrong: float) -> None:
    dice = random.Random(4)
    for _ in range(60):
        plain = [name for name in WORDS if dice.random() < 0.5]  # columns in which all is as it mostly is
        lines = [
            ";".join(WORDS[name][0] if name in plain else told(dice, name, wrong) for name in WORDS)
            for _ in range(dice.randrange(1, 40))
        ]
        if wrong:
            lines[dice.randrange(len(lines))] += dice.choice(("", ";too many", "\n", "\n ; ; "))
        document = "\n".join([";".join(WORDS), *lines])
        monkeypatch.setattr(statement_formats, "_AT_ONCE", 7)
        at_once = read(document)
        monkeypatch.setattr(statement_formats, "_AT_ONCE", 1)
        assert at_once == read(document)


def test_a_column_as_most_are_is_not_read_word_by_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> Any:
        raise AssertionError("a plain word was read by itself")

    for name in ("whole", "seconds", "scaled"):
        monkeypatch.setattr(statement_formats, name, never)
    document = "\n".join([";".join(WORDS), *[";".join(words[0] for words in WORDS.values())] * 3])
    rows, problems, core_seconds, amount = read(document)
    assert (len(rows), problems, core_seconds, amount) == (3, (), 3 * 60 * 1454848, None)
