"""What the tables of the command line say of a statement and of a span."""

from __future__ import annotations

import pytest
from penstock.cli.recon import show_statements
from penstock.cli.shared import span_of, table

STATEMENT = {
    "id": 1, "site": "alpha", "period": "2026-11", "lines": 2, "agreed": 1, "open_breaks": 0, "open_amount": "0",
    "currency": "CNY", "oldest_days": 0, "late": 0, "signed_off": False, "replaced": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "settled"),
    [({}, "not compared"), ({"open_breaks": 1}, "no"), ({"signed_off": True}, "yes"), ({"replaced": True}, "replaced")],
)
def test_a_statement_that_another_took_the_place_of_is_not_told_as_unsettled(
    more: dict[str, bool], settled: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show_statements([STATEMENT | more])
    assert capsys.readouterr().out.splitlines()[1].endswith(f"  {settled}")


def test_a_month_is_called_by_its_name_and_another_span_by_its_days() -> None:
    begins, ends = "2026-10-31T16:00:00Z", "2026-11-30T16:00:00Z"
    assert span_of(begins, ends, "Asia/Shanghai") == "2026-11 (Asia/Shanghai)"
    assert span_of(begins, ends, "UTC") == "2026-10-31 to 2026-11-30 (UTC)"
    assert span_of(begins, "2026-11-15T16:00:00Z", "Asia/Shanghai") == "2026-11-01 to 2026-11-15 (Asia/Shanghai)"


def test_a_name_with_a_line_break_is_no_second_row(capsys: pytest.CaptureFixture[str]) -> None:
    table([["j1", "mine\nj2  yours", "failed"]], ["ID", "NAME", "STATE"])
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["ID", "NAME", "STATE"], ["j1", "mine", "j2", "yours", "failed"]
    ]  # fmt: skip
