"""A Sunway centre as its users see it, over a folder: bsub bjobs bkill bqueues qload cnload.

Built from the quirks that are public (sunway.md), since nothing of it can be had: words only, no -W and no -e ("wrong
prog name"), #BSUB lines are comments, stdin is not read, no bash, refusal of the base file system, "has been
submitted", no year, no exit code, exit code 0 when nothing is found, STAT in the second column, stderr inside -o.

`python tests/emulators/sunway.py install STATE BIN [SETTING=VALUE …]` makes a centre.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import core
from core import ENDED, QUEUED, RUNNING, Answer, Cluster, Job, me

PROGRAMS = ("bsub", "bjobs", "bkill", "bsignal", "bqueues", "qload", "cnload")
QUEUES: dict[str, dict[str, Any]] = {
    "q_sw_share": {}, "q_sw_expr": {"walltime_max": 3600, "nodes_max": 16}, "q_x86_share": {"closed": True},
}  # fmt: skip
_VALUES = ("q", "n", "N", "np", "cgsp", "share_size", "host_stack", "priv_size", "cross_size", "ro_size", "cache_size",
           "ldm_share_mode", "ldm_share_size", "mpecg", "o", "J", "i", "m", "sw3run", "sw3runarg")  # fmt: skip
_FLAGS = ("I", "b", "xmalloc", "exclu", "akernel", "cross", "p", "pr", "debug", "allmaster")
NOISE = "/bin/bash: warning: setlocale: LC_ALL: cannot change locale (en_US.UTF-8)\n"
NONE = "No match record found!\n"


class SunwayCluster(Cluster):
    """Core groups are its cores: a node of SW26010 has four."""

    program = str(Path(__file__).resolve())

    def may_start(self, job: Job) -> bool:
        return bool(self.get("scheduling", True))

    def word(self, job: Job) -> str:
        if job.state == QUEUED:
            return "PEND"
        if job.state == RUNNING:
            return "RUN" if job.pid else "STARTING"
        return "DONE" if job.status == 0 else "EXIT"


def bsub(c: SunwayCluster, words: list[str]) -> Answer:
    options: dict[str, str] = {}
    position = 0
    while position < len(words) and words[position].startswith("-"):
        name = words[position][1:]
        position += 1
        if name in _VALUES:
            options[name] = words[position] if position < len(words) else ""
            position += 1
        elif name in _FLAGS:
            options[name] = ""
        else:
            return Answer("", f"wrong prog name -{name}\n", 255)
    command = words[position:]
    refusal = _refused(c, options, command)
    if refusal:
        return refusal
    cwd = str(Path.cwd())
    count = int(options.get("n") or int(options.get("N", "1")) * int(options.get("np", "1")))
    nodes = int(options.get("N", "0")) or -(-count // c.get("cores_per_node", 4))
    walltime = c.get("queues", QUEUES)[options["q"]].get("walltime_max")
    with c.locked():
        seq = c.get("next_seq", 57245099)
        c.put("next_seq", seq + 1)
        out = options.get("o", f"{cwd}/{seq}.out").replace("%J", str(seq))
        now = c.now()
        variable = c.get("id_variable", "LSB_JOBID")
        job = Job(
            seq=seq, task=core.NO_TASK, name=options.get("J", ""), user=me(), queue=options["q"], argv=command, cwd=cwd,
            environment={variable: str(seq)} if variable else {}, stdout=out, stderr=out, cores=count, nodes=nodes,
            exclusive="exclu" in options or "N" in options, walltime_s=walltime, submitted=now, changed=now,
            more={"command": " ".join(command), "cwd": cwd},
        )  # fmt: skip
        c.save(job)
        c.schedule()
    return Answer(f"Job <{seq}> has been submitted to queue <{options['q']}>\n", NOISE if c.get("noise") else "")


def _refused(c: SunwayCluster, options: dict[str, str], command: list[str]) -> Answer | None:
    queues = c.get("queues", QUEUES)
    for path in (str(Path.cwd()), options.get("o", "")):
        if any(path.startswith(base) for base in c.get("base", ["/home/export/base"])):
            return Answer("", f'current cwd is "{path}", canot submit job on fs base, job not submitted\n', 1)
    if options.get("q") not in queues or me() in c.get("denied", []):
        return Answer("", "Job submit failed, Access/permission denied\n", 1)
    if queues[options["q"]].get("closed"):
        return Answer("", "Job submit failed, Queue is closed\n", 1)
    if not command:
        return Answer("", "wrong prog name\n", 255)
    nodes = int(options.get("N", "0") or 0) or -(-int(options.get("n", "1")) // c.get("cores_per_node", 4))
    if nodes > min(c.get("nodes", 4), queues[options["q"]].get("nodes_max", 10**6)):
        return Answer("", "job submit failed, ret = -19, reason: No enough compute nodes\n", 1)
    if c.get("quota_used"):
        return Answer("", "job submit failed, ret = -40, reason: Exceed user avail resource quota.\n", 1)
    return None


def bjobs(c: SunwayCluster, words: list[str]) -> Answer:
    long = "-l" in words
    name = words[words.index("-J") + 1] if "-J" in words else ""
    user = words[words.index("-u") + 1] if "-u" in words else me()
    ids = [int(w) for i, w in enumerate(words)
           if w.isdigit() and (i == 0 or words[i - 1] not in ("-J", "-u"))]  # fmt: skip
    with c.locked():
        c.schedule()
    if ids:
        jobs = [j for number in ids for j in c.jobs("seq = ?", number)]
    elif name:
        jobs = [j for j in c.jobs("user = ?", me()) if j.name == name]
    else:
        jobs = [j for j in c.jobs("state != 'ended'") if user in ("all", j.user)]
    kept = c.get("history_s", 3600)
    jobs = [j for j in jobs if j.state != ENDED or c.now() - j.ended <= kept]
    if not jobs:
        return Answer(NONE)  # and exit code 0
    if long:
        return Answer("\n".join(_block(c, job) for job in jobs))
    return Answer(_table(c, jobs))


def _stamp(moment: int) -> str:
    return time.strftime("%b %d %H:%M:%S", time.localtime(moment))


def _block(c: SunwayCluster, job: Job) -> str:
    lines = [f"Job<{job.seq}>, User<{job.user}>, Status<{c.word(job)}>, Project<->, Queue<{job.queue}>, "
             f"Command<{job.more['command']}>", "",
             f"{_stamp(job.submitted)}: Submitted from host <psn002>, CWD<{job.more['cwd']}>."]  # fmt: skip
    if job.state == QUEUED and c.get("pend_reason"):
        lines.append(f"Pend reason<{c.get('pend_reason')}>")
    if job.started:
        lines.append(f"{_stamp(job.started)}: Started on mn <mn{238 + (job.place or [0])[0]}>, using <0> nodes")
    if job.state == ENDED:
        lines.append(f"{_stamp(job.ended)}: End!")
    return "\n".join(lines) + "\n"


def _table(c: SunwayCluster, jobs: list[Job]) -> str:
    head = "JOBID      STAT   USER     JOB_NAME   QUEUE        FROM_HOST NODES CGS PROCS MPE SUBMIT START EXEC EXCLU"
    rows = [head, "-" * len(head)]
    for j in jobs:
        name = (j.name or "-")[:10]
        rows.append(f"{j.seq} {c.word(j)} {j.user} {name} {j.queue} psn002 {j.nodes} {j.cores} {j.cores} 1 "
                    f"{time.strftime('%H:%M', time.localtime(j.submitted))} - mn238 {int(j.exclusive)}")  # fmt: skip
    return "\n".join(rows) + "\n"


def bkill(c: SunwayCluster, words: list[str]) -> Answer:
    said = ""
    with c.locked():
        for number in (int(w) for w in words if w.isdigit()):
            job = c.job(number)
            if job is None or job.state == ENDED or job.user != me():
                said += NONE
                continue
            if job.state == QUEUED:
                job.status = 9  # killed before it ran: EXIT
                c.save(job)
            c.kill(job, "deleted")
            said += f"Job <{number}> is being terminated\n"
        c.schedule()
    return Answer(said)


def bsignal(c: SunwayCluster, words: list[str]) -> Answer:
    """`bsignal -s 30 ID`; what it prints is nowhere documented."""
    with c.locked():
        job = c.job(int(words[2]))
        known = job is not None and job.user == me() and c.signal(job, int(words[1]))
    return Answer("" if known else NONE)


def bqueues(c: SunwayCluster, words: list[str]) -> Answer:
    rows = [f"{name:<16} {'Closed' if q.get('closed') else 'Open'}" for name, q in c.get("queues", QUEUES).items()]
    return Answer("\n".join(["QUEUE_NAME       STATUS", *rows]) + "\n")


def qload(c: SunwayCluster, words: list[str]) -> Answer:
    """With the colours that the real one prints."""
    total = c.get("nodes", 4)
    busy = len({n for j in c.jobs("state = 'running'") for n in j.place})
    rows = ["\x1b[1mQUEUE CONFIG IDLE BUSY SLEEP FAULT\x1b[0m"]
    for name, q in c.get("queues", QUEUES).items():
        if not q.get("closed"):
            rows.append(f"\x1b[32m{name}\x1b[0m {total} {total - busy} {busy} 0 0")
    return Answer("\n".join(rows) + "\n")


def cnload(c: SunwayCluster, words: list[str]) -> Answer:
    used = {n for j in c.jobs("state = 'running'") for n in j.place}
    rows = []
    for n in range(c.get("nodes", 4)):
        state = "busy" if n in used else "sleep"
        rows.append(f"vn{n + 1:06} {n} 0:0:{n}:0 100.0.{n}.1 {state} 11Day 00:12 3.64 6 384 1000M 3.5G OK OK 1,2ok "
                    "exclu q_sw_share")  # fmt: skip
    return Answer("\n".join(rows) + "\n")


_COMMANDS = {
    "bjobs": bjobs,
    "bkill": bkill,
    "bsignal": bsignal,
    "bqueues": bqueues,
    "qload": qload,
    "cnload": cnload,
    "bsub": bsub,
}


def answer(c: SunwayCluster, name: str, words: list[str]) -> Answer:
    """One command's answer."""
    return _COMMANDS[name](c, words)


def down(_c: SunwayCluster, _name: str, _words: list[str]) -> Answer:
    text = "plugin_load_from_file: dlopen(/usr/sw-slurm/slurm-16.05.3/lib/slurm/auth_munge.so): not responding\n"
    return Answer("", text, 255)


if __name__ == "__main__":
    sys.exit(core.main(sys.argv[1:], SunwayCluster, PROGRAMS, answer, down))
