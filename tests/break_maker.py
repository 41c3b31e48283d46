"""Make a month of raw sacct lines and the centre's CSV for it, with known differences put into the raw text.

The arithmetic here is written on its own, from contracts and manuals: it imports nothing of `accounting`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import ROUND_FLOOR, Decimal

MONTH = (1793491200, 1796083200)  # November 2026 in UTC
PRICE, OLD_PRICE = Decimal("0.36"), Decimal("0.31")  # per core-hour
NODE_CORES, THREADS, VAT = 64, 2, Decimal("0.06")
SACCT = (
    *(
        "DBIndex",
        "Cluster",
        "JobID",
        "JobIDRaw",
        "User",
        "Account",
        "Partition",
        "State",
        "ExitCode",
        "Submit",
        "Start",
    ),
    *("End", "ElapsedRaw", "Suspended", "AllocCPUS", "ReqCPUS", "AllocNodes", "AllocTRES", "JobName"),
)
BILL = ("key", "job", "user", "cores", "nodes", "start", "end", "seconds", "core_seconds", "money")


@dataclass(slots=True)
class Job:
    """The truth of one run; every field may be written differently by either side."""

    number: int
    user: str
    cores: int
    asked: int
    nodes: int
    start: int
    elapsed: int
    suspended: int = 0
    state: str = "COMPLETED"
    job_id: int = 0

    @property
    def end(self) -> int:
        return self.start + self.elapsed + self.suspended


@dataclass(slots=True)
class Month:
    """What both sides hand over, and what is known to be different: by the run's key, the reasons' words."""

    sacct: list[str] = field(default_factory=list)
    bill: list[str] = field(default_factory=list)
    injected: dict[str, tuple[str, ...]] = field(default_factory=dict)


def money(core_seconds: int, price: Decimal = PRICE) -> Decimal:
    """To a millionth, half up."""
    exact = Decimal(core_seconds) * price / 3600
    return ((exact * 1_000_000 + Decimal("0.5")).to_integral_value(ROUND_FLOOR)) / 1_000_000


def make(jobs: int, *, seed: int, every: int) -> Month:
    """`jobs` runs; every n-th has a difference, of one kind after the other (mixes and unexplainable ones included)."""
    rng = random.Random(seed)
    month = Month()
    kinds = list(KINDS)
    for n in range(jobs):
        job = _job(rng, n)
        if n % every == every - 1:
            kind = kinds[(n // every) % len(kinds)]
            month.injected[f"c:{job.number}"] = KINDS[kind](rng, job, month)
        else:
            _write(month, job)
    return month


def _job(rng: random.Random, n: int) -> Job:
    nodes = rng.choice((1, 1, 1, 2))
    cores = rng.choice((1, 3, 5, 7, 12, 20)) * nodes
    elapsed = rng.randrange(20, 650) * 60 + rng.randrange(8, 24)  # no clock that is 5 s off makes it a whole minute
    start = rng.randrange(MONTH[0] + 100, MONTH[1] - 100_000)
    return Job(1000 + n, f"u{rng.randrange(40)}", cores, cores, nodes, start, elapsed, job_id=1000 + n)


def _write(
    month: Month, job: Job, *, seconds: int | None = None, core_seconds: int | None = None,
    amount: Decimal | None = None, user: str | None = None, billed: bool = True, end: int | None = None,
) -> None:  # fmt: skip
    """One run on both sides, the centre's by what is said here."""
    duration = f"{job.suspended // 3600:02d}:{job.suspended % 3600 // 60:02d}:{job.suspended % 60:02d}"
    words = [job.number, "c", job.job_id, job.job_id, job.user, "p", "cpu", job.state, "0:0", job.start - 9, job.start,
             job.end, job.elapsed, duration, job.cores, job.asked, job.nodes, f"cpu={job.cores}", "run"]  # fmt: skip
    month.sacct.append("|".join(str(w) for w in words))
    if not billed:
        return
    seconds = job.elapsed if seconds is None else seconds
    quantity = job.cores * seconds if core_seconds is None else core_seconds
    amount = money(quantity) if amount is None else amount
    line = [f"c:{job.number}", job.job_id, user or job.user, job.cores, job.nodes, job.start, end or job.end, seconds,
            quantity, f"{amount:.6f}"]  # fmt: skip
    month.bill.append(",".join(str(w) for w in line))


# ---------------------------------------------------------------- the kinds; each returns the reasons it put in


def _suspended(rng: random.Random, job: Job, month: Month) -> tuple[str, ...]:
    job.suspended = rng.randrange(130, 5000) * 2 + 1
    _write(month, job, seconds=job.elapsed + job.suspended)
    return ("suspended",)


def _exclusive(_rng: random.Random, job: Job, month: Month) -> tuple[str, ...]:
    _write(month, job, core_seconds=job.nodes * NODE_CORES * job.elapsed)
    return ("exclusive",)


def _threads(_rng: random.Random, job: Job, month: Month) -> tuple[str, ...]:
    _write(month, job, core_seconds=job.cores * THREADS * job.elapsed)
    return ("threads",)


def _requested(_rng: random.Random, job: Job, month: Month) -> tuple[str, ...]:
    job.asked = job.cores + 11
    _write(month, job, core_seconds=job.asked * job.elapsed)
    return ("requested",)


