"""What is done to jobs of the emulated PBS: qdel qhold qrls qalter qmove qrerun qsig."""

from __future__ import annotations

import signal
from typing import Any

from core import ENDED, HELD, QUEUED, RUNNING, Answer, Job, Refusal, me
from pbs_qstat import jobs_of, parse_id
from pbs_qsub import limits_of, options_of, seconds
from pbs_server import QUEUES, PbsCluster, hms


def act(c: PbsCluster, name: str, words: list[str]) -> Answer:
    """Each id on its own; the last error is the exit code."""
    options, ids = _options_of(name, words)
    said, code = "", 0
    with c.locked():
        for text in ids:
            try:
                number, part, whole = parse_id(c, text, name)
                jobs = jobs_of(c, number, part, tasks=True)
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
    return options_of(words)


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
    wanted = limits_of(options.get("-l", []))
    if "walltime" in wanted:
        limit_s = seconds(wanted["walltime"])
        if job.state == RUNNING and job.walltime_s is not None and limit_s > job.walltime_s:
            raise Refusal(f"qalter: Unauthorized Request  {whole}\n", 159)
        job.walltime_s = limit_s
        job.more["resources"]["walltime"] = hms(limit_s)
    job.more["account"] = options.get("-A", job.more["account"])
    job.name = options.get("-N", job.name)
    job.more["priority"] = int(options.get("-p", job.more["priority"]))
