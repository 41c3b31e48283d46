"""Agreements and tariffs take effect with both signatures, and divide what is charged."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounting import store as books
from accounting.agreement import Agreement, Share, Shares, Tax, TaxKind, agreement_of
from accounting.calendar import Window
from accounting.errors import AccountingError, KeyReused, NotSigned, TariffOverlap
from accounting.ledger import BORNE, REVENUE, divide, payable, receivable
from accounting.meter import CENTRE, OPERATOR, Bears, MeteringPolicy
from accounting.parties import Signature
from accounting.store import contracts
from accounting.store.contracts import Terms
from accounting.tariff import Discount, Tariff, overlaps, problems, tariff_of
from accounting.usage import Kind
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
    owed,
    rule,
    run,
    sign_both,
    sign_one,
    standing,
)


def tariff(version: int, micro: int, **more: object) -> Tariff:
    values = {"id": "t1", "agreement_id": "a1", "valid_from": LONG_AGO} | more
    return Tariff(version=version, rules=(rule(0, micro),), **values)  # type: ignore[arg-type]


def test_an_agreement_that_was_signed_before_a_term_existed_keeps_its_bytes() -> None:
    before, later = agreement(), agreement(unused_back_ppm=500_000)
    assert b"unused_back_ppm" not in before.payload and agreement_of(before.payload).sha256 == before.sha256
    assert b'"unused_back_ppm":500000' in later.payload and agreement_of(later.payload) == later


def test_documents_survive_their_bytes_and_any_change_changes_the_hash() -> None:
    document = agreement(metering=MeteringPolicy(liability={"NODE_FAIL": CENTRE}), grades={"*": "超算"})
    assert agreement_of(document.payload) == document
    assert replace(document, version=2).sha256 != document.sha256
    prices = Tariff("t", 1, "a1", T0, (rule(0, window=Window(0, 60)), rule(0, 5, tier_from=3)))
    assert tariff_of(prices.payload) == prices


def test_a_tariff_prices_nothing_until_both_signed_and_never_before(db: Database) -> None:
    agree(db)
    with db.write() as conn:
        contracts.save_tariff(conn, tariff(1, 360_000), now=LONG_AGO)
        sign_one(conn, tariff(1, 360_000), "op", at=LONG_AGO)
        assert books.tariffs(conn) == []
        sign_one(conn, tariff(1, 360_000), "centre", at=T0)
        assert [(r.price_micro, r.valid_from, r.tariff_id) for r in books.tariffs(conn)] == [(360_000, T0, "t1/1")]
        contracts.save_tariff(conn, tariff(2, 720_000), now=T0)
        sign_both(conn, tariff(2, 720_000), at=T0 + timedelta(seconds=50))
    charge(db, run())
    assert owed(db) == 20_000 + 40_000  # half at the old price, half at the new


@pytest.mark.parametrize("site", [None, "beta"])
def test_a_centre_signs_no_prices_of_another_centre(db: Database, site: str | None) -> None:
    """A rule of the tariff with alpha that names no site, or beta: at beta the operator's own price stays."""
    add_rules(db, rule(0, 360_000, site_id=None))
    agree(db)
    cheap = Tariff("t1", 1, "a1", LONG_AGO, (rule(0, 36_000, site_id=site),))
    with db.write() as conn:
        contracts.save_tariff(conn, cheap, now=LONG_AGO)
        sign_both(conn, cheap, at=LONG_AGO)
    charge(db, run("1", site_id="beta"))
    assert owed(db) == 40_000
    charge(db, run("2", site_id="alpha"))
    assert owed(db) == 40_000 + (4_000 if site is None else 40_000)


def test_who_is_no_party_or_signs_other_bytes_is_refused(db: Database) -> None:
    document = agreement()
    with db.write() as conn:
        contracts.save_agreement(conn, document, now=T0)
        sign_one(conn, document, "op")
    for signature in (
        Signature("op", "op#1", b"op" + document.payload[:-1], T0),
        Signature("op", "unknown", b"op" + document.payload, T0),
        Signature("stranger", "op#1", b"op" + document.payload, T0),
        Signature("op", "op#1", b"op" + document.payload, LONG_AGO - timedelta(days=1)),
    ):
        with pytest.raises(NotSigned), db.write() as conn:
            contracts.sign(conn, document.sha256, signature, lambda key, payload, s: s == key.public + payload)
    with pytest.raises(KeyReused), db.write() as conn:
        contracts.save_agreement(conn, replace(document, brand="other"), now=T0)