def _skew(rng: random.Random, job: Job, month: Month) -> tuple[str, ...]:
    apart = rng.choice((-4, -3, 3, 4))
    _write(month, job, seconds=job.elapsed + apart, end=job.end + apart)
    return ("skew",)


def _minutes(_rng: random.Random, job: Job, month: Month) -> tuple[str, ...]:
    _write(month, job, seconds=job.elapsed - job.elapsed % 60)
    return ("truncation",)


def _hours(_rng: random.Random, job: Job, month: Month) -> tuple[str, ...]:
    _write(month, job, seconds=(job.elapsed + 3599) // 3600 * 3600)
    return ("truncation",)


def _cut_off(rng: random.Random, job: Job, month: Month) -> tuple[str, ...]:
    job.start = MONTH[1] - rng.randrange(300, job.elapsed - 300)
    inside = MONTH[1] - job.start
    _write(month, job, seconds=inside, end=MONTH[1])
    return ("cut_off",)


def _requeue(_rng: random.Random, job: Job, month: Month) -> tuple[str, ...]:
    first = Job(job.number + 5_000_000, job.user, job.cores, job.asked, job.nodes, job.start - 5000, 2311,
                state="REQUEUED", job_id=job.job_id)  # fmt: skip
    _write(month, first, billed=False)
    month.injected[f"c:{first.number}"] = ("requeue",)
    _write(month, job, core_seconds=job.cores * (job.elapsed + 2311))
    return ("requeue",)


def _free(_rng: random.Random, job: Job, month: Month) -> tuple[str, ...]:
    job.state = "NODE_FAIL"
    _write(month, job, core_seconds=0, amount=Decimal(0))
    return ("state",)


def _old_price(_rng: random.Random, job: Job, month: Month) -> tuple[str, ...]:
    _write(month, job, amount=money(job.cores * job.elapsed, OLD_PRICE))
    return ("price",)


def _rate(_rng: random.Random, job: Job, month: Month) -> tuple[str, ...]:
    _write(month, job, amount=money(job.cores * job.elapsed) * 731 / 725)
    return ("exchange_rate",)


def _vat(_rng: random.Random, job: Job, month: Month) -> tuple[str, ...]:
    _write(month, job, amount=money(job.cores * job.elapsed) * (1 + VAT))
    return ("tax",)


def _unit(_rng: random.Random, job: Job, month: Month) -> tuple[str, ...]:
    _write(month, job, core_seconds=job.cores * job.elapsed * 60)
    return ("unit",)


def _twice(_rng: random.Random, job: Job, month: Month) -> tuple[str, ...]:
    _write(month, job)
    month.bill.append(month.bill[-1])
    return ("B06",)


def _foreign(_rng: random.Random, job: Job, month: Month) -> tuple[str, ...]:
    _write(month, job)
    month.sacct.pop()
    return ("B02",)


def _unbilled(_rng: random.Random, job: Job, month: Month) -> tuple[str, ...]:
    _write(month, job, billed=False)
    return ("B01",)


def _somebody_else(_rng: random.Random, job: Job, month: Month) -> tuple[str, ...]:
    _write(month, job, user="u999")
    return ("B08",)


def _suspended_and_taxed(rng: random.Random, job: Job, month: Month) -> tuple[str, ...]:
    job.suspended = rng.randrange(130, 5000) * 2 + 1
    quantity = job.cores * (job.elapsed + job.suspended)
    _write(month, job, core_seconds=quantity, amount=money(quantity) * (1 + VAT))
    return ("suspended", "tax")


def _exclusive_and_old_price(_rng: random.Random, job: Job, month: Month) -> tuple[str, ...]:
    quantity = job.nodes * NODE_CORES * job.elapsed
    _write(month, job, core_seconds=quantity, amount=money(quantity, OLD_PRICE))
    return ("exclusive", "price")


def _threads_and_suspended(rng: random.Random, job: Job, month: Month) -> tuple[str, ...]:
    job.suspended = rng.randrange(130, 5000) * 2 + 1
    _write(month, job, core_seconds=job.cores * THREADS * (job.elapsed + job.suspended))
    return ("threads", "suspended")


def _no_reason(rng: random.Random, job: Job, month: Month) -> tuple[str, ...]:
    _write(month, job, core_seconds=job.cores * job.elapsed + rng.randrange(30_000, 900_000) * 2 + 1)
    return ()


def _no_reason_for_money(rng: random.Random, job: Job, month: Month) -> tuple[str, ...]:
    amount = money(job.cores * job.elapsed) + Decimal(rng.randrange(1000, 9_000_000)) / 1_000_000
    _write(month, job, amount=amount)
    return ()


KINDS: dict[str, Callable[[random.Random, Job, Month], tuple[str, ...]]] = {
    "suspended": _suspended, "exclusive": _exclusive, "threads": _threads, "requested": _requested, "skew": _skew,
    "minutes": _minutes, "hours": _hours, "cut off": _cut_off, "requeue": _requeue, "free": _free,
    "old price": _old_price, "rate": _rate, "vat": _vat, "unit": _unit, "twice": _twice, "foreign": _foreign,
    "unbilled": _unbilled, "somebody else": _somebody_else, "suspended and taxed": _suspended_and_taxed,
    "exclusive and old price": _exclusive_and_old_price, "threads and suspended": _threads_and_suspended,
    "no reason": _no_reason, "no reason for money": _no_reason_for_money,
}  # fmt: skip
