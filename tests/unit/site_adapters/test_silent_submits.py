"""A submit command that fails without a refusal may have made a job: its outcome is unknown, and looked up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from site_adapters.command import Output
from site_adapters.pbs.commands import read_qsub
from site_adapters.slurm.commands import read_sbatch
from site_adapters.sunway.commands import read_bsub
from site_adapters.types import Rejected, SubmitOutcome, Unknown

Read = Callable[[Output], SubmitOutcome]


@pytest.mark.parametrize("code", [1, 255])
@pytest.mark.parametrize("read", [read_sbatch, read_qsub, read_bsub])
def test_a_failure_without_a_word_is_no_refusal(read: Read, code: int) -> None:
    assert isinstance(read(Output(b"", b"\n", code)), Unknown)


@pytest.mark.parametrize(("read", "said"), [(read_sbatch, b"4711\n"), (read_qsub, b"4711.head\n")])
def test_an_id_beside_a_failing_exit_code_is_no_refusal(read: Read, said: bytes) -> None:
    assert isinstance(read(Output(said, b"", 1)), Unknown)


def test_a_refusal_in_words_stays_one() -> None:
    said = b"sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified\n"

    assert isinstance(read_sbatch(Output(b"", said, 1)), Rejected)
