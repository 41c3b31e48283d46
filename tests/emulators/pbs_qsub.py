"""qsub of the emulated PBS: options and directives, the job they make, and what the server refuses."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

from core import ENDED, HELD, NO_TASK, QUEUED, Answer, Job, Refusal, me
from pbs_server import QUEUES, PbsCluster, hms

USAGE = """usage: qsub [-a date_time] [-A account_string] [-c interval]
\t[-C directive_prefix] [-e path] [-f ] [-h ] [-I [-X]] [-j oe|eo] [-J X-Y[:Z]]
\t[-k keep] [-l resource_list] [-m mail_options] [-M user_list]
\t[-N jobname] [-o path] [-p priority] [-P project] [-q queue] [-r y|n]
\t[-R o|e|oe] [-S path] [-u user_list] [-W otherattributes=value...]
\t[-v variable_list] [-V ] [-z] [script | -- command [arg1 ...]]
       qsub --version
"""
_LETTERS_WITH_VALUE = "aAcCejJklmMNopPqrRSuvWdt"


def qsub(c: PbsCluster, words: list[str], data: str | None = None) -> Answer:
    options, rest = options_of(words)
    if "-Y" in options:
        raise Refusal(f"qsub: invalid option -- 'Y'\n{USAGE}", 2)
    script, name, cwd = _script(options, rest, data)
    asked = {**_directives(script), **{k: v for k, v in options.items() if k != "-l"}}
    limits = _directives(script).get("-l", []) + options.get("-l", [])
    job = _job(c, asked, limits, script, name, cwd)
    job.more["arguments"] = " ".join(words)
    with c.locked():
        _check(c, job)
        job.seq = c.next_seq()
        tasks = _tasks(asked)
        for which in ("o", "e"):
            path = job.more[f"{which}path"] or f"{cwd}/{job.name}.{which}{job.seq}"
            job.more[f"{which}path"] = path if path.startswith("/") else f"{cwd}/{path}"
        folder = c.root / "scripts"
        folder.mkdir(exist_ok=True)
        (folder / str(job.seq)).write_text(script, "utf-8", errors="surrogateescape")
        if job.argv == []:
            job.argv = [asked.get("-S", "/bin/bash"), str(folder / str(job.seq))]
        _store(c, job, tasks)
        c.schedule()
    return Answer("" if "-z" in options else f"{c.id_of(job)}\n")


def _store(c: PbsCluster, job: Job, tasks: list[int]) -> None:
    environment = {**job.environment, "PBS_JOBNAME": job.name, "PBS_QUEUE": job.queue, "PBS_ENVIRONMENT": "PBS_BATCH"}
    copies = [job]
    if tasks:
        job.state = ENDED  # the parent runs nothing
        copies += [Job(**{**job.fields(), "task": t, "state": HELD if job.more.get("held") else QUEUED}) for t in tasks]
    for copy in copies:
        copy.environment = {**environment, "PBS_JOBID": c.id_of(copy)}
        if copy.task != NO_TASK:
            copy.environment |= {"PBS_ARRAY_INDEX": str(copy.task), "PBS_ARRAYID": str(copy.task)}
            copy.environment["PBS_ARRAY_ID"] = f"{copy.seq}[].{c.server}"
        sign = str(copy.task) if copy.task != NO_TASK else ""
        torque = f"-{sign}" if sign and c.torque else ""
        copy.stdout = copy.more["opath"].replace("^array_index^", sign) + torque
        copy.stderr = copy.more["epath"].replace("^array_index^", sign) + torque
        if copy.more.get("join", "n") == "oe":
            copy.stderr = copy.stdout
    c.save(*copies)


def options_of(words: list[str]) -> tuple[dict[str, Any], list[str]]:
    """getopt as qsub does it; -l may come often."""
    found: dict[str, Any] = {}
    position = 0
    while position < len(words):
        word = words[position]
        if word == "--":
            return found, words[position:]
        if not word.startswith("-") or word == "-":
            return found, words[position:]
        letter, value = word[:2], word[2:]
        if letter[1] in _LETTERS_WITH_VALUE:
            if not value:
                position += 1
                value = words[position] if position < len(words) else ""
            if letter == "-l":
                found.setdefault("-l", []).append(value)
            else:
                found[letter] = value
        else:
            found[letter] = ""
        position += 1
    return found, []


def _script(options: dict[str, Any], rest: list[str], data: str | None) -> tuple[str, str, str]:
    cwd = str(Path.cwd())
    if rest and rest[0] == "--":
        return "", "STDIN", cwd
    if rest and rest[0] != "-":
        if len(rest) > 1:
            raise Refusal(USAGE, 2)
        try:
            text = Path(rest[0]).read_text("utf-8", errors="surrogateescape")
        except OSError:
            raise Refusal("qsub: script file:: No such file or directory\n", 1) from None
        name = Path(rest[0]).name
    else:
        text = data if data is not None else sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
        name = "STDIN"
    if "\r\n" in text:
        raise Refusal("qsub: script contains cr, lf\n", 1)
    return text, name, cwd


def _directives(script: str) -> dict[str, Any]:
    words: list[str] = []
    for line in script.splitlines():
        if line.startswith("#PBS"):
            option = line[4:].strip()
            words += [option[:2], option[2:].strip()] if len(option) > 2 else [option]
        elif line.strip() and not line.startswith("#"):
            break
    return options_of(words)[0]


def _job(c: PbsCluster, asked: dict[str, Any], limits: list[str], script: str, name: str, cwd: str) -> Job:
    wanted = limits_of(limits)
    chunks, per_chunk, place = _shape(c, wanted)
    queue = asked.get("-q") or c.get("default_queue", "workq")
    if "@" in queue:
        raise Refusal(f"Unknown Host.\nqsub: cannot connect to server {c.server} (errno=15008)\n", 160)
    job_name = _name(asked.get("-N", name))
    rules = c.queue(queue)
    walltime = seconds(wanted.get("walltime")) if "walltime" in wanted else rules.get("walltime_default")
    resources: dict[str, Any] = {"ncpus": chunks * per_chunk, "nodect": chunks, "place": place}
    resources["select"] = wanted.get("select") or f"{chunks}:ncpus={per_chunk}"
    resources |= {"walltime": hms(walltime)} if walltime is not None else {}
    more: dict[str, Any] = {
        "resources": resources, "account": asked.get("-A", ""), "join": asked.get("-j", "n"),
        "keep": asked.get("-k", "n"), "rerunnable": asked.get("-r", "y") == "y", "priority": int(asked.get("-p", 0)),
        "opath": asked.get("-o", "").partition(":")[2] or asked.get("-o", ""),
        "epath": asked.get("-e", "").partition(":")[2] or asked.get("-e", ""),
        "variables": _own(cwd) | _variables(asked.get("-v", "")) | {"PBS_O_QUEUE": queue, "PBS_O_HOST": c.server},
        "array": asked.get("-J", "") or asked.get("-t", ""),
    }  # fmt: skip
    more |= {"project": asked["-P"]} if asked.get("-P") else {}
    if "/" in asked.get("-P", ""):
        raise Refusal("qsub: Illegal attribute or resource value project\n", 166)
    if asked.get("-a"):
        more["not_before"] = int(time.mktime(time.strptime(asked["-a"][:12], "%Y%m%d%H%M")))
    _depend(asked.get("-W", ""))
    percent = more["array"].partition("%")[2]
    more |= {"max_parallel": int(percent)} if percent else {}
    held = "-h" in asked
    more |= {"held": True} if held else {}
    now = c.now()
    return Job(
        seq=0, task=NO_TASK, name=job_name, user=asked.get("-u") or me(), queue=queue, argv=[], cwd=str(Path.home()),
        environment=dict(more["variables"]), stdout="", stderr="",
        cores=chunks * per_chunk, nodes=chunks if "scatter" in place else _nodes(c, chunks, per_chunk),
        exclusive="excl" in place, walltime_s=walltime, state=HELD if held else QUEUED, submitted=now, changed=now,
        more=more,
    )  # fmt: skip


def _nodes(c: PbsCluster, chunks: int, per_chunk: int) -> int:
    return max(1, -(-chunks * per_chunk // c.get("cores_per_node", 64)))


def limits_of(limits: list[str]) -> dict[str, str]:
    wanted: dict[str, str] = {}
    for text in limits:
        for item in text.split(","):
            key, _, value = item.partition("=")
            if not value:
                raise Refusal(f"qsub: Illegal attribute or resource value Resource_List.{key}\n", 166)
            wanted[key] = value
    mixed = [k for k in ("ncpus", "nodes") if k in wanted and "select" in wanted]
    if mixed:
        text = f'qsub: "-lresource=" cannot be used with "select" or "place", resource is: {mixed[0]}\n'
        raise Refusal(text, 5)
    if "walltime" in wanted:
        seconds(wanted["walltime"])
    return wanted


def seconds(text: str | None) -> int:
    if text is None or not re.fullmatch(r"\d+(:\d+){0,2}", text):
        raise Refusal("qsub: Illegal attribute or resource value Resource_List.walltime\n", 166)
    total = 0
    for part in text.split(":"):
        total = total * 60 + int(part)
    return total


def _shape(c: PbsCluster, wanted: dict[str, str]) -> tuple[int, int, str]:
    place = wanted.get("place", "")
    if place and not set(place.split(":")) <= {"free", "pack", "scatter", "vscatter", "excl", "exclhost", "shared"}:
        raise Refusal("qsub: Illegal attribute or resource value Resource_List.place\n", 166)
    if "nodes" in wanted:
        count, _, rest = wanted["nodes"].partition(":")
        ppn = re.search(r"ppn=(\d+)", rest)
        return int(count), int(ppn[1]) if ppn else 1, place or "scatter"
    if "select" not in wanted:
        return 1, int(wanted.get("ncpus", "1")), place or "pack"
    count, _, rest = wanted["select"].partition(":")
    if count == "0":
        raise Refusal("qsub: Illegal attribute or resource value\n", 166)
    cores = 1
    for item in filter(None, rest.split(":")):
        key, equals, value = item.partition("=")
        if not equals:
            raise Refusal("qsub: Illegal attribute or resource value Resource_List.select\n", 166)
        sound = {"ncpus": r"\d+", "mpiprocs": r"\d+", "ngpus": r"\d+", "mem": r"\d+([kmgt]?[bw])?"}.get(key, r".+")
        if not re.fullmatch(sound, value):
            raise Refusal(f"qsub: Illegal attribute or resource value select.{key}\n", 166)
        if key == "ncpus":
            cores = int(value)
    return int(count), cores, place or "free"


def _name(name: str) -> str:
    if len(name) > 230:
        raise Refusal("qsub: Job name is too long \n", 2)
    if not re.fullmatch(r"[A-Za-z0-9._+-]+", name):
        raise Refusal(f"qsub: illegal -N value\n{USAGE}", 2)
    return name


def _variables(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in re.findall(r"(?:'[^']*'|[^,])+", text):
        name, equals, value = item.partition("=")
        if (equals and not name) or ('"' in value and value.count('"') % 2):
            raise Refusal("qsub: cannot send environment with the job\n", 1)
        found[name] = value.replace('"', "").replace("'", "")
    return found


def _own(cwd: str) -> dict[str, str]:
    """What qsub itself tells of its caller."""
    return {
        "PBS_O_HOME": str(Path.home()), "PBS_O_LANG": "C.UTF-8", "PBS_O_LOGNAME": me(),
        "PBS_O_PATH": "/opt/pbs/bin:/usr/local/bin:/usr/bin:/bin", "PBS_O_SHELL": "/bin/bash",
        "PBS_O_INTERACTIVE_AUTH_METHOD": "resvport", "PBS_O_INTERACTIVE_ENCRYPT_METHOD": "", "PBS_O_WORKDIR": cwd,
        "PBS_O_SYSTEM": "Linux",
    }  # fmt: skip


def _depend(text: str) -> None:
    match = re.search(r"depend=([a-z]+)", text)
    if match and match[1] not in ("after", "afterok", "afternotok", "afterany", "before", "on"):
        raise Refusal(f"qsub: illegal -W value\n{USAGE}", 2)


def _tasks(asked: dict[str, Any]) -> list[int]:
    if asked.get("-t"):
        parts = asked["-t"].partition("%")[0].split(",")
        return [n for p in parts for n in range(int(p.split("-")[0]), int(p.split("-")[-1]) + 1)]
    if "-J" not in asked:
        return []
    match = re.fullmatch(r"(\d+)-(\d+)(?::(\d+))?(?:%\d+)?", asked["-J"])
    if match is None or int(match[1]) >= int(match[2]):
        raise Refusal(f"qsub: illegal -J value\n{USAGE}", 2)
    tasks = list(range(int(match[1]), int(match[2]) + 1, int(match[3] or 1)))
    if len(tasks) > 10000:
        raise Refusal("qsub: Array job exceeds server or queue size limit\n", 3)
    return tasks


def _check(c: PbsCluster, job: Job) -> None:
    """What the server refuses."""
    if job.user not in c.get("users", [job.user]) or (job.user == "nobodyhere"):
        raise Refusal("qsub: Bad UID for job execution\n", 175)
    if job.queue not in c.get("queues", QUEUES):
        raise Refusal("qsub: Unknown queue\n", 170)
    rules = c.queue(job.queue)
    if "users" in rules and job.user not in rules["users"]:
        raise Refusal("qsub: Unauthorized Request \n", 159)
    if not rules.get("enabled", True):
        raise Refusal("qsub: Queue is not enabled\n", 173)
    hook = c.get("hook_text", "")
    if hook and not job.more["account"]:
        raise Refusal(f"qsub: {hook}\n", 32)
    too_long = job.walltime_s is not None and job.walltime_s > rules.get("walltime_max", 10**9)
    if too_long or job.cores > rules.get("ncpus_max", 10**9):
        raise Refusal("qsub: Job violates queue and/or server resource limits\n", 188)
    waiting = len(c.jobs("user = ? AND state = 'queued'", job.user)) if "queued_max" in rules else 0
    if waiting and sum(j.queue == job.queue for j in c.jobs("state = 'queued'")) >= rules["queued_max"]:
        raise Refusal(f"qsub: would exceed queue {job.queue}'s per-user limit\n", 38)
