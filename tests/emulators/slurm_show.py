"""squeue, sacct, sinfo, sacctmgr and `scontrol show` of the emulated Slurm."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from core import ENDED, HELD, NO_TASK, QUEUED, Answer, Job, Refusal, me
from slurm_cluster import VERSION, SlurmCluster, moment, stamp

_ID = re.compile(r"(\d+)(?:_(\d+))?")


def _options(words: list[str], valued: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Options by their long names; `valued` maps both spellings of those that take a value."""
    found: dict[str, str] = {}
    rest: list[str] = []
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        name, equals, value = word.partition("=") if word.startswith("--") else (word[:2], word[2:], word[2:])
        if not word.startswith("-"):
            rest.append(word)
        elif name in valued:
            if not equals:
                value, position = words[position] if position < len(words) else "", position + 1
            found[valued[name]] = value
        else:
            found[word] = ""
    return found, rest


def chosen(c: SlurmCluster, text: str) -> list[Job]:
    """The jobs of one id: an array's, a task's, or the id that a task got when it started."""
    match = _ID.fullmatch(text)
    if match is None:
        return []
    if match[2]:
        return c.jobs("seq = ? AND task = ?", int(match[1]), int(match[2]))
    return c.jobs("seq = ?", int(match[1])) or [j for j in c.jobs() if j.more.get("raw") == int(match[1])]


# ---------------------------------------------------------------- squeue

_SQUEUE = {"-u": "user", "--user": "user", "-t": "states", "--states": "states", "-O": "Format", "--Format": "Format",
           "-o": "format", "--format": "format", "-j": "jobs", "--jobs": "jobs", "-n": "name", "--name": "name",
           "-p": "partition", "--partition": "partition"}  # fmt: skip
_LETTERS = {"i": "JobArrayID", "A": "JobID", "F": "ArrayJobID", "K": "ArrayTaskID", "j": "Name", "u": "UserName",
            "a": "Account", "P": "Partition", "q": "QOS", "T": "State", "r": "Reason", "D": "NumNodes", "C": "NumCPUs",
            "S": "StartTime", "e": "EndTime", "V": "SubmitTime", "k": "Comment", "N": "NodeList",
            "l": "TimeLimit"}  # fmt: skip


def squeue(c: SlurmCluster, words: list[str]) -> Answer:
    options, _ = _options(words, _SQUEUE)
    with c.locked():
        c.schedule()
    kept = c.now() - c.get("min_job_age_s", 300)
    jobs = [j for j in c.jobs("state != 'ended'") if c.visible(j)]
    if options.get("states", "").lower() == "all":
        jobs += [j for j in c.jobs("state = 'ended'") if c.visible(j) and j.ended >= kept]
    if "user" in options:
        jobs = [j for j in jobs if j.user in options["user"].split(",")]
    if "jobs" in options:
        ids = options["jobs"].split(",")
        wanted = {j.key for text in ids for j in chosen(c, text)}
        if len(ids) == 1 and not wanted:
            return Answer("", "slurm_load_jobs error: Invalid job id specified\n", 1)
        jobs = [j for j in jobs if j.key in wanted]
    if "name" in options:
        jobs = [j for j in jobs if j.name in options["name"].split(",")]
    line = _liner(options)
    head = "" if {"-h", "--noheader"} & options.keys() else line(lambda name: name.upper())
    rows = c.listed(jobs)
    return Answer(head + "".join(line(_cells(c, job, task).__getitem__) for job, task in rows))


def _liner(options: dict[str, str]) -> Callable[[Callable[[str], Any]], str]:
    if "Format" in options:
        items = [item.partition(":")[::2] for item in options["Format"].split(",")]
        return lambda of: "".join(f"{of(name)}{suffix}" for name, suffix in items) + "\n"
    form = options.get("format", "%i|%P|%j|%u|%T|%D|%r")
    if unknown := [m for m in re.findall(r"%\.?\d*(.)", form) if m not in _LETTERS]:
        raise Refusal(f"squeue: error: Invalid job format specification: {unknown[0]}\n", 1)
    return lambda of: re.sub(r"%\.?\d*([A-Za-z])", lambda m: str(of(_LETTERS[m[1]])), form) + "\n"


