"""Torque's records: no vnodes, no `Resource_List.ncpus` that means anything, other names of the same."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from accounting.sources import pbs_log, pbs_qstat, read_usage
from accounting.sources.reading import Reading
from accounting.usage import UsageRecord
from site_adapters.pbs.attributes import from_text
from site_adapters.pbs.billing import frame_log, frame_qstat

TORQUE = ("11/23/2026 06:10:00;E;12.tq;user=alice group=g jobname=x queue=batch ctime=1795413500 qtime=1795413500 "
          "etime=1795413500 start=1795413600 owner=alice@h exec_host=n1/0+n1/1+n2/0+n2/1 "
          "Resource_List.neednodes=2:ppn=2 Resource_List.nodect=2 Resource_List.nodes=2:ppn=2 "
          "Resource_List.walltime=01:00:00 session=1 end=1795414200 Exit_status=0 resources_used.cput=0 "
          "resources_used.mem=4kb resources_used.walltime=00:10:00")  # fmt: skip
QSTAT = """Job Id: 12.tq
    Job_Name = x
    Job_Owner = alice@h
    resources_used.walltime = 00:10:00
    job_state = C
    queue = batch
    ctime = Mon Nov 23 05:58:20 2026
    exec_host = n1/0-1+n2/0-1
    mtime = Mon Nov 23 06:10:00 2026
    Resource_List.nodect = 2
    Resource_List.nodes = 2:ppn=2
    exit_status = 0
    start_time = Mon Nov 23 06:00:00 2026
    comp_time = Mon Nov 23 06:10:00 2026

"""
EVER = (datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))


def one(reading: Reading) -> UsageRecord:
    assert reading.problems == ()
    (record,) = reading.records
    return record


@pytest.mark.parametrize(("hosts", "cores", "nodes"), [
    ("n1/0+n1/1+n2/0+n2/1", 4, 2), ("n1/0-1+n2/0-1", 4, 2), ("n1/0,2-4,9", 5, 1), ("n1/7", 1, 1),
])  # fmt: skip
def test_torques_slots_are_the_cores(hosts: str, cores: int, nodes: int) -> None:
    line = TORQUE.replace("n1/0+n1/1+n2/0+n2/1", hosts)
    record = one(pbs_log.read_document(line, site_id="a"))
    assert (record.cores, record.nodes, record.core_seconds, record.node_seconds) == (
        cores, nodes, cores * 600, nodes * 600,
    )  # fmt: skip
    assert (record.requested_cores, record.estimated) == (None, False)
    # A queue's default says one core of every job that asks by nodes and ppn.
    by_default = line.replace("Resource_List.nodect", "Resource_List.ncpus=1 Resource_List.nodect")
    assert one(pbs_log.read_document(by_default, site_id="a")).core_seconds == cores * 600


def test_torques_gpus_are_counted_where_they_ran() -> None:
    line = TORQUE.replace(" session", " exec_gpus=n1-gpu/0+n1-gpu/1+n2-gpu/0-1 session")
    assert one(pbs_log.read_document(line, site_id="a")).gpu_seconds == 4 * 600


def test_a_run_of_which_nothing_tells_the_cores_is_kept_for_a_person_and_not_metered_as_none() -> None:
    (problem,) = pbs_log.read_document(TORQUE.replace("n1/0+n1/1+n2/0+n2/1", "n1/0*0"), site_id="a").problems
    assert problem.why == "ValueError: nothing says how many cores it had"


def test_torques_qstat_says_the_same_as_its_log_under_the_same_key() -> None:
    logged = one(pbs_log.read_document(TORQUE, site_id="a"))
    asked = one(pbs_qstat.read_document(QSTAT, site_id="a"))
    (usage,) = frame_qstat(from_text(QSTAT), {"alice"}, *EVER).usages
    framed = read_usage(usage.format, usage.fields, site_id="a")
    assert isinstance(framed, UsageRecord)
    for record in (asked, framed):
        assert (record.run_key, record.core_seconds, record.nodes, record.start_time, record.end_time) == (
            logged.run_key, 2400, 2, logged.start_time, logged.end_time,
        )  # fmt: skip
        assert (record.state, record.username, record.estimated) == ("COMPLETED", "alice", False)


# ---------------------------------------------------------------- ends and events of OpenPBS that are seen rarely


@pytest.mark.parametrize(("status", "state"), [
    (-1, "FAILED"), (-3, "NODE_FAIL"), (-14, "NODE_FAIL"), (-12, "REQUEUED"), (-24, "OUT_OF_CPU"),
    (-26, "OUT_OF_MEMORY"), (-28, "TIMEOUT"),
])  # fmt: skip
def test_every_end_that_the_server_writes_itself_is_metered(status: int, state: str) -> None:
    record = one(pbs_log.read_document(TORQUE.replace("Exit_status=0", f"Exit_status={status}"), site_id="a"))
    assert (record.state, record.core_seconds) == (state, 2400)


def test_an_end_that_nobody_knows_is_kept_for_a_person() -> None:
    (problem,) = pbs_log.read_document(TORQUE.replace("Exit_status=0", "Exit_status=-99"), site_id="a").problems
    assert problem.why == "ValueError: unknown Exit_status -99"


def test_a_resumption_whose_stop_is_before_the_window_is_no_problem() -> None:
    events = [f"11/23/2026 06:10:00;{kind};12.tq;user=bob" for kind in "rsec"]
    assert frame_log("\n".join(events), since=EVER[0], users={"alice"}).problems == ()
    reading = pbs_log.read_document("\n".join(events), site_id="a")
    assert (reading.problems, reading.passed) == ((), 4)


def test_nodes_that_were_spare_and_given_back_are_not_charged() -> None:
    """A reliable start takes more nodes than asked; the `s` record says which are left."""
    said = "user=alice queue=q start=1795413600 exec_vnode=(n1:ncpus=4)+(n2:ncpus=4) Resource_List.ncpus=8"
    log = "\n".join([
        f"11/23/2026 06:00:00;S;7.p;{said} resource_assigned.ncpus=12",
        f"11/23/2026 06:00:05;s;7.p;{said} resource_assigned.ncpus=8",
        f"11/23/2026 06:10:00;E;7.p;{said} end=1795414200 Exit_status=0 resources_used.walltime=00:10:00 run_count=1",
    ])  # fmt: skip
    assert one(pbs_log.read_document(log, site_id="a")).core_seconds == 8 * 600
    (usage,) = frame_log(log, since=EVER[0], users={"alice"}).usages
    framed = read_usage(usage.format, usage.fields, site_id="a")
    assert isinstance(framed, UsageRecord) and framed.core_seconds == 8 * 600
