"""Ads of HTCondor's history as pools really have them, made by hand; figures by hand.

HTCondor manual, "Job ClassAd Attributes": RemoteWallClockTime sums all runs with their suspension, CumulativeSlotTime
the same weighted by what each slot had.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from accounting.meter import MeteringPolicy, meter
from accounting.sources import condor
from accounting.usage import GPU_SECONDS, MEMORY, Kind, UsageRecord

START = 1795413600
AD = {"GlobalJobId": "s#3.0#1795413500", "ClusterId": 3, "ProcId": 0, "Owner": "alice", "QDate": START - 100,
      "JobStatus": 4, "JobStartDate": START, "JobCurrentStartDate": START, "EnteredCurrentStatus": START + 1000,
      "RemoteWallClockTime": 1000.0, "CumulativeSlotTime": 4000.0, "CumulativeSuspensionTime": 0, "NumShadowStarts": 1,
      "RequestCpus": 4, "CpusProvisioned": 4, "MemoryProvisioned": 2048, "GPUsProvisioned": 0,
      "ExitCode": 0}  # fmt: skip


def read(**change: Any) -> UsageRecord:
    reading = condor.read_document(json.dumps([AD | change]), site_id="a")
    assert reading.problems == ()
    return reading.records[0]


def why(**change: Any) -> str:
    (problem,) = condor.read_document(json.dumps([AD | change]), site_id="a").problems
    return problem.why


def long_form(**change: Any) -> str:
    return "\n".join(f"{name} = {json.dumps(value)}" for name, value in (AD | change).items())


def test_a_job_that_was_evicted_twice_is_what_each_of_its_slots_had() -> None:
    """4 cores for 300 s, 4 for 500, then 8 of a partitionable slot for 200: 4,800; 8 × 1000 would be 8,000."""
    runs = {"NumShadowStarts": 3, "CpusProvisioned": 8, "CumulativeSlotTime": 4800.0,
            "EnteredCurrentStatus": START + 9000}  # fmt: skip
    assert (read(**runs).core_seconds, read(**runs).elapsed_s) == (4800, 1000)


def test_suspension_is_no_core_time_and_accelerators_and_memory_stay() -> None:
    """400 of 1000 s suspended: 4 × 600 core-seconds, 2 × 1000 GPU-seconds."""
    record = read(CumulativeSuspensionTime=400, GPUsProvisioned=2)
    assert (record.elapsed_s, record.suspended_s, record.core_seconds) == (600, 400, 2400)
    quantities = meter(record, MeteringPolicy()).quantities
    assert (quantities[GPU_SECONDS], quantities[MEMORY]) == (2000, 2048 * 1000)
    free = meter(record, MeteringPolicy(held_while_suspended=())).quantities
    assert (free[GPU_SECONDS], free[MEMORY]) == (1200, 2048 * 600)


def test_a_slot_gives_more_than_was_asked_for_and_that_is_billed() -> None:
    assert read(RequestCpus=1, CpusProvisioned=4).core_seconds == 4000
    assert read(RequestCpus=1, CpusProvisioned=4).requested_cores == 1


@pytest.mark.parametrize("expression", [
    "/Expr(ifThenElse(WantWholeNode, 64, 4))/", {"expr": 1}, True,
])  # fmt: skip
def test_an_expression_in_place_of_what_was_asked_hides_nothing_that_was_given(expression: Any) -> None:
    record = read(RequestCpus=expression)
    assert (record.core_seconds, record.requested_cores) == (4000, None)


def test_without_what_was_given_an_expression_is_kept_for_a_person() -> None:
    assert "is no whole number" in why(RequestCpus="/Expr(x)/", CpusProvisioned=None)


@pytest.mark.parametrize(("text", "core_seconds"), [
    ("1000.0", 4000), ("1.000000000000000E+03", 4000), ("9.999990000000000E+02", 3996), ("1E3", 4000), ("1e+03", 4000),
    ("1000", 4000), ("0.0", 0), ("0.000000000000000E+00", 0),
])  # fmt: skip
def test_reals_are_read_in_every_spelling_of_the_long_form(text: str, core_seconds: int) -> None:
    """Releases before 8.9 print `%.15E`; part of a second is cut off."""
    form = long_form().replace("RemoteWallClockTime = 1000.0", f"RemoteWallClockTime = {text}")
    (record,) = condor.read_document(form, site_id="a").records
    assert record.core_seconds == core_seconds


def test_the_history_file_itself_has_a_banner_behind_each_ad() -> None:
    second = long_form(GlobalJobId="s#4.0#1", ClusterId=4, CpusProvisioned=2)
    banner = '*** Offset = 0 ClusterId = 3 ProcId = 0 Owner = "alice" CompletionDate = 1795414600'
    reading = condor.read_document(f"{long_form()}\n{banner}\n{second}\n{banner}\n", site_id="a")
    assert [r.core_seconds for r in reading.records] == [4000, 2000]
    assert reading.problems == ()


def test_what_is_undefined_is_not_there() -> None:
    form = long_form() + "\nGPUsProvisioned2 = undefined\nAcctGroup = UNDEFINED\nRequestGPUs = undefined"
    (record,) = condor.read_document(form.replace("GPUsProvisioned = 0", "GPUsProvisioned = undefined"),
                                     site_id="a").records  # fmt: skip
    assert (record.gpu_seconds, record.account) == (0, "")


def test_a_cluster_whose_jobs_are_made_later_is_no_job_of_its_own() -> None:
    reading = condor.read_document(json.dumps([AD | {"ProcId": -1, "JobMaterializeLimit": 100}, AD]), site_id="a")
    assert (len(reading.records), reading.passed, reading.problems) == (1, 1, ())


def test_a_clock_that_was_turned_back_over_a_run_is_seen() -> None:
    assert why(EnteredCurrentStatus=START - 50) == "ValueError: it ends before it starts"
    assert why(EpochWriteDate=START - 50, RunInstanceID=0) == "ValueError: it ends before it starts"


def test_more_wall_clock_than_there_was_time_is_marked() -> None:
    assert read(RemoteWallClockTime=36_000.0).estimated
    assert not read(RemoteWallClockTime=1001.0).estimated
    assert not read(RemoteWallClockTime=900.0, NumShadowStarts=2).estimated  # it waited between its runs
    assert read(NumShadowStarts=2, GPUsProvisioned=1).estimated  # of the last match only


def test_each_epoch_is_a_run_of_its_own_and_its_sum_is_that_of_the_job() -> None:
    """In an epoch ad RemoteWallClockTime is the total before that run."""
    first = {"RunInstanceID": 0, "EpochWriteDate": START + 300, "RemoteWallClockTime": 0.0, "JobStatus": 2}
    second = {"RunInstanceID": 1, "JobCurrentStartDate": START + 500, "EpochWriteDate": START + 1200,
              "RemoteWallClockTime": 300.0, "CpusProvisioned": 8, "GPUsProvisioned": 1}  # fmt: skip
    one, two = read(**first), read(**second)
    assert (one.core_seconds, two.core_seconds, two.gpu_seconds) == (1200, 5600, 700)
    assert one.run_key != two.run_key


def test_a_job_removed_before_it_matched_had_nothing() -> None:
    record = read(JobStatus=3, JobStartDate=None, RemoteWallClockTime=0, CumulativeSlotTime=0, CpusProvisioned=None)
    assert (record.kind, record.core_seconds, record.start_time) == (Kind.NEVER_RAN, 0, None)


@pytest.mark.parametrize("status", [1, 2, 5, 6, 7])
def test_a_job_that_has_not_ended_is_none_yet(status: int) -> None:
    reading = condor.read_document(json.dumps([AD | {"JobStatus": status}]), site_id="a")
    assert (reading.records, reading.passed) == ((), 1)


@pytest.mark.parametrize("cut", [10, 100, 300])
def test_a_list_that_is_cut_is_kept_for_a_person(cut: int) -> None:
    reading = condor.read_document(json.dumps([AD])[:cut], site_id="a")
    assert (reading.records, len(reading.problems)) == ((), 1)
