"""I1 to I10 under any order of events: a machine throws hundreds at the books and looks at them all the time."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select

from accounting import store as books
from accounting.agreement import Tax, TaxKind
from accounting.calendar import Window
from accounting.errors import AccountingError
from accounting.ledger import CORE_SECONDS
from accounting.meter import CENTRE, Bears, MeteringPolicy
from accounting.store import adjustments, allocations, contracts, payments
from accounting.store.adjustments import Adjustment
from accounting.store.allocations import Allocation
from accounting.store.contracts import Terms
from accounting.store.payments import Part, Payment
from accounting.store.schema import CHARGES, USAGE
from accounting.usage import GPU_SECONDS, Meter
from gateway.db import Database
from tests.unit.accounting.makers import (
    LONG_AGO,
    NOW,
    PROJECT,
    T0,
    add_rules,
    agree,
    agreement,
    assigned,
    charge,
    rule,
    run,
)

STATES = ("COMPLETED", "NODE_FAIL", "PREEMPTED", "TIMEOUT", "REQUEUED")


class Machine:
    """One step at a time; each may be refused by the books, and then must have done nothing."""

    def __init__(self, db: Database, seed: int) -> None:
        self.db, self.dice, self.now, self.number = db, random.Random(seed), NOW, 0
        self.steps: tuple[Callable[[], None], ...] = (
            self.read, self.read, self.read, self.read, self.hold, self.release, self.grant, self.pay, self.adjust,
            self.move,
        )  # fmt: skip

    def step(self) -> None:
        self.now += timedelta(minutes=self.dice.randrange(60 * 24))
        self.number += 1
        with contextlib.suppress(AccountingError):
            self.dice.choice(self.steps)()

    def read(self) -> None:
        key = str(self.dice.randrange(12))
        meter = self.dice.choice(list(Meter))
        elapsed = self.dice.randrange(0, 200_000)
        gpus = self.dice.choice((0, 2))
        record = run(f"{meter.value[0]}{key}", elapsed=elapsed, state=self.dice.choice(STATES),
                     gpu_seconds=gpus * elapsed, meter=meter, raw={"step": str(self.number)})  # fmt: skip
        charge(self.db, record, job_id=f"j{key}", now=self.now)

    def hold(self) -> None:
        with self.db.write() as conn:
            amounts = {"CNY": self.dice.randrange(10**8), CORE_SECONDS: self.dice.randrange(10**5)}
            job = f"j{self.dice.randrange(12)}"
            books.place_hold(conn, project_id=PROJECT, job_id=job, amounts=amounts, now=self.now)

    def release(self) -> None:
        with self.db.write() as conn:
            books.release_hold(conn, job_id=f"j{self.dice.randrange(12)}", now=self.now)

    def grant(self) -> None:
        with self.db.write() as conn:
            days = timedelta(days=self.dice.randrange(1, 20))
            made = Allocation(f"a{self.number}", self.dice.choice((PROJECT, "r2")), CORE_SECONDS, 10**6, self.now,
                              self.now + days, carry_over_max=self.dice.choice((0, 10**5)))  # fmt: skip
            allocations.allocate(conn, made, now=self.now)
            allocations.expire_due(conn, now=self.now)

    def pay(self) -> None:
        amount = self.dice.randrange(1, 10**7)
        with self.db.write() as conn:
            payment = Payment(f"p{self.number}", "inst", "CNY", amount, self.now, "bank", f"R{self.number}")
            payments.receive_payment(conn, payment, now=self.now)
            part = Part(PROJECT, self.dice.randrange(1, 2 * amount))
            payments.allocate_payment(conn, payment.id, [part], idem_key=f"k{self.number}", now=self.now)
        with self.db.write() as conn:
            payments.refund(conn, project_id=PROJECT, currency="CNY", amount_micro=self.dice.randrange(1, 10**6),
                            idem_key=f"r{self.number}", reason="", now=self.now)  # fmt: skip

    def adjust(self) -> None:
        with self.db.write() as conn:
            kind = self.dice.choice(("adjustment", "write_off"))
            asked = Adjustment(f"x{self.number}", kind, PROJECT, "CNY", self.dice.randrange(-1000, 10**6), "why", "ada")
            state = adjustments.request_adjustment(conn, asked, four_eyes_micro=5 * 10**5, now=self.now)
            if state == "waiting":
                by = self.dice.choice(("ada", "bob"))
                adjustments.decide(conn, asked.id, approve=self.dice.random() < 0.5, by=by, now=self.now)

    def move(self) -> None:
        with self.db.write() as conn:
            own = sorted(allocations.remaining(conn, PROJECT, CORE_SECONDS))
            if own:
                allocations.transfer(conn, self.dice.choice(own), to_project="r2", amount=self.dice.randrange(1, 10**5),
                                     idem_key=f"m{self.number}", now=self.now)  # fmt: skip


@pytest.mark.parametrize("seed", [1, 2])
def test_the_books_stay_sound_whatever_happens(db: Database, seed: int) -> None:
    liability = {"NODE_FAIL": CENTRE, "PREEMPTED": Bears(1, 1, 2)}
    agree(db, agreement(metering=MeteringPolicy(liability=liability, bill_requeued=False), no_rise_after_days=20,
                        tax=Tax(TaxKind.INCLUSIVE, "VAT", 6, 100)))  # fmt: skip
    tier = rule(0, 5_000_000, resource=GPU_SECONDS, zone="Asia/Shanghai")
    add_rules(db, rule(0, 111_111), rule(0, 77_777, window=Window(1320, 360), zone="Asia/Shanghai"), tier,
              replace(tier, tier_from=100_000, price_micro=3_333_333))  # fmt: skip
    with db.write() as conn:
        books.open_project_accounts(conn, "r2", currency="CNY")
        contracts.set_terms(conn, Terms(PROJECT, LONG_AGO, "", (("a", 60), ("b", 39))), now=LONG_AGO)
    machine = Machine(db, seed)
    for number in range(150):
        machine.step()
        if number % 10 == 9:
            with db.read() as conn:
                assert books.check_books(conn) == [], number
    with db.read() as conn:
        segments = select(CHARGES.c.segments, CHARGES.c.core_seconds, USAGE.c.gpu_seconds).join(
            USAGE, USAGE.c.id == CHARGES.c.usage_record_id
        )
        rows = conn.execute(segments).all()
    assert len(rows) > 20
    for row in rows:  # I2: Σ segments = record
        by: dict[str, int] = {}
        for s in row.segments:
            by[s["resource"]] = by.get(s["resource"], 0) + s["quantity"]
        assert by.get("core_seconds", 0) == row.core_seconds
        assert by.get("gpu_seconds", 0) in (row.gpu_seconds, 0)
    assert assigned(run()).job_id and T0 < NOW
