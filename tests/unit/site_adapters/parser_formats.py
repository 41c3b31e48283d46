"""What the mutation campaigns read: rows of every command that a scheduler answers with, and what counts as a row."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from accounting.sources import condor, lsb_acct
from accounting.sources import pbs_log as log_meaning
from accounting.sources.reading import Reading
from site_adapters.command import Garbled, Output
from site_adapters.dialect_config import NorthboundConfig
from site_adapters.errors import SiteError
from site_adapters.northbound.commands import Api
from site_adapters.pbs import billing
from site_adapters.pbs.commands import Qstat
from site_adapters.slurm.commands import SEPARATOR, AccountingRows, read_sacct, read_squeue, runs_of
from site_adapters.slurm.resource import scontrol_show
from site_adapters.sunway.commands import read_bjobs
from site_adapters.sunway.resource import read_cnload, read_qload
from site_adapters.transport.http import Answer
from site_adapters.types import Look, ObservedRun
from tests.mutation import Format, Found, damaged_json

NOW = datetime(2026, 11, 25, 14, 0, tzinfo=UTC)
END = "\x1e0123456789abcdef"
SECRET = f"{SEPARATOR}0123456789abcdef{SEPARATOR}"  # as the adapter draws one for each question


def ran(look: Look) -> Found:
    """Runs by what identifies them, and their state, cores and times."""
    if look.error is not None:
        return Found(refused=True)
    values = ((r.native_id, r.state.value, r.username, r.name, r.cores, r.submit_time, r.exit_code) for r in look.runs)
    return Found(tuple(values), len(look.problems))


def value_of(n: str, state: str, name: str, cores: int | None, submit: int | None, code: int | None) -> Hashable:
    at = None if submit is None else datetime.fromtimestamp(submit, UTC)
    return n, state, "alice", name, cores, at, code


def lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


# ---------------------------------------------------------------- Slurm

_SLURM = {"PENDING": "queued", "RUNNING": "active", "COMPLETED": "completed", "FAILED": "failed"}


def squeue_row(r: random.Random, n: int) -> tuple[str, Hashable]:
    word, submit, cores = r.choice(list(_SLURM)), 1795415676 + n, r.randint(1, 99)
    fields = [n, n, "N/A", "N/A", word, "Priority" if word == "PENDING" else "None", submit, submit + 1, submit + 9,
              cores, "alice", 0, 768 if word == "FAILED" else 0, "(null)", f"job-{n}"]  # fmt: skip
    code = {"FAILED": 3, "COMPLETED": 0}.get(word)
    value = value_of(str(n), _SLURM[word], f"job-{n}", None if word == "PENDING" else cores, submit, code)
    return SEPARATOR.join(map(str, fields)), value


def read_queue(data: bytes) -> Found:
    """A bracket row is one row, however many tasks it stands for: its runs differ in nothing but the task."""
    look = read_squeue(Output(data, b"", 0), END)
    runs: list[ObservedRun] = []
    for run in look.runs:
        if run.task is None or not runs or replace(runs[-1], task=run.task) != run:
            runs.append(run)
    return ran(Look(tuple(runs), look.problems, look.error))


def queue_pieces(text: str) -> int:
    """What stands between end marks; lines before a row's first field are a row of their own (a banner)."""
    pieces = [piece for piece in text.split(f"{END}\n") if piece.strip()]
    firsts = (piece.partition(SEPARATOR)[0] for piece in pieces if SEPARATOR in piece)
    return len(pieces) + sum(bool(first.rpartition("\n")[0].strip()) for first in firsts)


def sacct_row(r: random.Random, n: int) -> tuple[str, Hashable]:
    word, submit, cores = r.choice(("COMPLETED", "FAILED")), 1795415676 + n, r.randint(1, 99)
    fields = [n, "alpha", n, n, "alice", 6401, "proj1", "normal", "normal", word, "3:0" if word == "FAILED" else "0:0",
              submit, submit, submit + 1, submit + 9, 8, "00:00:00", cores, 1, "cpu=1", "cpu=1", "None", "n1",
              "sbatch x", r.choice(("", "pst1:j1:p1:u1:1:0:0", "two\nlines")), f"job-{n}"]  # fmt: skip
    code = 3 if word == "FAILED" else 0
    return SECRET.join(map(str, fields)), value_of(str(n), _SLURM[word], f"job-{n}", cores, submit, code)


