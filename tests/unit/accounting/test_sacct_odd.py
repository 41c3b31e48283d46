"""Odd rows of sacct, made by hand: nothing is merged, lost or metered as nothing without a word."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from accounting import meter
from accounting.meter import Basis, Bears, MeteringPolicy
from accounting.sources import sacct
from accounting.sources.reading import Reading
from accounting.usage import Kind, UsageRecord
from tests.unit.accounting.makers import run

ROW = {"DBIndex": "1", "Cluster": "c", "JobID": "7", "JobIDRaw": "7", "User": "alice", "Account": "p",
       "State": "COMPLETED", "Submit": "2026-11-10T09:59:00", "Start": "2026-11-10T10:00:00",
       "End": "2026-11-10T10:01:00", "ElapsedRaw": "60", "Suspended": "00:00:00", "AllocCPUS": "4",
       "AllocNodes": "1", "JobName": "x"}  # fmt: skip


def rows(*changes: dict[str, Any]) -> Reading:
    names = list(dict.fromkeys([*ROW, *(name for change in changes for name in change)]))
    lines = ["|".join(str((ROW | change).get(name, "")) for name in names) for change in changes]
    reading = sacct.read_document("\n".join(["|".join(names), *lines]), site_id="a")
    assert reading.rows == len(changes)
    return reading


def one(**change: Any) -> UsageRecord:
    reading = rows(change)
    assert reading.problems == ()
    return reading.records[0]


@pytest.mark.parametrize("nothing", ["", "0"])
def test_an_index_that_is_no_number_of_the_database_makes_no_two_runs_one(nothing: str) -> None:
    """Every row had the key `c:0`: each run took the place of the one before."""
    reading = rows({"DBIndex": nothing}, {"DBIndex": nothing, "JobIDRaw": "8", "JobID": "8"})
    assert [r.run_key for r in reading.records] == ["c:7:2026-11-10T09:59:00", "c:8:2026-11-10T09:59:00"]


@pytest.mark.parametrize("raw", [("7", "7"), ("7", "8"), ("7+0", "7+1")])
def test_components_of_a_heterogeneous_job_are_runs_of_their_own_without_an_index_too(raw: tuple[str, str]) -> None:
    reading = rows(*({"DBIndex": "", "JobID": f"7+{n}", "JobIDRaw": raw[n]} for n in (0, 1)))
    assert [r.native_id for r in reading.records] == ["7+0", "7+1"]
    assert len({r.run_key for r in reading.records}) == 2


def test_an_elapsed_time_that_was_left_out_is_no_run_of_0_seconds() -> None:
    (problem,) = rows({"ElapsedRaw": ""}).problems
    assert problem.why == "ValueError: ElapsedRaw is empty"


def test_a_run_without_an_end_is_kept_for_a_person() -> None:
    (problem,) = rows({"End": "Unknown"}).problems
    assert problem.why == "ValueError: it has no end"


@pytest.mark.parametrize(("change", "doubtful"), [
    ({}, False), ({"ElapsedRaw": "61"}, False), ({"ElapsedRaw": "36000"}, True), ({"ElapsedRaw": "0"}, True),
    ({"ElapsedRaw": "40", "Suspended": "00:00:20"}, False), ({"ElapsedRaw": "60", "Suspended": "00:00:20"}, True),
    ({"Submit": "2026-11-10T10:00:30"}, False),  # the second row of a resized job
])  # fmt: skip
def test_an_elapsed_time_that_contradicts_start_and_end_is_marked(change: dict[str, str], doubtful: bool) -> None:
    assert one(**change).estimated is doubtful


def test_what_was_asked_for_is_read_of_the_columns_that_the_gateway_fetches() -> None:
    assert one().requested_cores is None
    assert one(ReqTRES="billing=3,cpu=3,mem=4G,node=1").requested_cores == 3
    assert one(ReqCPUS="2", ReqTRES="cpu=3").requested_cores == 2
    by_request = MeteringPolicy(basis=Basis.REQUESTED)
    assert meter.meter(one(ReqTRES="cpu=3,node=1"), by_request).core_seconds == 180


# ---------------------------------------------------------------- the policy that goes with it


def test_threads_that_were_asked_for_are_billed_as_cores_too() -> None:
    record = run(cores=8, cpus=8, requested_cores=6, nodes=1)
    policy = MeteringPolicy(basis=Basis.REQUESTED, threads_per_core={"*": 2})
    assert meter.billed_cores(record, policy) == (3, "cores of 6 requested threads")
    # A source that gives cores already is not halved again.
    counted = structs.replace(record, threads_per_core=2, requested_cores=3)
    assert meter.billed_cores(counted, policy) == (3, "requested cores")


def test_an_exclusive_run_is_billed_by_what_was_asked_where_that_is_the_contract() -> None:
    record = run(cores=128, nodes=2, exclusive=True, requested_cores=16)
    whole = MeteringPolicy(cores_per_node={"cpu": 64})
    assert meter.billed_cores(record, whole)[0] == 128
    assert meter.billed_cores(record, MeteringPolicy())[0] == 128
    assert meter.billed_cores(record, MeteringPolicy(exclusive_whole_nodes=False)) == (16, "requested cores")


# ---------------------------------------------------------------- flags in place of states (Slurm 23.11 and later)

AGAIN = ("EXPEDITING", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT")
OTHER_FLAGS = (
    "LAUNCH_FAILED",
    "POWER_UP_NODE",
    "RECONFIG_FAIL",
    "RESV_DEL_HOLD",
    "SIGNALING",
    "STAGE_OUT",
    "UPDATE_DB",
)


@pytest.mark.parametrize("flag", AGAIN + OTHER_FLAGS)
def test_a_flag_in_place_of_a_state_says_nothing_of_the_end_which_the_end_does(flag: str) -> None:
    """4 CPUs for 60 s once it has ended; a run that goes on, or has not begun, is none yet."""
    assert (one(State=flag).core_seconds, one(State=flag).kind) == (240, Kind.RUN)
    for change in ({"End": "Unknown"}, {"End": "Unknown", "Start": "Unknown", "NodeList": "None assigned"}):
        reading = rows({"State": flag, **change})
        assert (reading.records, reading.problems, reading.passed) == ((), (), 1)


@pytest.mark.parametrize("flag", AGAIN)
def test_a_run_behind_which_the_next_one_waits_is_a_requeued_one_whatever_it_is_called(flag: str) -> None:
    assert meter.meter(one(State=flag), MeteringPolicy(bill_requeued=False)).quantities == {}
    assert meter.meter(one(State=flag), MeteringPolicy()).core_seconds == 240


@pytest.mark.parametrize("state", ["LAUNCH_FAILED", "RECONFIG_FAIL"])
def test_what_the_centres_own_nodes_failed_at_can_be_the_centres_to_bear(state: str) -> None:
    policy = MeteringPolicy(bill_requeued=False, liability={state: Bears(0, 1, 0)})
    assert meter.meter(one(State=state), policy).bears == Bears(0, 1, 0)
    assert meter.meter(one(State=state), policy).core_seconds == 240


def test_a_job_that_another_cluster_of_the_federation_took_ran_here_not_at_all() -> None:
    record = one(State="REVOKED", NodeList="None assigned", AllocCPUS="0", ElapsedRaw="0")
    assert (record.kind, record.core_seconds) == (Kind.NEVER_RAN, 0)