def _cells(c: SlurmCluster, job: Job, task: str) -> dict[str, Any]:
    waits = job.state in (QUEUED, HELD)
    start = job.started or job.more.get("begin") or (None if waits else job.ended)
    end = job.ended or (start + (job.walltime_s or 0) if start else None)
    return {
        "JobArrayID": f"{job.seq}_{task}" if task else job.seq, "JobID": c.raw_id(job), "ArrayJobID": job.seq,
        "ArrayTaskID": task.strip("[]") or "N/A", "State": c.word(job), "Reason": c.reason(job),
        "SubmitTime": stamp(job.submitted), "StartTime": stamp(start, none="N/A"), "EndTime": stamp(end, none="N/A"),
        "NumCPUs": c.cores_taken(job), "UserName": job.user, "RestartCnt": c.restarts(job),
        "exit_code": c.wait_status(job), "Comment": job.more.get("comment") or "(null)", "Name": job.name,
        "Account": job.more["account"], "Partition": job.queue, "QOS": job.more["qos"], "NumNodes": job.nodes,
        "NodeList": c.node_list(job.place) if not waits else "", "TimeLimit": _span(job.more["limit"]),
    }  # fmt: skip


def _span(limit: int | None) -> str:
    """Minutes as `2-00:00:00`, `1:00:00`, `5:00`."""
    if limit is None:
        return "UNLIMITED"
    days, rest = divmod(limit, 1440)
    hours, part = divmod(rest, 60)
    return f"{days}-{hours:02}:{part:02}:00" if days else f"{hours}:{part:02}:00" if hours else f"{part}:00"


# ---------------------------------------------------------------- sacct

_SACCT = {"-u": "user", "--user": "user", "-s": "states", "--state": "states", "-o": "format", "--format": "format",
          "-j": "jobs", "--jobs": "jobs", "-S": "start", "--starttime": "start", "-E": "end", "--endtime": "end",
          "--delimiter": "delimiter", "--name": "name"}  # fmt: skip
_TIMES = {"Submit", "Eligible", "Start", "End"}


def sacct(c: SlurmCluster, words: list[str]) -> Answer:
    options, _ = _options(words, _SACCT)
    with c.locked():
        c.schedule()
    rows = _accounted(c, options)
    if not {"-D", "--duplicates"} & options.keys():
        rows = list({row["JobID"]: row for row in rows}.values())
    names = [name.partition("%")[0] for name in options.get("format", "JobID,JobName,Partition,Account,AllocCPUS,State,"
                                                            "ExitCode").split(",")]  # fmt: skip
    known = {name.lower(): name for name in c.row(_nobody())}
    if unknown := [name for name in names if name.lower() not in known]:
        return Answer("", f'sacct: error: Invalid field requested: "{unknown[0]}"\n', 1)
    mark = options.get("delimiter", "|")
    head = [] if {"-n", "--noheader"} & options.keys() else [mark.join(names)]
    tail = mark if {"-p", "--parsable"} & options.keys() else ""
    lines = [mark.join(_cell(row, known[name.lower()]) for name in names) + tail for row in rows]
    return Answer("".join(f"{line}\n" for line in head + lines))


def _nobody() -> Job:
    """For the names of a row's columns."""
    more = {"account": "", "qos": "", "submit_line": ""}
    return Job(0, NO_TASK, "", me(), "", [], "", {}, "", "", more=more)


def _cell(row: dict[str, Any], name: str) -> str:
    return stamp(row[name]) if name in _TIMES else str(row[name])


def _accounted(c: SlurmCluster, options: dict[str, str]) -> list[dict[str, Any]]:
    """What the database has: each run that started, and what ended without one."""
    jobs = [j for j in c.jobs() if c.visible(j)]
    if "jobs" in options:
        wanted = {j.key for text in options["jobs"].split(",") for j in chosen(c, text)}
        jobs = [j for j in jobs if j.key in wanted]
    if "user" in options:
        jobs = [j for j in jobs if j.user in options["user"].split(",")]
    elif not {"-a", "--allusers"} & options.keys() and "jobs" not in options:
        jobs = [j for j in jobs if j.user == me()]
    if "name" in options:
        jobs = [j for j in jobs if j.name in options["name"].split(",")]
    rows = [row for job in jobs for row in job.more.get("past", [])]
    # What waits is written when it starts or ends; what never was eligible shows where states are named.
    never = "states" in options or "jobs" in options
    told = [j for j in jobs if j.started or (j.state == ENDED and never)]
    rows += [c.row(job, task) for job, task in c.listed(told)]
    if "jobs" not in options or "start" in options:
        since = moment(options["start"], c.now()) if "start" in options else c.now() // 86400 * 86400
        until = moment(options.get("end", "now"), c.now())
        rows = [r for r in rows if r["Submit"] <= until and (r["End"] is None or r["End"] >= since)]
    return sorted(rows, key=lambda row: int(row["DBIndex"]))


