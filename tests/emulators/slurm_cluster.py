"""An emulated Slurm's controller: partitions, associations, states, why a job waits, what a run leaves behind."""

from __future__ import annotations

import os
import pwd
import re
import time
from pathlib import Path
from typing import Any

import core
from core import ENDED, HELD, NO_TASK, QUEUED, RUNNING, Cluster, Job, me

VERSION = "22.05.8"
# Minutes; `state` as scontrol writes it. Those of the lab in which the recordings were taken.
PARTITIONS: dict[str, dict[str, Any]] = {
    "normal": {"default": True, "max": 2880, "default_time": 10},
    "short": {"max": 5, "default_time": 1},
    "restricted": {"max": 60, "accounts": ["proj2"]},
    "closed": {"max": 60, "state": "INACTIVE"},
}
QOS: dict[str, dict[str, int]] = {"normal": {}, "debug": {"submit_max": 5, "wall_max": 10}, "low": {}}
_ASSOCIATION = {"accounts": ["proj1"], "qos": ["normal"]}
_SIGNS = re.compile(r"%(\d*)(.)")


class SlurmCluster(Cluster):
    """Settings: cluster, nodes, cores_per_node, memory_mib, gres (of each node), features, partitions, qos,
    associations (login -> accounts, qos), enforce_part_limits, private_jobs, admins, min_job_age_s."""

    program = str(Path(__file__).resolve().with_name("slurm.py"))

    @property
    def name(self) -> str:
        return str(self.get("cluster", "alpha"))

    def partitions(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = self.get("partitions", PARTITIONS)
        return found

    def association(self, login: str) -> dict[str, list[str]]:
        """Accounts (its default first) and QOS of a login."""
        found: dict[str, list[str]] = self.get("associations", {}).get(login, self.get("association", _ASSOCIATION))
        return found

    def is_admin(self) -> bool:
        return os.geteuid() == 0 or me() in self.get("admins", [])

    def visible(self, job: Job) -> bool:
        """With PrivateData=jobs others' jobs are not there, without a word."""
        return job.user == me() or not self.get("private_jobs", False) or me() in self.get("admins", [])

    def node(self, number: int) -> str:
        return f"{self.name}-n{number + 1}"

    def node_list(self, place: list[int]) -> str:
        if not place:
            return ""
        text = ranges([n + 1 for n in place])
        return f"{self.name}-n[{text}]" if len(place) > 1 else f"{self.name}-n{text}"

    # ------------------------------------------------------------ may it run

    def may_start(self, job: Job) -> bool:
        return not self.obstacle(job)

    def obstacle(self, job: Job) -> str:
        """Slurm's word for what keeps it from being considered; empty where nothing does."""
        rules = self.partitions().get(job.queue, {})
        state = rules.get("state", "UP")
        if job.more.get("never"):
            return str(job.more["never"])
        if state != "UP":
            return "PartitionDown" if state == "DOWN" else "PartitionInactive"
        if job.more.get("begin", 0) > self.now():
            return "BeginTime"
        if self._reserved(job):
            return "ReqNodeNotAvail, May be reserved for other job"
        return "Resources" if not self._gres_free(job) or not self.get("scheduling", True) else ""

    def _reserved(self, job: Job) -> bool:
        until = self.now() + (job.walltime_s or 0)
        return any(r["start"] < until and self.now() < r["end"] and job.more.get("reservation") != r["name"]
                   for r in self.get("reservations", []))  # fmt: skip

    def _gres_free(self, job: Job) -> bool:
        if not job.more.get("gres"):
            return True
        taken = dict.fromkeys(self.get("gres", {}), 0)
        for other in self.jobs("state = 'running'"):
            for kind, count in other.more.get("gres", {}).items():
                taken[kind] += count * other.nodes
        free = {kind: count * self.get("nodes", 1) - taken[kind] for kind, count in self.get("gres", {}).items()}
        return all(free[kind] >= count * job.nodes for kind, count in job.more["gres"].items())

    def reason(self, job: Job) -> str:
        """Slurm's word for why it waits, or why it ended as it did."""
        if job.state == HELD:
            return "JobHeldAdmin" if job.more.get("held") == "admin" else "JobHeldUser"
        if job.state == QUEUED:
            live = sum(j.state == RUNNING for j in self.jobs("seq = ?", job.seq))
            if job.more.get("max_parallel") and live >= job.more["max_parallel"]:
                return "JobArrayTaskLimit"
            return self.obstacle(job) or "Resources"
        if job.state == RUNNING:
            return "None"
        if job.cause in ("launch", "walltime", "node_fail"):
            return {"launch": "JobLaunchFailure", "walltime": "TimeLimit", "node_fail": "NodeDown"}[job.cause]
        if job.cause == "deleted":
            return str(job.more.get("waited_for", "None"))
        status = job.status or 0
        return "None" if status == 0 else "NonZeroExitCode" if status > 255 else "JobLaunchFailure"

    # ------------------------------------------------------------ what it is called

    def word(self, job: Job) -> str:
        """The state as squeue and sacct write it."""
        if job.state in (QUEUED, HELD):
            return "PENDING"
        if job.state == RUNNING:
            return "RUNNING"
        ends = {"deleted": "CANCELLED", "walltime": "TIMEOUT", "node_fail": "NODE_FAIL", "launch": "FAILED"}
        return ends.get(job.cause, "COMPLETED" if job.status == 0 else "FAILED")

    def wait_status(self, job: Job) -> int:
        """As of wait(2); 53 is how a job ends whose output or folder is not there."""
        if job.state != ENDED or job.cause in ("walltime", "node_fail"):
            return 0
        return 53 if job.cause == "launch" else job.status or 0

    def raw_id(self, job: Job) -> int:
        """A task that started has an id of its own; the last one of an array keeps the array's."""
        return int(job.more.get("raw", job.seq))

    def restarts(self, job: Job) -> int:
        return job.runs if job.state in (QUEUED, HELD) else max(0, job.runs - 1)

    def listed(self, jobs: list[Job]) -> list[tuple[Job, str]]:
        """Rows as Slurm shows them: (job, task text). Tasks of an array that never started share one row; one that
        was canceled alone before it started has none."""
        rows: list[tuple[Job, str]] = []
        together: dict[tuple[int, str], list[Job]] = {}
        for job in jobs:
            if job.task == NO_TASK or job.runs:
                rows.append((job, "" if job.task == NO_TASK else str(job.task)))
            elif not job.more.get("canceled_alone"):
                together.setdefault((job.seq, self.word(job)), []).append(job)
        for tasks in together.values():
            most = tasks[0].more.get("max_parallel")
            rows.append((tasks[0], f"[{ranges([t.task for t in tasks])}{f'%{most}' if most else ''}]"))
        return rows

    # ------------------------------------------------------------ what a run writes down

    def tell_start(self, job: Job) -> None:
        if job.task != NO_TASK and "raw" not in job.more:
            waiting = [j for j in self.jobs("seq = ? AND state != 'ended'", job.seq) if not j.runs]
            job.more["raw"] = self.next_seq() if waiting else job.seq
        job.more["db"] = self.next_db()
        raw = self.raw_id(job)
        own = {
            "SLURM_JOB_ID": raw, "SLURM_JOBID": raw, "SLURM_JOB_NAME": job.name, "SLURM_CLUSTER_NAME": self.name,
            "SLURM_NTASKS": job.more["ntasks"], "SLURM_NNODES": job.nodes, "SLURM_JOB_PARTITION": job.queue,
            "SLURM_JOB_NODELIST": self.node_list(job.place), "SLURM_JOB_ACCOUNT": job.more["account"],
            "SLURM_SUBMIT_DIR": job.more["submit_dir"],
        }  # fmt: skip
        if job.task != NO_TASK:
            own |= {"SLURM_ARRAY_JOB_ID": job.seq, "SLURM_ARRAY_TASK_ID": job.task}
        if job.runs > 1:
            own["SLURM_RESTART_COUNT"] = job.runs - 1
        job.environment |= {name: str(value) for name, value in own.items()}
        job.stdout, job.stderr = (self._path(job, job.more[which]) for which in ("output", "error"))
        if not Path(job.cwd).is_dir():
            job.cwd = "/tmp"  # where the real one runs it then, if it can open its output
        if not job.more["append"]:
            for path in {job.stdout, job.stderr}:
                if Path(path).is_file():
                    os.truncate(path, 0)
        self.save(job)

    def _path(self, job: Job, pattern: str) -> str:
        raw = self.raw_id(job)
        task = "4294967294" if job.task == NO_TASK else str(job.task)
        signs = {"j": str(raw), "A": str(job.seq), "a": task, "x": job.name, "u": job.user, "%": "%"}
        path = _SIGNS.sub(lambda m: signs[m[2]].zfill(int(m[1] or 0)) if m[2] in signs else m[0], pattern)
        return str(Path(job.cwd, path))

    def tell_end(self, job: Job) -> None:
        if job.cause in ("rerun", "node_fail") and job.more.get("rerunnable"):
            row = self.row(job) | {"State": "REQUEUED" if job.cause == "rerun" else "NODE_FAIL", "ExitCode": "0:0"}
            job.more.setdefault("past", []).append(row)
            job.submitted, job.started, job.ended = self.now(), 0, 0
            return
        if "db" not in job.more:
            job.more["db"] = self.next_db()
            self.save(job)

    def next_db(self) -> int:
        number: int = self.get("next_db", 1) + 1
        self.put("next_db", number)
        return number

    def cores_taken(self, job: Job) -> int:
        return job.nodes * self.get("cores_per_node", 4) if job.exclusive else job.cores

    def row(self, job: Job, tasks: str = "") -> dict[str, Any]:
        """One run as sacct tells it; times are epoch seconds or None."""
        taken, status = self.cores_taken(job), self.wait_status(job)
        ran = job.started > 0
        state = self.word(job)
        uid = pwd.getpwnam(job.user).pw_uid
        if state == "CANCELLED":
            state += f" by {job.more.get('canceled_by', uid)}"
        task = tasks or ("" if job.task == NO_TASK else str(job.task))
        tres = f"billing={taken},cpu={taken}" + "".join(
            f",gres/{kind}={count * job.nodes}" for kind, count in job.more.get("gres", {}).items()
        ) + f",mem={100 * taken}M,node={job.nodes}"  # fmt: skip
        until = job.ended or self.now()
        return {
            "DBIndex": job.more.get("db", 0), "Cluster": self.name, "JobID": f"{job.seq}_{task}" if task else job.seq,
            "JobIDRaw": self.raw_id(job), "User": job.user, "UID": uid, "Account": job.more["account"],
            "QOS": job.more["qos"], "Partition": job.queue, "State": state,
            "ExitCode": f"{status >> 8}:{status & 0x7F}", "Submit": job.submitted,
            "Eligible": job.submitted if ran else None, "Start": job.started or job.ended or None,
            "End": job.ended or None, "ElapsedRaw": until - job.started if ran else 0, "Suspended": "00:00:00",
            "AllocCPUS": taken if ran else 1, "AllocNodes": job.nodes if ran else 0, "AllocTRES": tres if ran else "",
            "ReqTRES": f"billing={job.cores},cpu={job.cores},mem={100 * job.cores}M,node={job.nodes}",
            "Reason": "None", "NodeList": self.node_list(job.place) if ran else "None assigned",
            "SubmitLine": job.more["submit_line"],
            "Comment": job.more.get("comment", "") if job.ended else "",  # AccountingStoreFlags=job_comment: at its end
            "JobName": job.name, "CPUTimeRAW": taken * (until - job.started) if ran else 0, "NNodes": job.nodes,
            "DerivedExitCode": "0:0",
        }  # fmt: skip


def ranges(numbers: list[int]) -> str:
    """`0,2-3` as Slurm writes lists."""
    parts: list[list[int]] = []
    for n in sorted(numbers):
        if parts and n == parts[-1][-1] + 1:
            parts[-1].append(n)
        else:
            parts.append([n])
    return ",".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)