def test_a_new_version_of_an_agreement_holds_from_its_date(db: Database) -> None:
    add_rules(db, rule())
    agree(db)
    agree(db, agreement(version=2, valid_from=T0, shares=Shares(2, (Share("op", 1), Share("centre", 1)), "op")))
    charge(db, run("1", start=T0 - timedelta(days=1)), run("2"))
    assert standing(db, payable("centre")) == -(28_000 + 20_000)
    assert owed(db) == 80_000


def test_the_centre_gets_its_share_and_bears_its_faults(db: Database) -> None:
    add_rules(db, rule())
    liability = {"NODE_FAIL": CENTRE, "PREEMPTED": OPERATOR, "BOOT_FAIL": Bears(1, 1, 1)}
    agree(db, agreement(metering=MeteringPolicy("m2", liability=liability)))
    charge(db, run("1"), run("2", state="NODE_FAIL"), run("3", state="PREEMPTED"), run("4", state="BOOT_FAIL"))
    assert owed(db) == 40_000 + 0 + 0 + 13_334
    assert standing(db, BORNE) == 40_000 + 13_333
    assert standing(db, payable("centre")) == -(28_000 + 0 + 28_000 + (26_667 - 26_667 * 30 // 100))
    with db.read() as conn:
        lines = books.charges_of_job(conn, "j2")
        found = books.explain(conn, lines[0].charge_id)
    assert found is not None and found.charge.reason == "liability:NODE_FAIL"
    assert any("the centre is not paid 0.04 CNY" in step for step in found.steps)
    assert any("400 core-seconds × rule 1: 0.36 CNY per core-hour = 0.04 CNY" in step for step in found.steps)


def test_no_bill_rises_after_n_days_but_falls_at_any_time(db: Database) -> None:
    add_rules(db, rule())
    agree(db, agreement(no_rise_after_days=30))
    charge(db, run("1"), run("2"))
    charge(db, run("1", elapsed=200), now=NOW + timedelta(days=20))
    assert owed(db) == 120_000
    late = NOW + timedelta(days=40)
    charge(db, run("2", elapsed=200), now=late)
    assert (owed(db), standing(db, BORNE)) == (120_000, 40_000)
    assert standing(db, payable("centre")) == -112_000  # the centre is paid for what it delivered
    charge(db, run("2", elapsed=50), now=late)
    assert (owed(db), standing(db, BORNE)) == (100_000, 0)


def test_two_grants_pay_sixty_forty_and_the_remainder_has_a_payer(db: Database) -> None:
    add_rules(db, rule(micro=360_009))
    with db.write() as conn:
        contracts.set_terms(conn, Terms(PROJECT, LONG_AGO, "", (("grant-a", 60), ("grant-b", 40))), now=LONG_AGO)
    charge(db, run())
    total = owed(db)
    first, second = (standing(db, receivable(PROJECT, p)) for p in ("grant-a", "grant-b"))
    assert (total, first, second) == (40_001, 24_001, 16_000)
    charge(db, run(elapsed=33))
    assert owed(db) == sum(standing(db, receivable(PROJECT, p)) for p in ("grant-a", "grant-b")) == 13_200
    with pytest.raises(AccountingError), db.write() as conn:
        contracts.set_terms(conn, Terms(PROJECT, LONG_AGO, "x"), now=NOW)


def test_no_discount_is_made_for_what_is_charged_already(db: Database) -> None:
    add_rules(db, rule())
    charge(db, run(elapsed=100))
    ended = T0 + timedelta(seconds=100)
    off = Discount(0, PROJECT, 1, 2, T0)
    with db.write() as conn:
        with pytest.raises(TariffOverlap, match="charged already"):
            books.add_discount(conn, off, now=NOW)
        with pytest.raises(TariffOverlap, match="charged already"):
            books.add_discount(conn, replace(off, site_id="alpha"), now=NOW)
        books.add_discount(conn, replace(off, site_id="elsewhere"), now=NOW)
        books.add_discount(conn, replace(off, valid_from=ended), now=NOW)


def test_no_price_ends_before_what_it_has_priced(db: Database) -> None:
    add_rules(db, rule(), rule(0, 1, site_id="elsewhere"), rule(0, 1, currency="EUR"))
    charge(db, run(elapsed=100))
    with db.write() as conn:
        with pytest.raises(TariffOverlap, match="charged already"):
            books.close_tariff(conn, 1, valid_to=T0)
        assert all(books.close_tariff(conn, other, valid_to=T0) for other in (2, 3))
        assert books.close_tariff(conn, 1, valid_to=T0 + timedelta(seconds=100))


def test_class_contract_and_grade_choose_the_price(db: Database) -> None:
    agree(db, agreement(grades={"fat": "超算", "*": "惠算"}))
    add_rules(
        db, rule(0, 100), rule(0, 200, user_class="industry"), rule(0, 300, grade="超算"),
        rule(0, 1, resource="unit:shots", per=1000), rule(0, 7_000, resource="minimum", per=1, queue="tiny"),
    )  # fmt: skip
    with db.write() as conn:
        contracts.set_terms(conn, Terms(PROJECT, T0, "industry"), now=LONG_AGO)
        books.add_discount(conn, Discount(0, PROJECT, 3, 4, T0 + timedelta(hours=1), grade="超算"), now=LONG_AGO)
        with pytest.raises(TariffOverlap):
            books.add_discount(conn, Discount(0, PROJECT, 1, 2, T0, grade="超算"), now=LONG_AGO)
    hour = timedelta(hours=1)
    before = T0 - timedelta(hours=2)
    one_hour = {"cores": 1, "elapsed": 3600}
    for expected, record in (
        (100, run("1", start=before, **one_hour)),
        (200, run("2", **one_hour)),
        (300, run("3", queue="fat", start=before, **one_hour)),
        (225, run("4", queue="fat", start=T0 + hour, **one_hour)),
        (200 + 3, run("5", units={"shots": 2_500}, **one_hour)),
        (7_000, run("6", queue="tiny", **one_hour)),
        (0, run("7", queue="tiny", kind=Kind.NEVER_RAN, **one_hour)),
    ):
        owed_before = owed(db)
        charge(db, record)
        assert owed(db) - owed_before == expected, record.run_key


def test_rivals_are_refused_also_by_the_hour() -> None:
    day, evening = rule(1, window=Window(480, 1080)), rule(2, window=Window(1080, 480))
    assert not overlaps(day, evening)
    assert overlaps(day, rule(3, window=Window(600, 660)))
    assert not overlaps(rule(1), day)
    assert overlaps(rule(1, window=Window(0, 60, (0,))), rule(2, window=Window(1380, 30, (6,))))
    assert problems([rule(1), rule(1)]) and problems([rule(1, tier_from=5)]) and not problems([day, evening])


def test_an_agreement_that_cannot_be_is_not_built() -> None:
    with pytest.raises(ValueError, match="whole"):
        Shares(100, (Share("op", 30), Share("centre", 60)), "op")
    with pytest.raises(ValueError, match="remainder"):
        Shares(100, (Share("op", 100),), "centre")
    with pytest.raises(ValueError, match="parties"):
        agreement(collector="stranger")


@given(
    gross=st.integers(0, 10**15),
    bears=st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)).filter(any),
    share=st.integers(0, 1000),
    rate=st.integers(0, 30),
)
def test_every_division_adds_up(gross: int, bears: tuple[int, int, int], share: int, rate: int) -> None:
    shares = Shares(1000, (Share("op", 1000 - share), Share("centre", share)), "op")
    terms: Agreement = agreement(shares=shares, tax=Tax(TaxKind.INCLUSIVE, "VAT", rate, 100))
    d = divide(gross, Bears(*bears), terms)
    assert min(d.amount, d.borne, d.centre, d.tax) >= 0
    assert d.amount + d.borne <= gross
    assert d.centre + d.tax <= d.amount + d.borne
    assert divide(gross, Bears(), None).amount == gross
    assert assigned(run()).record.resources and REVENUE