def read_accounts(data: bytes) -> Found:
    """Framing and meaning together: a row that frames and does not read is a problem of the second."""
    found = read_sacct(Output(data, b"", 0), SECRET)
    whole, each = runs_of(found), [runs_of(AccountingRows((row,), ())) for row in found.rows]
    assert sum(len(look.runs) for look in each) == len(whole.runs)
    passed = sum(not look.runs and not look.problems for look in each)  # RESIZING: the row after it is the job's
    firsts = tuple(look.runs[0] for look in each if look.runs)  # of a bracket row's tasks
    return Found(ran(Look(firsts)).values, len(whole.problems), passed)


_BEGINS = re.compile(rf"\d*{SECRET}[\w.-]+{SECRET}[\d_\[\]%,:+.-]+{SECRET}\d+{SECRET}")


def accounts_pieces(text: str) -> int:
    """Between end marks; what does not begin as a row is the rest of one before that lacks fields; a banner counts."""
    *ended, cut = text.split(f"{SECRET}\n")
    count, room = 0, 0
    for piece in ended:
        more = piece.count(SECRET)
        bare = piece.partition(SECRET)[0].rpartition("\n")
        starts = _BEGINS.match(piece[len(bare[0]) + len(bare[1]) :]) is not None
        if count and not starts and more + 1 <= room:
            room -= more + 1
            continue
        count += 1 + bool(starts and bare[0].strip())
        room = 25 - more
    return count + bool(cut)


def partition_row(r: random.Random, n: int) -> tuple[str, Hashable]:
    cores = r.randint(1, 99)
    text = (f"PartitionName=q{n} AllowAccounts=ALL Default=NO DefaultTime=00:10:00 MaxNodes=UNLIMITED "
            f"MaxTime=2-00:00:00 Nodes=n[1-4] OverSubscribe=NO State=UP TotalCPUs={cores} TotalNodes=4")  # fmt: skip
    return text, (f"q{n}", str(cores), "UP", "2-00:00:00")


def read_partitions(data: bytes) -> Found:
    shown = scontrol_show("scontrol", "partition").parse(Output(data, b"", 0))
    keys = ("PartitionName", "TotalCPUs", "State", "MaxTime")
    return Found(tuple(tuple(row.get(key, "") for key in keys) for row in shown.rows), len(shown.problems))


# ---------------------------------------------------------------- PBS

_PBS = {"Q": "queued", "R": "active", "H": "held", "F": "failed"}


def qstat_row(r: random.Random, n: int) -> tuple[str, Hashable]:
    letter, cores = r.choice(list(_PBS)), r.randint(1, 64)
    ended = "    Exit_status = 3\n    substate = 93\n" if letter == "F" else "    substate = 10\n"
    text = (f"Job Id: {n}.pbs01\n    Job_Name = job-{n}\n    Job_Owner = alice@pbs01\n    job_state = {letter}\n"
            f"    ctime = Mon Nov 23 06:34:36 2026\n    mtime = Mon Nov 23 06:35:36 2026\n{ended}"
            f"    Variable_List = A=1,B=2,\n\tX=y\n    Resource_List.ncpus = {cores}")  # fmt: skip
    return text, _pbs_value(n, letter, cores)


def _pbs_value(n: int, letter: str, cores: int) -> Hashable:
    shown = None if letter in "QH" else cores
    return value_of(f"{n}.pbs01", _PBS[letter], f"job-{n}", shown, 1795415676, 3 if letter == "F" else None)


def read_qstat(data: bytes) -> Found:
    return ran(Qstat("qstat", torque=True).live(user=None).parse(Output(data, b"", 0)))