def minutes(text: str) -> int | None:
    """Slurm's time limit in minutes; None where it cannot be read."""
    match = re.fullmatch(r"(-?\d+)|(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None:
        return None
    if match[1]:
        return int(match[1])
    days, first, second, third = (int(part) if part else 0 for part in match.groups()[1:])
    if match[2] or match[5]:
        return days * 1440 + first * 60 + second + (third > 0)
    return first + (second > 0)


def moment(text: str, now: int) -> int:
    """A time as the commands take it: now, now+1hour, now-1days, 2026-11-25T14:03:38 in the caller's zone."""
    match = re.fullmatch(r"now(?:([+-])(\d+)(second|minute|hour|day|week|)s?)?", text)
    if match:
        unit = {"second": 1, "": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}[match[3] or ""]
        return now + (-1 if match[1] == "-" else 1) * int(match[2] or 0) * unit
    for form in ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d"):
        try:
            return int(time.mktime(time.strptime(text, form)))
        except ValueError:
            continue
    raise core.Refusal(f"Invalid time specification: {text}\n", 1)


def stamp(when: int | None, *, none: str = "Unknown") -> str:
    """A time in the caller's zone, in the form that SLURM_TIME_FORMAT asks for."""
    if not when:
        return none
    form = os.environ.get("SLURM_TIME_FORMAT", "%Y-%m-%dT%H:%M:%S")
    return str(when) if form == "%s" else time.strftime(form, time.localtime(when))
