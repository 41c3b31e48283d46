"""A dispute that the payer wins comes into the centre's settlement: the agreement says who bears it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from accounting import credit_share
from accounting import store as books
from accounting.agreement import Agreement, Payout, ShareTier
from accounting.calendar import month
from accounting.invoicing import dispute_store
from accounting.invoicing.dispute_store import raise_dispute, take
from accounting.invoicing.disputes import Side, Step
from accounting.invoicing.invoice import Document
from accounting.ledger import CREDITS, Entry, payable
from accounting.meter import CENTRE, OPERATOR, Bears
from accounting.signing import sign_jws
from accounting.store import drawing, settlements
from accounting.usage import Meter
from gateway.db import Database
from tests.unit.accounting import makers, test_settlement
from tests.unit.accounting.evidence_case import append_all, checkpoint
from tests.unit.accounting.invoicing import NOW, bill, charge, parties, run
from tests.unit.accounting.makers import agree, agreement, standing
from tests.unit.accounting.test_evidence_verifier import verifier

_, settled_db = verifier, test_settlement.db  # the fixtures
OCTOBER, NOVEMBER = month("2026-10", "Asia/Shanghai"), month("2026-11", "Asia/Shanghai")


@pytest.fixture
def db(db_url: str) -> Iterator[Database]:
    made = Database(db_url)
    with made.write() as conn:
        parties(conn)
    yield made
    made.dispose()


def billed(db: Database, agreed: Agreement) -> Document:
    """20 for alice's and 16 for bob's work, 70 : 30 between centre and operator."""
    agree(db, agreed)
    with db.write() as conn:
        charge(conn, run(1_440_000, key="a"), run(1_152_000, user="u2", key="b"))
        return bill(conn)


def dispute(db: Database, invoice: Document, line: int = 1) -> str:
    with db.write() as conn:
        raise_dispute(conn, dispute_id="d1", invoice=invoice.number, line=line, reason="the node failed", by="owner",
                      now=NOW)  # fmt: skip
    return "d1"


def decide(db: Database, dispute_id: str, step: Step, *, net_minor: int | None = None) -> None:
    with db.write() as conn:
        take(conn, dispute_id, step, side=Side.OPERATOR, by="op", text="so it was", credit_net_minor=net_minor, now=NOW)


def settle(db: Database, agreed: Agreement, number: int) -> settlements.Settlement:
    """Draw and agree the statement until the end of November, as the gateway does."""
    with db.write() as conn:
        held = dispute_store.entries_in_dispute(conn, agreed.site_ids)
        open_ = drawing.still_open(conn, "centre", "CNY", NOVEMBER.end, held.keys())
        drawn = makers.draw(conn, agreed, settlement_id=f"s{number}", start=OCTOBER.start, end=NOVEMBER.end,
                                 disputed={k: w for k, w in held.items() if k in open_}, now=NOW)  # fmt: skip
        for side in ("operator", "centre"):
            key = Ed25519PrivateKey.from_private_bytes(side.encode().ljust(32))
            jws = sign_jws(drawn.statement.encode(), private=key.private_bytes_raw(), key_id=side,
                           kind="penstock-settlement")  # fmt: skip
            settlements.add_signature(conn, drawn.id, side, key_id=side, jws=jws, now=NOW)
        return settlements.agree(conn, drawn.id, by="t", now=NOW)


@pytest.mark.parametrize(
    ("borne", "centre", "operator"),
    [(CENTRE, 11_200_000, 4_800_000), (OPERATOR, 25_200_000, -9_200_000), (Bears(0, 1, 3), 21_700_000, -5_700_000)],
)  # fmt: skip
def test_the_agreement_says_who_bears_a_dispute_that_the_payer_won(
    db: Database, borne: Bears, centre: int, operator: int
) -> None:
    agreed = agreement(credits_borne=borne)
    invoice = billed(db, agreed)
    decide(db, dispute(db, invoice), Step.CREDIT)
    found = settle(db, agreed, 1)
    assert int(found.said["net"]) == centre
    kept = standing(db, "operator:revenue") + standing(db, CREDITS)
    assert -kept == operator  # 16 were earned of 36: what one does not lose the other does
    assert centre + operator == 16_000_000
    assert standing(db, payable("centre")) == 0
    with db.read() as conn:
        assert (books.check_books(conn), settlements.check_settlements(conn)) == ([], [])


def test_the_operator_would_bear_all_of_it_without_the_rule(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule patched away: the centre is paid for work whose price the payer has back."""
    monkeypatch.setattr(credit_share, "borne_by_centre", lambda *_: 0)
    agreed = agreement()
    decide(db, dispute(db, billed(db, agreed)), Step.CREDIT)
    assert int(settle(db, agreed, 1).said["net"]) == 25_200_000


