"""Money that a person recorded as a top-up and the bank's file brings again (before or after) is booked once."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select

from accounting import store as books
from accounting.errors import FourEyes, KeyReused, PaymentRefused
from accounting.payments.payment import BankTransaction
from accounting.payments.store import allocate_by_hand, find, import_payments, received
from accounting.payments.top_up import TopUp, recognise
from accounting.payments.top_up_store import match_by_hand, top_up, waiting
from accounting.payments.top_up_undo import Undo, decide_undo, request_undo, undos
from accounting.store.payments import Payment
from accounting.store.schema import PAYMENTS, TOP_UP_RECEIPTS
from gateway.db import Database
from tests.unit.accounting.invoicing import NOW, bill, charge, parties, run

DAY = datetime(2026, 11, 1, tzinfo=UTC)


def transfer(minor: int = 100_000, *, ref: str = "TX-4711", text: str = "", currency: str = "CNY") -> BankTransaction:
    return BankTransaction("ACC", ref, DAY, currency, minor, "Uni", text)


def prepaid(reference: str = "TX-4711", *, amount: int = 1_000_000_000, id_: str = "y1", day: int = 0) -> Payment:
    return Payment(id_, "uni", "CNY", amount, DAY + timedelta(days=day), "bank", reference)


def stands(db: Database) -> dict[str, int]:
    """What the money's accounts hold, where it is not nothing; the books are sound."""
    with db.read() as conn:
        assert books.check_books(conn) == []
        shown = {code: amount for (code, _), amount in books.balances(conn).items() if amount}
    money = ("bank:", "unallocated:", "operator:cash", "project:r1:paid", "payer:uni:unallocated")
    return {code: amount for code, amount in shown.items() if code.startswith(money)}


ONCE = {"bank:ACC": 1_000_000_000, "project:r1:paid": -1_000_000_000}


@pytest.fixture
def ready(db: Database) -> Database:
    with db.write() as conn:
        parties(conn)
    return db


def test_a_top_up_that_was_recorded_first_is_recognised_by_its_reference_when_the_statement_comes(
    ready: Database,
) -> None:
    with ready.write() as conn:
        top_up(conn, prepaid(), project_id="r1", now=NOW)
    assert stands(ready) == {"operator:cash": 1_000_000_000, "project:r1:paid": -1_000_000_000}
    with ready.write() as conn:
        done = import_payments(conn, [transfer()], now=NOW)
    assert (done.new, done.top_ups, done.unallocated) == (1, 1, 0)
    assert stands(ready) == ONCE
    with ready.write() as conn:
        assert import_payments(conn, [transfer()], now=NOW).known == 1
        assert top_up(conn, prepaid(id_="y2"), project_id="r1", now=NOW) == "y1"
        assert received(conn, only_unallocated=True) == []
    assert stands(ready) == ONCE


