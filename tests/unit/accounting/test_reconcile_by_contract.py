"""A comparison goes by the agreement that both sides signed: whom money is owed, what stands, what is billed."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select

from accounting.agreement import Bills, Payout, PostingLimits, StatementTerms, Tax, TaxKind, Tolerances
from accounting.evidence import merkle
from accounting.evidence.canonical import sha256_hex
from accounting.evidence.confirmations import leaf_of
from accounting.evidence.leaves import entries
from accounting.evidence.outbox import OUTBOX
from accounting.ledger import payable
from accounting.meter import MeteringPolicy
from accounting.parties import SigningKey
from accounting.reconciling.breaks import Act, Cause, Refused
from accounting.reconciling.confirmed import Confirmed, confirmed
from accounting.reconciling.drafts import Rules
from accounting.reconciling.explain import Ratio
from accounting.reconciling.statement_store import statement_row
from accounting.reconciling.terms import Narrower
from accounting.settle import Rate
from accounting.signing import sign_jws
from accounting.store import contracts, settlements
from accounting.store.schema import CHARGES, USAGE
from gateway.billing.recon_rules import rules_for
from tests.builders import Gateway
from tests.unit.accounting import makers
from tests.unit.accounting.makers import LONG_AGO, agree, agreement, standing
from tests.unit.accounting.test_reconcile import act, compare, gateway, have, kinds, line, receive, row

_ = gateway  # the fixture


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
        drawn = makers.draw(conn, settlement_id="s1", agreement=agreement(site_ids=("local",)), start=LONG_AGO,
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


def test_a_run_may_differ_by_one_second_for_each_core_and_no_more(gateway: Gateway) -> None:
    """Start and end are whole seconds: the time between them is off by less than one, however many cores."""
    signed(gateway)
    have(gateway, row(1), row(2))
    apart = {"amount": None, "elapsed": 0, "end": None}
    received = receive(gateway, line(1, quantity=14_468 + 4, **apart), line(2, quantity=14_468 + 5, **apart))
    done, found = compare(gateway, received, rules(gateway, received.statement_id))
    assert (done.counts["agreed"], [b.row.line_no for b in found]) == (1, [2])


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


def signature(gateway: Gateway, *lines: dict[str, Any]) -> bytes:
    """The centre's JWS under the statement of these lines; its key is known."""
    private = Ed25519PrivateKey.generate()
    key = SigningKey("c1", "Ed25519", private.public_key().public_bytes_raw(), LONG_AGO)
    with gateway.services.db.write() as conn:
        contracts.add_key(conn, "centre", key)
    document = json.dumps({"lines": lines, "totals": {}}).encode()
    return sign_jws(document, private=private.private_bytes_raw(), key_id="c1", kind="penstock-statement").encode()


def one_sided(gateway: Gateway) -> list[bool]:
    """What the leaves of the charges say of their records, oldest first."""
    with gateway.services.db.read() as conn:
        ids = conn.scalars(select(CHARGES.c.entry_id).order_by(CHARGES.c.id)).all()
        return [bool(c.record["one_sided"]) for leaf in entries(conn, ids) for c in leaf.charged]


def confirmations(gateway: Gateway) -> dict[str, Confirmed]:
    """What the centre has confirmed, by the run's key."""
    with gateway.services.db.read() as conn:
        keys = {r.id: r.run_key for r in conn.execute(select(USAGE.c.id, USAGE.c.run_key))}
        return {keys[record]: found for record, found in confirmed(conn, keys).items()}


def test_what_is_posted_from_a_signed_statement_is_evidence_of_both_sides(gateway: Gateway) -> None:
    signed(gateway, limits=PostingLimits(increase_micro=1_000_000))
    have(gateway, row(1, ElapsedRaw="3500", Suspended="00:01:57"))
    received = receive(gateway, line(1), signature=signature(gateway, line(1)))
    assert received.signed.signer == "centre"
    done, _ = compare(gateway, received, rules(gateway, received.statement_id))
    assert done.posted == 1
    assert one_sided(gateway) == [True, False]


def test_runs_that_agree_with_a_signed_statement_are_confirmed_by_the_centre(gateway: Gateway) -> None:
    signed(gateway, limits=PostingLimits(increase_micro=1_000_000))
    have(gateway, row(1), row(2), row(3, ElapsedRaw="3000"))
    lines = (line(1), line(2, run_key="", amount=None), line(3, quantity=999_999))
    received = receive(gateway, *lines, signature=signature(gateway, *lines))
    done, _ = compare(gateway, received, rules(gateway, received.statement_id))
    assert done.counts["agreed"] == 2
    digest = hashlib.sha256(json.dumps({"lines": lines, "totals": {}}).encode()).hexdigest()
    assert confirmations(gateway) == {
        "alpha:101": Confirmed(received.statement_id, 1, "centre", digest),
        "alpha:102": Confirmed(received.statement_id, 2, "centre", digest),
    }  # the third differs, so that nobody has confirmed it
    assert compare(gateway, received, rules(gateway, received.statement_id))[0].counts["agreed"] == 2
    with gateway.services.db.read() as conn:
        (leaf,) = conn.execute(select(OUTBOX).where(OUTBOX.c.kind == "confirmation")).all()
    first, second = (leaf_of(["local", f"alpha:{n}", "centre", 1], n - 100) for n in (101, 102))
    content = {"v": 1, "t": "confirmation", "statement": digest, "signed_by": "centre", "runs": "2",
               "root": base64.b64encode(merkle.node_hash(first, second)).decode()}  # fmt: skip
    assert json.loads(leaf.body)["sha256"] == sha256_hex(content)


def test_a_statement_that_nobody_signed_confirms_nothing_until_its_signature_comes(gateway: Gateway) -> None:
    signed(gateway)
    have(gateway, row(1))
    received = receive(gateway, line(1))
    done, _ = compare(gateway, received, rules(gateway, received.statement_id))
    assert (done.counts["agreed"], confirmations(gateway)) == (1, {})
    again = receive(gateway, line(1), signature=signature(gateway, line(1)))
    assert again.statement_id == received.statement_id
    compare(gateway, received, rules(gateway, received.statement_id))
    assert list(confirmations(gateway)) == ["alpha:101"]


def test_a_raw_record_cannot_claim_that_its_centre_signed_it_or_that_both_sides_agreed(gateway: Gateway) -> None:
    signed(gateway)
    claims = {"statement signed by": "centre", "signed_by": "centre", "statement_id": "1", "statement": "1",
              "break": "1"}  # fmt: skip
    have(gateway, row(1))
    have(gateway, row(1, ElapsedRaw="3000", **claims))
    assert one_sided(gateway) == [True, True]
    have(gateway, row(1))  # the centre corrects its log back: that is a reading like any other
    with gateway.services.db.read() as conn:
        assert conn.scalars(select(USAGE.c.elapsed_s).order_by(USAGE.c.revision)).all() == [3617, 3000, 3617]
        assert set(conn.scalars(select(USAGE.c.signed_by))) == {None}


def test_a_statement_is_of_the_months_of_the_agreements_zone(gateway: Gateway) -> None:
    signed(gateway, zone="Asia/Shanghai")
    first = datetime(2026, 10, 31, 16, 30, tzinfo=UTC)  # half past midnight of 1 November there
    at = str(int(first.timestamp()))
    have(gateway, row(1, Submit=at, Start=at, End=str(int(at) + 3617)))
    received = receive(gateway, line(1, start=int(at), end=int(at) + 3617))
    done, found = compare(gateway, received)
    assert (done.counts["runs"], done.counts["agreed"], found) == (1, 1, [])