# ---------------------------------------------------------------- scontrol show, sinfo


def show(c: SlurmCluster, words: list[str]) -> Answer:
    """`scontrol show config | partition | node | reservation`, one record a line."""
    what = words[0] if words else ""
    if what == "config":
        return Answer(_config(c))
    tables = {"partition": _partitions, "node": _nodes, "reservation": _reservations}
    table = next((tables[name] for name in tables if what in (name, f"{name}s")), None)
    if table is None:
        return Answer("", f"invalid entity:{what} for keyword:show \n", 1)
    return Answer("".join(f"{record}\n" for record in table(c)))


def _config(c: SlurmCluster) -> str:
    words = {
        "AccountingStorageEnforce": "associations,limits,qos,safe", "AccountingStoreFlags": "job_comment",
        "ClusterName": c.name, "EnforcePartLimits": "ALL" if c.get("enforce_part_limits") else "NO",
        "KillWait": "30 sec", "MinJobAge": f"{c.get('min_job_age_s', 300)} sec",
        "PrivateData": "jobs" if c.get("private_jobs") else "none", "SLURM_VERSION": VERSION,
    }  # fmt: skip
    return f"Configuration data as of {stamp(c.now())}\n" + "".join(f"{k:<23} = {v}\n" for k, v in words.items()) + "\n"


def _clock(limit: int | None) -> str:
    if limit is None:
        return "UNLIMITED"
    days, rest = divmod(limit, 1440)
    return (f"{days}-" if days else "") + f"{rest // 60:02}:{rest % 60:02}:00"


def _partitions(c: SlurmCluster) -> list[str]:
    nodes, cores = c.get("nodes", 1), c.get("nodes", 1) * c.get("cores_per_node", 4)
    found = []
    for name, p in c.partitions().items():
        default_time = _clock(p["default_time"]) if "default_time" in p else "NONE"
        found.append(
            f"PartitionName={name} AllowGroups=ALL AllowAccounts={','.join(p.get('accounts', ['ALL']))} AllowQos=ALL "
            f"AllocNodes=ALL Default={'YES' if p.get('default') else 'NO'} QoS=N/A DefaultTime={default_time} "
            f"DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes={p.get('nodes_max', 'UNLIMITED')} "
            f"MaxTime={_clock(p.get('max'))} MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED "
            f"Nodes={c.node_list(list(range(nodes)))} PriorityJobFactor=1 PriorityTier=1 RootOnly=NO ReqResv=NO "
            f"OverSubscribe={'EXCLUSIVE' if p.get('exclusive') else 'NO'} OverTimeLimit=NONE PreemptMode=OFF "
            f"State={p.get('state', 'UP')} TotalCPUs={cores} TotalNodes={nodes} SelectTypeParameters=NONE "
            f"JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED "
            f"TRES=cpu={cores},node={nodes},billing={cores}"
        )
    return found


