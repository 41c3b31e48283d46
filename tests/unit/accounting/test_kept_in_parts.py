"""What a comparison found is kept some at a time: others write between, and it counts only when it is whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from accounting.reconciling import keeping
from accounting.reconciling.breaks import State
from accounting.reconciling.drafts import Rules
from accounting.reconciling.store import BREAKS, BreakNow, breaks, is_signed_off, reconciliations
from gateway.billing import reconcile
from tests import builders
from tests.break_maker import make
from tests.builders import Gateway, local_site, make_gateway
from tests.unit.accounting.test_breaks_injected import RULES, deliver

LENIENT = replace(RULES, tolerance=replace(RULES.tolerance, seconds=10**6, micro=10**12, accounts=False))


class Killed(Exception):
    pass


@pytest.fixture
def gateway(db_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setattr(keeping, "AT_ONCE", 7)
    monkeypatch.setattr(reconcile, "_POSTED_AT_ONCE", 4)
    made = make_gateway(tmp_path, db_url, local_site(tmp_path))
    yield made
    builders.OPENED.clear()
    made.services.close()


def run(gateway: Gateway, statement_id: int, rules: Rules = RULES) -> reconcile.Reconciled:
    return reconcile.reconcile(gateway.services, statement_id, rules=rules, by="admin")


def standing(gateway: Gateway, statement_id: int) -> tuple[list[BreakNow], int, bool]:
    """(breaks that show, comparisons, whether the statement is signed off)."""
    with gateway.services.db.read() as conn:
        found = breaks(conn, statement_id=statement_id)
        return found, len(reconciliations(conn, site_ids=["local"])), is_signed_off(conn, statement_id)


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> Iterator[None]:
    """The process dies at the n-th call of a function, after what it did and before that is committed."""
    real, calls = getattr(owner, name), []

    def dying(*args: Any, **more: Any) -> Any:
        calls.append(name)
        done = real(*args, **more)
        if len(calls) == call:
            raise Killed
        return done

    with monkeypatch.context() as m, pytest.raises(Killed):
        m.setattr(owner, name, dying)
        yield


def facts(found: list[BreakNow]) -> set[tuple[str, str]]:
    return {(item.row.break_key, item.state.value) for item in found}


def test_no_transaction_keeps_more_than_a_part_of_the_breaks(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    statement_id = deliver(gateway, make(150, seed=3, every=3))
    db, seen = gateway.services.db, [0]
    write = db.write

    @contextmanager
    def counted() -> Iterator[Any]:
        with write() as conn:
            yield conn
        with db.read() as reader:
            seen.append(reader.scalar(select(func.count()).select_from(BREAKS)) or 0)

    monkeypatch.setattr(db, "write", counted)
    done = run(gateway, statement_id)
    assert seen[-1] == done.counts["breaks"] > 40
    assert max(after - before for before, after in pairwise(seen)) <= 7


def test_a_comparison_that_was_cut_off_does_not_count_and_the_next_one_finds_all_of_it(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    statement_id = deliver(gateway, make(150, seed=3, every=3))
    for call in (1, 3):
        with killed_at(monkeypatch, keeping, "open_breaks", call):
            run(gateway, statement_id)
        assert standing(gateway, statement_id) == ([], 0, False)
    with killed_at(monkeypatch, keeping, "complete", 1):
        run(gateway, statement_id)
    assert standing(gateway, statement_id) == ([], 0, False)
    done = run(gateway, statement_id)
    found, comparisons, signed_off = standing(gateway, statement_id)
    assert (len(found), comparisons, signed_off) == (done.counts["breaks"], 1, False)
    assert sum(item.state is State.POSTED for item in found) == done.posted > 5
    gateway.check_books()


@pytest.mark.parametrize("call", [1, 2])
def test_what_the_contract_lets_stand_is_posted_once_whenever_the_process_died(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    statement_id = deliver(gateway, make(150, seed=3, every=3))
    with killed_at(monkeypatch, reconcile, "_let_stand", call):
        run(gateway, statement_id)
    before, _, signed_off = standing(gateway, statement_id)
    posted = sum(item.state is State.POSTED for item in before)
    assert (posted, signed_off) == (4 * (call - 1), False)
    done = run(gateway, statement_id)
    again = run(gateway, statement_id)
    found, comparisons, _ = standing(gateway, statement_id)
    assert done.posted > 4
    assert again.posted == 0
    assert sum(item.state is State.POSTED for item in found) == posted + done.posted
    assert comparisons == 3
    assert {item.row.break_key for item in before} <= {item.row.break_key for item in found}
    gateway.check_books()


def test_what_a_comparison_that_was_cut_off_found_wrongly_is_gone_with_the_next(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    statement_id = deliver(gateway, make(150, seed=3, every=3))
    with killed_at(monkeypatch, keeping, "complete", 1):
        run(gateway, statement_id)
    done = run(gateway, statement_id, LENIENT)
    found, _, _ = standing(gateway, statement_id)
    waiting = [item for item in found if item.state is not State.GONE]
    assert len(waiting) == done.counts["breaks"]
    assert len(found) - len(waiting) > 20
    assert done.posted == sum(item.state is State.POSTED for item in waiting)


def test_a_second_comparison_changes_nothing(gateway: Gateway) -> None:
    statement_id = deliver(gateway, make(150, seed=3, every=10**9))
    first = run(gateway, statement_id)
    before = standing(gateway, statement_id)[0]
    second = run(gateway, statement_id)
    assert second.reconciliation_id > first.reconciliation_id
    assert second.posted == 0
    assert facts(standing(gateway, statement_id)[0]) == facts(before)
