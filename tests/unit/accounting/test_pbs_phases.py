"""Runs that the server's log tells in pieces: nodes given back while it runs (u, c, e), and Torque's R without a word.

The lines are as openpbs writes them (src/server/accounting.c, account_job_update; its test pbs_node_rampdown.py has
the same job: 3 + 3 + 2 cores of three hosts, of which the first keeps its own), the figures computed by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from accounting.evidence.personal import public
from accounting.meter import Bears, MeteringPolicy, meter
from accounting.sources import pbs_log, read_usage
from accounting.sources.reading import Reading
from accounting.usage import Kind, Unreadable, UsageRecord
from site_adapters.pbs.log_frame import LOG, frame_log

AGES_AGO = datetime(2020, 1, 1, tzinfo=UTC)
START = 1795413600  # 2026-11-23 06:00:00 UTC
A, B, C = "(a:ncpus=3:mem=2097152kb)", "(b:ncpus=3:mem=2097152kb)", "(c:ncpus=2:mem=2097152kb)"
THREE = f"exec_host=a/0*3+b/0*3+c/0*2 exec_vnode={A}+{B}+{C}"
TWO = f"exec_host=a/0*3+c/0*2 exec_vnode={A}+{C}"
ONE = f"exec_host=a/0*3 exec_vnode={A}"


def line(at: str, kind: str, said: str, *, job: str = "7.pbs", user: str = "alice") -> str:
    head = f"user={user} group=g project=_pbs_project_default jobname=j queue=workq ctime=1 qtime=1 etime=1"
    return f"11/23/2026 {at};{kind};{job};{head} start={START} {said}"


def asked(cores: int, nodes: int, memory: str = "") -> str:
    mem = f"Resource_List.mem={memory} " if memory else ""
    return f"{mem}Resource_List.ncpus={cores} Resource_List.nodect={nodes} Resource_List.place=scatter"


def had(cores: int, memory: str) -> str:
    return f"resource_assigned.ncpus={cores} resource_assigned.mem={memory}"


def used(walltime: str) -> str:
    return f"session=77 run_count=1 resources_used.cput=00:00:01 resources_used.walltime={walltime}"


PHASED = [
    line("06:00:00", "S", f"{THREE} {asked(8, 3, '6gb')} {had(8, '6291456kb')}"),
    line("06:10:00", "u", f"{THREE} {asked(8, 3, '6gb')} {used('00:10:00')}"),
    line("06:10:00", "c", f"{TWO} {asked(5, 2, '4194304kb')} {had(5, '4194304kb')}"),
    line("06:30:00", "u", f"{TWO} {asked(5, 2, '4194304kb')} {used('00:20:00')}"),
    line("06:30:00", "c", f"{ONE} {asked(3, 1, '2097152kb')} {had(3, '2097152kb')}"),
    line("07:00:00", "e", f"{ONE} {asked(3, 1, '2097152kb')} {used('00:30:00')}"),
    line("07:00:00", "E", f"{THREE} {asked(8, 3, '6gb')} session=77 end={START + 3600} Exit_status=0 "
                          "resources_used.cput=00:00:05 resources_used.walltime=01:00:00 run_count=1"),
]  # fmt: skip


def from_document(lines: list[str]) -> Reading:
    return pbs_log.read_document("\n".join(lines), site_id="a")


def from_centre(lines: list[str], zone: str = "UTC") -> Reading:
    batch = frame_log("\n".join(lines), since=AGES_AGO, users={"alice"}, zone=zone)
    assert batch.problems == ()
    found = [read_usage(LOG, usage.fields, site_id="a") for usage in batch.usages]
    records = tuple(item for item in found if isinstance(item, UsageRecord))
    return Reading(records, tuple(item for item in found if isinstance(item, Unreadable)))


both = pytest.mark.parametrize("read", [from_document, from_centre])
Read = Callable[[list[str]], Reading]


@both
def test_nodes_that_a_running_job_gave_back_are_not_paid_to_its_end(read: Read) -> None:
    """8 × 600 + 5 × 1200 + 3 × 1800 core-seconds; by the cores of its E record it would be 8 × 3600 = 28,800."""
    reading = read(PHASED)

    assert [(r.cores, r.elapsed_s, r.core_seconds) for r in reading.records] == [
        (8, 600, 4800), (5, 1200, 6000), (3, 1800, 5400),
    ]  # fmt: skip
    assert [(r.nodes, r.node_seconds) for r in reading.records] == [(3, 1800), (2, 2400), (1, 1800)]
    assert [r.memory_mib_seconds for r in reading.records] == [6144 * 600, 4096 * 1200, 2048 * 1800]
    assert [r.state for r in reading.records] == ["RESIZING", "RESIZING", "COMPLETED"]
    assert not [r for r in reading.records if r.estimated]
    assert reading.problems == ()


@both
def test_phases_follow_each_other_without_a_gap_and_each_has_a_key_of_its_own(read: Read) -> None:
    records = read(PHASED).records
    moments = [datetime.fromtimestamp(START + s, UTC) for s in (0, 600, 1800, 3600)]

    assert [(r.start_time, r.end_time) for r in records] == list(pairwise(moments))
    assert [r.run_key for r in records] == [
        f"7.pbs:1:{START}:0:resizing", f"7.pbs:1:{START}:1:resizing", f"7.pbs:1:{START}",
    ]  # fmt: skip


@both
def test_suspended_time_counts_in_the_phase_that_it_was_in(read: Read) -> None:
    """Stopped 06:05 to 06:15, over the release at 06:10: five minutes in each phase."""
    stopped = [PHASED[0], line("06:05:00", "z", ""), PHASED[1].replace("00:10:00", "00:05:00"), PHASED[2],
               line("06:15:00", "r", ""), PHASED[3].replace("00:20:00", "00:15:00"), *PHASED[4:6],
               PHASED[6].replace("01:00:00", "00:50:00")]  # fmt: skip

    records = read(stopped).records

    assert [(r.elapsed_s, r.suspended_s, r.core_seconds) for r in records] == [
        (300, 300, 8 * 300), (900, 300, 5 * 900), (1800, 0, 3 * 1800),
    ]  # fmt: skip
    assert not [r for r in records if r.estimated]


@both
def test_a_phase_of_which_the_server_had_no_walltime_yet_is_its_span_and_an_estimate(read: Read) -> None:
    late = [*PHASED[:1], PHASED[1].replace("walltime=00:10:00", "walltime=00:00:00"), *PHASED[2:]]

    first, second, last = read(late).records

    assert (first.elapsed_s, first.estimated) == (600, True)
    assert (second.elapsed_s, second.estimated) == (1200, False)
    assert last.elapsed_s <= 1802  # what the first phase lacks is not paid by the last


@both
def test_a_phased_run_that_is_run_again_ends_with_what_it_had_left(read: Read) -> None:
    rerun = PHASED[6].replace(";E;", ";R;").replace(THREE, ONE).replace("Exit_status=0", "Exit_status=-11")

    assert [(r.state, r.core_seconds) for r in read([*PHASED[:5], rerun]).records] == [
        ("RESIZING", 4800), ("RESIZING", 6000), ("REQUEUED", 5400),
    ]  # fmt: skip


# ---------------------------------------------------------------- Torque's R

TORQUE_S = ("08/26/2026 17:07:50;S;11923.napali;user=alice group=c jobname=STDIN queue=batch ctime=1787764064 "
            "qtime=1787764064 etime=1787764064 start=1787764070 owner=alice@n exec_host=n1/0-5+n2/0-5 "
            "Resource_List.nodect=2 Resource_List.nodes=2:ppn=6")  # fmt: skip
TORQUE_R = "08/26/2026 17:27:50;R;11923.napali;"
AGAIN = TORQUE_S.replace("17:07:50", "17:30:00").replace("start=1787764070", "start=1787765400")
TORQUE_E = AGAIN.replace("17:30:00;S", "17:40:00;E") + (
    " session=1 end=1787766000 Exit_status=0 resources_used.walltime=00:10:00"
)


@both
def test_torques_silent_rerun_is_metered_from_its_start_record_and_its_stamp(read: Read) -> None:
    """12 slots for 20 minutes, then 12 for 10."""
    first, second = read([TORQUE_S, TORQUE_R, AGAIN, TORQUE_E]).records

    assert (first.state, first.kind, first.core_seconds, first.nodes) == ("REQUEUED", Kind.RUN, 12 * 1200, 2)
    assert first.estimated  # the server says no walltime
    assert (first.start_time, first.end_time) == (
        datetime.fromtimestamp(1787764070, UTC), datetime.fromtimestamp(1787765270, UTC),
    )  # fmt: skip
    assert (second.state, second.core_seconds, second.estimated) == ("COMPLETED", 12 * 600, False)
    assert first.run_key != second.run_key


@both
def test_a_rerun_that_torque_tells_twice_is_one_run(read: Read) -> None:
    reading = read([TORQUE_S, TORQUE_R, TORQUE_R.replace("27:50", "27:52"), AGAIN, TORQUE_E])
    assert (len(reading.records), reading.problems) == (2, ())


def test_a_silent_rerun_of_which_nothing_tells_what_ran_is_kept_for_a_person() -> None:
    (problem,) = from_document([TORQUE_R]).problems
    assert problem.why == "ValueError: it says nothing, and no S record says what ran"
    batch = frame_log(f"{TORQUE_R}\n{TORQUE_E}", since=AGES_AGO, users={"alice"})
    assert [p.why for p in batch.problems] == ["it says nothing, and no S line says what ran"]
    assert len(batch.usages) == 1  # and the look goes on


def test_a_silent_rerun_of_somebody_else_is_not_ours() -> None:
    other = [text.replace("alice", "bob") for text in (TORQUE_S, TORQUE_R, AGAIN, TORQUE_E)]
    batch = frame_log("\n".join(other), since=AGES_AGO, users={"alice"})
    assert (batch.usages, batch.problems) == ((), ())


def test_a_silent_rerun_of_the_night_that_has_an_hour_more_is_reckoned_by_the_centres_zone() -> None:
    """Berlin, 25 October 2026: started 02:30 summer time (00:30 UTC), run again 03:10 winter time (02:10 UTC)."""
    start = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    began = TORQUE_S.replace("08/26/2026 17:07:50", "10/25/2026 02:30:00").replace(
        "start=1787764070", f"start={start.timestamp():.0f}"
    )
    after = TORQUE_R.replace("08/26/2026 17:27:50", "10/25/2026 03:10:00")
    (record,) = from_centre([began, after], zone="Europe/Berlin").records
    assert record.elapsed_s == 100 * 60
    assert record.end_time == start + timedelta(minutes=100)


def test_who_bears_a_silent_rerun_is_what_the_agreement_says() -> None:
    (record,) = from_centre([TORQUE_S, TORQUE_R]).records
    assert meter(record, MeteringPolicy(bill_requeued=False)).quantities == {}
    assert meter(record, MeteringPolicy(liability={"REQUEUED": Bears(0, 1, 0)})).bears == Bears(0, 1, 0)


def test_names_in_the_lines_beside_a_phase_do_not_stay_readable() -> None:
    for item in (*from_centre(PHASED).records, *from_centre([TORQUE_S, TORQUE_R]).records):
        assert "alice" not in str(public(item.raw))
