"""The gateway's meter beside the centre's: whatever the clocks and the order of arrival, a run is charged once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy import select

from accounting import store as books
from accounting.meter import Basis, MeteringPolicy
from accounting.store.schema import CHARGES, REVERSALS
from accounting.usage import Kind, Meter, Unreadable, UsageRecord
from gateway.db import Database
from tests.unit.accounting.makers import (
    NOW,
    PROJECT,
    T0,
    add_rules,
    agree,
    agreement,
    assigned,
    owed,
    rule,
    run,
)

MICRO = 100  # of a core-second


def seen(restart: int = 0, *, at: int = 0, elapsed: int = 100, task: int | None = None, **more: Any) -> UsageRecord:
    """What the gateway saw of a run of native job 7, `at` seconds after T0."""
    key = f"pgatewayjob.1:{-1 if task is None else task}:{restart}"
    start = T0 + timedelta(seconds=at)
    found = run(key, elapsed=elapsed, start=start, native_id="7", task=task, **more)
    return structs.replace(found, meter=Meter.GATEWAY)


def metered(key: str = "c:1", *, at: int = 0, elapsed: int = 100, **more: Any) -> UsageRecord:
    """What the centre says of one."""
    return run(key, elapsed=elapsed, start=T0 + timedelta(seconds=at), **{"native_id": "7"} | more)


def never(key: str = "c:1", **more: Any) -> UsageRecord:
    """The centre: it never had resources. Without a start, as Slurm says it."""
    return structs.replace(metered(key, elapsed=0, **more), kind=Kind.NEVER_RAN, start_time=None, state="CANCELLED")


def fenced(key: str = "c:9", *, at: int = 0) -> UsageRecord:
    """A late copy of the same job that the fence turned away: another native job, at the same time."""
    return structs.replace(metered(key, at=at, elapsed=1, native_id="8"), kind=Kind.FENCED_COPY)


def owe(db: Database, calls: Sequence[Sequence[UsageRecord]]) -> int:
    """The project's debt in core-seconds after these readings of one job came, call by call."""
    add_rules(db, rule())
    for records in calls:
        with db.write() as conn:
            books.record_and_book(conn, [assigned(r, "j") for r in records], now=NOW)
    assert owed(db) % MICRO == 0
    return owed(db) // MICRO


def live(db: Database) -> list[str]:
    """Whose charges stand."""
    with db.read() as conn:
        query = select(CHARGES.c.meter).outerjoin(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id)
        return sorted(conn.scalars(query.where(REVERSALS.c.charge_id.is_(None))))


BOTH_WAYS = pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["gateway first", "centre first"])


@BOTH_WAYS
@pytest.mark.parametrize("ahead", [0, 99, 130, 3600, -3600])
def test_clocks_that_differ_by_more_than_the_run_do_not_charge_it_twice(
    db: Database, order: tuple[int, int], ahead: int
) -> None:
    items = (seen(), metered(at=ahead))
    assert owe(db, [[items[i]] for i in order]) == 400
    assert live(db) == ["centre"]


@BOTH_WAYS
def test_components_of_a_heterogeneous_job_stand_for_what_the_gateway_saw_of_the_whole(
    db: Database, order: tuple[int, int]
) -> None:
    """The clocks are further apart than the run is long: only the number of the job tells."""
    told = [metered("c:1", at=3600, native_id="7+0"), metered("c:2", at=3600, elapsed=50, native_id="7+1")]
    calls = [[seen()], told]
    assert owe(db, [calls[i] for i in order]) == 400 + 200
    assert live(db) == ["centre", "centre"]


@BOTH_WAYS
def test_a_run_that_never_had_resources_by_the_centre_is_not_paid_by_what_the_gateway_thought(
    db: Database, order: tuple[int, int]
) -> None:
    items = (seen(elapsed=5), never())
    assert owe(db, [[items[i]] for i in order]) == 0
    assert live(db) == ["centre"]


