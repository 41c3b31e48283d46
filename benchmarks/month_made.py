"""Make a month at a centre: what its sacct prints, the statement it sends, and whose jobs they were.

    python -m benchmarks.month_made FOLDER RUNS GATEWAY_ID

Seeded. The arithmetic is written on its own, from the price list below: it imports nothing of `accounting`. It is a
process of its own, so that its memory is not that of what is measured.
"""

from __future__ import annotations

import base64
import hashlib
import random
import sys
from array import array
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SITE, PEOPLE, PROJECTS = "alpha", 200, 40
CENTRE_KEY = bytes([22]) * 32
MONTH = (1793491200, 1796083200)  # November 2026 in UTC
SEPARATOR = "\x1f0123456789abcdef\x1f"
HEAD = "run_key,native_id,task,username,cores,nodes,start,end,elapsed,quantity,amount"
# Micro-units of CNY: for a core-hour by night (22 to 8 o'clock in Shanghai) and by day, in the economy grade; in the
# quality grade, by what a project used in the month (the centre leaves it to us); of cores and GPUs in the super grade.
NIGHT, DAY = 100_000, 150_000
QUALITY, QUALITY_MORE, MORE_FROM = 250_000, 200_000, 36_000_000
SUPER, SUPER_GPU = 360_000, 4_000_000
# One run in so many is billed otherwise than it was metered.
BREAK_EVERY = 200
STATES = (("COMPLETED", 870), ("FAILED", 70), ("TIMEOUT", 25), ("CANCELLED by 1007", 25), ("NODE_FAIL", 5),
          ("OUT_OF_MEMORY", 5))  # fmt: skip


@dataclass(slots=True)
class Job:
    """One submission: an array of `tasks`, or one run."""

    number: int
    tasks: int
    queue: str
    cores: int
    nodes: int
    gpus: int
    submit: int

    @property
    def id(self) -> str:
        return f"jmonth{self.number:09d}"

    @property
    def person(self) -> int:
        return self.number * 7919 % PEOPLE

    @property
    def project(self) -> int:
        return self.person % PROJECTS


@dataclass(slots=True)
class Run:
    """One row of sacct. `cores` 0: canceled before it had any."""

    index: int
    task: int
    state: str
    submit: int
    start: int
    elapsed: int
    suspended: int

    @property
    def end(self) -> int:
        return self.start + self.elapsed + self.suspended


def main(folder: Path, count: int, gateway_id: str) -> None:
    dice = random.Random(count)
    rows: list[tuple[int, str]] = []
    jobs: list[str] = []
    bill: list[str] = []
    made = number = 0
    while made < count:
        job = _job(dice, number, made / count, count - made)
        number += 1
        tag = tag_of(gateway_id, job.id)
        jobs.append(f"{job.id},{tag},{job.person},{job.project},{1000 + job.number},{job.queue},{job.submit}")
        for run in _runs(dice, job, made, count):
            made += 1
            rows.append((run.end, _sacct(job, run, tag)))
            if run.elapsed:
                _bill(dice, bill, job, run)
    rows.sort(key=lambda row: row[0])
    ends, offsets = array("q"), array("q", [0])
    with (folder / "sacct.txt").open("wb") as out:
        for end, row in rows:
            ends.append(end)
            offsets.append(offsets[-1] + out.write(f"{row}{SEPARATOR}\n".encode()))
    (folder / "ends").write_bytes(ends.tobytes())
    (folder / "offsets").write_bytes(offsets.tobytes())
    (folder / "jobs.csv").write_text("\n".join(jobs))
    statement = "\n".join([HEAD, *bill]).encode()
    (folder / "statement.csv").write_bytes(statement)
    (folder / "statement.jws").write_bytes(signature(statement))


def signature(document: bytes) -> bytes:
    """The centre's: a JWS over the very bytes, which leaves them out (RFC 7515, appendix F)."""
    head = _base64(b'{"alg":"Ed25519","kid":"centre#1","typ":"penstock-statement+jws"}')
    signed = Ed25519PrivateKey.from_private_bytes(CENTRE_KEY).sign(head + b"." + _base64(document))
    return head + b".." + _base64(signed)


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def tag_of(gateway_id: str, job_id: str) -> str:
    digest = base64.b32encode(hashlib.sha256(job_id.encode()).digest()).decode().lower()
    return f"p{gateway_id}{digest[:11]}"


def _job(dice: random.Random, number: int, share: float, left: int) -> Job:
    """Two runs in five are of arrays; GPUs and whole nodes in queues of their own."""
    tasks = min(left, dice.randrange(8, 40)) if dice.random() < 0.03 else 1
    queue = dice.choices(("economy", "quality", "super"), (60, 25, 15))[0]
    nodes = dice.choice((1, 1, 1, 2, 4)) if queue == "quality" else 1
    cores = nodes * 32 if nodes > 1 else dice.choice((1, 2, 4, 8, 16, 28))
    gpus = dice.choice((1, 1, 2, 4)) if queue == "super" else 0
    submit = MONTH[0] + int(share * 27 * 86400) + dice.randrange(3600)
    return Job(number, tasks, queue, cores, nodes, gpus, submit)


