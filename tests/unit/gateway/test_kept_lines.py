"""A statement's lines are kept without names, whether they come one by one or at once."""

from __future__ import annotations

import json
import random

import pytest

from accounting.evidence import personal
from accounting.json_text import json_text
from gateway.billing.kept_lines import KeptLines

KEYS = {"alice": b"a" * 32, "bob": b"b" * 32, "gone": None}
KEEPER = KeptLines({"al": "alice", "bob": "bob", "erased": "gone"}, KEYS, "alpha/statement")
WORDS = ("al", "bob", "erased", "stranger", "7", "of al and bob", "", "ü")


@pytest.mark.parametrize(
    "names",
    [("run", "User", "cores"), ("run", "login", "jobname"), ("User",), ("run", "run", "User"), ("line", "User")],
    ids=["named so", "told by the login", "nothing else", "a name twice", "a scheduler's line"],
)
def test_lines_kept_at_once_are_those_that_are_kept_one_by_one(names: tuple[str, ...]) -> None:
    dice = random.Random(1)
    cells = [[dice.choice(WORDS) for _ in names] for _ in range(300)]
    logins = [dice.choice(("al", "bob", "erased", "stranger", "")) for _ in cells]
    one_by_one = [KEEPER.line(u, dict(zip(names, row, strict=True))) for u, row in zip(logins, cells, strict=True)]
    assert list(zip(*KEEPER.lines(logins, names, cells), strict=True)) == one_by_one


def test_what_is_sealed_in_a_line_is_opened_with_the_key_of_the_person_alone() -> None:
    raw = {"run": "7", "User": "al", "note": "al ran this", "cores": "2"}
    (login,), (text,) = KEEPER.lines(["al"], tuple(raw), [list(raw.values())])
    assert login == personal.pseudonym("al", b"a" * 32)
    kept = json.loads(text)
    assert (kept["run"], kept["cores"]) == ("7", "2") and not {"User", "note"} & kept.keys() and "al ran" not in text
    assert personal.whole(kept, key=b"a" * 32) == raw
    with pytest.raises(ValueError, match="changed, or belong to another key"):
        personal.whole(kept, key=b"b" * 32)


def test_of_an_erased_person_nothing_but_figures_is_kept_and_a_stranger_stays() -> None:
    logins, texts = KEEPER.lines(["erased", "stranger"], ("User", "cores"), [["erased", "2"], ["stranger", "3"]])
    assert logins == ["", "stranger"]
    assert texts == [json_text({"cores": "2"}), json_text({"User": "stranger", "cores": "3"})]