def test_fees_and_tiers_are_of_what_is_left_after_credits(db: Database) -> None:
    agreed = agreement(payout=Payout((ShareTier(0, 70), ShareTier(20_000_000, 90))))
    decide(db, dispute(db, billed(db, agreed)), Step.CREDIT, net_minor=1_000)
    said = settle(db, agreed, 1).said
    assert said["earned"] == "26000000"
    assert int(said["net"]) == 14_000_000 + 5_400_000
    assert said["credits"] == "-10000000"


def test_what_is_in_dispute_is_not_settled_and_comes_with_the_next_statement_less_what_was_credited(
    db: Database,
) -> None:
    agreed = agreement()
    invoice = billed(db, agreed)
    dispute(db, invoice)
    first = settle(db, agreed, 1).said
    assert (first["net"], [h["centre"] for h in first["disputed"]]) == ("11200000", ["14000000"])
    decide(db, "d1", Step.CREDIT, net_minor=500)
    second = settle(db, agreed, 2).said
    assert (second["net"], second["disputed"]) == (str(14_000_000 - 3_500_000), [])
    with db.read() as conn:
        assert settlements.check_settlements(conn) == []


def test_a_disputed_run_that_the_gateway_saw_first_is_held_back_whichever_entry_has_its_money(db: Database) -> None:
    """The first charge is provisional; the centre's record, which is billed, adds a little or nothing to it."""
    agreed = agreement()
    agree(db, agreed)
    with db.write() as conn:
        charge(conn, run(1_440_000, key="a", meter=Meter.GATEWAY))
        charge(conn, run(1_440_000, key="a"))
        charge(conn, run(1_152_000, user="u2", key="b", meter=Meter.GATEWAY), run(1_152_000, user="u2", key="c"))
        charge(conn, run(1_224_000, user="u2", key="b"))
        invoice = bill(conn)
    dispute(db, invoice)
    first = settle(db, agreed, 1).said
    assert (first["net"], sorted(h["centre"] for h in first["disputed"])) == ("23100000", ["0", "14000000"])
    decide(db, "d1", Step.REJECT)
    assert settle(db, agreed, 2).said["net"] == "14000000"


def test_a_dispute_that_is_rejected_is_settled_in_full(db: Database) -> None:
    agreed = agreement()
    dispute(db, billed(db, agreed))
    settle(db, agreed, 1)
    decide(db, "d1", Step.REJECT)
    assert settle(db, agreed, 2).said["net"] == "14000000"


def test_work_without_an_agreement_is_the_operators_alone(db: Database) -> None:
    with db.write() as conn:
        charge(conn, run(1_440_000))
        invoice = bill(conn)
    decide(db, dispute(db, invoice), Step.CREDIT)
    assert standing(db, CREDITS) == 20_000_000


def test_an_agreement_lets_the_payer_bear_nothing_of_what_it_is_given_back() -> None:
    with pytest.raises(ValueError, match="centre or the operator"):
        replace(agreement(), credits_borne=Bears(1, 1, 0))


def test_the_verifier_re_adds_a_settlement_with_a_credit_in_it(settled_db: Database, verifier: ModuleType) -> None:
    taken = credit_share.postings_of(test_settlement.AGREEMENT, 10_000_000, "CNY")
    entry = Entry("credit-share:PSC-000001:1", credit_share.KIND, test_settlement.T0, taken)
    with settled_db.write() as conn:
        books.book(conn, [entry], now=test_settlement.T0)
        found = test_settlement.draw(conn, 1)
        assert int(found.said["credits"]) <= -10_000_000
        test_settlement.sign(conn, found)
        settlements.agree(conn, "s1", by="test", now=test_settlement.T0)
        append_all(conn)
        checkpoint(conn)
        lines = test_settlement.lines(conn)
    assert test_settlement.check(verifier, lines) == []
    forged = [line.replace("-10000000", "-10000001") for line in lines]
    assert test_settlement.check(verifier, forged)
