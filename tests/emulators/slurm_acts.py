"""scancel and the acts of scontrol of the emulated Slurm: hold, release, update, requeue, reservations."""

from __future__ import annotations

import os
import signal

from core import ENDED, HELD, NO_TASK, QUEUED, RUNNING, Answer, Job, Refusal, me
from slurm_cluster import SlurmCluster, minutes, moment
from slurm_show import chosen


def scancel(c: SlurmCluster, words: list[str]) -> Answer:
    """Silent, and 0, for jobs that are over or never were; 210 for somebody else's."""
    ids = [w for w in words if not w.startswith("-")]
    if "-u" in words:
        ids = [str(j.seq) for j in c.jobs("state != 'ended' AND user = ?", words[words.index("-u") + 1])]
    name = next((w.removeprefix("--signal=") for w in words if w.startswith("--signal=")), "KILL")
    said, code = "", 0
    with c.locked():
        for text in ids:
            if not text.replace("_", "").isdigit():
                return Answer(said, f"scancel: error: Invalid job id {text}\n", 1)
            for job in [j for j in chosen(c, text) if j.state != ENDED]:
                if job.user != me() and not c.is_admin():
                    said, code = said + _denied(text), 210
                    break
                if "--state=PENDING" in words and job.state == RUNNING:
                    continue
                if name == "KILL":  # with --full too: Slurm's word for canceling, with the grace of KillWait
                    _cancel(c, job, alone="_" in text)
                elif c.is_ending(job):
                    said, code = (
                        said + f"scancel: error: Kill job error on job id {text}: Invalid job id specified\n",
                        1,
                    )
                else:
                    c.signal(job, signal.Signals[f"SIG{name}"])
        c.schedule()
    return Answer("", said, code)


def _denied(text: str) -> str:
    return f"scancel: error: Kill job error on job id {text}: Access/permission denied\n"


def _cancel(c: SlurmCluster, job: Job, *, alone: bool) -> None:
    job.more["canceled_by"] = os.geteuid()
    if job.state in (QUEUED, HELD):
        job.more["waited_for"] = c.reason(job)
        job.more |= {"canceled_alone": True} if alone and job.task != NO_TASK and not job.runs else {}
    c.save(job)
    c.kill(job, "deleted")


def scontrol(c: SlurmCluster, words: list[str]) -> Answer:
    verb = words[0] if words else ""
    with c.locked():
        if verb in ("hold", "uhold", "release", "requeue"):
            for text in (part for word in words[1:] for part in word.split(",")):
                _act(c, verb, text)
        elif verb == "update":
            _update(c, {k.lower(): v for k, _, v in (word.partition("=") for word in words[1:])})
        elif verb == "create" and words[1:2] == ["reservation"]:
            return _reserve(c, {k.lower(): v for k, _, v in (word.partition("=") for word in words[2:])})
        elif verb == "delete":
            name = words[-1].partition("=")[2]
            c.put("reservations", [r for r in c.get("reservations", []) if r["name"] != name])
        else:
            raise Refusal(f"invalid keyword: {verb}\n", 1)
        c.schedule()
    return Answer()


def _act(c: SlurmCluster, verb: str, text: str) -> None:
    tail = "" if verb == "requeue" else "slurm_suspend error: {}\n"

    def refuse(why: str) -> Refusal:
        return Refusal(f"{why} for job {text}\n" + tail.format(why), 1)

    jobs = chosen(c, text)
    if not jobs:
        raise refuse("Invalid job id specified")
    if jobs[0].user != me() and not c.is_admin():
        raise refuse("Invalid user id")
    live = [j for j in jobs if j.state != ENDED]
    if not live:
        raise refuse("Job has already finished")
    for job in live:
        if verb == "requeue":
            if not job.more["rerunnable"]:
                raise refuse("Requested operation is presently disabled")
            if job.state != RUNNING:
                raise refuse("Job is pending execution")
            c.kill(job, "rerun")
            continue
        if verb == "release":
            if job.more.get("held") == "admin" and not c.is_admin():
                raise refuse("Access/permission denied")
            job.more.pop("held", None)
            job.state = QUEUED if job.state == HELD else job.state
        else:
            # Whoever holds a job of their own holds it as its user, also where that is root.
            job.more["held"] = "user" if verb == "uhold" or job.user == me() else "admin"
            job.state = HELD if job.state == QUEUED else job.state
        job.changed = c.now()
        c.save(job)


def _update(c: SlurmCluster, words: dict[str, str]) -> None:
    if "partitionname" in words:
        partitions = c.partitions()
        partitions[words["partitionname"]]["state"] = words["state"].upper()
        c.put("partitions", partitions)
        return
    if "nodename" in words:
        _update_node(c, words["nodename"], words["state"].lower())
        return
    text = words.get("jobid") or words.get("job", "")
    jobs = chosen(c, text)
    if not jobs:
        raise Refusal(f"Invalid job id specified for job {text}\n", 1)
    if jobs[0].user != me() and not c.is_admin():
        raise Refusal(f"Invalid user id for job {text}\n", 1)
    live = [j for j in jobs if j.state != ENDED]
    if not live:
        raise Refusal(f"Job has already finished for job {text}\n", 1)
    for job in live:
        _change(c, job, words, text)
        job.changed = c.now()
        c.save(job)


def _change(c: SlurmCluster, job: Job, words: dict[str, str], text: str) -> None:
    if words.get("partition", job.queue) not in c.partitions():
        raise Refusal(f"Invalid partition name specified for job {text}\n", 1)
    association = c.association(job.user)
    if words.get("account", job.more["account"]) not in association["accounts"]:
        raise Refusal(f"Invalid account or account/partition combination specified for job {text}\n", 1)
    if words.get("qos", job.more["qos"]) not in association["qos"]:
        raise Refusal(f"Invalid qos specification for job {text}\n", 1)
    if "timelimit" in words:
        limit = minutes(words["timelimit"]) or 0
        if job.state == RUNNING and limit > (job.more["limit"] or 0) and not c.is_admin():
            raise Refusal(f"Access/permission denied for job {text}\n", 1)
        job.more["limit"], job.walltime_s = limit, limit * 60
    job.queue = words.get("partition", job.queue)
    job.name = words.get("name") or words.get("jobname") or job.name
    for name in ("account", "qos", "comment", "priority"):
        job.more[name] = words.get(name, job.more.get(name))
    job.nodes = int(words.get("numnodes", job.nodes)) if job.state != RUNNING else job.nodes


def _update_node(c: SlurmCluster, name: str, state: str) -> None:
    """A node that goes down takes its jobs with it."""
    number = next(n for n in range(c.get("nodes", 1)) if c.node(n) == name)
    down = set(c.get("down_nodes", [])) - {number} | ({number} if state == "down" else set())
    c.put("down_nodes", sorted(down))
    for job in c.jobs("state = 'running'"):
        if down.intersection(job.place):
            c.kill(job, "node_fail")


def _reserve(c: SlurmCluster, words: dict[str, str]) -> Answer:
    if not c.is_admin():
        raise Refusal("Error creating the reservation: Invalid user id\n", 1)
    start = moment(words["starttime"], c.now())
    made = {"name": words["reservationname"], "start": start, "end": start + int(words["duration"]) * 60,
            "users": words.get("users", "root"), "flags": words.get("flags", "")}  # fmt: skip
    c.put("reservations", [*c.get("reservations", []), made])
    return Answer(f"Reservation created: {made['name']}\n")
