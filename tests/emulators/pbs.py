"""OpenPBS 23.06 as its users see it, over a folder: qsub qstat qdel qhold qrls qalter qmove qselect pbsnodes qrerun.

It answers the recorded commands as the real one did (tests/unit/emulators replays them): exit codes are error numbers
modulo 256, an outage is valid JSON without `Jobs`, a hidden job is an empty listing with exit code 0, values are
mangled in JSON, ended jobs need `-x`. With `flavour: torque` it speaks Torque's text.

`python tests/emulators/pbs.py install STATE BIN [SETTING=VALUE …]` makes a centre.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import core
from core import ENDED, HELD, NO_TASK, QUEUED, RUNNING, Answer, Cluster, Job, me

PROGRAMS = (
    "qsub",
    "qstat",
    "qdel",
    "qhold",
    "qrls",
    "qalter",
    "qmove",
    "qsig",
    "qselect",
    "pbsnodes",
    "qrerun",
    "pbs_rstat",
)
VERSION = "23.06.06"
# name: (enabled, started, most walltime, most cores, users allowed, most queued by one user)
QUEUES: dict[str, dict[str, Any]] = {
    "workq": {"walltime_max": 86400, "walltime_default": 3600},
    "debug": {"walltime_max": 600, "walltime_default": 300, "priority": 150},
    "restricted": {"users": ["researcher2"]},
    "closed": {"enabled": False},
    "stopped": {"started": False},
    "small": {"ncpus_max": 8, "queued_max": 2},
}
USAGE = """usage: qsub [-a date_time] [-A account_string] [-c interval]
\t[-C directive_prefix] [-e path] [-f ] [-h ] [-I [-X]] [-j oe|eo] [-J X-Y[:Z]]
\t[-k keep] [-l resource_list] [-m mail_options] [-M user_list]
\t[-N jobname] [-o path] [-p priority] [-P project] [-q queue] [-r y|n]
\t[-R o|e|oe] [-S path] [-u user_list] [-W otherattributes=value...]
\t[-v variable_list] [-V ] [-z] [script | -- command [arg1 ...]]
       qsub --version
