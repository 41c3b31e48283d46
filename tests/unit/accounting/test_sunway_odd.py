"""Odd `bjobs -l` blocks and report rows of a Sunway centre, made by hand; figures by hand."""

from __future__ import annotations

from typing import Any

import pytest

from accounting.sources import read_usage, sunway
from accounting.usage import Kind, Unreadable, UsageRecord

HEAD = "Job<57245099>, User<swbxyh>, Status<{status}>, Project<->, Queue<q_sw_share>, Command</bin/echo x>"


def block(*events: str, status: str = "DONE") -> str:
    return "\n".join([HEAD.format(status=status), "", *events])


def read(text: str, **beside: Any) -> UsageRecord | Unreadable | None:
    fields = {"block": text, "cgs": "8", "year": "2026", "zone": "Asia/Shanghai"} | beside
    return read_usage(sunway.BLOCK, fields, site_id="s")


def one(text: str, **beside: Any) -> UsageRecord:
    record = read(text, **beside)
    assert isinstance(record, UsageRecord), record
    return record


ENDED = ("Aug 20 12:32:17: Submitted from host <psn002>, CWD</home/x>.", "Aug 20 12:32:18: Started on mn <mn238>, "
         "using <2> nodes", "Aug 20 13:32:18: End!")  # fmt: skip


@pytest.mark.parametrize(("beside", "core_seconds"), [
    ({}, 8 * 65 * 3600), ({"cores_per_cg": "1"}, 8 * 3600), ({"cgs_per_node": "6"}, 12 * 65 * 3600),
    ({"cgs_per_node": "4"}, 8 * 65 * 3600), ({"nodes": "3", "cgs_per_node": "6"}, 18 * 65 * 3600),
])  # fmt: skip
def test_core_groups_are_counted_as_the_site_says(beside: dict[str, str], core_seconds: int) -> None:
    assert one(block(*ENDED), **beside).core_seconds == core_seconds


def test_a_done_job_of_which_a_line_is_missing_is_no_job_that_never_ran() -> None:
    found = read(block(ENDED[0], ENDED[2]))
    assert isinstance(found, Unreadable)
    assert found.why == "ValueError: it is done, and no event line says when it started"


@pytest.mark.parametrize("status", ["EXIT", "CANCELED", "TERM"])
def test_a_job_that_was_killed_while_it_waited_had_nothing(status: str) -> None:
    record = one(block(ENDED[0], "Aug 20 12:40:00: Exit by user", status=status))
    assert (record.kind, record.core_seconds) == (Kind.NEVER_RAN, 0)


@pytest.mark.parametrize(("began", "ended", "seconds"), [
    ("Oct 25 01:30:00", "Oct 25 04:30:00", 4 * 3600),  # 25 October 2026 in Berlin has 25 hours
    ("Oct 25 02:50:00", "Oct 25 02:10:00", 20 * 60),  # over the turn of the clock
    ("Oct 25 02:10:00", "Oct 25 02:50:00", 40 * 60),  # within an hour that is there twice: the shorter of two meanings
    ("Mar 29 01:30:00", "Mar 29 03:30:00", 3600),  # and 29 March has 23
])  # fmt: skip
def test_a_night_in_which_the_clock_is_turned(began: str, ended: str, seconds: int) -> None:
    record = one(block(f"{began}: Started on mn <m>, using <1> nodes", f"{ended}: End!"), zone="Europe/Berlin")
    assert record.elapsed_s == seconds


def test_a_time_that_the_turn_of_the_clock_skips_is_kept_for_a_person() -> None:
    text = block("Mar 29 02:30:00: Started on mn <m>, using <1> nodes", "Mar 29 04:30:00: End!")
    assert isinstance(read(text, zone="Europe/Berlin"), Unreadable)


def test_a_clock_that_was_turned_back_by_hand_is_kept_for_a_person() -> None:
    found = read(block(ENDED[1], "Aug 20 12:30:00: End!"))
    assert isinstance(found, Unreadable) and "ends before it starts" in found.why


def test_a_leap_day_and_a_new_year_are_where_they_are() -> None:
    leap = one(block("Feb 28 23:00:00: Started on mn <m>, using <1> nodes", "Mar  1 01:00:00: End!"), year="2028")
    assert leap.elapsed_s == 26 * 3600
    year = one(block("Dec 31 23:00:00: Started on mn <m>, using <1> nodes", "Jan  1 01:00:00: End!"))
    assert year.elapsed_s == 2 * 3600
    found = read(block("Feb 29 23:00:00: Started on mn <m>, using <1> nodes", "Mar  1 01:00:00: End!"))
    assert isinstance(found, Unreadable)  # 2026 has none


@pytest.mark.parametrize("cut", [40, 100, 160, 200, 225])
def test_a_block_that_is_cut_is_kept_for_a_person(cut: int) -> None:
    assert isinstance(read(block(*ENDED)[:cut]), Unreadable)


def test_names_of_any_kind_in_a_block_move_no_figure() -> None:
    odd = block(*ENDED).replace("/bin/echo x", "./计算 Aug 20 12:00:00: End! \udcff")
    assert one(odd).core_seconds == 8 * 65 * 3600
    folded = block(*ENDED).replace("CWD</home/x>", "CWD</home/x\nAug 19 01:00:00 x>")
    assert one(folded).elapsed_s == 3600
