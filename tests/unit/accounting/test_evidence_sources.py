"""The independent verifier meters the records of every scheduler again; what it reads is what our readers read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from msgspec import structs

from accounting import store as books
from accounting.evidence import personal
from accounting.evidence.about import About
from accounting.evidence.bundle import bundle
from accounting.evidence.leaves import Charged
from accounting.sources import apel, condor, lsb_acct, ogf_ur, pbs_log, pbs_qstat, read_usage, sacct, sunway
from accounting.tariff import PriceRule
from accounting.usage import Unreadable, UsageRecord
from gateway.db import Database
from tests.unit.accounting.evidence_case import LOG, SEAL, T0, append_all, checkpoint, open_books, person_key
from tests.unit.accounting.test_evidence_verifier import shown as opened
from tests.unit.accounting.test_evidence_verifier import verifier
from tests.unit.accounting.test_lsf_odd import finished
from tests.unit.accounting.test_pbs_phases import PHASED, TORQUE_R, TORQUE_S
from tests.unit.accounting.test_sources import APEL, BLOCK, LSB, UR
from tests.unit.accounting.test_torque import QSTAT, TORQUE

_ = verifier  # the fixture

RECORDED = Path(__file__).parents[2] / "recorded"
PAUSED = """11/23/2026 06:00:00;S;9.pbs;user=alice queue=workq start=1795413600 exec_vnode=(n1:ncpus=4:mem=2097152kb) \
Resource_List.ncpus=4 Resource_List.place=excl Resource_List.nodect=1 resource_assigned.ncpus=16 \
resource_assigned.mem=8192000kb
11/23/2026 06:01:00;z;9.pbs;
11/23/2026 06:02:30;r;9.pbs;
11/23/2026 06:10:00;E;9.pbs;user=alice jobname="my secret thesis" queue=workq ctime=1795413500 start=1795413600 \
exec_vnode=(n1:ncpus=4:ngpus=1:mem=2097152kb) Resource_List.ncpus=4 Resource_List.place=excl \
Resource_List.nodect=1 end=1795414200 Exit_status=0 resources_used.walltime=00:08:30 run_count=1"""
REPORT = ("6855286   0   80   4   22000   1100   0   c_blsc   2018/01/03 00:18:08   2018/01/03 00:22:43",
          "6855452   2   100  5   150400  7520   256 c_blsc   2018/01/03 00:29:02   2018/01/03 00:54:06")  # fmt: skip
BESIDE = {"cgs": "8", "year": "2026", "zone": "Asia/Shanghai"}
NORTHBOUND = {"jobId": "77", "jobName": "secret", "userName": "alice", "jobStatus": "statC", "queue": "q1",
              "jobSubmitTime": "2026-11-23 13:59:00", "jobStartTime": "2026-11-23 14:00:00", "zone": "Asia/Shanghai",
              "jobEndTime": "2026-11-23 14:07:30", "procNumUsed": "48", "nodeNumUsed": "2", "gpuNumUsed": "3",
              "exitCode": "3"}  # fmt: skip
WRAPPER = {"native_id": "5", "user": "alice", "exit_code": "0", "start": "1795413600", "end": "1795413700",
           "estimated": "1", "name": "secret", "cgs": "7", "nodes": "2", "cores_per_cg": "65",
           "cgs_per_node": "4"}  # fmt: skip
SACCT = {"DBIndex": "7", "Cluster": "a", "JobID": "7", "JobIDRaw": "7", "User": "alice", "Account": "p", "QOS": "n",
         "Partition": "cpu", "State": "COMPLETED", "ExitCode": "0:0", "Submit": "1795413500", "Start": "1795413600",
         "End": "1795413600", "ElapsedRaw": "0", "AllocCPUS": "8", "AllocNodes": "1", "AllocTRES": "cpu=8,mem=4G",
         "ReqCPUS": "5", "NodeList": "n1", "Suspended": "00:00:00"}  # fmt: skip
LSF = (LSB.replace('"lsfadmin"', '"alice"').replace('my ""odd"" name', 'a ""secret"" thesis')
       .replace('"sleep 1000"', '"/home/x/run"').replace("1527", "1795"))  # fmt: skip
LSF_LINES = {
    "as it is": LSF, "by number": LSF.replace('2 "cn1" "cn1"', '2 "16*cn1" "8*cn2"'),
    "exclusive": LSF.replace(" 33554438 ", " 33554502 "), "done": LSF.replace(" 32 60.0", " 64 60.0"),
    "never started": LSF.replace("1795326746 ", "0 ", 1).replace('2 "cn1" "cn1"', "0"),
}  # fmt: skip
RUN_OF_CONDOR = {"RunInstanceID": 1, "EpochWriteDate": 1795415400, "JobCurrentStartDate": 1795415100, "JobStatus": 2}
SUSPENDED = {
    "CumulativeSuspensionTime": 7,
    "RemoteWallClockTime": 100.0,
    "GPUsProvisioned": 2,
    "MemoryProvisioned": 512,
}
NO_DURATION = "<urf:WallDuration>PT1H0.0S</urf:WallDuration>"


def condor_rows() -> Iterator[Mapping[str, str]]:
    ad = json.loads((RECORDED.parent / "recorded" / "condor" / "completed_history.json").read_text())
    for changes in (
        {},
        RUN_OF_CONDOR,
        SUSPENDED,
        {"RemoteWallClockTime": 0},
        SUSPENDED | {"NumShadowStarts": 3, "CumulativeSlotTime": 250.0},
        {"JobStatus": 3, "CpusProvisioned": None},
    ):
        yield from condor.frame(json.dumps([ad | changes]))
    for row in condor.frame(json.dumps([ad | {"RequestCpus": "/Expr(x)/"}])):
        yield {**row, "RemoteWallClockTime": "9.000000000000000E+00", "CumulativeSlotTime": "1.800000000000000E+01"}


def ogf_rows() -> Iterator[Mapping[str, str]]:
    for text in (UR, UR.replace(NO_DURATION, ""), UR.replace("PT1H0.0S", "P1DT2H3M4.5S"),
                 UR.replace(">completed", ">aborted"), UR.replace(">8</urf:P", ">1</urf:P")):  # fmt: skip
        yield from (record.raw for record in ogf_ur.read_document(text, site_id="alpha").records)


def rows() -> Iterator[tuple[str, Mapping[str, str]]]:
    for row in pbs_log.frame([line for line in recorded("accounting_records.json").split("\n") if line.strip()]):
        yield pbs_log.FORMAT, row
    for row in pbs_log.frame(PAUSED.split("\n")):
        yield pbs_log.FORMAT, row
    for row in pbs_log.frame([*PHASED, TORQUE_S, TORQUE_R]):
        yield pbs_log.FORMAT, row
    gpus = TORQUE.replace(" session", " exec_gpus=n1-gpu/0+n1-gpu/1 session")
    for line in (TORQUE, gpus, TORQUE.replace("Exit_status=0", "Exit_status=-14")):
        yield from ((pbs_log.FORMAT, row) for row in pbs_log.frame([line]))
    yield from ((pbs_qstat.FORMAT, row) for row in pbs_qstat.frame(QSTAT))
    for file in sorted((RECORDED / "pbs").glob("qstat_x*.json")):
        for row in pbs_qstat.frame(recorded(file.name)):
            yield pbs_qstat.FORMAT, row
    for line in REPORT:
        yield sunway.REPORT, {"line": line, "user": "panlulu"}
    yield sunway.BLOCK, {"block": BLOCK, **BESIDE}
    yield sunway.BLOCK, {"block": BLOCK, **BESIDE, "nodes": "3", "cgs_per_node": "6", "cores_per_cg": "64"}
    yield "sunway-wrapper/1", WRAPPER
    yield "northbound-job/1", NORTHBOUND
    yield "northbound-job/1", NORTHBOUND | {"jobStatus": "statD", "jobStartTime": ""}
    gpus = "select[ngpus>0] rusage[ngpus_physical=2.00]"
    newer = (finished(run_time=600), finished(required=gpus, run_time=600), finished(run_time=5000), finished(start=0))
    for line in (*LSF_LINES.values(), *newer):
        yield lsb_acct.FORMAT, {"line": line}
    for row in condor_rows():
        yield condor.FORMAT, row
    for row in ogf_rows():
        yield ogf_ur.FORMAT, row
    for text in (APEL, APEL.replace("WallDuration: 100", "WallDuration: 00:01:40")):
        for row in apel.frame(text):
            yield apel.FORMAT, row
    canceled = {"State": "CANCELLED by 5", "ElapsedRaw": "60", "End": "1795413660"}
    suspended = {"Suspended": "00:01:05", "ElapsedRaw": "9", "End": "1795413674"}
    accelerated = [
        {"AllocTRES": f"cpu=8,mem=4G,node=1,{gres}", "ElapsedRaw": "60", "End": "1795413660"}
        for gres in ("gres/dcu=2,gres/dcu:z100=2", "gres/gpu:a100=1,gres/gpu:v100=2,gres/mps=100")
    ]
    flags = [{"State": flag} for flag in ("SPECIAL_EXIT", "LAUNCH_FAILED")]
    for changes in ({}, {"NodeList": "None assigned"}, *flags, canceled, suspended, *accelerated):
        yield "sacct/1", SACCT | changes


def recorded(name: str) -> str:
    return str(json.loads((RECORDED / "pbs" / name).read_text())["stdout"])


def readings() -> list[UsageRecord]:
    found = [(name, read_usage(name, row, site_id="alpha")) for name, row in rows()]
    assert not [item for name, item in found if isinstance(item, Unreadable) and not name.startswith("pbs")]
    return [item for _, item in found if isinstance(item, UsageRecord)]


def sealed(item: UsageRecord) -> UsageRecord:
    ref = f"{item.site_id}/{item.run_key}/{item.meter.value}"
    raw = personal.seal(item.raw, person="u1", key=person_key("u1"), ref=ref)
    return structs.replace(item, raw=raw, username="~", job_name="")


def shown(charged: Charged) -> dict[str, Any] | None:
    return opened(charged) if charged.sealed else None


@pytest.fixture
def db(db_url: str) -> Iterator[Database]:
    found = Database(db_url)
    with found.write() as conn:
        open_books(conn, "p1")
        long_ago = PriceRule(0, "CNY", 100_000, T0.replace(year=2010), T0 - timedelta(days=99))
        books.add_tariff(conn, long_ago, now=T0)
        items = [books.Assigned(sealed(r), f"j{n}", "p1", "u1", "CNY") for n, r in enumerate(readings())]
        books.record_and_book(conn, items, now=T0 + timedelta(days=40))
        append_all(conn)
        checkpoint(conn)
    yield found
    found.dispose()


def test_every_dialects_records_are_metered_again(db: Database, verifier: ModuleType) -> None:
    telling = {"line", "block", "Job_Id", "jobId", "cgs", "JobID", "GlobalJobId", "RecordIdentity", "WallDuration"}
    assert {tuple(sorted(set(r.raw) & telling)) for r in readings()} >= {
        ("line",), ("block", "cgs"), ("Job_Id",), ("jobId",), ("cgs",), ("JobID",), ("GlobalJobId",),
        ("RecordIdentity",), ("RecordIdentity", "WallDuration"), ("WallDuration",),
    }  # fmt: skip
    with db.read() as conn:
        about = About(T0.replace(year=2010), T0.replace(year=2030), "p1")
        for told in (lambda _charged: None, shown):  # with the names, and without
            lines = list(bundle(conn, about, log_key=LOG, seal=SEAL, shown=told))
            options = verifier.Options(LOG.vkey, [], None, 1)
            found = verifier.checked(iter(lines), options)
            assert found.findings == []
            assert found.not_metered() == {}
            entries = [json.loads(line) for line in lines if line.startswith('{"t":"entry"')]
            assert len([e for e in entries if e["charges"]]) > 15


QUANTITY = ("core_seconds", "node_seconds", "gpu_seconds", "memory_mib_seconds", "elapsed_s", "cores", "nodes")


def test_a_figure_that_is_not_in_the_record_is_found_for_every_dialect(verifier: ModuleType) -> None:
    """Also where the log itself would say so: the raw record is the judge."""
    for item in readings():
        honest = record_json(item)
        assert judged(verifier, honest) == [], item.raw
        for name in QUANTITY:
            read = honest["read"] | {name: str(int(honest["read"][name]) + 1)}
            assert judged(verifier, honest | {"read": read}), (name, item.raw)


# What of a record of these formats a figure follows from: changed there, the figure does not follow any more.
RAW = {
    "GlobalJobId": ("RemoteWallClockTime", "CumulativeSuspensionTime", "CpusProvisioned", "GPUsProvisioned",
                    "MemoryProvisioned", "JobStartDate", "EnteredCurrentStatus", "JobStatus", "AcctGroup",
                    "RequestCpus"),
    "RecordIdentity": ("WallDuration", "Processors", "NodeCount", "StartTime", "EndTime", "Status"),
    "Site": ("WallDuration", "Processors", "NodeCount", "StartTime", "EndTime"),
}  # fmt: skip
OTHER = {"JobStatus": "3", "AcctGroup": '"other"', "Status": "failed", "WallDuration": "PT77S",
         "StartTime": "2026-11-10T19:00:01+08:00", "EndTime": "2026-11-10T12:00:01Z"}  # fmt: skip
OF_APEL = {"WallDuration": "77", "StartTime": "1795415001", "EndTime": "1795415101"}


@pytest.mark.parametrize("format_name", list(RAW))
def test_each_word_of_a_record_that_a_figure_follows_from_is_evidence(verifier: ModuleType, format_name: str) -> None:
    honest = record_json(next(r for r in readings() if format_name in r.raw))
    other = OTHER | OF_APEL if format_name == "Site" else OTHER
    assert judged(verifier, honest) == []
    for name in RAW[format_name]:
        fields = honest["fields"] | {name: other.get(name, "31")}
        assert judged(verifier, honest | {"fields": fields}), name


@pytest.mark.parametrize(
    ("word", "other"),
    [("1795327585", "1795327586"), ("1795326746", "1795326747"), ('2 "cn1" "cn1"', '2 "cn1" "cn2"'),
     ('2 "cn1" "cn1"', '3 "cn1" "cn1" "cn1"'), (" 32 60.0", " 64 60.0"), ('"normal"', '"night"'),
     ("33554438 1 ", "33554438 2 ")],
)  # fmt: skip
def test_each_word_of_a_line_of_lsf_that_a_figure_follows_from_is_evidence(
    verifier: ModuleType, word: str, other: str
) -> None:
    item = read_usage(lsb_acct.FORMAT, {"line": LSF}, site_id="alpha")
    assert isinstance(item, UsageRecord)
    honest = record_json(item)
    assert word in LSF
    assert judged(verifier, honest) == []
    assert judged(verifier, honest | {"fields": {"line": LSF.replace(word, other, 1)}})


@pytest.mark.parametrize("one_sided", [True, False])
def test_a_reading_that_was_agreed_from_a_line_is_compared_with_it_and_not_called_metered(
    verifier: ModuleType, one_sided: bool
) -> None:
    item = sacct.read(SACCT | {"ElapsedRaw": "60", "End": "1795413660"}, site_id="a")
    assert item is not None
    agreed = {"statement": "1", "statement_line": "3", "break": "2"}
    record = record_json(item) | {"fields": {**item.raw, **agreed}, "one_sided": one_sided}
    found: list[str] = []
    assert "agreed from a line" in verifier.check_record(record, None, found.append)
    assert found == []
    more = record | {"read": record["read"] | {"core_seconds": "481"}}
    assert "agreed from a line" in verifier.check_record(more, None, found.append)
    assert found == ["the statement's line gives core_seconds 480, the usage says 481"]


@pytest.mark.parametrize("fields", [{"what": "nobody knows"}, {"JobID": "5"}, {}])
def test_a_record_of_a_format_that_nobody_knows_is_said_to_be_not_metered(
    verifier: ModuleType, fields: dict[str, str]
) -> None:
    item = sacct.read(SACCT, site_id="a")
    assert item is not None
    record = record_json(item) | {"fields": fields}
    assert "in no format that this verifier can read" in verifier.check_record(record, None, lambda _text: None)


def record_json(item: UsageRecord) -> dict[str, Any]:
    names = ("elapsed_s", "suspended_s", "cores", "nodes", "threads_per_core", "core_seconds", "node_seconds",
             "gpu_seconds", "memory_mib_seconds")  # fmt: skip
    start, end = item.start_time, item.end_time
    read = {name: str(getattr(item, name)) for name in names} | {
        "kind": item.kind.value, "state": item.state, "queue": item.queue, "exclusive": item.exclusive,
        "start": start and start.isoformat(), "end": end and end.isoformat(),
        "requested_cores": None if item.requested_cores is None else str(item.requested_cores),
        "cpus": None if item.cpus is None else str(item.cpus),
    }  # fmt: skip
    return {"meter": "centre", "one_sided": True, "fields": dict(item.raw), "read": read}


def judged(verifier: ModuleType, record: dict[str, Any]) -> list[str]:
    found: list[str] = []
    assert verifier.check_record(record, None, found.append) is None
    return found


def test_names_in_a_line_or_a_block_are_sealed_and_the_rest_can_be_read(db: Database, verifier: ModuleType) -> None:
    with db.read() as conn:
        about = About(T0.replace(year=2010), T0.replace(year=2030), "p1")
        hidden = "".join(bundle(conn, about, log_key=LOG, seal=SEAL))
        told = "".join(bundle(conn, about, log_key=LOG, seal=SEAL, shown=shown))
    for word in ("alice", "secret", "panlulu", "swbxyh", "/home/x", "/bin/echo"):
        assert word not in hidden, hidden[max(0, hidden.find(word) - 60) :][:90]
        assert word in told, word
    assert "resources_used.walltime" in hidden
    item = next(r for r in readings() if "secret" in r.raw.get("line", ""))
    assert personal.whole(sealed(item).raw, key=person_key("u1")) == item.raw


def test_a_row_of_sacct_that_ran_for_no_second_had_its_nodes(verifier: ModuleType) -> None:
    item = sacct.read(SACCT, site_id="a")
    assert item is not None
    assert judged(verifier, record_json(item)) == []
