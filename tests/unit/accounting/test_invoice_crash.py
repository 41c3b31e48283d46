"""Writers that are killed while they bill leave no gap, no number twice and no charge unbilled or billed twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import func, select

from accounting import store as books
from accounting.evidence.outbox import OUTBOX
from accounting.invoicing.items import ITEMS
from accounting.invoicing.store import issue_invoice
from accounting.store.schema import CHARGES
from accounting.store.settled import DOCUMENTS
from gateway.db import Database
from tests.lab.slurm import wait_for
from tests.unit.accounting.invoicing import NOW, charge, parties, run, wanted

ROOT = Path(__file__).parents[3]
PROJECTS = 8


def bill_for_ever(url: str, project: str, start: int) -> None:
    """One writer: charge a run, bill it, again and again. Runs in a process of its own, until it is killed."""
    db = Database(url)
    n = start
    while True:
        n += 1
        with db.write() as conn:
            charge(conn, run(3600, project=project, key=f"{project}-{n}"))
        with db.write() as conn:
            issue_invoice(conn, wanted(project=project), now=NOW)


@pytest.mark.parametrize("rounds", [2, pytest.param(60, marks=pytest.mark.soak)])
def test_killed_writers_leave_no_gap(db_url: str, rounds: int) -> None:
    db = Database(db_url)
    with db.write() as conn:
        parties(conn)

    def issued() -> int:
        with db.read() as conn:
            return int(conn.scalar(select(func.count()).select_from(DOCUMENTS)) or 0)

    dice = random.Random(4)
    for n in range(rounds):
        before = issued()
        program = "import sys; from tests.unit.accounting.test_invoice_crash import bill_for_ever as f; "
        program += "f(sys.argv[1], sys.argv[2], int(sys.argv[3]))"
        writers = [
            subprocess.Popen([sys.executable, "-c", program, db_url, f"r{p}", str(n * 10_000)], cwd=ROOT)
            for p in range(4 if db_url.startswith("postgresql") else 2)
        ]
        try:
            wait_for(lambda before=before: issued() >= before + 3, "three documents", 120, every=0.05)
            for writer in dice.sample(writers, len(writers)):
                time.sleep(dice.random() * 0.05)
                os.kill(writer.pid, signal.SIGKILL)
        finally:
            for writer in writers:
                writer.kill()
                writer.wait()
    with db.write() as conn:
        for p in range(PROJECTS):
            issue_invoice(conn, wanted(project=f"r{p}"), now=NOW)
    with db.read() as conn:
        serials = list(conn.scalars(select(DOCUMENTS.c.serial).order_by(DOCUMENTS.c.serial)))
        assert serials == list(range(1, len(serials) + 1))
        assert len(serials) >= 3 * rounds
        charges = conn.execute(select(func.count(), func.sum(CHARGES.c.amount_micro))).one()
        items = conn.execute(select(func.count(), func.sum(ITEMS.c.amount_micro))).one()
        assert tuple(items) == tuple(charges)
        assert books.check_books(conn) == []
        leaves = select(func.count()).select_from(OUTBOX).where(OUTBOX.c.kind == "invoice")
        assert conn.scalar(leaves) == len(serials)
    db.dispose()