def test_booked_twice_where_nothing_recognises_it(ready: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule patched away: the same transfer is on the bank's account and in cash."""
    monkeypatch.setattr("accounting.payments.store.recognise", lambda *_: recognise(transfer(-1), []))
    with ready.write() as conn:
        top_up(conn, prepaid(), project_id="r1", now=NOW)
        import_payments(conn, [transfer()], now=NOW)
    assert stands(ready) != ONCE


def test_a_top_up_of_money_that_was_imported_before_takes_that_money(ready: Database) -> None:
    with ready.write() as conn:
        import_payments(conn, [transfer(text="project demo")], now=NOW)
        top_up(conn, prepaid(), project_id="r1", now=NOW)
    assert stands(ready) == ONCE


def test_a_top_up_names_the_transaction_and_takes_no_more_than_is_left_of_it(ready: Database) -> None:
    with ready.write() as conn:
        import_payments(conn, [transfer()], now=NOW)
        (there,) = received(conn)
        top_up(conn, prepaid("part 1", amount=600_000_000), project_id="r1", transaction_id=there.id, now=NOW)
    with ready.write() as conn, pytest.raises(PaymentRefused, match="400"):
        top_up(conn, prepaid("part 2", amount=400_010_000, id_="y2"), project_id="r1", transaction_id=there.id, now=NOW)
    with ready.write() as conn:
        top_up(conn, prepaid("part 2", amount=400_000_000, id_="y2"), project_id="r1", transaction_id=there.id, now=NOW)
        found = find(conn, there.id)
    assert found is not None and found.unallocated_minor == 0
    assert found.top_ups == (("y1", 60_000), ("y2", 40_000))
    assert stands(ready) == ONCE
    with ready.write() as conn, pytest.raises(PaymentRefused, match="no transaction 99"):
        top_up(conn, prepaid("x", id_="y3"), project_id="r1", transaction_id=99, now=NOW)


@pytest.mark.parametrize(
    ("brought", "why"),
    [(transfer(ref="other"), "only the amount"), (transfer(99_900), "another amount under the reference"),
     (transfer(100_100, ref="other", text="for TX 4711"), "its reference in the purpose, and another amount")],
)  # fmt: skip
def test_what_may_be_a_top_up_waits_for_a_person(ready: Database, brought: BankTransaction, why: str) -> None:
    with ready.write() as conn:
        top_up(conn, prepaid(), project_id="r1", now=NOW)
        done = import_payments(conn, [brought], now=NOW)
        (there,) = received(conn, only_unallocated=True)
    assert (done.top_ups, done.unallocated) == (0, 1), why
    assert there.perhaps == ("y1",)
    if brought.amount_minor < 100_000:
        with ready.write() as conn, pytest.raises(PaymentRefused, match="999"):
            match_by_hand(conn, there.id, "y1", by="alice", now=NOW)
        return
    with ready.write() as conn:
        match_by_hand(conn, there.id, "y1", by="alice", now=NOW)
        after = find(conn, there.id)
    assert after is not None and after.perhaps == ()
    assert after.unallocated_minor == brought.amount_minor - 100_000
    assert stands(ready)["project:r1:paid"] == -1_000_000_000
    assert "operator:cash" not in stands(ready)
    with ready.write() as conn, pytest.raises(PaymentRefused, match="waits"):
        match_by_hand(conn, there.id, "y1", by="bob", now=NOW)


def test_money_of_the_same_amount_pays_no_invoice_by_itself_while_it_may_be_a_top_up(ready: Database) -> None:
    with ready.write() as conn:
        charge(conn, run(36_000_000))
        invoice = bill(conn)
        top_up(conn, prepaid("R-1", amount=invoice.gross_minor * 10_000), project_id="r1", now=NOW)
        done = import_payments(conn, [transfer(invoice.gross_minor, ref="b1")], now=NOW)
    assert (done.unallocated, dict(done.allocated_minor)) == (1, {})
    with ready.write() as conn:  # one that names the invoice pays it
        done = import_payments(conn, [transfer(invoice.gross_minor, ref="b2", text=invoice.number)], now=NOW)
        assert done.allocated_minor == {"CNY": invoice.gross_minor}
        (there,) = received(conn, only_unallocated=True)
        match_by_hand(conn, there.id, "y1", by="alice", now=NOW)
    assert "operator:cash" not in stands(ready)


def test_a_person_says_what_money_is_where_a_top_up_comes_after_a_file_with_its_amount(ready: Database) -> None:
    with ready.write() as conn:
        import_payments(conn, [transfer(ref="other")], now=NOW)
    with ready.write() as conn, pytest.raises(PaymentRefused, match="name it, or say that it is separate"):
        top_up(conn, prepaid(), project_id="r1", now=NOW)
    with ready.write() as conn:
        top_up(conn, prepaid(), project_id="r1", separate=True, now=NOW)
    assert stands(ready) == ONCE | {"operator:cash": 1_000_000_000, "unallocated:ACC": -1_000_000_000}


def test_a_reference_whose_money_pays_an_invoice_already_is_told(ready: Database) -> None:
    with ready.write() as conn:
        charge(conn, run(36_000_000))
        invoice = bill(conn)
        import_payments(conn, [transfer()], now=NOW)
        (there,) = received(conn)
        allocate_by_hand(conn, there.id, invoice.number, 100, by="alice", now=NOW)
    with ready.write() as conn, pytest.raises(PaymentRefused, match="TX-4711"):
        top_up(conn, prepaid(), project_id="r1", now=NOW)


def test_the_same_reference_with_other_content_is_refused(ready: Database) -> None:
    with ready.write() as conn:
        top_up(conn, prepaid(), project_id="r1", now=NOW)
    for other, project in ((prepaid(amount=5), "r1"), (prepaid(day=1), "r1"), (prepaid(), "r2")):
        with ready.write() as conn, pytest.raises(KeyReused):
            top_up(conn, other, project_id=project, now=NOW)


def test_recorded_and_imported_at_once_by_eight_it_is_booked_once(ready: Database) -> None:
    failed: list[str] = []

    def record(n: int) -> None:
        try:
            with ready.write() as conn:
                if n % 2:
                    import_payments(conn, [transfer()], now=NOW)
                else:
                    top_up(conn, prepaid(id_=f"y{n}"), project_id="r1", now=NOW)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the test shows it
            failed.append(repr(exc))

    threads = [threading.Thread(target=record, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert stands(ready) == ONCE
    with ready.read() as conn:
        assert conn.scalar(select(func.count()).select_from(PAYMENTS)) == 1
        assert conn.scalar(select(func.count()).select_from(TOP_UP_RECEIPTS)) == 1
        assert waiting(conn) == []


def test_a_short_or_foreign_reference_is_found_only_where_it_certainly_stands() -> None:
    def of(reference: str) -> list[TopUp]:
        return [TopUp("y", "uni", "CNY", 100_000, DAY, reference)]

    assert recognise(transfer(ref="b", text="room 12"), of("12")).top_up is None
    assert recognise(transfer(ref="12"), of("12")).top_up is not None
    assert recognise(transfer(ref="b", text="年度 订单2026甲"), of("订单2026甲")).top_up is not None
    assert recognise(transfer(ref="b", text="since 2026"), of("订单2026甲")).top_up is None
    assert recognise(transfer(), [*of("TX-4711"), *of("tx4711")]).top_up is None
    assert recognise(transfer(-100_000), of("TX-4711")).perhaps == ()


# ---------------------------------------------------------------- the wrong money


def undo(db: Database, payment: str = "y1", *, id_: str = "u1", limit: int = 10**12, by: str = "ada") -> str:
    with db.write() as conn:
        return request_undo(conn, Undo(id_, payment, "it was another's", by), four_eyes_micro=limit, now=NOW)


def matched(db: Database, payment: str = "y1") -> int:
    """A top-up that a person matched to money of the same amount which is somebody else's; the transaction's id."""
    with db.write() as conn:
        import_payments(conn, [transfer(ref="OTHER")], now=NOW)
        top_up(conn, prepaid("by mail"), project_id="r1", separate=True, now=NOW)
        (other,) = received(conn, only_unallocated=True)
        match_by_hand(conn, other.id, payment, by="ada", now=NOW)
    assert stands(db) == ONCE
    return other.id


def test_a_match_with_the_wrong_money_is_taken_back_and_its_own_money_is_matched(ready: Database) -> None:
    wrong = matched(ready)
    assert undo(ready) == "posted"
    with ready.read() as conn:
        assert [t.id for t in waiting(conn)] == ["y1"]
        assert [(r.id, r.top_ups) for r in received(conn, only_unallocated=True)] == [(wrong, ())]
    assert stands(ready) == ONCE | {"operator:cash": 1_000_000_000, "unallocated:ACC": -1_000_000_000}
    with pytest.raises(PaymentRefused, match="no money"):
        undo(ready, id_="u2")
    with ready.write() as conn:
        done = import_payments(conn, [transfer(ref="RIGHT", text="by mail")], now=NOW)
        assert (done.top_ups, waiting(conn)) == (1, [])
        match = find(conn, wrong + 1)
        assert match is not None and match.top_ups == (("y1", 100_000),)
    assert stands(ready) == ONCE | {"bank:ACC": 2_000_000_000, "unallocated:ACC": -1_000_000_000}
    assert undo(ready, id_="u3") == "posted"  # and once more, however often


def test_much_money_is_let_go_by_two_people(ready: Database) -> None:
    matched(ready)
    assert undo(ready, limit=999_999_999) == "waiting"
    assert stands(ready) == ONCE
    with pytest.raises(PaymentRefused, match="second person"):
        undo(ready, id_="u2")
    with pytest.raises(FourEyes), ready.write() as conn:
        decide_undo(conn, "u1", approve=True, by="ada", now=NOW)
    with ready.write() as conn:
        assert decide_undo(conn, "u1", approve=False, by="bob", now=NOW) == "refused"
    assert undo(ready, id_="u2", limit=999_999_999) == "waiting"
    with ready.write() as conn:
        assert decide_undo(conn, "u2", approve=True, by="bob", now=NOW) == "posted"
    with pytest.raises(PaymentRefused, match="posted already"), ready.write() as conn:
        decide_undo(conn, "u2", approve=True, by="bob", now=NOW)
    with ready.read() as conn:
        assert [(u.id, u.decision, u.decided_by) for u in undos(conn)] == [
            ("u2", "posted", "bob"),
            ("u1", "refused", "bob"),
        ]


def test_a_top_up_that_named_the_wrong_money_lets_it_go_too(ready: Database) -> None:
    with ready.write() as conn:
        import_payments(conn, [transfer(ref="OTHER")], now=NOW)
        (other,) = received(conn, only_unallocated=True)
        top_up(conn, prepaid("by mail"), project_id="r1", transaction_id=other.id, now=NOW)
    assert undo(ready) == "posted"
    assert stands(ready) == ONCE | {"operator:cash": 1_000_000_000, "unallocated:ACC": -1_000_000_000}
    with ready.write() as conn:
        match_by_hand(conn, other.id, "y1", by="ada", now=NOW)  # it was right after all
    assert stands(ready) == ONCE