def _busy(c: SlurmCluster) -> list[int]:
    taken = [0] * c.get("nodes", 1)
    for job in c.jobs("state = 'running'"):
        for node in job.place:
            taken[node] += -(-c.cores_taken(job) // job.nodes)
    return taken


def _nodes(c: SlurmCluster) -> list[str]:
    cores, memory = c.get("cores_per_node", 4), c.get("memory_mib", 32000)
    gres = ",".join(f"{kind}:{count}" for kind, count in c.get("gres", {}).items()) or "(null)"
    down, found = c.get("down_nodes", []), []
    for n, taken in enumerate(_busy(c)):
        state = "DOWN" if n in down else "IDLE" if not taken else "MIXED" if taken < cores else "ALLOCATED"
        found.append(
            f"NodeName={c.node(n)} Arch=x86_64 CoresPerSocket={cores}  CPUAlloc={taken} CPUEfctv={cores} "
            f"CPUTot={cores} CPULoad=0.00 AvailableFeatures=(null) ActiveFeatures=(null) Gres={gres} "
            f"NodeAddr=127.0.0.1 NodeHostName=emulated Version={VERSION} OS=Linux  RealMemory={memory} AllocMem=0 "
            f"FreeMem={memory} Sockets=1 Boards=1 State={state} ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A "
            f"MCS_label=N/A Partitions={','.join(c.partitions())}  CfgTRES=cpu={cores},mem={memory}M,billing={cores} "
            f"AllocTRES="
        )
    return found


def _reservations(c: SlurmCluster) -> list[str]:
    nodes = c.get("nodes", 1)
    cores, found = nodes * c.get("cores_per_node", 4), []
    for r in c.get("reservations", []):
        state = "ACTIVE" if r["start"] <= c.now() else "INACTIVE"
        found.append(
            f"ReservationName={r['name']} StartTime={stamp(r['start'])} EndTime={stamp(r['end'])} "
            f"Duration={_clock((r['end'] - r['start']) // 60)} Nodes={c.node_list(list(range(nodes)))} NodeCnt={nodes} "
            f"CoreCnt={cores} Features=(null) PartitionName=(null) Flags={r['flags'].upper()} TRES=cpu={cores} "
            f"Users={r['users']} Groups=(null) Accounts=(null) Licenses=(null) State={state} BurstBuffer=(null) "
            f"Watts=n/a MaxStartDelay=(null)"
        )
    return found or ["No reservations in the system"]


def sinfo(c: SlurmCluster, words: list[str]) -> Answer:
    """One row for each partition."""
    options, _ = _options(words, {"-o": "format", "--format": "format"})
    nodes, cores, taken = c.get("nodes", 1), c.get("cores_per_node", 4), sum(_busy(c))
    form = options.get("format", "%P %a %l %D %T %N")
    lines = []
    for name, p in c.partitions().items():
        cells = {
            "R": name, "P": name + ("*" if p.get("default") else ""), "a": p.get("state", "UP").lower(),
            "l": _span(p.get("max")), "D": nodes, "T": "mixed" if taken else "idle",
            "C": f"{taken}/{nodes * cores - taken}/0/{nodes * cores}", "N": c.node_list(list(range(nodes))),
            "m": c.get("memory_mib", 32000), "F": f"{1 if taken else 0}/{nodes - (1 if taken else 0)}/0/{nodes}",
        }  # fmt: skip
        lines.append(re.sub(r"%\.?\d*([A-Za-z])", lambda m, cells=cells: str(cells.get(m[1], "")), form))
    return Answer("".join(f"{line}\n" for line in lines))


# ---------------------------------------------------------------- sacctmgr


def sacctmgr(c: SlurmCluster, words: list[str]) -> Answer:
    """What may be read of associations; nobody here may change them."""
    rest = [w for w in words if not w.startswith("-")]
    if rest[:1] != ["show"]:
        text = "sacctmgr: error: Your user doesn't have privilege to perform this action\n"
        return Answer("", text + " Error with request: Access/permission denied\n", 1)
    fields = next((w.partition("=")[2].split(",") for w in rest if w.startswith("format=")), [])
    if rest[1:2] == ["configuration"]:
        return Answer("Configuration data\nPurgeJobAfter          = NONE\nPurgeStepAfter         = NONE\n")
    if rest[1:2] == ["account"]:
        named = {a for login in (me(), *c.get("associations", {})) for a in c.association(login)["accounts"]} | {"root"}
        only = [w for w in rest[2:] if "=" not in w]
        return Answer("".join(f"{a}\n" for a in sorted(named) if not only or a in only))
    login = rest[2] if len(rest) > 2 else me()
    if fields == ["adminlevel"]:
        return Answer(("Operator" if login in c.get("admins", []) else "None") + "\n")
    found = c.association(login)
    rows = [(a, ",".join(sorted(found["qos"])), found["accounts"][0]) for a in found["accounts"]]
    return Answer("".join(f"{'|'.join(row)}\n" for row in rows))
