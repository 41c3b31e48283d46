"""Every raw format: real recordings with figures worked out by hand, and random and damaged input.

Recorded files say in `note` how they were taken (real OpenPBS 23.06 and HTCondor 25.14).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting.meter import MeteringPolicy, meter
from accounting.sources import apel, condor, lsb_acct, ogf_ur, pbs_log, pbs_qstat, sacct, sunway
from accounting.sources.reading import Reading
from accounting.usage import Kind, UsageRecord

RECORDED = Path(__file__).parents[2] / "recorded"
XSD = Path(__file__).parents[3].parent / "shared" / "data" / "ogf-ur" / "ur.xsd"


def recorded(name: str) -> str:
    return str(json.loads((RECORDED / name).read_text())["stdout"])


def one(reading: Reading) -> UsageRecord:
    assert reading.problems == ()
    (record,) = reading.records
    return record


# ---------------------------------------------------------------- PBS


def test_pbs_log_gives_each_run_what_it_took() -> None:
    log = recorded("pbs/accounting_records.json")
    reading = pbs_log.read_document(log, site_id="a")
    assert reading.problems == ()
    assert reading.rows == len([text for text in log.split("\n") if text.strip()])
    by_id = {(r.native_id, r.task): r for r in reading.records}
    shared, exclusive = by_id["1023.pbs01", None], by_id["12068.pbs01", None]
    assert (shared.cores, shared.nodes, shared.core_seconds, shared.memory_mib_seconds) == (8, 2, 112, 2048 * 14)
    # 2 × 8 cores asked for, 128 taken for 21 s: the S record says so (pbs-lsf-lab.md, section 5).
    assert (exclusive.requested_cores, exclusive.cores, exclusive.core_seconds, exclusive.exclusive) == (
        16, 128, 2688, True,
    )  # fmt: skip
    assert by_id["21[].pbs01", 4].core_seconds == 9
    assert (by_id["1042.pbs01", None].suspended_s, by_id["1042.pbs01", None].elapsed_s) == (2, 5)
    assert [by_id[n, None].state for n in ("7.pbs01", "12.pbs01", "9.pbs01")] == ["TIMEOUT", "CANCELLED", "FAILED"]
    assert ("21[].pbs01", None) not in by_id


@pytest.mark.parametrize(("gres", "each"), [
    ("gres/gpu=2,gres/gpu:a100=2", 2), ("gres/gpu:a100=1,gres/gpu:v100=2", 3), ("gres/dcu=4", 4),
    ("gres/dcu:z100=4", 4), ("gres/npu=8,gres/gpu=1", 9), ("gres/mps=100,gres/shard=3", 0), ("license/ansys=5", 0),
])  # fmt: skip
def test_slurm_accelerators_are_counted_whatever_the_centre_calls_them(gres: str, each: int) -> None:
    row = {"DBIndex": "7", "Cluster": "a", "JobID": "7", "User": "alice", "State": "COMPLETED", "Submit": "1795413500",
           "Start": "1795413600", "End": "1795413700", "ElapsedRaw": "100", "AllocCPUS": "8",
           "AllocTRES": f"cpu=8,{gres},node=1"}  # fmt: skip
    found = sacct.read(row, site_id="a")
    assert found is not None and found.gpu_seconds == each * 100


@pytest.mark.parametrize("ends", [("E", 271), ("R", -11)])
def test_what_a_suspended_run_holds_counts_until_it_is_deleted_or_run_again(ends: tuple[str, int]) -> None:
    kind, status = ends
    said = ("user=alice queue=q start=1793491200 exec_vnode=(n1:ncpus=4:ngpus=2) Resource_List.ncpus=4 "
            "Resource_List.place=pack run_count=1")  # fmt: skip
    log = [f"11/01/2026 00:00:00;S;7.p;{said}", "11/01/2026 00:10:00;z;7.p;",
           f"11/01/2026 01:00:00;{kind};7.p;{said} end=1793494800 Exit_status={status} "
           "resources_used.walltime=00:10:00"]  # fmt: skip
    found = one(pbs_log.read_document("\n".join(log), site_id="a"))
    assert (found.elapsed_s, found.suspended_s, found.core_seconds, found.gpu_seconds) == (600, 3000, 2400, 7200)
    assert not found.estimated


def test_pbs_log_without_the_s_record_says_that_it_only_estimates_an_exclusive_job() -> None:
    ends = "\n".join(x for x in recorded("pbs/accounting_records.json").split("\n") if ";E;12068" in x)
    guessed = one(pbs_log.read_document(ends, site_id="a"))
    known = one(pbs_log.read_document(ends, site_id="a", cores_per_node=64))
    assert (guessed.cores, guessed.estimated) == (16, True)
    assert (known.cores, known.estimated) == (128, False)


def test_pbs_counts_no_cpu_of_exec_host_0_times_0() -> None:
    line = ("11/23/2026 07:24:44;E;5.s;user=u group=g jobname=j queue=q ctime=1795418657 start=1795418662 "
            "exec_host=n1/0*0+n2/0*0 exec_vnode=(n1:ncpus=24)+(n2:ncpus=24) Resource_List.ncpus=48 "
            "Resource_List.nodect=2 Resource_List.place=scatter end=1795418684 Exit_status=0 "
            "resources_used.walltime=00:00:21 run_count=1")  # fmt: skip
    assert one(pbs_log.read_document(line, site_id="a")).cores == 48


def test_pbs_account_that_pretends_to_be_another_field_is_refused_or_harmless() -> None:
    text = recorded("pbs/accounting_records.json")
    line = next(x for x in text.split("\n") if ";E;1023." in x)
    quoted = line.replace('account="proj-astro"', 'account="x end=1 Exit_status=0"')
    assert one(pbs_log.read_document(quoted, site_id="a")).core_seconds == 112
    plain = line.replace('account="proj-astro"', "account=x end=1")
    assert pbs_log.read_document(plain, site_id="a").problems[0].why == "ValueError: end is said twice"


def test_pbs_qstat_agrees_with_the_log_in_json_in_text_and_in_json_that_is_none() -> None:
    log = pbs_log.read_document(recorded("pbs/accounting_records.json"), site_id="a")
    by_key = {r.run_key: r for r in log.records}
    excl = recorded("pbs/qstat_x_json_place_excl.json")
    broken = excl.replace('"comment":\t"Job run', '"comment":\t"a "quote" and \\x')
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(broken)
    for text in (excl, broken):
        record = one(pbs_qstat.read_document(text, site_id="a", cores_per_node=64))
        assert record.core_seconds == by_key[record.run_key].core_seconds == 640
    cores = one(pbs_qstat.read_document(recorded("pbs/qstat_x_f_text_finished.json"), site_id="a", cores_per_node=64))
    assert cores.core_seconds == by_key[cores.run_key].core_seconds == 2688


# ---------------------------------------------------------------- LSF, HTCondor, Sunway, APEL, OGF

LSB = (
    '"JOB_FINISH" "10.1" 1527327585 7610 1000 33554438 1 1527326745 0 0 1527326746 "lsfadmin" "normal" "" "" "" '
    '"ln" "" "" "" "" "10/1527326745.7610" 1 "pac" 2 "cn1" "cn1" 32 60.0 "my ""odd"" name" "sleep 1000" '
    '-1.000000 -1.000000 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 "" "default" 65280 1 "" "" 3 2048 0 ""'
)


def test_lsf_counts_the_execution_hosts_and_reads_doubled_quotes() -> None:
    record = one(lsb_acct.read_document(LSB, site_id="l"))
    assert (record.cores, record.nodes, record.elapsed_s, record.core_seconds) == (2, 1, 839, 1678)
    assert (record.task, record.job_name, record.state, record.requested_cores) == (3, 'my "odd" name', "EXIT", 1)
    many = one(lsb_acct.read_document(LSB.replace('"cn1" "cn1"', '"16*cn1" "16*cn2"'), site_id="l"))
    assert (many.cores, many.nodes) == (32, 2)


def test_lsf_job_that_asked_for_whole_hosts_says_so() -> None:
    shared, alone = (one(lsb_acct.read_document(LSB.replace(" 33554438 ", f" {options} "), site_id="a"))
                     for options in (33554438, 33554438 | 0x40))  # fmt: skip
    assert (shared.exclusive, alone.exclusive) == (False, True)
    assert meter(alone, MeteringPolicy(cores_per_node={"*": 36})).core_seconds == 36 * alone.elapsed_s


def test_condor_runs_of_different_sizes_are_summed_by_what_each_had() -> None:
    """Matched with 2 CPUs for 60 s, evicted, matched with 8 for 40 s: 440, and not 8 × 100."""
    ad = json.loads((RECORDED / "condor" / "completed_history.json").read_text())
    runs = {"RemoteWallClockTime": 100.0, "CpusProvisioned": 8, "CumulativeSlotTime": 440.0, "NumShadowStarts": 2}
    assert one(condor.read_document(json.dumps(ad | runs), site_id="a")).core_seconds == 440
    suspended = runs | {"CumulativeSuspensionTime": 10}
    assert one(condor.read_document(json.dumps(ad | suspended), site_id="a")).core_seconds == 360
    weighted = runs | {"NumShadowStarts": 1}  # one run: a slot's weight may be another than its CPUs
    assert one(condor.read_document(json.dumps(ad | weighted), site_id="a")).core_seconds == 800


def test_lsf_job_that_never_started_took_nothing() -> None:
    record = one(lsb_acct.read_document(LSB.replace("1527326746 ", "0 "), site_id="l"))
    assert (record.kind, record.core_seconds) == (Kind.NEVER_RAN, 0)


def test_condor_history_of_a_real_pool() -> None:
    ad = json.loads((RECORDED / "condor" / "completed_history.json").read_text())
    record = one(condor.read_document(json.dumps([ad]), site_id="c"))
    assert (record.native_id, record.username, record.cores, record.elapsed_s, record.core_seconds) == (
        "3.0", "alice", 2, 9, 18,
    )  # fmt: skip
    long_form = "\n".join(f"{name} = {json.dumps(value)}" for name, value in ad.items() if value is not None)
    assert one(condor.read_document(long_form, site_id="c")).core_seconds == 18


BLOCK = """Job<57245099>, User<swbxyh>, Status<DONE>, Project<->, Queue<q_sw_share>, Command</bin/echo x>