def qstat_pieces(text: str) -> int:
    """What begins with a head; and, after an empty line, what is no value's rest: a job that lost its head, a banner.

    A rest begins with a tab, or like an attribute that the job has not named yet; it may not begin like a job's first.
    """
    head, *blocks = re.split(r"(?m)^Job Id: ", text)
    return bool(head.strip()) + sum(1 + _foreign(block.partition("\n")[2]) for block in blocks)


def _foreign(body: str) -> bool:
    for end in re.finditer(r"\n\n+", body):
        rest, named = body[end.end() :], set(re.findall(r"(?m)^    ([A-Za-z_][\w.-]*) = ", body[: end.end()]))
        attribute = re.match(r"    ([A-Za-z_][\w.-]*) = ", rest)
        if rest and not rest.startswith("\t") and (attribute is None or attribute[1] in named | {"Job_Name"}):
            return True
    return False


def qstat_json_row(r: random.Random, n: int) -> tuple[str, Hashable]:
    letter, cores = r.choice(list(_PBS)), r.randint(1, 64)
    job = {"Job_Name": f"job-{n}", "Job_Owner": "alice@pbs01", "job_state": letter,
           "ctime": "Mon Nov 23 06:34:36 2026", "mtime": "Mon Nov 23 06:35:36 2026",
           "substate": 93 if letter == "F" else 10, "Variable_List": {"A": 1},
           "Resource_List": {"ncpus": cores}} | ({"Exit_status": 3} if letter == "F" else {})  # fmt: skip
    return f'"{n}.pbs01":{json.dumps(job)}', _pbs_value(n, letter, cores)


def read_qstat_json(data: bytes) -> Found:
    try:
        return ran(Qstat("qstat").live(user=None).parse(Output(data, b"", 0)))
    except Garbled as exc:
        assert exc.instead is not None  # the same question in the text form
        return Found(refused=True)


def qstat_json_pieces(text: str) -> int:
    return len(json.loads(text).get("Jobs", {}))


def log_row(r: random.Random, n: int) -> tuple[str, Hashable]:
    text = (f"11/23/2026 06:34:{r.randint(10, 59)};{r.choice('ER')};{n}.pbs01;user=alice group=x jobname=job-{n} "
            f"queue=workq ctime=1795415676 start=1795415676 exec_vnode=(cn1:ncpus=2) end=1795415687 Exit_status=0 "
            f"resources_used.walltime=00:00:11")  # fmt: skip
    return text, text


def read_log(data: bytes) -> Found:
    batch = billing.frame_log(data.decode("utf-8", "replace"), since=datetime.min.replace(tzinfo=UTC), users=set())
    passed = len(lines(data.decode("utf-8", "replace"))) - len(batch.usages) - len(batch.problems)
    return Found(tuple(usage.fields["line"] for usage in batch.usages), len(batch.problems), passed)


def log_pieces(text: str) -> int:
    """Each line; one whose type is an event that ends no run is passed, by its own word only."""
    found = lines(text)
    batch = billing.frame_log(text, since=datetime.min.replace(tzinfo=UTC), users=set())
    events = sum(re.match(r"\d\d/\d\d/\d{4} \d\d:\d\d:\d\d;[A-DF-Qa-zS-Z];[^;]*;", line) is not None for line in found)
    assert len(found) - len(batch.usages) - len(batch.problems) <= events
    return len(found)


def meaning(reading: Reading) -> Found:
    values = ((r.native_id, r.username, r.cores, r.elapsed_s, r.job_name) for r in reading.records)
    return Found(tuple(values), len(reading.problems), reading.passed)


def log_meaning_row(r: random.Random, n: int) -> tuple[str, Hashable]:
    return log_row(r, n)[0], (f"{n}.pbs01", "alice", 2, 11, f"job-{n}")


# ---------------------------------------------------------------- Sunway

_SUNWAY = {"PEND": "queued", "RUN": "active", "DONE": "completed", "EXIT": "failed"}


_COLOURS = r"\x1b\[[0-9;]*[A-Za-z]"


