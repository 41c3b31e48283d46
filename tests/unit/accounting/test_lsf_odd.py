"""Lines of lsb.acct as LSF 10.1 writes them (IBM Spectrum LSF reference, "lsb.acct"), made by hand; figures by hand.

The line is laid out as one of a real 10.108 master: what stands behind the array index is not in older lines.
"""

from __future__ import annotations

import pytest

from accounting.evidence.personal import public
from accounting.meter import MeteringPolicy, meter
from accounting.sources import lsb_acct
from accounting.usage import CORE_SECONDS, GPU_SECONDS, Kind, UsageRecord

START = 1795413600


def finished(
    *, elapsed: int = 1000, run_time: int | None = None, hosts: str = '2 "cn1" "cn1"', asked: int = 2, index: int = 0,
    name: str = "job", required: str = "select[type == any] order[r15s:pg] ", resized: int = START, options: int = 2,
    status: str = "64", exit_status: int = 0, command: str = "./a.out", described: str = "", start: int = START,
    usages: str = "0",
) -> str:  # fmt: skip
    end = START + elapsed
    told = elapsed if run_time is None else run_time
    return (
        f'"JOB_FINISH" "10.108" {end} 386 1501 {options} {asked} {START - 60} 0 0 {start} "alice" "normal" "" "" "" '
        f'"login1" "/home/alice" "" "out.%J" "" "1644826545.386" 0 {hosts} {status} 100.0 "{name}" "{command}" '
        "0.004997 0.006155 3748 0 -1 0 0 436 4 0 928 0 -1 0 0 0 19 2 -1 "
        f'"" "proj" {exit_status} 1 "" "" {index} 2048 0 "" "" "" "" 0 "" 0 "" -1 "" "" "" "" -1 "" "" 5136 "" '
        f'{resized} "" "{described}" 5 1110 "default" 1041 "jfincache" 1086 "-1 -1 " 1032 "0" 1033 "0" {usages} -1 '
        f'4194304 1024 "{required}" "" -1 "" -1 0 "" 0 0 "" {told} "/home/alice" 0 "" 0.000000 0.00 0.00 0.00 0.00 '
        '1 "cn1" -1 0 0 0 0 1 "schedulingOverhead" "0.00"'
    )


def one(line: str) -> UsageRecord:
    reading = lsb_acct.read_document(line, site_id="a")
    assert (reading.problems, reading.rows) == ((), 1)
    return reading.records[0]


def test_a_line_of_10_1_is_its_slots_for_as_long_as_it_ran() -> None:
    record = one(finished())
    assert (record.cores, record.nodes, record.elapsed_s, record.suspended_s) == (2, 1, 1000, 0)
    assert (record.core_seconds, record.state, record.estimated) == (2000, "DONE", False)


def test_suspended_time_is_what_the_run_time_lacks_and_holds_no_cores() -> None:
    """bstop for 400 of 1000 s: 2 × 600 core-seconds; by event time and start it would be 2,000."""
    record = one(finished(run_time=600))
    assert (record.elapsed_s, record.suspended_s, record.core_seconds) == (600, 400, 1200)
    held = MeteringPolicy(held_while_suspended=(CORE_SECONDS,))
    assert (meter(record, MeteringPolicy()).core_seconds, meter(record, held).core_seconds) == (1200, 2000)


@pytest.mark.parametrize(("run_time", "elapsed", "doubtful"), [
    (999, 1000, False), (998, 1000, False), (1002, 1000, False),  # the clocks of two daemons
    (5000, 1000, True),  # with the runs before a requeue: only this one is of this line
    (0, 1000, True),  # nobody counted
])  # fmt: skip
def test_a_run_time_that_cannot_be_is_no_suspension(run_time: int, elapsed: int, doubtful: bool) -> None:
    record = one(finished(run_time=run_time))
    assert (record.elapsed_s, record.suspended_s, record.estimated) == (elapsed, 0, doubtful)