"""


class Refusal(Exception):
    """What a command says and exits with."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class PbsCluster(Cluster):
    """The server: names, history, accounting log."""

    program = str(Path(__file__).resolve())

    @property
    def server(self) -> str:
        return str(self.get("server", "pbs01"))

    @property
    def torque(self) -> bool:
        return bool(self.get("flavour", "openpbs") == "torque")

    def may_start(self, job: Job) -> bool:
        begin = job.more.get("not_before", 0)
        return self.queue(job.queue).get("started", True) and self.get("scheduling", True) and self.now() >= begin

    def queue(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get("queues", QUEUES).get(name, {})
        return found

    def id_of(self, job: Job) -> str:
        number = (
            f"{job.seq}[{job.task}]" if job.task != NO_TASK else f"{job.seq}[]" if job.more.get("array") else job.seq
        )
        return f"{number}.{self.server}"

    def expired(self, job: Job) -> bool:
        if job.more.get("array") and job.task == NO_TASK:
            return all(self.expired(t) for t in self.jobs("seq = ? AND task != -1", job.seq))
        if not self.get("history", True):
            return job.state == ENDED
        return job.state == ENDED and self.now() - job.ended > self.get("history_s", 1209600)

    # ------------------------------------------------------------ accounting

    def log(self, kind: str, job: Job, *more: str) -> None:
        folder = self.root / "accounting"
        folder.mkdir(exist_ok=True)
        now = self.now()
        stamp = time.strftime("%m/%d/%Y %H:%M:%S", time.gmtime(now))
        with (folder / time.strftime("%Y%m%d", time.gmtime(now))).open("a") as file:
            file.write(f"{stamp};{kind};{self.id_of(job)};{' '.join(more)}\n")

    def _about(self, job: Job) -> list[str]:
        words = [f"user={job.user}", f"group={job.user}"]
        words += [f'account="{job.more["account"]}"'] if job.more.get("account") else []
        words += [f"project={job.more.get('project', '_pbs_project_default')}", f"jobname={job.name}"]
        words += [f"queue={job.queue}", *(f"{t}={job.submitted}" for t in ("ctime", "qtime", "etime"))]
        words += [f"start={job.started}", f"exec_host={self._hosts(job)}", f"exec_vnode={self._vnodes(job)}"]
        return words + [f"Resource_List.{k}={v}" for k, v in sorted(self.resources(job).items())]

    def tell_start(self, job: Job) -> None:
        taken = job.nodes * self.get("cores_per_node", 4) if job.exclusive else job.cores
        self.log("S", job, *self._about(job), f"resource_assigned.ncpus={taken}")

    def tell_end(self, job: Job) -> None:
        status = exit_status(job)
        if not job.started:
            return
        used = [f"resources_used.{k}={v}" for k, v in sorted(self.used(job).items())]
        again = job.cause in ("rerun", "node_fail") and job.more.get("rerunnable")
        self.log("R" if again else "E", job, *self._about(job), "session=4711", f"end={job.ended}",
                 f"Exit_status={status}", *used, f"run_count={job.runs}")  # fmt: skip

    def used(self, job: Job) -> dict[str, Any]:
        until = job.ended or self.now()
        span = hms(max(0, until - job.started))
        return {"cpupercent": 0, "cput": "00:00:00", "mem": "0kb", "ncpus": job.cores, "vmem": "0kb", "walltime": span}

    def resources(self, job: Job) -> dict[str, Any]:
        wanted: dict[str, Any] = {**job.more["resources"]}
        return wanted

    def _hosts(self, job: Job) -> str:
        each = -(-job.cores // job.nodes)
        return "+".join(f"cn{n + 1:03}/0" + (f"*{each}" if each > 1 else "") for n in job.place)

    def _vnodes(self, job: Job) -> str:
        return "+".join(f"(cn{n + 1:03}:ncpus={-(-job.cores // job.nodes)})" for n in job.place)

    # ------------------------------------------------------------ what qstat -f says

    def letter(self, job: Job) -> tuple[str, int]:
        if job.more.get("array") and job.task == NO_TASK:
            tasks = self.jobs("seq = ? AND task != -1", job.seq)
            if all(t.state == ENDED for t in tasks):
                return "F", 91 if any(t.cause == "deleted" for t in tasks) else 92
            return ("B", 70) if any(t.runs or t.state == ENDED for t in tasks) else ("Q", 10)
        if job.state == QUEUED:
            return ("W", 30) if job.more.get("not_before", 0) > self.now() else ("Q", 10)
        if job.state == HELD:
            return "H", 20
        if job.state == RUNNING:
            return ("R", 42) if job.pid else ("R", 41)
        status = exit_status(job)
        substate = 91 if job.cause == "deleted" else 92 if status == 0 else 93
        if job.task != NO_TASK and any(t.state != ENDED for t in self.jobs("seq = ? AND task != -1", job.seq)):
            return "X", substate
        return ("C" if self.torque else "F"), substate

    def attributes(self, job: Job) -> dict[str, Any]:
        letter, substate = self.letter(job)
        parent = bool(job.more.get("array")) and job.task == NO_TASK
        ran = job.runs > 0 and not parent
        a: dict[str, Any] = {"Job_Name": job.name, "Job_Owner": f"{job.user}@{self.server}"}
        if ran and job.state != QUEUED:
            a["resources_used"] = self.used(job)
        a |= {"job_state": letter, "queue": job.queue, "server": self.server}
        a |= {"Account_Name": job.more["account"]} if job.more.get("account") else {}
        a |= {"Checkpoint": "u", "ctime": stamp(job.submitted), "Error_Path": f"{self.server}:{job.more['epath']}"}
        if ran and job.state in (RUNNING, ENDED):
            a |= {"exec_host": self._hosts(job), "exec_vnode": self._vnodes(job)}
        a |= {"Hold_Types": "u" if job.more.get("held") else "n", "Join_Path": job.more.get("join", "n")}
        a |= {"Keep_Files": job.more.get("keep", "n"), "Mail_Points": "a", "mtime": stamp(job.changed)}
        a |= {"Output_Path": f"{self.server}:{job.more['opath']}", "Priority": job.more.get("priority", 0)}
        a |= {"qtime": stamp(job.submitted), "Rerunable": str(job.more.get("rerunnable", True))}
        a["Resource_List"] = self.resources(job)
        a |= {"stime": stamp(job.started)} if job.started else {}
        a |= {"obittime": stamp(job.ended)} if ran and job.ended else {}
        a |= {"session_id": job.pid} if job.pid and ran else {}
        a["substate"] = substate
        a["Variable_List"] = job.more["variables"]
        comment = self.comment(job, letter)
        a |= {"comment": comment} if comment else {}
        a |= {"etime": stamp(job.submitted)} if letter != "W" else {}
        a |= {"run_count": job.runs} if ran else {}
        if ran and job.ended:
            a["Exit_status"] = exit_status(job)
        a["Submit_arguments"] = job.more["arguments"]
        if parent:
            tasks = self.jobs("seq = ? AND task != -1", job.seq)
            count = {s: sum(t.state == s for t in tasks) for s in (QUEUED, RUNNING, ENDED)}
            a |= {"array": "True", "array_indices_submitted": job.more["array"]}
            a["array_state_count"] = f"Queued:{count[QUEUED]} Running:{count[RUNNING]} Exiting:0 Expired:{count[ENDED]}"
        if job.task != NO_TASK:
            a |= {"array_id": f"{job.seq}[].{self.server}", "array_index": job.task}
        a |= {"history_timestamp": job.ended} if letter == "F" else {}
        a |= {"project": job.more.get("project", "_pbs_project_default"), "Submit_Host": self.server}
        return a

    def comment(self, job: Job, letter: str) -> str:
        when = time.strftime("%a %b %d at %H:%M", time.gmtime(job.started or job.submitted))
        total = self.get("nodes", 3) * self.get("cores_per_node", 64)
        if letter == "Q":
            if not self.queue(job.queue).get("started", True):
                return "Not Running: Queue not started."
            if job.cores > total:
                return f"Can Never Run: Insufficient amount of resource: ncpus (R: {job.cores} A: {total} T: {total})"
            return "Not Running: Not enough free nodes available" if self.get("scheduling", True) else ""
        if letter == "H":
            return f"Job held by {job.user} on {stamp(job.changed)}"
        if letter in ("R", "F", "X") and job.started:
            ended = {"deleted": f" and terminated by {job.user}@{self.server}",
                     "walltime": " and exceeded resource walltime"}  # fmt: skip
            tail = ended.get(job.cause, " and finished" if exit_status(job) == 0 else " and failed")
            return f"Job run at {when} on {self._vnodes(job)}" + (tail if letter != "R" else "")
        return ""


def exit_status(job: Job) -> int:
    """Exit_status: 0..255, 256 + signal, or the server's own negative words."""
    own = {"walltime": -29, "rerun": -11, "node_fail": -20, "launch": -2, "deleted": 271}
    if job.cause in own:
        return own[job.cause]
    status = job.status or 0
    return status >> 8 if status >= 256 else 256 + status if status else 0


def hms(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def stamp(moment: int) -> str:
    """In the zone of whoever asks, as the real one does."""
    return time.strftime("%a %b %e %H:%M:%S %Y", time.localtime(moment))


# ---------------------------------------------------------------- qsub

_LETTERS_WITH_VALUE = "aAcCejJklmMNopPqrRSuvWdt"


def qsub(c: PbsCluster, words: list[str], data: str | None = None) -> Answer:
    options, rest = _options(words)
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
        copies += [Job(**{**_fields(job), "task": t, "state": HELD if job.more.get("held") else QUEUED}) for t in tasks]
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


def _fields(job: Job) -> dict[str, Any]:
    return {name: getattr(job, name) for name in job.__dataclass_fields__}


def _options(words: list[str]) -> tuple[dict[str, Any], list[str]]:
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
    return _options(words)[0]


def _job(c: PbsCluster, asked: dict[str, Any], limits: list[str], script: str, name: str, cwd: str) -> Job:
    wanted = _limits(limits)
    chunks, per_chunk, place = _shape(c, wanted)
    queue = asked.get("-q") or c.get("default_queue", "workq")
    if "@" in queue:
        raise Refusal(f"Unknown Host.\nqsub: cannot connect to server {c.server} (errno=15008)\n", 160)
    job_name = _name(asked.get("-N", name))
    rules = c.queue(queue)
    walltime = _seconds(wanted.get("walltime")) if "walltime" in wanted else rules.get("walltime_default")
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


def _limits(limits: list[str]) -> dict[str, str]:
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
        _seconds(wanted["walltime"])
    return wanted


def _seconds(text: str | None) -> int:
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


# ---------------------------------------------------------------- qstat


def _parse_id(c: PbsCluster, text: str, program: str) -> tuple[int, str, str]:
    """(number, task part, the id as the server writes it)."""
    match = re.fullmatch(r"(\d+)(\[[\d-]*\])?(?:\.([A-Za-z0-9.-]+))?", text)
    if match is None:
        raise Refusal(f"{program}: illegally formed job identifier: {text}\n", 1)
    return int(match[1]), match[2] or "", f"{match[1]}{match[2] or ''}.{match[3] or c.server}"


def qstat(c: PbsCluster, words: list[str]) -> Answer:
    flags = {w for w in words if w.startswith("-")}
    letters = set("".join(w[1:] for w in flags if not w.startswith("--") and w != "-F"))
    form = words[words.index("-F") + 1] if "-F" in words else "text"
    ids = [w for i, w in enumerate(words) if not w.startswith("-") and (i == 0 or words[i - 1] not in ("-F", "-u"))]
    if "--version" in flags:
        return Answer(f"pbs_version = {VERSION}\n")
    if "B" in letters:
        return _server(c, full="f" in letters)
    if "Q" in letters:
        return _queues(c, form)
    found, said, code = _selected(c, ids, history="x" in letters or c.torque, tasks="t" in letters)
    if "f" not in letters:
        return Answer(_table(c, found), said, code)
    if form == "json" and not c.torque:
        if code and len(ids) > 1:  # as recorded: beside an id that fails, only the first one is answered
            found = [j for j in found if j.seq == int(re.match(r"\d+", ids[0])[0])]  # type: ignore[index]
        jobs = {c.id_of(j): c.attributes(j) for j in found}
        return Answer(_json(c, {"Jobs": jobs} if jobs else {}), said, code)
    return Answer("".join(_text(c, j) for j in found), said, code)


def _selected(c: PbsCluster, ids: list[str], *, history: bool, tasks: bool) -> tuple[list[Job], str, int]:
    off = history and not c.torque and not c.get("history", True)
    if not ids:
        jobs = [j for j in (c.jobs() if history else _live(c)) if not c.expired(j) and _visible(c, j)]
        said = "qstat: PBS is not configured to maintain job history \n" if off else ""
        return [j for j in jobs if tasks or j.task == NO_TASK], said, 0
    found: list[Job] = []
    said, code = "", 0
    for text in ids:
        try:
            number, part, whole = _parse_id(c, text, "qstat")
        except Refusal as exc:
            return [], str(exc), exc.code
        jobs = _of(c, number, part, tasks)
        if not jobs and off:
            said += f"qstat: PBS is not configured to maintain job history {whole}\n"
        elif not jobs:
            said, code = said + f"qstat: Unknown Job Id {whole}\n", 153
        elif not history and all(c.letter(j)[0] == "F" for j in jobs):
            said += f"qstat: {whole} Job has finished, use -x or -H to obtain historical job information\n"
            code = code or 35
        else:
            found += [j for j in jobs if _visible(c, j)]
    return found, said, code


def _live(c: PbsCluster) -> list[Job]:
    seqs = {j.seq for j in c.jobs("state != 'ended'")}
    return [j for seq in sorted(seqs) for j in c.jobs("seq = ?", seq)]


def _of(c: PbsCluster, number: int, part: str, tasks: bool) -> list[Job]:
    jobs = [j for j in c.jobs("seq = ?", number) if not c.expired(j)]
    if part in ("", "[]"):
        return jobs if tasks else jobs[:1]
    return [j for j in jobs if f"[{j.task}]" == part]


def _visible(c: PbsCluster, job: Job) -> bool:
    return bool(job.user == me() or c.get("query_other_jobs", True) or me() in c.get("operators", []))


def _json(c: PbsCluster, members: dict[str, Any]) -> str:
    head = {"timestamp": c.now(), "pbs_version": VERSION, "pbs_server": c.server, **members}
    return _object(head, 1) + "\n"


def _object(value: dict[str, Any], depth: int) -> str:
    tabs = "\t" * depth
    lines = [f"{tabs}{json.dumps(k)}:\t{_value(v, depth, k)}" for k, v in value.items()]
    return "{\n" + ",\n".join(lines) + "\n" + "\t" * (depth - 1) + "}"


def _value(value: Any, depth: int, name: str) -> str:
    if isinstance(value, dict):
        return _object({k: _mangled(v) if name == "Variable_List" else v for k, v in value.items()}, depth + 1)
    return json.dumps(value, ensure_ascii=False)


def _mangled(text: str) -> Any:
    """Variables are not faithful in JSON: what looks like a number is one."""
    if re.fullmatch(r"-?\d+", text):
        return int(text) if len(text) < 19 else float(text)
    if re.fullmatch(r"-?\d+(\.\d+)?([eE][+-]?\d+)?", text):
        number = float(text)
        return int(number) if number.is_integer() else number
    if text in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[text]
    return text.replace("\\", "\\\\\\\\")


def _text(c: PbsCluster, job: Job) -> str:
    lines = [f"Job Id: {c.id_of(job)}"]
    small = {"Exit_status": "exit_status", "obittime": "comp_time", "stime": "start_time",
             "Submit_arguments": "submit_args"}  # fmt: skip
    for name, value in c.attributes(job).items():
        shown = small.get(name, name) if c.torque else name
        if name == "Variable_List":
            lines += _folded(f"    {shown} = " + ",".join(f"{k}={v}" for k, v in value.items()))
        elif isinstance(value, dict):
            lines += [f"    {shown}.{k} = {v}" for k, v in value.items()]
        else:
            lines += _folded(f"    {shown} = {value}")
    return "\n".join(lines) + "\n\n"


def _folded(line: str) -> list[str]:
    """Long lines go on behind a tab."""
    parts = [line[:78]]
    for start in range(78, len(line), 70):
        parts.append("\t" + line[start : start + 70])
    return parts


def _table(c: PbsCluster, jobs: list[Job]) -> str:
    if not jobs:
        return ""
    rows = ["Job id            Name             User              Time Use S Queue",
            "----------------  ---------------- ----------------  -------- - -----"]  # fmt: skip
    for job in jobs:
        used = c.used(job)["cput"] if job.runs else "0"
        rows.append(f"{c.id_of(job):<17} {job.name[:15]:<16} {job.user[:16]:<17} {used:>8} {c.letter(job)[0]} "
                    f"{job.queue:<16}")  # fmt: skip
    return "\n".join(rows) + "\n"


def _server(c: PbsCluster, *, full: bool) -> Answer:
    if not full:
        return Answer("Server             Max   Tot   Que   Run   Hld   Wat   Trn   Ext Status\n"
                      "---------------- ----- ----- ----- ----- ----- ----- ----- ----- -----------\n"
                      f"{c.server:<18} 0     0     0     0     0     0     0     0 Active\n")  # fmt: skip
    shown = {
        "server_state": "Active", "scheduling": c.get("scheduling", True), "default_queue": "workq",
        "query_other_jobs": c.get("query_other_jobs", True), "job_history_enable": c.get("history", True),
    }  # fmt: skip
    return Answer(f"Server: {c.server}\n" + "".join(f"    {k} = {v}\n" for k, v in shown.items()) + "\n")


def _queues(c: PbsCluster, form: str) -> Answer:
    found: dict[str, dict[str, Any]] = {}
    for name, rules in c.get("queues", QUEUES).items():
        a: dict[str, Any] = {"queue_type": "Execution"}
        a |= {"Priority": rules["priority"]} if "priority" in rules else {}
        a["total_jobs"] = sum(j.queue == name for j in c.jobs("state != 'ended'"))
        most: dict[str, Any] = {"walltime": hms(rules["walltime_max"])} if "walltime_max" in rules else {}
        most |= {"ncpus": rules["ncpus_max"]} if "ncpus_max" in rules else {}
        a |= {"resources_max": most} if most else {}
        a |= {"resources_default": {"walltime": hms(rules["walltime_default"])}} if "walltime_default" in rules else {}
        a |= {"enabled": str(rules.get("enabled", True)), "started": str(rules.get("started", True))}
        found[name] = a
    if form == "json" and not c.torque:
        return Answer(_json(c, {"Queue": found}))
    text = ""
    for name, a in found.items():
        text += f"Queue: {name}\n"
        for key, value in a.items():
            pairs = value.items() if isinstance(value, dict) else [("", value)]
            text += "".join(f"    {key}{'.' if k else ''}{k} = {v}\n" for k, v in pairs)
        text += "\n"
    return Answer(text)


def pbsnodes(c: PbsCluster, words: list[str]) -> Answer:
    busy: dict[int, int] = {}
    exclusive: set[int] = set()
    for job in c.jobs("state = 'running'"):
        for node in job.place:
            busy[node] = busy.get(node, 0) + -(-job.cores // job.nodes)
            exclusive |= {node} if job.exclusive else set()
    nodes: dict[str, Any] = {}
    for n in range(c.get("nodes", 3)):
        cores = c.get("cores_per_node", 64)
        state = "down" if n in c.get("down_nodes", []) else "job-exclusive" if n in exclusive else "free"
        nodes[f"cn{n + 1:03}"] = {
            "Mom": f"cn{n + 1:03}", "ntype": "PBS", "state": state, "pcpus": cores,
            "resources_available": {"host": f"cn{n + 1:03}", "mem": "256gb", "ncpus": cores},
            "resources_assigned": {"ncpus": busy.get(n, 0)},
        }  # fmt: skip
    if "json" in words and not c.torque:
        return Answer(_json(c, {"nodes": nodes}))
    text = ""
    for name, a in nodes.items():
        flat = {f"{k}.{i}": v for k, inner in a.items() if isinstance(inner, dict) for i, v in inner.items()}
        flat = {k: v for k, v in a.items() if not isinstance(v, dict)} | flat
        flat |= {"np": a["pcpus"]} if c.torque else {}
        text += f"{name}\n" + "".join(f"     {k} = {v}\n" for k, v in flat.items()) + "\n"
    return Answer(text)


# ---------------------------------------------------------------- acts


def act(c: PbsCluster, name: str, words: list[str]) -> Answer:
    """qdel qhold qrls qalter qmove qrerun: each id on its own; the last error is the exit code."""
    options, ids = _options_of(name, words)
    said, code = "", 0
    with c.locked():
        for text in ids:
            try:
                number, part, whole = _parse_id(c, text, name)
                jobs = _of(c, number, part, tasks=True)
                tail = f" {whole}" if name == "qdel" else ""
                if not jobs:
                    raise Refusal(f"{name}: Unknown Job Id {whole}\n", 153)
                live = [j for j in jobs if j.state != ENDED]
                if part not in ("", "[]") and not live and c.letter(jobs[0])[0] == "X":
                    raise Refusal(f"{name}: Request invalid for finished array subjob {whole}\n", 55)
                if not live:
                    raise Refusal(f"{name}: Job has finished{tail}\n", 35)
                if live[0].user != me() and me() not in c.get("operators", []):
                    raise Refusal(f"{name}: Unauthorized Request  {whole}\n", 159)
                for job in live:
                    _act_on(c, name, job, options, whole)
            except Refusal as exc:
                said, code = said + str(exc), exc.code
        c.schedule()
    return Answer("", said, code)


def _options_of(name: str, words: list[str]) -> tuple[dict[str, Any], list[str]]:
    if name == "qmove":
        return {"-q": words[0]}, words[1:]
    if name == "qsig":
        return {"-s": words[1]}, words[2:]
    if name in ("qhold", "qrls") and words[:1] == ["-h"]:
        return {"-h": words[1]}, words[2:]
    return _options(words)


def _act_on(c: PbsCluster, name: str, job: Job, options: dict[str, Any], whole: str) -> None:
    if name == "qdel":
        c.kill(job, "deleted")
    elif name == "qhold":
        if options.get("-h") == "s" or "s" in options.get("-h", ""):
            raise Refusal(f"qhold: Unauthorized Request  {whole}\n", 159)
        job.more["held"] = True
        job.state = HELD if job.state == QUEUED else job.state
    elif name == "qrls":
        job.more.pop("held", None)
        job.state = QUEUED if job.state == HELD else job.state
    elif name == "qmove":
        if options["-q"] not in c.get("queues", QUEUES):
            raise Refusal("qmove: Unknown queue\n", 170)
        job.queue = options["-q"]
    elif name == "qrerun":
        if me() not in c.get("operators", []):
            raise Refusal(f"qrerun: Unauthorized Request  {whole}\n", 159)
        c.kill(job, "rerun")
        return
    elif name == "qsig":
        if not c.signal(job, signal.Signals[options["-s"]]):
            raise Refusal(f"qsig: Request invalid for state of job {whole}\n", 168)
        return
    elif name == "qalter":
        _alter(job, options, whole)
    if name != "qdel":
        job.changed = c.now()
        c.save(job)


def _alter(job: Job, options: dict[str, Any], whole: str) -> None:
    wanted = _limits(options.get("-l", []))
    if "walltime" in wanted:
        seconds = _seconds(wanted["walltime"])
        if job.state == RUNNING and job.walltime_s is not None and seconds > job.walltime_s:
            raise Refusal(f"qalter: Unauthorized Request  {whole}\n", 159)
        job.walltime_s = seconds
        job.more["resources"]["walltime"] = hms(seconds)
    job.more["account"] = options.get("-A", job.more["account"])
    job.name = options.get("-N", job.name)
    job.more["priority"] = int(options.get("-p", job.more["priority"]))


def qselect(c: PbsCluster, words: list[str]) -> Answer:
    options, _ = _options(words)
    jobs = c.jobs("task = -1") if "-x" in options else [j for j in _live(c) if j.task == NO_TASK]
    wanted = [("-N", lambda j: j.name), ("-A", lambda j: j.more["account"]), ("-P", lambda j: j.more.get("project"))]
    for option, of in wanted:
        if option in options:
            jobs = [j for j in jobs if of(j) == options[option]]
    shown = [c.id_of(j) for j in jobs if _visible(c, j) and not c.expired(j)]
    return Answer("".join(f"{s}\n" for s in shown))


# ---------------------------------------------------------------- main


def answer(c: PbsCluster, name: str, words: list[str], data: str | None = None) -> Answer:
    """One command's answer."""
    try:
        if name == "qsub":
            return qsub(c, words, data)
        if name == "qstat":
            with c.locked():
                c.schedule()
            return qstat(c, words)
        if name == "qselect":
            return qselect(c, words)
        if name == "pbsnodes":
            return pbsnodes(c, words)
        if name == "pbs_rstat":
            return Answer("")
        return act(c, name, words)
    except Refusal as exc:
        return Answer("", str(exc), exc.code)


def down(c: PbsCluster, name: str, words: list[str]) -> Answer:
    """Nobody listens: JSON is still printed, and looks like no jobs."""
    refused = "Connection refused\n"
    if name == "qstat":
        out = _json(c, {}) if "json" in words else ""
        return Answer(out, f"{refused}qstat: cannot connect to server {c.server} (errno=15010)\n", 255)
    if name == "pbsnodes":
        return Answer("", f"{refused}pbsnodes: cannot connect to server {c.server}, error=15010\n", 1)
    if name == "qdel":
        return Answer("", f"{refused}Couldn't connect to cluster: {c.server}\n", 162)
    return Answer("", f"{refused}{name}: cannot connect to server {c.server} (errno=15010)\n", 162)


def main(argv: list[str]) -> int:
    if argv[0] == "install":
        cluster = PbsCluster(Path(argv[1]).resolve())
        for setting in argv[3:]:
            name, _, value = setting.partition("=")
            cluster.put(name, json.loads(value) if re.match(r"[\[{\d\"]|true|false", value) else value)
        core.install(PROGRAMS, PbsCluster.program, cluster.root, Path(argv[2]).resolve())
        return 0
    if argv[0] == "--run":
        PbsCluster(Path(argv[1])).run(int(argv[2]), int(argv[3]))
        return 0
    name, words = argv[1], argv[3:]
    c = PbsCluster(Path(argv[2]))
    return core.serve(c, name, words, lambda: answer(c, name, words), lambda _: down(c, name, words))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
