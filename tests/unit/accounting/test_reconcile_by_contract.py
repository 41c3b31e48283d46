"""A comparison goes by the agreement that both sides signed: whom money is owed, what stands, what is billed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select

from accounting.agreement import Bills, Payout, PostingLimits, StatementTerms, Tax, TaxKind, Tolerances
from accounting.evidence.leaves import entries
from accounting.ledger import payable
from accounting.meter import MeteringPolicy
from accounting.parties import SigningKey
from accounting.reconciling.breaks import Act, Cause, Refused
from accounting.reconciling.drafts import Rules
from accounting.reconciling.explain import Ratio
from accounting.reconciling.statement_store import statement_row
from accounting.reconciling.terms import Narrower
from accounting.settle import Rate
from accounting.signing import sign_jws
from accounting.store import contracts, settlements
from accounting.store.schema import CHARGES
from gateway.billing.recon_rules import rules_for
from tests import builders
from tests.builders import Gateway, local_site, make_gateway
from tests.unit.accounting.makers import LONG_AGO, agree, agreement, standing
from tests.unit.accounting.test_reconcile import act, compare, have, kinds, line, receive, row


@pytest.fixture
def gateway(db_url: str, tmp_path: Path) -> Iterator[Gateway]:
    made = make_gateway(tmp_path, db_url, local_site(tmp_path))
    yield made
    builders.OPENED.clear()
    made.services.close()


def signed(gateway: Gateway, **more: Any) -> None:
    agree(gateway.services.db, agreement(site_ids=("local",), **more))


def rules(gateway: Gateway, statement_id: int, **asked: Any) -> Rules:
    with gateway.services.db.read() as conn:
        statement = statement_row(conn, statement_id)
        return rules_for(conn, statement, Narrower(**asked), now=gateway.services.clock())


def posted(gateway: Gateway, break_id: int) -> None:
    act(gateway, break_id, Act.PROPOSE, "admin", note="as billed", resolution="post")
    act(gateway, break_id, Act.COUNTERSIGN, "second")


def test_money_is_owed_to_the_centre_of_the_agreement_and_comes_into_its_settlement(gateway: Gateway) -> None:
    signed(gateway)
    have(gateway, row(1))
    share = -standing(gateway.services.db, payable("centre"))
    _, (item,) = compare(gateway, receive(gateway, line(1, amount="2.8936")))
    posted(gateway, item.row.id)
    assert standing(gateway.services.db, payable("local")) == 0
    assert -standing(gateway.services.db, payable("centre")) == share + 1_012_760  # 70 % of the list price
    end = gateway.services.clock() + timedelta(days=1)
    with gateway.services.db.write() as conn:
        drawn = settlements.draw(conn, settlement_id="s1", agreement=agreement(site_ids=("local",)), start=LONG_AGO,
                                 end=end, disputed={}, now=end)  # fmt: skip
    assert [payable("centre"), "CNY", str(share + 1_012_760)] in drawn.said["movements"]
    gateway.check_books()


def test_without_a_signed_agreement_no_money_is_booked_to_anybody(gateway: Gateway) -> None:
    have(gateway, row(1))
    _, (item,) = compare(gateway, receive(gateway, line(1, amount="2.8936")))
    with pytest.raises(Refused, match="no signed agreement"):
        posted(gateway, item.row.id)


def test_the_contract_says_what_stands_and_a_request_only_narrows_it(gateway: Gateway) -> None:
    limits = PostingLimits(line_micro=50_000, statement_micro=1_000_000, increase_micro=50_000)
    metering = MeteringPolicy(cores_per_node={"cpu": 64})
    signed(gateway, limits=limits, metering=metering, tax=Tax(TaxKind.EXCLUSIVE, "VAT", 6, 100),
           tolerances=Tolerances(seconds_per_boundary=0, quantity_ppm=7, clock_skew_s=3))  # fmt: skip
    statement_id = receive(gateway, line(1)).statement_id
    agreed, wider = rules(gateway, statement_id), rules(gateway, statement_id, auto_break_micro=10**9, skew_s=999)
    assert agreed == wider
    assert (agreed.version, agreed.auto_break_micro, agreed.increase_micro) == ("a1/1", 50_000, 50_000)
    assert (agreed.tolerance.seconds, agreed.tolerance.ppm, agreed.ground.skew_s) == (0, 7, 3)
    assert agreed.ground.taxes == (Ratio("with VAT", 106, 100),)
    assert (agreed.ground_of("cpu").cores_per_node, agreed.ground_of("gpu").cores_per_node) == (64, 0)
    less = rules(gateway, statement_id, auto_break_micro=1, auto_causes=frozenset({Cause.SKEW, Cause.PRICE}))
    assert (less.auto_break_micro, less.auto_causes) == (1, {Cause.SKEW})


def test_rates_of_the_period_come_from_the_books(gateway: Gateway) -> None:
    signed(gateway, payout=Payout(currency="USD"))
    with gateway.services.db.write() as conn:
        for day, num in ((date(2026, 10, 31), 13), (date(2026, 11, 2), 14)):
            settlements.add_rate(conn, Rate("CNY", "USD", day, num, 100, "bank"), now=LONG_AGO)
    found = rules(gateway, receive(gateway, line(1)).statement_id).ground.rates
    assert found == (Ratio("CNY/USD of 2026-11-02", 14, 100),)


def test_without_a_signed_agreement_nothing_stands_without_a_person(gateway: Gateway) -> None:
    have(gateway, row(1, ElapsedRaw="3500", Suspended="00:01:57"))
    received = receive(gateway, line(1))
    done, found = compare(gateway, received, rules(gateway, received.statement_id))
    assert (done.posted, kinds(found)) == (0, [("B03", "suspended", "explained")])


def test_a_statement_of_the_centres_share_is_compared_with_its_share(gateway: Gateway) -> None:
    signed(gateway, statements=StatementTerms(Bills.SHARE))
    have(gateway, row(1))
    have(gateway, row(2))
    received = receive(gateway, line(1, amount="1.01276"), line(2, amount="2.01276"))
    _, (item,) = compare(gateway, received, rules(gateway, received.statement_id))
    before = standing(gateway.services.db, payable("centre"))
    posted(gateway, item.row.id)
    assert standing(gateway.services.db, payable("centre")) == before - 1_000_000


def test_the_limits_hold_for_a_statement_that_names_no_money(gateway: Gateway) -> None:
    signed(gateway, limits=PostingLimits(increase_micro=46_799))
    have(gateway, row(1, ElapsedRaw="3500", Suspended="00:01:57"))
    received = receive(gateway, line(1, amount=None))
    done, _ = compare(gateway, received, rules(gateway, received.statement_id))
    assert done.posted == 0


def test_what_is_posted_from_a_signed_statement_is_evidence_of_both_sides(gateway: Gateway) -> None:
    signed(gateway, limits=PostingLimits(increase_micro=1_000_000))
    private = Ed25519PrivateKey.generate()
    key = SigningKey("c1", "Ed25519", private.public_key().public_bytes_raw(), LONG_AGO)
    with gateway.services.db.write() as conn:
        contracts.add_key(conn, "centre", key)
    have(gateway, row(1, ElapsedRaw="3500", Suspended="00:01:57"))
    document = json.dumps({"lines": [line(1)], "totals": {}}).encode()
    jws = sign_jws(document, private=private.private_bytes_raw(), key_id="c1", kind="penstock-statement")
    received = receive(gateway, line(1), signature=jws.encode())
    assert received.signed.signer == "centre"
    done, _ = compare(gateway, received, rules(gateway, received.statement_id))
    assert done.posted == 1
    with gateway.services.db.read() as conn:
        ids = conn.scalars(select(CHARGES.c.entry_id).order_by(CHARGES.c.id)).all()
        sides = [c.record["one_sided"] for leaf in entries(conn, ids) for c in leaf.charged]
    assert sides == [True, False]


def test_a_statement_is_of_the_months_of_the_agreements_zone(gateway: Gateway) -> None:
    signed(gateway, zone="Asia/Shanghai")
    first = datetime(2026, 10, 31, 16, 30, tzinfo=UTC)  # half past midnight of 1 November there
    at = str(int(first.timestamp()))
    have(gateway, row(1, Submit=at, Start=at, End=str(int(at) + 3617)))
    received = receive(gateway, line(1, start=int(at), end=int(at) + 3617))
    done, found = compare(gateway, received)
    assert (done.counts["runs"], done.counts["agreed"], found) == (1, 1, [])
