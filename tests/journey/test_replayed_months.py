"""Seeded seasons of business through the API: every balance, document and settlement is what fractions say.

Orders, trials, ratios, two meters, late and changed records, payers who share and who change, bank files and returns,
top-ups, credit notes, disputes, write-offs, refunds; two centres that sell, two currencies; clocks that go back, a leap
day. `make soak` plays forty.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.journey.season import Season

SOAK = [pytest.param(seed, 80, marks=pytest.mark.soak) for seed in range(100, 140)]


@pytest.mark.parametrize(("seed", "runs"), [(3, 30), *SOAK])
def test_a_season_comes_to_what_it_comes_to(tmp_path: Path, db_url: str, seed: int, runs: int) -> None:
    season = Season(tmp_path, db_url, seed)
    with season.served() as client:
        season.set_up(client)
        try:
            season.play(runs)
        except AssertionError:
            print("\n".join(season.trace[-40:]))
            raise
