"""A month's statements one after the other: which of them counts, and what becomes of the differences of the others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from accounting.reconciling import store as recon_store
from accounting.reconciling.breaks import Refused, State
from tests.builders import Gateway
from tests.unit.accounting.test_reconcile import (
    RULES,
    compare,
    gateway,
    have,
    kinds,
    line,
    owed,
    receive,
    row,
)

_ = gateway  # the fixture

SIGNED = replace(RULES, must_be_signed=True)


def states(gateway: Gateway, statement_id: int) -> list[tuple[str, State]]:
    with gateway.services.db.read() as conn:
        return [(b.row.category, b.state) for b in recon_store.breaks(conn, statement_id=statement_id)]


def test_a_difference_that_was_gone_and_is_found_again_is_open_again(gateway: Gateway) -> None:
    have(gateway, row(1), row(2))
    received = receive(gateway, line(1), line(2, quantity=14_473, amount="1.4473"))
    exact = replace(RULES, auto_causes=frozenset())
    lenient = replace(exact, tolerance=replace(RULES.tolerance, ppm=10_000, micro=10_000))
    _, found = compare(gateway, received, exact)
    assert kinds(found) == [("B03", "", "open")]
    _, found = compare(gateway, received, lenient)
    assert kinds(found) == [("B03", "", "gone")]

    done, found = compare(gateway, received, exact)
    assert (done.counts["breaks"], kinds(found)) == (1, [("B03", "", "open")]), "what is counted is shown"
    with gateway.services.db.read() as conn:
        assert not recon_store.is_signed_off(conn, received.statement_id)
        assert recon_store.history(conn, found[0].row.id)[-1].note == "a later look finds it again"


def test_what_stands_by_the_contract_is_posted_when_it_comes_back(gateway: Gateway) -> None:
    have(gateway, row(1, ElapsedRaw="3500", Suspended="00:01:57"))
    received = receive(gateway, line(1))
    compare(gateway, received, replace(RULES, auto_causes=frozenset()))
    compare(gateway, received, replace(RULES, tolerance=replace(RULES.tolerance, ppm=10**6, micro=10**6)))
    done, found = compare(gateway, received)
    assert (done.posted, kinds(found)) == (1, [("B03", "suspended", "posted")])
    assert owed(gateway) == 1_446_800
    gateway.check_books()


def test_a_break_bears_the_figures_of_the_look_that_found_it(gateway: Gateway) -> None:
    """A sum differs less once a late run is in: what is open says what is open now."""
    have(gateway, row(1))
    received = receive(gateway, {"queue": "cpu", "quantity": 50_000})
    compare(gateway, received)
    have(gateway, row(2))
    _, found = compare(gateway, received)
    assert [(b.row.ours_core_seconds, b.state) for b in found] == [(14_468, State.GONE), (28_936, State.OPEN)]


def test_a_statement_in_doubt_does_not_make_a_good_one_void(gateway: Gateway) -> None:
    have(gateway, row(1), row(2))
    good = receive(gateway, line(1), line(9))
    compare(gateway, good)
    broken = receive(gateway, {"run_key": "x", "quantity": "1,468.00"})
    compare(gateway, broken)
    assert states(gateway, good.statement_id) == [("B02", State.OPEN), ("B01", State.OPEN)]
    unsigned = receive(gateway, line(1), line(2), line(9))
    compare(gateway, unsigned, SIGNED)
    assert states(gateway, good.statement_id) == [("B02", State.OPEN), ("B01", State.OPEN)]

    compare(gateway, unsigned)
    assert states(gateway, good.statement_id) == [("B02", State.GONE), ("B01", State.GONE)]


def test_a_statement_whose_place_was_taken_is_not_compared_again(gateway: Gateway) -> None:
    have(gateway, row(1, ElapsedRaw="3500", Suspended="00:01:57"))
    old = receive(gateway, line(1, quantity=14_236, amount="1.4236", elapsed=3559), line(9))
    compare(gateway, old)
    new = receive(gateway, line(1))
    _, found = compare(gateway, new)
    assert kinds(found) == [("B03", "suspended", "posted")]
    with pytest.raises(Refused, match=f"statement {new.statement_id} has taken the place of this one"):
        compare(gateway, old)
    assert owed(gateway) == 1_446_800


def test_nothing_of_a_statement_that_says_something_else_after_both_agreed_stands_without_a_person(
    gateway: Gateway,
) -> None:
    have(gateway, row(1), row(2, ElapsedRaw="3500", Suspended="00:01:57"))
    compare(gateway, receive(gateway, line(1), line(2)))
    before = owed(gateway)
    done, found = compare(gateway, receive(gateway, line(1, quantity=14_472, amount="1.4472", elapsed=3618), line(2)))
    assert (done.posted, owed(gateway)) == (0, before)
    assert [(b.row.category, b.state) for b in found] == [("B03", State.EXPLAINED), ("B12", State.OPEN)]