def bjobs_row(r: random.Random, n: int) -> tuple[str, Hashable]:
    status = r.choice(list(_SUNWAY))
    text = (f"Job<{n}>, User<alice>, Status<{status}>, Project<->, Queue<q_sw_share>, Command</bin/sh /x/{n}.sh>\n\n"
            f"Nov 23 12:32:17: Submitted from host <psn002>, CWD</home/export/online3>.\n"
            f"Nov 23 12:32:18: Started on mn <mn238>, using <0> nodes\nNov 23 12:32:27: End!")  # fmt: skip
    return text, (str(n), _SUNWAY[status], "alice", datetime(2026, 11, 23, 12, 32, 17, tzinfo=UTC))


def read_blocks(data: bytes) -> Found:
    look = read_bjobs(Output(data, b"", 0), zone="UTC", now=NOW)[1]
    if look.error is not None:
        return Found(refused=True)
    return Found(tuple((r.native_id, r.state.value, r.username, r.submit_time) for r in look.runs), len(look.problems))


def blocks_pieces(text: str) -> int:
    """What begins with `Job<`; what stands before the first; and after a block's events, what follows an empty line."""
    head, *blocks = re.split(r"(?m)^(?=Job ?<)", re.sub(_COLOURS, "", text))
    parted = [re.split(r"\n\n+", block, maxsplit=2) for block in blocks]
    rests = sum(len(parts) == 3 and bool(parts[2].strip()) for parts in parted)
    return bool(head.strip()) + len(blocks) + rests


def qload_row(r: random.Random, n: int) -> tuple[str, Hashable]:
    busy = r.randint(0, 40)
    return f"q_{n} 40 {40 - busy} {busy} 0 0", (f"q_{n}", 40, busy)


def read_load(data: bytes) -> Found:
    load = read_qload(data.decode("utf-8", "replace"))
    values = tuple((name, row.get("CONFIG"), row.get("BUSY")) for name, row in load.rows)
    return Found(values, len(load.problems))


def load_pieces(text: str) -> int:
    """Every line with a digit, but for headings: rules and greetings have none."""
    rows = [line for line in re.sub(_COLOURS, "", text).split("\n") if re.search("[0-9]", line)]
    words = [[word.upper() for word in line.split()] for line in rows]
    return sum(not ("CONFIG" in w and any(word.startswith("QUEUE") for word in w)) for w in words)


def cnload_row(r: random.Random, n: int) -> tuple[str, Hashable]:
    state = r.choice(("busy", "sleep", "softft"))
    return f"vn{n} {n} 0:0:1:0 100.0.1.1 {state} 11Day 00:12 3.64 6 384 1000M 3.5G OK OK 1,2ok exclu q_sw_share", (
        f"vn{n}", state, "q_sw_share")  # fmt: skip


def read_nodes(data: bytes) -> Found:
    load = read_cnload(data.decode("utf-8", "replace"))
    return Found(tuple(load.rows), len(load.problems))


# ---------------------------------------------------------------- REST, LSF, HTCondor

_REST = {"statQ": "queued", "statR": "active", "statC": "completed"}
_API = Api(NorthboundConfig(url="https://centre.example", login="token", user="alice", token_file="t", home="/h"),
           "Asia/Shanghai")  # fmt: skip


def rest_row(r: random.Random, n: int) -> tuple[str, Hashable]:
    word, cores = r.choice(list(_REST)), r.randint(1, 64)
    row = {"jobId": str(n), "jobName": f"job-{n}", "jobStatus": word, "userName": "alice", "procNumUsed": cores,
           "jobSubmitTime": "2026-11-23 14:34:36", "exitCode": "0" if word == "statC" else ""}  # fmt: skip
    code = 0 if word == "statC" else None
    return json.dumps(row), value_of(str(n), _REST[word], f"job-{n}", cores, 1795415676, code)


def read_page(data: bytes) -> Found:
    try:
        page = _API.listed("active-job", "m", 1).parse(Answer(200, data))
    except (ValueError, SiteError):
        return Found(refused=True)
    return ran(Look(page.runs, page.problems))


def page_pieces(text: str) -> int:
    return len(json.loads(text)["data"]["list"])