Dec 31 23:59:50: Submitted from host <psn002>, CWD</home/x>.
Dec 31 23:59:58: Started on mn <mn238>, using <2> nodes
Jan  1 00:00:08: End!
"""


def test_sunway_block_over_new_year_counts_core_groups() -> None:
    fields = {"block": BLOCK, "cgs": "8", "year": "2026", "zone": "Asia/Shanghai"}
    record = sunway.read_block(fields, site_id="s")
    assert record is not None
    assert (record.elapsed_s, record.cores, record.core_seconds, record.nodes) == (10, 8 * 65, 5200, 2)
    assert record.end_time == datetime(2026, 12, 31, 16, 0, 8, tzinfo=UTC)
    with pytest.raises(ValueError, match="core groups"):
        sunway.read_block({**fields, "cgs": ""}, site_id="s")


REPORT = """SCCAS accounting information about jobs that are:
  - submitted by users panlulu
Completed jobs list: ( time unit: second )
JobID     GIndex   numProc   numHosts   WallTime(sec)   HostTime(sec)   ExitCode  QueueName  StartTime  EndTime

6855286   0             80          4           22000            1100          0            c_blsc     \
2018/01/03 00:18:08     2018/01/03 00:22:43
6855452   0            100          5          150400            7520        256            c_blsc     \
2018/01/03 00:29:02     2018/01/03 00:54:06
"""


def test_sunway_report_divides_wall_time_by_the_processes() -> None:
    reading = sunway.read_report_document(REPORT, site_id="s", zone=ZoneInfo("Asia/Shanghai"))
    first, second = reading.records
    assert (first.elapsed_s, first.core_seconds, first.username) == (275, 22_000, "panlulu")
    assert (second.elapsed_s, second.state) == (1504, "FAILED")
    assert first.start_time == datetime(2018, 1, 2, 16, 18, 8, tzinfo=UTC)


APEL = """APEL-individual-job-message: v0.3
Site: X
LocalJobId: 31826
LocalUserId: alice
WallDuration: 100
CpuDuration: 90
Processors: 4
NodeCount: 1
StartTime: 1795415000
EndTime: 1795415100
%%
Site: X
LocalJobId: 31827
WallDuration: 100
StartTime: 1795415000
EndTime: 1795415100
%%"""


def test_apel_message_without_processors_is_an_estimate() -> None:
    first, second = apel.read_document(APEL, site_id="x").records
    assert (first.core_seconds, first.estimated, second.core_seconds, second.estimated) == (400, False, 100, True)


UR = """<?xml version="1.0" encoding="UTF-8"?>
<urf:UsageRecords xmlns:urf="http://schema.ogf.org/urf/2003/09/urf">
<urf:JobUsageRecord>
<urf:RecordIdentity urf:recordId="alpha:101" urf:createTime="2026-11-10T12:00:00Z"/>
<urf:JobIdentity><urf:LocalJobId>42</urf:LocalJobId></urf:JobIdentity>
<urf:UserIdentity><urf:LocalUserId>alice</urf:LocalUserId></urf:UserIdentity>
<urf:Charge urf:unit="CNY">1.25</urf:Charge>
<urf:Status>completed</urf:Status>
<urf:WallDuration>PT1H0.0S</urf:WallDuration>
<urf:NodeCount>2</urf:NodeCount>
<urf:Processors>8</urf:Processors>
<urf:EndTime>2026-11-10T12:00:00Z</urf:EndTime>
<urf:StartTime>2026-11-10T19:00:00+08:00</urf:StartTime>
</urf:JobUsageRecord>
</urf:UsageRecords>"""


def test_ogf_usage_record_is_read() -> None:
    record = one(ogf_ur.read_document(UR, site_id="o"))
    assert (record.run_key, record.native_id, record.core_seconds, record.nodes) == ("alpha:101", "42", 28_800, 2)
    assert record.start_time == datetime(2026, 11, 10, 11, tzinfo=UTC)


@pytest.mark.skipif(not XSD.exists(), reason="the OGF's schema is not at ../shared/data/ogf-ur")
def test_what_is_read_here_is_valid_by_the_ogfs_own_schema() -> None:
    import xmlschema

    schema = xmlschema.XMLSchema(
        str(XSD), locations={"http://www.w3.org/2000/09/xmldsig#": str(XSD.parent / "xmlds.xsd")}
    )
    schema.validate(UR)


def test_an_xml_bomb_is_one_problem() -> None:
    bomb = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x>&b;</x>'
    reading = ogf_ur.read_document(bomb, site_id="o")
    assert (len(reading.problems), reading.rows) == (1, 1)


# ---------------------------------------------------------------- anything at all

SACCT = ("DBIndex|Cluster|JobID|JobIDRaw|User|Account|State|Submit|Start|End|ElapsedRaw|AllocCPUS|AllocNodes|JobName\n"
         + "\n".join(f"{n}|c|{n}|{n}|alice|p|COMPLETED|1795415000|1795415100|1795415{200 + n}|{100 + n}|4|1|x"
                     for n in range(1, 6)))  # fmt: skip


def _sample(name: str) -> str:
    return {"sacct": SACCT, "pbs log": recorded("pbs/accounting_records.json"), "lsb.acct": "\n".join([LSB] * 4),
            "qstat": recorded("pbs/qstat_x_json_place_excl.json"), "condor": json.dumps([{"JobStatus": 4}] * 3),
            "sunway": REPORT, "apel": APEL, "ogf": UR}[name]  # fmt: skip


READERS: dict[str, Callable[[str], Reading]] = {
    "sacct": lambda text: sacct.read_document(text, site_id="a"),
    "pbs log": lambda text: pbs_log.read_document(text, site_id="a"),
    "qstat": lambda text: pbs_qstat.read_document(text, site_id="a"),
    "lsb.acct": lambda text: lsb_acct.read_document(text, site_id="a"),
    "condor": lambda text: condor.read_document(text, site_id="a"),
    "sunway": lambda text: sunway.read_report_document(text, site_id="a"),
    "apel": lambda text: apel.read_document(text, site_id="a"),
    "ogf": lambda text: ogf_ur.read_document(text, site_id="a"),
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=300))
def test_no_text_at_all_makes_a_reader_raise(name: str, text: str) -> None:
    READERS[name](text)


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_damage_makes_a_reader_raise_or_touches_what_is_whole(name: str, data: st.DataObject) -> None:
    whole = _sample(name)
    at = data.draw(st.integers(0, len(whole) - 1))
    junk = data.draw(st.text(max_size=6))
    cut = data.draw(st.integers(0, 5))
    damaged = whole[:at] + junk + whole[at + cut :]
    reading = READERS[name](damaged)
    if name in ("sacct", "pbs log", "lsb.acct"):
        assert reading.rows == _rows(name, damaged)
        same = set(damaged.split("\n")) & set(whole.split("\n"))
        before = {_line(r): r.core_seconds for r in READERS[name](whole).records}
        after = {_line(r): r for r in reading.records}
        for line, core_seconds in before.items():
            if name != "pbs log" and line in same and whole.split("\n", 1)[0] == damaged.split("\n", 1)[0]:
                assert after[line].core_seconds == core_seconds


def _rows(name: str, text: str) -> int:
    lines = text.split("\n")[1:] if name == "sacct" else text.split("\n")
    return len([x for x in lines if x.strip() and not (name == "lsb.acct" and x.startswith("#"))])


def _line(record: UsageRecord) -> str:
    return record.raw["line"] if "line" in record.raw else "|".join(record.raw.values())