@pytest.mark.parametrize(("required", "hosts", "asked", "gpus"), [
    ("select[ngpus>0] rusage[ngpus_physical=2.00]", '1 "cn1"', 1, 2),
    ("rusage[mem=4096.00,ngpus_physical=4.00:duration=0]", '2 "4*cn1" "4*cn2"', 8, 8),  # 4 on each of two hosts
    ("span[ptile=2] rusage[ngpus_physical=1.00/task]", '2 "2*cn1" "2*cn2"', 4, 4),  # one for each task
    ("rusage[mem=10]", '1 "cn1"', 1, 0),
    ("select[ngpus_physical=3]", '1 "cn1"', 1, 0),  # chosen by it, not taken
])  # fmt: skip
def test_accelerators_that_were_in_force_are_metered(required: str, hosts: str, asked: int, gpus: int) -> None:
    record = one(finished(required=required, hosts=hosts, asked=asked))
    assert record.gpu_seconds == gpus * 1000


def test_accelerators_stay_with_a_suspended_job() -> None:
    record = one(finished(required="rusage[ngpus_physical=2.00]", run_time=600))
    assert record.gpu_seconds == 2000
    assert meter(record, MeteringPolicy(held_while_suspended=())).quantities[GPU_SECONDS] == 1200


def test_the_elements_of_an_array_are_runs_of_their_own() -> None:
    lines = [finished(index=n, name=f"arr[{n}]", elapsed=100 * n) for n in (1, 2, 10)]
    records = lsb_acct.read_document("\n".join(lines), site_id="a").records
    assert [(r.task, r.core_seconds) for r in records] == [(1, 200), (2, 400), (10, 2000)]
    assert len({r.run_key for r in records}) == 3


def test_a_requeued_job_is_a_run_for_each_time_that_it_finished() -> None:
    first, second = finished(elapsed=100, status="32", exit_status=99 << 8), finished(start=START + 500, elapsed=900,
                                                                                     run_time=400)  # fmt: skip
    records = lsb_acct.read_document(f"{first}\n{second}", site_id="a").records
    assert [(r.state, r.core_seconds) for r in records] == [("EXIT", 200), ("DONE", 800)]
    assert len({r.run_key for r in records}) == 2


def test_a_job_whose_size_changed_is_marked_as_its_hosts_are_those_of_the_end() -> None:
    assert one(finished(resized=START + 500)).estimated
    assert not one(finished(resized=START)).estimated
    assert not one(finished(resized=0)).estimated


def test_usage_by_host_before_the_run_time_moves_it_along() -> None:
    two = '2 "cn1" 1024 2048 10 1 "cn2" 1024 2048 10 1'
    assert one(finished(usages=two, run_time=600)).suspended_s == 400


def test_a_job_killed_while_it_waited_had_nothing() -> None:
    record = one(finished(start=0, hosts="0", run_time=0, status="32"))
    assert (record.kind, record.core_seconds, record.estimated) == (Kind.NEVER_RAN, 0, False)


@pytest.mark.parametrize("words", [
    '计算 流体', 'a ""quoted"" one', "x 64 100.0 y", "\udcff\udcfe", "é" * 300, 'rusage[ngpus_physical=9.00]',
])  # fmt: skip
def test_names_of_any_kind_move_no_figure(words: str) -> None:
    record = one(finished(name=words, command=words, described=words, run_time=600))
    assert (record.core_seconds, record.suspended_s, record.gpu_seconds) == (1200, 400, 0)


def test_a_line_that_is_cut_is_metered_as_an_old_one_only_behind_its_index() -> None:
    line = finished(run_time=600)
    words = line.split(" ")
    seen = set()
    for n in range(1, len(words)):
        reading = lsb_acct.read_document(" ".join(words[:n]), site_id="a")
        assert reading.rows == 1
        seen |= {(r.core_seconds, r.suspended_s) for r in reading.records}
    assert seen == {(2000, 0), (1200, 400)}  # without the run time, and with it: never anything else


def test_what_stays_readable_of_a_line_is_metered_to_the_same() -> None:
    line = finished(name="secret", command="secret", described="secret", run_time=600,
                    required="rusage[ngpus_physical=2.00]")  # fmt: skip
    kept = public({"line": line})["line"]
    assert "secret" not in kept and "alice" not in kept
    whole, part = one(line), one(kept)
    assert (part.core_seconds, part.suspended_s, part.gpu_seconds) == (
        whole.core_seconds, whole.suspended_s, whole.gpu_seconds,
    )  # fmt: skip