@BOTH_WAYS
def test_a_copy_that_the_fence_turned_away_takes_the_place_of_no_run(db: Database, order: tuple[int, int]) -> None:
    items = (seen(), fenced(at=50))
    assert owe(db, [[items[i]] for i in order]) == 400  # the centre may still owe the run's own record
    assert live(db) == ["centre", "gateway"]


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_two_runs_of_a_requeued_job_by_two_clocks_are_two_charges(db: Database, order: tuple[int, ...]) -> None:
    items = [seen(0, elapsed=50), seen(1, at=300, elapsed=100),
             metered("c:1", at=1000, elapsed=51), metered("c:2", at=1300, elapsed=101)]  # fmt: skip
    assert owe(db, [[items[i]] for i in order]) == 4 * (51 + 101)
    assert live(db) == ["centre", "centre"]


@pytest.mark.parametrize("order", list(permutations(range(2))))
def test_a_run_that_the_centre_has_not_told_yet_stays_the_gateways(db: Database, order: tuple[int, ...]) -> None:
    """The gateway missed the first, short run; the centre has told that one only."""
    items = [seen(1, at=300), metered("c:1", elapsed=10)]
    assert owe(db, [[items[i]] for i in order]) == 400 + 40
    assert live(db) == ["centre", "gateway"]


def test_tasks_of_an_array_do_not_stand_for_one_another(db: Database) -> None:
    items = [seen(task=1), seen(task=2, elapsed=200), metered("c:1", task=1, at=5000), metered("c:3", task=3, at=0)]
    assert owe(db, [[item] for item in items]) == 4 * (100 + 200 + 100)
    assert live(db) == ["centre", "centre", "gateway"]


def test_both_in_one_call_by_two_clocks_are_one_charge(db: Database) -> None:
    assert owe(db, [[seen(), metered(at=5000)]]) == 400
    assert live(db) == ["centre"]


def test_parts_of_a_resized_job_are_no_runs_of_their_own(db: Database) -> None:
    """The row of the time before the change counts for no further run of the gateway's."""
    items = [metered("c:1:resizing", elapsed=10), metered("c:2", at=10, elapsed=20), seen(1, at=300)]
    assert owe(db, [[item] for item in items]) == 40 + 80 + 400


def test_a_run_that_the_gateway_saw_twice_is_charged_once(db: Database) -> None:
    """It was restarted, and numbered the run anew: the centre's record stands for both."""
    assert owe(db, [[seen(0, elapsed=60)], [seen(1, elapsed=100)], [metered(elapsed=101)]]) == 404
    assert live(db) == ["centre"]


# ---------------------------------------------------------------- quarantine, and policies that change


def test_what_had_no_price_leaves_quarantine_with_its_price_and_what_nobody_reads_stays(db: Database) -> None:
    def waits() -> int:
        with db.read() as conn:
            return books.unread(conn, "alpha")

    with db.write() as conn:
        books.quarantine(conn, [Unreadable("alpha", "sacct/1", "77|x", "it has 2 fields")], now=NOW)
        items = [assigned(metered(), "j"), assigned(metered("c:2", native_id="8"), "j2")]
        assert books.record_and_book(conn, items, now=NOW).quarantined == 2
    assert waits() == 3
    add_rules(db, rule())
    with db.write() as conn:
        assert books.charge_pending(conn, {PROJECT: "CNY"}, now=NOW) == 2
    assert waits() == 1


def test_a_policy_that_changes_in_the_month_holds_for_the_runs_that_end_under_it(db: Database) -> None:
    """By request until 1 h after T0, from then on by what was allocated; whenever the records come."""
    add_rules(db, rule())
    change = T0 + timedelta(hours=1)
    agree(db, agreement(metering=MeteringPolicy(version="p1", basis=Basis.REQUESTED)))
    agree(db, agreement(version=2, valid_from=change, metering=MeteringPolicy(version="p2")))
    after = metered("c:2", at=3500, elapsed=200, requested_cores=1)  # over the change
    before = metered("c:1", elapsed=100, requested_cores=1)
    for number, item in enumerate((after, before)):
        with db.write() as conn:
            books.record_and_book(conn, [assigned(item, f"j{number}")], now=NOW)
    assert owed(db) == MICRO * (1 * 100 + 4 * 200)
    with db.read() as conn:
        assert sorted(conn.scalars(select(CHARGES.c.policy_version))) == ["p1", "p2"]
