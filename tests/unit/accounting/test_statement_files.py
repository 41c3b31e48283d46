"""Statements as centres write them: marks of an encoding, CRLF, groups of digits, totals, missing columns."""

from __future__ import annotations

import json
from typing import Any

import pytest

from accounting.calendar import month
from accounting.reconciling.statement import Header, Statement, check_totals
from accounting.reconciling.statement_formats import Profile, Unreadable, read_statement

HEADER = Header(month("2026-11"), "CNY")
SACCT = (
    "Cluster|JobIDRaw|JobID|User|State|Submit|Start|End|ElapsedRaw|AllocCPUS|AllocNodes\n"
    "kun|7|7|ada|COMPLETED|2026-11-05T10:00:00|2026-11-05T10:00:00|2026-11-05T10:01:40|100|8|1\n"
)
PBS = (
    "11/05/2026 10:01:40;E;7.pbs;user=ada group=g queue=q ctime=1793872800 qtime=1793872800 etime=1793872800 "
    "start=1793872800 exec_host=n1/0*8 exec_vnode=(n1:ncpus=8) Resource_List.ncpus=8 Resource_List.nodect=1 "
    "end=1793872900 Exit_status=0 resources_used.ncpus=8 resources_used.walltime=00:01:40 run_count=1\n"
)
UR = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<u:UsageRecord xmlns:u="http://schema.ogf.org/urf/2003/09/urf">\n'
    '<u:RecordIdentity u:recordId="kun:7"/><u:JobIdentity><u:LocalJobId>7</u:LocalJobId></u:JobIdentity>'
    "<u:UserIdentity><u:LocalUserId>ada</u:LocalUserId></u:UserIdentity><u:Status>completed</u:Status>"
    "<u:Processors>8</u:Processors><u:WallDuration>PT100S</u:WallDuration>"
    "<u:EndTime>2026-11-05T10:01:40Z</u:EndTime>\n</u:UsageRecord>\n"
)
LINE = {"native_id": "7", "username": "ada", "start": 1793872800, "end": 1793872900, "quantity": 800, "amount": "1.5"}


def read(document: bytes | str, form: str, profile: Profile | None = None) -> Statement:
    content = document.encode() if isinstance(document, str) else document
    return read_statement(content, site_id="kun", format_name=form, header=HEADER, profile=profile)


def figures(found: Statement) -> tuple[int, int, int | None, int]:
    return found.read.lines, found.read.core_seconds, found.read.amount_micro, len(found.problems)


def findings(found: Statement) -> list[str]:
    lines = found.read
    told = check_totals(found.header, lines.lines, lines.core_seconds, lines.amount_micro or 0, found.problems)
    return [f.text for f in told]


@pytest.mark.parametrize(
    ("form", "text"),
    [("sacct", SACCT), ("pbs-log", PBS), ("ogf-ur", UR), ("json", json.dumps({"lines": [LINE]}, indent=1)),
     ("csv", "native_id,username,quantity\n7,ada,800\n")],
)  # fmt: skip
def test_a_file_out_of_windows_says_what_it_says_without_its_marks(form: str, text: str) -> None:
    plain = read(text, form)
    assert figures(plain)[:2] == (1, 800)
    marked = read(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(), form)
    assert figures(marked) == figures(plain)
    assert list(marked.read.batches()) == list(plain.read.batches())


GERMAN = Profile({"native_id": "J", "quantity": "Q", "amount": "A"}, delimiter=";", decimal=",")


def test_a_point_between_thousands_is_not_taken_for_the_decimal_mark() -> None:
    """Where the mark is a comma, `1.234` are twelve hundred and more, or a slip: never one and a quarter."""
    found = read("J;Q;A\n1;1.234;1,5\n2;8;2,5\n", "csv", GERMAN)
    assert figures(found) == (1, 8, 2_500_000, 1)
    assert found.problems[0].why == "'1.234' has a point, and its decimal mark is ','"


@pytest.mark.parametrize(
    ("decimal", "thousands", "quantity", "amount"),
    [(",", ".", "1.234", "12.345,678"), (".", ",", "1,234", "12,345.678"), (",", " ", "1\u00a0234", "12 345,678"),
     (".", "'", "1'234", "12'345.678"), (",", "\u0020", "1234", "12\u202f345,678")],
)  # fmt: skip
def test_thousands_are_apart_where_the_profile_says_so(
    decimal: str, thousands: str, quantity: str, amount: str
) -> None:
    profile = Profile(
        {"native_id": "J", "quantity": "Q", "amount": "A"}, delimiter=";", decimal=decimal, thousands=thousands,
        total_marker="Sum",
    )  # fmt: skip
    found = read(f"J;Q;A\n1;{quantity};{amount}\nSum;{quantity};{amount}\n", "csv", profile)
    assert (figures(found), findings(found)) == ((1, 1234, 12_345_678_000, 0), [])


@pytest.mark.parametrize("word", ["1,23", "12,3456", ",123", "1234,567", "1,234,56"])
def test_groups_of_other_than_three_digits_are_no_number(word: str) -> None:
    profile = Profile({"quantity": "Q"}, delimiter=";", thousands=",")
    assert figures(read(f"Q\n{word}\n", "csv", profile)) == (0, 0, None, 1)


@pytest.mark.parametrize("wrong", [{"decimal": ",", "thousands": ","}, {"thousands": "x"}, {"decimal": ""}])
def test_marks_that_cannot_be_told_apart_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="decimal mark"):
        Profile({"quantity": "Q"}, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("totals", "told"),
    [({"core_seconds": 0}, "it says 0 core-seconds, and its lines sum to 800"),
     ({"amount": 0}, "it bills 0.00 CNY, and its lines sum to 1.50"),
     ({"lines": "3"}, "it says 3 lines, and has 1"), ({"lines": 0}, "it says 0 lines, and has 1")],
)  # fmt: skip
def test_each_total_of_a_json_statement_counts_also_nothing_and_a_text(totals: dict[str, Any], told: str) -> None:
    assert findings(read(json.dumps({"totals": totals, "lines": [LINE]}), "json")) == [told]


@pytest.mark.parametrize("lines", [True, "three", -1, [1]])
def test_a_number_of_lines_that_is_none_is_said(lines: object) -> None:
    with pytest.raises(Unreadable, match="the number of lines"):
        read(json.dumps({"totals": {"lines": lines}, "lines": [LINE]}), "json")


def test_a_column_of_the_profile_that_is_not_there_is_said_not_taken_for_empty() -> None:
    """A misspelt column of money would else be a statement that names none."""
    with pytest.raises(Unreadable, match="line 1 has no column 'A'"):
        read("J;Q;Amount\n1;8;2,5\n", "csv", GERMAN)
    with pytest.raises(Unreadable, match="line 1 has the column 'A' twice"):
        read("J;Q;A;A\n1;8;2,5;3,5\n", "csv", GERMAN)