def lsb_row(r: random.Random, n: int) -> tuple[str, Hashable]:
    cores = r.randint(1, 4)
    hosts = " ".join(['"cn1"'] * cores)
    text = (f'"JOB_FINISH" "10.1" 1527327585 {n} 1000 33554438 1 1527326745 0 0 1527326746 "alice" "normal" "" "" "" '
            f'"ln" "" "" "" "" "10/1" 0 {cores} {hosts} 64 60.0 "job-{n}" "sleep" '
            + "-1 " * 19 + '"" "default" 0 1 "" "" 0')  # fmt: skip
    return text, (str(n), "alice", cores, 839, f"job-{n}")


def lsb_pieces(text: str) -> int:
    return sum(not line.startswith("#") for line in lines(text))


def ad_row(r: random.Random, n: int) -> tuple[str, Hashable]:
    cores = r.randint(1, 8)
    ad = {"GlobalJobId": f"s#{n}.0#1", "ClusterId": n, "ProcId": 0, "Owner": "alice", "JobStatus": 4,
          "QDate": 1795415676, "JobStartDate": 1795415677, "CompletionDate": 1795415687, "RemoteWallClockTime": 10.0,
          "CumulativeSuspensionTime": 0, "RequestCpus": cores, "CpusProvisioned": cores, "JobBatchName": f"job-{n}",
          "ExitCode": 0, "MemoryProvisioned": 1, "EnteredCurrentStatus": 1795415687}  # fmt: skip
    return json.dumps(ad), (f"{n}.0", "alice", cores, 10, f"job-{n}")


def meant(read: Callable[..., Reading]) -> Callable[[bytes], Found]:
    return lambda data: meaning(read(data.decode("utf-8", "replace"), site_id="s"))


def joined(mark: str) -> Callable[[Sequence[bytes]], bytes]:
    def whole(bodies: Sequence[bytes]) -> bytes:
        return b"".join(body + mark.encode() for body in bodies)

    return whole


def document(head: str, tail: str) -> Callable[[Sequence[bytes]], bytes]:
    def whole(bodies: Sequence[bytes]) -> bytes:
        return head.encode() + b",".join(bodies) + tail.encode()

    return whole


HEADING = b"\x1b[1mQUEUE CONFIG IDLE BUSY SLEEP FAULT\x1b[0m\n--------------------\n"
FORMATS: dict[str, Format] = {
    "squeue": Format(squeue_row, joined(f"{END}\n"), read_queue, queue_pieces),
    "sacct": Format(sacct_row, joined(f"{SECRET}\n"), read_accounts, accounts_pieces),
    "scontrol": Format(partition_row, joined("\n"), read_partitions, lambda text: len(lines(text))),
    "qstat-text": Format(qstat_row, joined("\n\n"), read_qstat, qstat_pieces),
    "qstat-json": Format(qstat_json_row, document('{"timestamp":1,"Jobs":{', "}}"), read_qstat_json, qstat_json_pieces,
                         refusable=True, banner=False, damage=damaged_json),
    "pbs-log": Format(log_row, joined("\n"), read_log, log_pieces),
    "pbs-log-meaning": Format(log_meaning_row, joined("\n"),
                              meant(log_meaning.read_document), lambda text: len(lines(text))),
    "bjobs": Format(bjobs_row, joined("\n\n"), read_blocks, blocks_pieces),
    "qload": Format(qload_row, lambda bodies: HEADING + joined("\n")(bodies), read_load, load_pieces),
    "cnload": Format(cnload_row, joined("\n"), read_nodes, load_pieces),
    "northbound": Format(rest_row, document('{"code":"0","msg":"","data":{"total":9,"list":[', "]}}"), read_page,
                         page_pieces, refusable=True, banner=False, damage=damaged_json),
    "lsb.acct": Format(lsb_row, joined("\n"),
                       meant(lsb_acct.read_document), lsb_pieces),
    "condor": Format(ad_row, joined("\n"),
                     meant(condor.read_document), lambda text: len(lines(text))),
}  # fmt: skip
