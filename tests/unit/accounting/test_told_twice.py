"""A run that the centre's log told under two keys: the comparison says which one is too many, and two people take it
back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs

from accounting import store as books
from accounting.ledger import payable
from accounting.reconciling.breaks import Act
from accounting.sources import read_usage
from accounting.usage import Meter, UsageRecord
from gateway import leases
from gateway.billing.meters import watch_meters
from gateway.services import Lease
from tests.builders import Gateway
from tests.unit.accounting import test_reconcile
from tests.unit.accounting.makers import agree, agreement, standing
from tests.unit.accounting.test_reconcile import T0, act, compare, have, kinds, line, owed, receive, row

gateway = test_reconcile.gateway  # the fixture
ONE = 1_446_800  # the price of a run


def watched(gateway: Gateway) -> list[str]:
    lease = Lease("local", leases.take(gateway.services.db, "local", "test").fencing)
    return [alarm.kind.value for alarm in watch_meters(gateway.services, lease, T0 + timedelta(days=3))]


@pytest.fixture
def twice(gateway: Gateway) -> Iterator[Gateway]:
    """The centre's database was numbered anew, and told job 1 once more."""
    agree(gateway.services.db, agreement(site_ids=("local",)))
    seen = read_usage("sacct/1", row(1), site_id="local")
    assert isinstance(seen, UsageRecord)
    seen = structs.replace(seen, meter=Meter.GATEWAY, run_key="pgw.1:-1:0")
    with gateway.services.db.write() as conn:
        books.record_and_book(conn, [books.Assigned(seen, "j1", gateway.project_id, "u1", "CNY")], now=T0)
    have(gateway, row(1), row(1, DBIndex="900"))
    assert (owed(gateway), "run_twice" in watched(gateway)) == (2 * ONE, True)
    yield gateway


def settle(gateway: Gateway, item: Any) -> None:
    act(gateway, item.row.id, Act.PROPOSE, "admin", note="numbered anew", resolution="post")
    act(gateway, item.row.id, Act.COUNTERSIGN, "second")


@pytest.mark.parametrize(("also", "kind"), [([], "B01"), ([line(1, run_key="alpha:900")], "B06")])
def test_two_people_take_back_the_one_that_is_too_many(twice: Gateway, also: list[dict[str, Any]], kind: str) -> None:
    received = receive(twice, line(1), *also)
    done, (item,) = compare(twice, received)
    assert (kinds([item]), done.posted) == ([(kind, "twice", "explained")], 0)
    assert item.row.explanation == (
        "its log told this run also as alpha:101, which line 1 bills: to post this takes it back"
    )
    settle(twice, item)
    assert owed(twice) == ONE
    assert -standing(twice.services.db, payable("centre")) == ONE * 7 // 10
    have(twice, row(1), row(1, DBIndex="900"))  # the log, which is fetched again, still tells both
    assert owed(twice) == ONE
    assert watched(twice) == []
    assert kinds(compare(twice, received)[1]) == [(kind, "twice", "posted")]
    twice.check_books()


def test_the_one_that_the_centre_bills_stays(twice: Gateway) -> None:
    _, (item,) = compare(twice, receive(twice, line(1, run_key="alpha:900")))
    assert "also as alpha:900" in item.row.explanation
    settle(twice, item)
    assert owed(twice) == ONE


def test_where_the_centre_bills_neither_both_are_missing(twice: Gateway) -> None:
    _, found = compare(twice, receive(twice))
    assert kinds(found) == [("B01", "", "open")] * 2


def test_what_was_read_again_since_is_not_taken_back(twice: Gateway) -> None:
    _, (item,) = compare(twice, receive(twice, line(1)))
    have(twice, row(1, DBIndex="900", ElapsedRaw="3600"))
    with pytest.raises(test_reconcile.Refused, match="read again since"):
        settle(twice, item)