def _runs(dice: random.Random, job: Job, made: int, count: int) -> list[Run]:
    """The tasks of a job; one in a hundred runs is put back in the queue and runs again."""
    found: list[Run] = []
    for task in range(job.tasks):
        state = dice.choices([s for s, _ in STATES], [n for _, n in STATES])[0]
        start = job.submit + dice.randrange(5, 40_000)
        elapsed = min(int(dice.lognormvariate(7.6, 1.4)) + 5, 100_000)
        again = dice.random() < 0.01 and made + len(found) + 2 <= count and job.tasks == 1
        if again:
            found.append(Run(made + len(found), task, "REQUEUED", job.submit, start, elapsed // 3 + 1, 0))
            start = found[-1].end + 60
        elif state.startswith("CANCELLED") and dice.random() < 0.4:
            found.append(Run(made + len(found), task, state, job.submit, start, 0, 0))
            continue
        suspended = dice.randrange(100, 4000) if dice.random() < 0.004 else 0
        submit = start - 30 if again else job.submit
        found.append(Run(made + len(found), task, state, submit, start, elapsed, suspended))
    return found


def _sacct(job: Job, run: Run, tag: str) -> str:
    ran = run.elapsed > 0
    job_id = f"{1000 + job.number}_{run.task}" if job.tasks > 1 else f"{1000 + job.number}"
    tres = f"billing={job.cores},cpu={job.cores}"
    tres += f",gres/gpu={job.gpus}" if job.gpus else ""
    tres += f",mem={job.cores * 2000}M,node={job.nodes}"
    exit_code = {"COMPLETED": "0:0", "FAILED": "1:0"}.get(run.state, "0:15")
    held = f"{run.suspended // 3600:02d}:{run.suspended % 3600 // 60:02d}:{run.suspended % 60:02d}"
    words = (
        run.index, SITE, job_id, 5_000_000 + run.index, f"u{job.person}", 2000 + job.person, f"acct{job.project}",
        "normal", job.queue, run.state, exit_code, run.submit, run.submit, run.start if ran else "Unknown", run.end,
        run.elapsed, held, job.cores if ran else 0, job.nodes if ran else 0, tres if ran else "", tres, "None",
        f"n[{1 + run.index % 90}-{run.index % 90 + job.nodes}]" if ran else "None assigned",
        f"sbatch --parsable --job-name=case-{tag}.1 run.sh", f"pst1:{job.id}:r{job.project}:u{job.person}:1:0:0",
        f"case-{tag}.1",
    )  # fmt: skip
    return SEPARATOR.join(map(str, words))


# ---------------------------------------------------------------- the centre's statement


def _bill(dice: random.Random, bill: list[str], job: Job, run: Run) -> None:
    """The line of a run; of one in BREAK_EVERY something is different, or there are two, or none."""
    elapsed, quantity, end = run.elapsed, job.cores * run.elapsed, run.end
    amount = money(job, run)
    key, user, times = f"{SITE}:{run.index}", f"u{job.person}", 1
    if run.index % BREAK_EVERY == BREAK_EVERY - 1:
        kind = run.index // BREAK_EVERY % 8
        if kind in (0, 1) and amount is not None:  # a clock that is 3 s behind
            elapsed, end = elapsed + 3, end + 3
            amount = amount * elapsed // run.elapsed
            quantity = job.cores * elapsed
        elif kind == 2:
            quantity = 64 * job.nodes * elapsed  # whole nodes
        elif kind == 3:
            user = f"u{(job.person + 1) % PEOPLE}"
        elif kind == 4:
            times = 2
        elif kind == 5:
            times = 0
        elif kind == 6:
            key = f"{SITE}:{run.index + 50_000_000}"
        elif amount is not None:
            amount += dice.randrange(1000, 9_000_000)  # for no reason
    native = f"{1000 + job.number}" if key == f"{SITE}:{run.index}" else f"{90_000_000 + run.index}"
    task = run.task if job.tasks > 1 else ""
    shown = "" if amount is None else f"{amount // 1_000_000}.{amount % 1_000_000:06d}"
    line = f"{key},{native},{task},{user},{job.cores},{job.nodes},{run.start},{end},{elapsed},{quantity},{shown}"
    bill += [line] * times


def money(job: Job, run: Run) -> int | None:
    """Micro-units of the run by the price list, rounded half up once; None where it goes by the month's total."""
    if job.queue == "quality":
        return None
    if job.queue == "super":
        wall = run.elapsed + run.suspended
        return _half_up(job.cores * run.elapsed * SUPER, 3600) + _half_up(job.gpus * wall * SUPER_GPU, 3600)
    night = _night_until(run.end) - _night_until(run.start)
    day = run.end - run.start - night
    return _half_up(job.cores * run.elapsed * (night * NIGHT + day * DAY), 3600 * (run.end - run.start))


def _night_until(at: int) -> int:
    """Seconds of night from long ago until then; Shanghai is eight hours ahead, the whole year."""
    days, rest = divmod(at + 8 * 3600, 86400)
    return days * 10 * 3600 + min(rest, 8 * 3600) + max(0, rest - 22 * 3600)


def _half_up(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
