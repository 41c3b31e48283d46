"""Random and damaged outputs: rows read + problems are the rows that came in, and what was not touched is read right.

A share in every run; `make soak` goes through 100,000 answers and more of them in all.
"""

from __future__ import annotations

import random
from contextlib import suppress

import pytest

from site_adapters.command import Garbled, Output
from site_adapters.pbs.commands import Qstat, read_qsub
from site_adapters.slurm.commands import read_sbatch
from site_adapters.sunway.commands import read_bsub
from site_adapters.types import Accepted, Rejected, Unknown
from tests.mutation import campaign, torn
from tests.unit.site_adapters.parser_formats import FORMATS


@pytest.mark.parametrize("name", FORMATS)
def test_rows_and_problems_are_the_rows_that_came_in(name: str) -> None:
    assert campaign(FORMATS[name], 400, seed=7) >= 400


@pytest.mark.parametrize("name", FORMATS)
def test_torn_answers_are_counted_by_the_marks_that_are_left(name: str) -> None:
    torn(FORMATS[name], 200, seed=8)


@pytest.mark.soak
@pytest.mark.parametrize("name", FORMATS)
def test_a_hundred_thousand_damaged_answers(name: str) -> None:
    assert campaign(FORMATS[name], 8_000, seed=11) >= 8_000
    torn(FORMATS[name], 2_000, seed=12)


def test_random_bytes_never_raise_and_are_never_taken_for_an_id() -> None:
    r = random.Random(3)
    for _ in range(2000):
        data = bytes(r.randrange(256) for _ in range(r.randint(0, 200)))
        for read in (read_qsub, read_bsub, read_sbatch):
            outcome = read(Output(data, b"", r.choice((0, 1, 137, 255))))
            assert isinstance(outcome, Accepted | Rejected | Unknown)
        for form in FORMATS.values():
            form.read(data)
        with suppress(Garbled):
            Qstat("qstat").live(user=None).parse(Output(data, b"", 0))
