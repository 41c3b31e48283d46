"""An emulated PBS server: queues, names, history, accounting log, and the attributes that a job shows."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

from core import ENDED, HELD, NO_TASK, QUEUED, RUNNING, Cluster, Job

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


class PbsCluster(Cluster):
    """The server: names, history, accounting log."""

    program = str(Path(__file__).resolve().with_name("pbs.py"))

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
        self._open_output(job)
        taken = job.nodes * self.get("cores_per_node", 4) if job.exclusive else job.cores
        self.log("S", job, *self._about(job), f"resource_assigned.ncpus={taken}")

    def _open_output(self, job: Job) -> None:
        """Output is spooled at the node, unless it is to be written in place (`-k doe`): then a file is begun anew."""
        if "deliver" in job.more or job.runs > 1:
            return
        if "d" in job.more.get("keep", "n"):
            for path in {job.stdout, job.stderr}:
                if Path(path).is_file():
                    os.truncate(path, 0)
            return
        spool = self.root / "spool"
        spool.mkdir(exist_ok=True)
        job.more["deliver"] = [job.stdout, job.stderr]
        joined = job.stdout == job.stderr
        job.stdout = str(spool / f"{self.id_of(job)}.OU")
        job.stderr = job.stdout if joined else str(spool / f"{self.id_of(job)}.ER")
        self.save(job)

    def _deliver(self, job: Job) -> None:
        """The server copies the spool over whatever is there; without the folder it stays undelivered, unsaid."""
        for spooled, path in zip((job.stdout, job.stderr), job.more.get("deliver", ()), strict=False):
            if Path(path).parent.is_dir() and Path(spooled).exists():
                shutil.copyfile(spooled, path)

    def tell_end(self, job: Job) -> None:
        status = exit_status(job)
        if not job.started:
            return
        if not (job.cause in ("rerun", "node_fail") and job.more.get("rerunnable")):
            self._deliver(job)
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
