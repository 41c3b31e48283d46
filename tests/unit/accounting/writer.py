"""A nursery of processes that book a fixed list of readings again and again, to be killed at any moment.

    python -m tests.unit.accounting.writer URL COUNT

For each seed on standard input it forks a writer and prints its pid: forking takes milliseconds, starting Python takes
longer than most writers live.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
from datetime import UTC, datetime

from msgspec import structs

from accounting import store as books
from accounting.errors import CreditExhausted
from accounting.usage import Meter
from gateway.db import Database
from tests.unit.accounting.makers import assigned, run

BATCH = 10
HOLDER, HOLD, JOBS = "holder", 1_000_000, 10


def readings(count: int) -> list[books.Assigned]:
    """Every writer's list: the gateway's reading of each run, and the centre's, which is longer."""
    found = []
    for number in range(count):
        ours = structs.replace(run(f"t.{number}", elapsed=90), meter=Meter.GATEWAY)
        found += [assigned(ours, f"j{number}"), assigned(run(str(number)), f"j{number}")]
    return found


def work(db: Database, todo: list[books.Assigned], seed: int) -> None:
    db.engine.dispose(close=False)  # the nursery's connections are not ours; its compiled statements are
    dice = random.Random(seed)
    while True:
        now = datetime.now(UTC)
        with db.write() as conn:
            books.record_and_book(conn, dice.sample(todo, BATCH), now=now)
        try:
            with db.write() as conn:
                amounts = {"CNY": HOLD}
                job = f"hold{dice.randrange(JOBS)}"
                books.place_hold(conn, project_id=HOLDER, job_id=job, amounts=amounts, now=now)
        except CreditExhausted:
            with db.write() as conn:
                books.release_hold(conn, job_id=f"hold{dice.randrange(JOBS)}", now=now)


class Warm(Exception):
    """Ends a transaction that was only to compile its statements."""


def main() -> None:
    db, todo = Database(sys.argv[1]), readings(int(sys.argv[2]))
    with contextlib.suppress(Warm), db.write() as conn:
        books.record_and_book(conn, todo[:BATCH], now=datetime.now(UTC))
        raise Warm
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries them
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            sys.stdin.close()
            work(db, todo, int(line))
        print(pid, flush=True)


if __name__ == "__main__":
    main()
