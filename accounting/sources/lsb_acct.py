"""LSF's `lsb.acct`: JOB_FINISH lines, quoted words in a fixed order (IBM Spectrum LSF reference, "lsb.acct").

Slots are those of the execution hosts (`numProcessors` is the request), also of a job that asked for whole hosts (`bsub
-x`, told by a bit of `options`); the exit status is a raw wait status. Since LSF 9.1.3 a line goes on behind the array
index: `runTime` there is the time in the run state, so that what is left of (event time − start) was suspended; older
lines do not tell suspension, and their elapsed time holds it. Accelerators are those of `rusage[ngpus_physical=…]` in
the requirement that was in force: for each host, or for each task where it says so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping

from accounting.sources.figures import SECONDS_MAX, between, epoch, whole
from accounting.sources.reading import Reading, read_rows
from accounting.usage import Kind, Meter, UsageRecord

FORMAT = "lsb.acct/1"
FENCED_EXIT = 75

_WORD = re.compile(r'"((?:[^"]|"")*)"(?=\s|\Z)|([^"\s]+)(?=\s|\Z)')
_TAG = re.compile(r"\bp[a-z0-9]{15}\.\d+\b")
_SUB_EXCLUSIVE = 0x40  # lsbatch.h
_RUSAGE_WORDS = 19
# LSF stamps the start when it dispatches and the end when it hears of it.
SKEW_S = 2
# What follows the index, as far as it is read (LSF 10.1); a pair is a number, and so many groups of so many words.
_MORE = (
    "maxRMem", "maxRSwap", "inFileSpool", "commandSpool", "rsvId", "sla", "exceptMask", "additionalInfo", "exitInfo",
    "warningAction", "warningTimePeriod", "chargedSAAP", "licenseProject", "app", "postExecCmd", "runtimeEstimation",
    "jobGroupName", "requeueEvalues", "options2", "resizeNotifyCmd", "lastResizeTime", "longRsvId", "jobDescription",
    ("submitExt", 2), ("hostRusage", 5), "options3", "runLimit", "avgMem", "effectiveResReq", "srcCluster", "srcJobId",
    "dstCluster", "dstJobId", "forwardTime", "flowId", "acJobWaitTime", "totalProvisionTime", "outdir", "runTime",
)  # fmt: skip
_STATES = {32: "EXIT", 64: "DONE"}
_OTHER_EVENTS = frozenset({"EVENT_ADRSV_FINISH", "JOB_RESIZE", "JOB_EVICT", "JOB_CLEAN", "JOB_NEW", "JOB_START"})


def read_document(
    text: str, *, site_id: str, cpus_per_core: int = 1, exclusive_queues: Mapping[str, int] | None = None
) -> Reading:
    """A whole file; `exclusive_queues` gives the slots per host of queues whose jobs take whole hosts."""
    rows = ({"line": line} for line in text.split("\n") if line.strip() and not line.startswith("#"))
    return read_rows(
        rows,
        lambda row: read(
            row, site_id=site_id, cpus_per_core=cpus_per_core, exclusive_queues=exclusive_queues or {}
        ),
        site_id=site_id,
        format_name=FORMAT,
    )  # fmt: skip


def read(
    fields: Mapping[str, str], *, site_id: str, cpus_per_core: int = 1,
    exclusive_queues: Mapping[str, int] | None = None,
) -> UsageRecord | None:  # fmt: skip
    """One JOB_FINISH line; None for other events."""
    words = iter(_words(fields["line"]))
    event = next(words, "")
    if event in _OTHER_EVENTS:
        return None
    if event != "JOB_FINISH":
        raise ValueError(f"unknown event {event!r}")
    said = _by_name(words)
    end, start = epoch(said["eventTime"]), epoch(said["startTime"])
    if end is None:
        raise ValueError("it has no end")
    if whole(said["jStatus"]) not in _STATES:
        raise ValueError(f"unknown job status {said['jStatus']!r}")
    slots, hosts = _hosts(said["execHosts"].split())
    per_host = (exclusive_queues or {}).get(said["queue"])
    if per_host is not None:
        slots = max(slots, hosts * per_host)
    ran = start is not None and slots > 0
    span = between(start, end) if ran and start is not None else 0
    elapsed, suspended, doubtful = _times(said, span)
    gpus = _gpus(said.get("effectiveResReq", ""), hosts=hosts, tasks=whole(said["numProcessors"]))
    cores = -(-slots // cpus_per_core)
    task = whole(said["idx"])
    code = whole(said["exitStatus"]) >> 8
    tags = _TAG.findall(f"{said['jobName']} {said['projectName']}")
    return UsageRecord(
        site_id=site_id,
        run_key=f"{said['jobId']}[{task}]:{said['submitTime']}:{said['startTime']}",
        meter=Meter.CENTRE,
        kind=Kind.FENCED_COPY if tags and code == FENCED_EXIT else Kind.RUN if elapsed > 0 else Kind.NEVER_RAN,
        native_id=said["jobId"],
        task=task or None,
        state=_STATES[whole(said["jStatus"])],
        username=said["userName"],
        job_name=said["jobName"],
        account=said["projectName"],
        queue=said["queue"],
        submit_time=epoch(said["submitTime"]),
        start_time=start if ran else None,
        end_time=end,
        cores=cores,
        nodes=hosts,
        exclusive=per_host is not None or bool(whole(said["options"], 2**63) & _SUB_EXCLUSIVE),
        requested_cores=-(-whole(said["numProcessors"]) // cpus_per_core),
        cpus=slots,
        threads_per_core=cpus_per_core,
        elapsed_s=elapsed,
        suspended_s=suspended,
        core_seconds=cores * elapsed,
        node_seconds=hosts * elapsed,
        gpu_seconds=gpus * span,
        tag=tags[0] if tags else "",
        estimated=ran and (doubtful or _resized(said)),
        raw=dict(fields),
    )


def _times(said: Mapping[str, str], span: int) -> tuple[int, int, bool]:
    """Seconds in the run state, suspended ones, and whether the line contradicts itself."""
    if "runTime" not in said:
        return span, 0, False
    told = whole(said["runTime"], SECONDS_MAX)
    if told > span + SKEW_S or (told == 0 and span > SKEW_S):
        return span, 0, True  # also of runs before a requeue, or not counted at all: the span is this run's
    elapsed = min(told, span)
    if span - elapsed <= SKEW_S:
        return span, 0, False  # two clocks, no suspension
    return elapsed, span - elapsed, False


def _gpus(requirement: str, *, hosts: int, tasks: int) -> int:
    match = re.search(r"rusage\[[^\]]*?\bngpus_physical=(\d{1,6})(?:\.\d+)?(/task)?", requirement)
    return 0 if match is None else int(match[1]) * (tasks if match[2] else hosts)


def _resized(said: Mapping[str, str]) -> bool:
    """Its hosts are those at its end only: JOB_RESIZE lines tell of the others."""
    return whole(said.get("lastResizeTime", ""), SECONDS_MAX) > whole(said["startTime"], SECONDS_MAX) + SKEW_S


def _words(line: str) -> Iterator[str]:
    at = 0
    text = line.strip()
    while at < len(text):
        match = _WORD.match(text, at)
        if match is None:
            raise ValueError(f"not understood from {text[at : at + 40]!r} on")
        yield match[1].replace('""', '"') if match[1] is not None else match[2]
        at = match.end()
        while at < len(text) and text[at].isspace():
            at += 1


def _by_name(words: Iterator[str]) -> dict[str, str]:
    """The fields up to `idx`; two of them are lists with their length before them."""
    found: dict[str, str] = {}
    try:
        for name in ("version", "eventTime", "jobId", "userId", "options", "numProcessors", "submitTime", "beginTime",
                     "termTime", "startTime", "userName", "queue", "resReq", "dependCond", "preExecCmd", "fromHost",
                     "cwd", "inFile", "outFile", "errFile", "jobFile"):  # fmt: skip
            found[name] = next(words)
        found["askedHosts"] = " ".join([next(words) for _ in range(whole(next(words), 10**6))])
        found["execHosts"] = " ".join([next(words) for _ in range(whole(next(words), 10**6))])
        for name in ("jStatus", "hostFactor", "jobName", "command"):
            found[name] = next(words)
        for _ in range(_RUSAGE_WORDS):
            next(words)
        for name in ("mailUser", "projectName", "exitStatus", "maxNumProcessors", "loginShell", "timeEvent", "idx"):
            found[name] = next(words)
    except (StopIteration, RuntimeError) as exc:  # inside a list StopIteration surfaces as RuntimeError
        raise ValueError("the line is cut") from exc
    for name in ("jobId", "startTime", "submitTime"):
        whole(found[name], 10**10)
    return found | _more(words)


def _more(words: Iterator[str]) -> dict[str, str]:
    """The words behind the index; nothing where the line ends before `runTime`, as those of older releases do."""
    found: dict[str, str] = {}
    for name in _MORE:
        word = next(words, None)
        if word is None:
            return {}
        if isinstance(name, str):
            found[name] = word
        else:
            for _ in range(whole(word, 10**6) * name[1]):
                next(words, None)
    return found


def _hosts(names: list[str]) -> tuple[int, int]:
    """Slots and distinct hosts: `cn002 cn002`, and `4*cn002` of other builds."""
    slots: Counter[str] = Counter()
    for name in names:
        match = re.fullmatch(r"(\d{1,6})\*(.+)", name)
        slots[match[2] if match else name] += int(match[1]) if match else 1
    return slots.total(), len(slots)
