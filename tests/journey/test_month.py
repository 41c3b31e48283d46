"""The month that `benchmarks.month` measures, small: the same money, whoever prepares and books it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import month
from gateway.billing import bookers, preparers

# What 2,500 seeded runs settle to, whatever the database and however the work is spread.
RUNS, NET = 2_500, "net 10366108438"


@pytest.mark.parametrize("helpers", [0, 2])
def test_a_month_is_settled_the_same(
    tmp_path: Path, db_url: str, helpers: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(month, "COUNT", RUNS)
    monkeypatch.setattr(preparers, "_HELPERS", helpers)
    monkeypatch.setattr(preparers, "_MANY", 500)
    if not helpers:
        monkeypatch.setattr(bookers, "_LANES", dict.fromkeys(bookers._LANES, 1))
    month._month("a month", db_url, tmp_path)
    said = capsys.readouterr().out
    assert "sound" in said and "computed again by fractions: equal" in said
    assert f"{RUNS:,} rows read, {RUNS:,} recorded" in said
    assert NET in said
