"""The independent verifier prices by what both sides signed: tariff versions, grades, liability, threads, shares."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta, timezone
from types import ModuleType

import pytest

from accounting import store as books
from accounting.agreement import Tax, TaxKind
from accounting.calendar import Window
from accounting.evidence.about import About
from accounting.evidence.bundle import bundle
from accounting.meter import Bears, MeteringPolicy
from accounting.parties import Signature
from accounting.store import contracts
from accounting.store.allocations import Renewed, place_order, renew_due
from accounting.store.orders import Order
from accounting.store.prices import _book
from accounting.tariff import Discount, PriceRule, Tariff
from gateway.billing.signing import verify
from gateway.db import Database
from tests.unit.accounting.evidence_case import LOG, MICRO, SEAL, T0, append_all, book, checkpoint
from tests.unit.accounting.test_evidence_verifier import MONTH, check, verifier
from tests.unit.accounting.test_settlement import AGREEMENT, PARTY_KEYS, T1, sign_agreement

_ = verifier  # the fixture

AGREED = replace(
    AGREEMENT, tax=Tax(TaxKind.INCLUSIVE, "VAT", 6, 100), grades={"gpu": "super", "*": "economy"},
    metering=MeteringPolicy(
        version="m1", liability={"NODE_FAIL": Bears(1, 1, 0), "BOOT_FAIL": Bears(0, 0, 1)}, bill_requeued=False,
        held_while_suspended=("core_seconds", "gpu_seconds"), threads_per_core={"gpu": 2},
    ),
)  # fmt: skip


def tariff(version: int, micro: int) -> Tariff:
    beijing = T1.astimezone(timezone(timedelta(hours=8)))  # as a centre in China writes it
    day = PriceRule(0, "CNY", micro, beijing, grade="economy")
    night = PriceRule(
        0, "CNY", micro // 2, T1, grade="economy", window=Window(20 * 60, 23 * 60 + 17), zone="Asia/Tokyo"
    )
    return Tariff("t1", version, "a1", T1, (day, night, PriceRule(0, "CNY", 3 * micro, T1, grade="super")))


@pytest.fixture
def lines(db_url: str) -> Iterator[list[str]]:
    found = Database(db_url)
    with found.write() as conn:
        sign_agreement(conn, AGREED)
        for version, micro, at in ((1, 360_001, T1), (2, 299_999, T0 + timedelta(hours=3, minutes=7))):
            document = tariff(version, micro)
            contracts.save_tariff(conn, document, now=T1)
            for party, key in PARTY_KEYS.items():
                signature = Signature(party, party, key.sign(document.payload), at)
                contracts.sign(conn, document.sha256, signature, verify)
        books.open_project_accounts(conn, "p1", currency="CNY")
        books.grant_credit(conn, project_id="p1", commodity="CNY", amount=10**6 * MICRO, idem_key="g", now=T0)
        book(conn, range(40))
        for number, state in ((50, "NODE_FAIL"), (51, "BOOT_FAIL"), (52, "REQUEUED"), (53, "CANCELLED by 5")):
            book(conn, [number], State=state, Suspended="00:01:40")
        append_all(conn)
        checkpoint(conn)
        yield list(bundle(conn, MONTH_OF_P1, log_key=LOG, seal=SEAL))
    found.dispose()


MONTH_OF_P1 = About(MONTH.start, MONTH.end, "p1")


def test_signed_terms_are_applied_again_and_none_of_the_prices_is_taken_on_trust(
    lines: list[str], verifier: ModuleType
) -> None:
    findings, notes, _ = verifier.main_of(iter(lines), verifier.Options(LOG.vkey, [], None, 1))
    assert findings == []
    assert not [text for text in notes if "not in the bundle" in text or "not derived" in text]
    charges = [c["charge"] for line in lines if '"charges":[{' in line for c in json.loads(line)["charges"]]
    assert {c["grade"] for c in charges} == {"economy", "super"}
    assert max(len(c["segments"]) for c in charges) >= 2
    assert {c["reason"] for c in charges} >= {"", "liability:NODE_FAIL", "liability:BOOT_FAIL"}


@pytest.mark.parametrize("which", range(6))
def test_a_signature_that_is_missing_is_found(lines: list[str], verifier: ModuleType, which: int) -> None:
    """Two under the agreement, two under each version of the tariff."""
    at = [i for i, line in enumerate(lines) if line.startswith('{"t":"signature"')]
    assert len(at) == 6
    assert check(verifier, [line for i, line in enumerate(lines) if i != at[which]])


def test_a_signature_of_another_key_is_found(lines: list[str], verifier: ModuleType) -> None:
    first = next(i for i, line in enumerate(lines) if line.startswith('{"t":"signature"'))
    value = json.loads(lines[first])
    value["key"] = value["key"][:5] + ("A" if value["key"][5] != "A" else "B") + value["key"][6:]
    assert check(verifier, [*lines[:first], json.dumps(value), *lines[first + 1 :]])


# ---------------------------------------------------------------- what the operator gives off


def given_off(db_url: str) -> list[str]:
    """A signed tariff by volume and hour; a discount on a grade, an own price of the project, a trial of two hours."""
    found = Database(db_url)
    half = Discount(0, "p1", 1, 2, T0 + timedelta(hours=1), T0 + timedelta(hours=6, minutes=5), grade="super")
    own = PriceRule(
        0, "CNY", 90_000, T0 + timedelta(hours=2), T0 + timedelta(hours=8), grade="economy", project_id="p1"
    )
    least = PriceRule(0, "CNY", 400_000, T1, resource="minimum")
    volume = PriceRule(0, "CNY", 720_000, T1, grade="super", tier_from=100_000)
    trial = Order("o1", "p1", "uni", "trial", "core-seconds", 10**9, "CNY", T0 + timedelta(hours=9),
                  T0 + timedelta(hours=11), agreement_id="a1")  # fmt: skip
    first = tariff(1, 360_001)
    with found.write() as conn:
        sign_agreement(conn, AGREED)
        document = replace(first, rules=(*first.rules, volume, least))
        contracts.save_tariff(conn, document, now=T1)
        for party, key in PARTY_KEYS.items():
            contracts.sign(conn, document.sha256, Signature(party, party, key.sign(document.payload), T1), verify)
        books.add_tariff(conn, own, now=T1)
        books.add_discount(conn, half, now=T1)
        books.open_project_accounts(conn, "p1", currency="CNY")
        books.grant_credit(conn, project_id="p1", commodity="CNY", amount=10**6 * MICRO, idem_key="g", now=T0)
        place_order(conn, trial, now=T1)
        assert renew_due(conn, now=trial.starts_at) == Renewed(1, {})
        book(conn, range(70))
        book(conn, [5, 15, 20, 33], ElapsedRaw="77", AllocCPUS="63")
        book(conn, [45], Partition="cpu")  # from a count by volume to a flat price
        book(conn, [71], State="NODE_FAIL", Start=str(int(T0.timestamp()) + 3600 * 3))
        assert books.check_books(conn) == []
        append_all(conn)
        checkpoint(conn)
        lines = list(bundle(conn, MONTH_OF_P1, log_key=LOG, seal=SEAL))
    found.dispose()
    return lines


def test_what_the_operator_gave_off_alone_is_borne_by_it_and_computed_again(db_url: str, verifier: ModuleType) -> None:
    lines = given_off(db_url)
    findings, notes, _ = verifier.main_of(iter(lines), verifier.Options(LOG.vkey, [], None, 1))
    assert findings == []
    assert not [text for text in notes if "not in the bundle" in text or "not derived" in text]
    charges = [c["charge"] for line in lines if '"charges":[{' in line for c in json.loads(line)["charges"]]
    lists = [s["list"] for c in charges for s in c["segments"] if "list" in s]
    assert len(lists) >= 40 and len([at for at in lists if "tier_key" in at]) > 5
    assert [c for c in charges if c["amount"] == "0" and int(c["centre"]) > 0]  # the trial


@pytest.fixture
def no_known_prices() -> Iterator[None]:
    """What is kept of prices between calls is made by the code as it is, before and after."""
    _book.cache_clear()
    yield
    _book.cache_clear()


def lets_the_centre_bear_all(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("accounting.agreement.Agreement.borne_of_discount", lambda self, given: 0)


def says_that_the_trial_was_paid(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("accounting.store.paid_spans.Discount", lambda *a, **k: Discount(*a, **k | {"order_id": "o1"}))


def knows_no_list_but_what_it_charges(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("accounting.price.list_rule_at", lambda rules, at: None)


@pytest.mark.usefixtures("no_known_prices")
@pytest.mark.parametrize(
    ("lie", "what"),
    [(lets_the_centre_bear_all, "before what the operator gave off"),
     (says_that_the_trial_was_paid, "order o1 paid for a run"),
     (knows_no_list_but_what_it_charges, "by the list 2")],
)  # fmt: skip
def test_an_operator_that_lets_the_centre_bear_what_it_gave_off_is_found(
    db_url: str, verifier: ModuleType, monkeypatch: pytest.MonkeyPatch, lie: Callable[[pytest.MonkeyPatch], None],
    what: str,
) -> None:  # fmt: skip
    lie(monkeypatch)
    findings, _, _ = verifier.main_of(iter(given_off(db_url)), verifier.Options(LOG.vkey, [], None, 1))
    assert any(what in text for text in findings)
