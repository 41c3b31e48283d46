"""Settlements: shares, tiers, fees, tax and exchange in exact integers; signed by both; every total a movement."""

from __future__ import annotations

import base64
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal, localcontext
from types import ModuleType

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select
from sqlalchemy.exc import DBAPIError

from accounting import settle, signing
from accounting import store as books
from accounting.agreement import Agreement, Model, Payout, Share, Shares, ShareTier, Tax, TaxKind
from accounting.errors import AccountingError
from accounting.evidence import note
from accounting.evidence.about import About
from accounting.evidence.bundle import bundle
from accounting.ledger import Entry
from accounting.parties import Party, Role, Signature, SigningKey
from accounting.settle import Rate, Sums, legs
from accounting.store import contracts, drawing, settlements
from accounting.store.schema import ENTRIES
from gateway.db import Database
from tests.unit.accounting import makers
from tests.unit.accounting.evidence_case import LOG, SEAL, T0, append_all, book, checkpoint, open_books
from tests.unit.accounting.test_evidence_verifier import verifier

_ = verifier  # the fixture

MONTH = (datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))
KEYS = {side: Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for side, n in (("operator", 21), ("centre", 22))}
PARTY_KEYS = {"op": KEYS["operator"], "c1": KEYS["centre"]}
T1 = datetime(2026, 1, 1, tzinfo=UTC)
AGREEMENT = Agreement(
    id="a1", version=1, operator_id="op", centre_id="c1", site_ids=("alpha",), model=Model.ECOMMERCE,
    seller_of_record="op", brand="Penstock", collector="op", currency="CNY",
    shares=Shares(100, (Share("c1", 70), Share("op", 30)), "op"), valid_from=datetime(2026, 1, 1, tzinfo=UTC),
    fees=(Share("op", 12_500),), tax=Tax(TaxKind.INCLUSIVE, "VAT", 6, 100), grades={"gpu": "super", "*": "economy"},
    payout=Payout(withheld_name="WHT", withheld_numerator=10),
)  # fmt: skip


def sign_agreement(conn: Connection, agreement: Agreement) -> None:
    for party, role in (("op", Role.OPERATOR), ("c1", Role.CENTRE)):
        contracts.save_party(conn, Party(party, role, party, site_ids=("alpha",) if party == "c1" else ()), now=T0)
        contracts.add_key(conn, party, SigningKey(party, "Ed25519", note.public_bytes(PARTY_KEYS[party]), T1))
    contracts.save_agreement(conn, agreement, now=T0)
    for party in ("op", "c1"):
        signature = Signature(party, party, PARTY_KEYS[party].sign(agreement.payload), agreement.valid_from)
        contracts.sign(conn, agreement.sha256, signature, lambda *_: True)


@pytest.fixture
def db(db_url: str) -> Iterator[Database]:
    found = Database(db_url)
    with found.write() as conn:
        sign_agreement(conn, AGREEMENT)
        open_books(conn, "p1", "p2")
        book(conn, range(30))
        book(conn, range(30, 40), project="p2")
        book(conn, [7], ElapsedRaw="100")  # corrected by the centre
    yield found
    found.dispose()


def draw(conn: Connection, number: int, *, agreement: Agreement = AGREEMENT, **disputed: str) -> settlements.Settlement:
    return makers.draw(conn, agreement, settlement_id=f"s{number}", start=MONTH[0], end=MONTH[1],
                            disputed=disputed, now=T0 + timedelta(days=30 + number))  # fmt: skip


def sign(conn: Connection, found: settlements.Settlement, *sides: str) -> None:
    for side in sides or ("operator", "centre"):
        private = KEYS[side].private_bytes_raw()
        jws = signing.sign_jws(found.statement.encode(), private=private, key_id=side, kind="penstock-settlement")
        settlements.add_signature(conn, found.id, side, key_id=side, jws=jws, now=T0)


def agree(conn: Connection, found: settlements.Settlement) -> settlements.Settlement:
    sign(conn, found)
    return settlements.agree(conn, found.id, by="test", now=T0 + timedelta(days=40))


def public_keys() -> dict[str, bytes]:
    return {side: note.public_bytes(key) for side, key in KEYS.items()}


# ---------------------------------------------------------------- arithmetic

_AMOUNT = st.integers(-(10**15), 10**15)


_TIERS = st.lists(st.tuples(st.integers(1, 10**14), st.integers(0, 100)), max_size=3, unique_by=lambda t: t[0])


@given(_AMOUNT, st.integers(0, 100), st.integers(0, 100_000), st.integers(0, 30), _TIERS)
def test_the_legs_always_sum_to_what_was_earned(
    earned: int, percent: int, fee: int, withheld: int, tiers: list[tuple[int, int]]
) -> None:
    steps = tuple(ShareTier(begin, share) for begin, share in [(0, percent), *sorted(tiers)])
    agreement = replace(
        AGREEMENT, fees=(Share("op", fee), Share("bank", 17)), payout=Payout(steps if tiers else (), "x", withheld),
        shares=Shares(100, (Share("c1", percent), Share("op", 100 - percent)), "op"),
    )  # fmt: skip
    tax = agreement.tax.within(earned)
    centre = agreement.shares.split(earned - tax)["c1"]
    parts = legs(Sums(earned, 0, centre, tax, earned - centre - tax), agreement)
    assert parts.total(tax) == earned


def test_tiers_fees_and_tax_agree_with_decimal_arithmetic() -> None:
    tiers = (ShareTier(0, 70), ShareTier(1_000_000_000, 75), ShareTier(5_000_000_000, 80))
    agreement = replace(AGREEMENT, payout=Payout(tiers, "WHT", 7))
    earned, tax = 9_876_543_211, 559_049_616
    net = Decimal(earned - tax)
    share = sum(
        (part * percent / 100).to_integral_value(ROUND_DOWN)
        for part, percent in ((Decimal(10**9), 70), (Decimal(4 * 10**9), 75), (net - 5 * 10**9, 80))
    )
    fee = (net * 12_500 / 10**6).to_integral_value(ROUND_DOWN)
    held = ((share - fee) * 7 / 100).to_integral_value(ROUND_DOWN)
    parts = legs(Sums(earned, 0, 6_522_245_516, tax, earned - tax - 6_522_245_516), agreement)
    assert (parts.net, parts.fees["op"], parts.withheld) == (share - fee - held, fee, held)


@given(_AMOUNT, st.integers(1, 10**9), st.integers(1, 10**9), st.sampled_from([("EUR", 2), ("JPY", 0), ("KWD", 3)]))
def test_exchange_gives_whole_coins_that_are_worth_what_they_cost(
    micro: int, num: int, den: int, quote: tuple[str, int]
) -> None:
    currency, places = quote
    rate = Rate("CNY", currency, date(2026, 11, 30), num, den, "ECB")
    with localcontext(prec=60):
        coins = (Decimal(micro) * num / den / 10**6).quantize(Decimal(10) ** -places, ROUND_DOWN)
        assert rate.coins(micro) == coins * 10**6
        assert rate.worth(rate.coins(micro)) == (coins * 10**6 * den / num).to_integral_value(ROUND_HALF_UP)


@pytest.mark.parametrize("paid_in", ["CNY", "EUR", "JPY", "KWD"])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_thousand_months_are_paid_in_whole_coins_and_lose_nothing(paid_in: str, seed: int) -> None:
    """Less than a coin is carried, always; what was paid is worth what was earned but for that. Each month has a rate
    of its own, each entry is even, the clearing account too once it is paid: the bank's gain or loss is all that stays.
    """
    chance = random.Random(seed)
    months = [(chance.randint(-(10**9), 10 ** chance.randint(1, 12)), chance.randint(1, 10**6)) for _ in range(1000)]
    agreement = replace(AGREEMENT, payout=replace(AGREEMENT.payout, currency="" if paid_in == "CNY" else paid_in))
    coin = Decimal(10) ** (6 - {"CNY": 2, "EUR": 2, "JPY": 0, "KWD": 3}[paid_in])
    carried, earned, accounts = 0, 0, defaultdict[tuple[str, str], int](int)
    for month, (net, num) in enumerate(months):
        rate = None if paid_in == "CNY" else Rate("CNY", paid_in, date(2026, 11, 30), num, 10**6, "ECB")
        plain = replace(agreement, fees=(), payout=Payout(currency=agreement.payout.currency))
        draft = a_draft(plain, Sums(earned=net, centre=net), rate, carried)
        said = settle.statement(draft)
        pay, worth, earned = int(said["pay"]), int(said["pay_worth"]), earned + net
        assert pay % coin == 0
        rest = abs(int(said["carried"]))
        assert rest < coin if rate is None else Decimal(rest) * num / 10**6 < coin + 1
        assert net + carried == worth + int(said["carried"])
        carried = int(said["carried"])
        lines = [*Entry(f"s{month}", "settlement", T0, settle.postings(draft)).postings]
        if pay:
            cost = worth - worth % 10_000  # what the bank took: whole fen
            lines += Entry(f"p{month}", "payment", T0, settle.payment_postings(
                "c1", currency=paid_in, pay=pay, cost=cost if rate else pay, cost_currency="CNY", carried=worth,
            )).postings  # fmt: skip
        for line in lines:
            accounts[line.account, line.commodity] += line.amount
    assert accounts["centre:c1:carried", "CNY"] == -carried
    assert accounts["centre:c1:payable", "CNY"] == earned
    assert accounts["centre:c1:settled", paid_in] == accounts["operator:fx-clearing", paid_in] == 0
    assert accounts["operator:fx-clearing", "CNY"] == 0
    assert accounts["operator:cash", "CNY"] % 10_000 == 0
    assert accounts["operator:cash", "CNY"] == carried - earned - accounts["operator:fx-gain-loss", "CNY"]


def a_draft(agreement: Agreement, sums: Sums, rate: Rate | None, carried_before: int) -> settle.Draft:
    return settle.Draft(
        id="s1", revision=1, agreement=agreement, start=MONTH[0], end=MONTH[1], currency="CNY", grades={"": sums},
        late={}, disputed=(), credits=0, opening=0, paid=0, carried_before=carried_before, rate=rate, items_sha256="",
        drawn_at=T0,
    )  # fmt: skip


# ---------------------------------------------------------------- statements


def test_a_statement_is_the_sum_of_its_entries_and_books_its_movements(db: Database) -> None:
    with db.write() as conn:
        said = (found := agree(conn, draw(conn, 1))).said
        assert [g["grade"] for g in said["grades"]] == ["economy", "super"]
        assert said["entries"] == "41"
        assert int(said["credits"]) < 0
        before = {k: v for (k, c), v in books.balances(conn).items() if c == "CNY"}
        assert before["centre:c1:payable"] == 0  # all of it is settled
        assert before["centre:c1:settled"] == -int(said["pay"]) == -int(said["closing"])
        assert before["centre:c1:carried"] == -int(said["carried"]) == int(said["pay"]) - int(said["net"])
        assert 0 < int(said["carried"]) < 10_000, "less than a fen, and this month not nothing"
        assert before["party:op:fees"] == -int(said["fees"][0]["amount"])
        assert before["operator:withheld"] == -int(said["withheld"]["amount"])
        assert -before["operator:revenue"] == int(said["operator_keeps"])
        assert settlements.check_settlements(conn) == []
        assert books.check_books(conn) == []
        with pytest.raises(AccountingError, match=r"0\.000001 CNY is no whole coins"):
            settlements.pay(conn, found.id, amount=1, cost=1, reference="b0", paid_at=T0, now=T0)
        paid = settlements.pay(conn, found.id, amount=int(said["pay"]), cost=int(said["pay"]), reference="b1",
                               paid_at=T0 + timedelta(days=45), now=T0 + timedelta(days=45))  # fmt: skip
        assert paid.paid == int(said["pay"])
        assert books.balances(conn)["centre:c1:settled", "CNY"] == 0
        with pytest.raises(AccountingError, match=r"s1 is agreed, and 0\.00 CNY of it is still to be paid"):
            settlements.pay(conn, found.id, amount=10_000, cost=10_000, reference="b2", paid_at=T0, now=T0)


def test_nothing_is_settled_twice_and_late_corrections_come_with_the_next(db: Database) -> None:
    with db.write() as conn:
        first = agree(conn, draw(conn, 1)).said
        book(conn, [8], ElapsedRaw="50")  # a correction of November that comes in December
        december = (MONTH[1], MONTH[1] + timedelta(days=31))
        second = makers.draw(conn, AGREEMENT, settlement_id="s2", start=december[0], end=december[1], disputed={},
                                  now=T0 + timedelta(days=70)).said  # fmt: skip
        assert second["grades"] == []
        assert [line["entries"] for line in second["corrections_of_earlier_periods"]] == ["1"]
        assert int(second["opening"]) == int(first["closing"])
        assert second["paid"] == "0"
        assert int(second["closing"]) == int(first["closing"]) + int(second["pay"])
        assert second["carried_before"] == first["carried"]
        assert int(second["pay"]) + int(second["carried"]) == int(second["net"]) + int(first["carried"])


def test_what_is_in_dispute_is_carried_forward(db: Database) -> None:
    with db.write() as conn:
        found = draw(conn, 1, **{"charge:5": "the centre says it ran twice"})
        held = found.said["disputed"]
        assert [(h["entry"], h["reason"]) for h in held] == [("charge:5", "the centre says it ran twice")]
        assert found.said["entries"] == "40"
        agree(conn, found)
        again = draw(conn, 2)
        assert (again.said["entries"], again.said["centre_share"]) == ("1", held[0]["centre"])
        settlements.withdraw(conn, "s2", by="x", reason="", now=T0)
        with pytest.raises(AccountingError, match="not among what is to be settled: charge:999"):
            draw(conn, 3, **{"charge:999": "?"})


def test_one_statement_at_a_time_and_a_withdrawn_one_frees_its_entries(db: Database) -> None:
    with db.write() as conn:
        draw(conn, 1)
        with pytest.raises(AccountingError, match="waits for its signatures"):
            draw(conn, 2)
        with pytest.raises(AccountingError, match="signed by"):
            settlements.agree(conn, "s1", by="x", now=T0)
        settlements.withdraw(conn, "s1", by="x", reason="wrong period", now=T0)
        again = draw(conn, 2)
        assert (again.revision, again.said["entries"]) == (2, "41")
    with pytest.raises(DBAPIError, match="append-only"), db.write() as conn:
        conn.execute(settlements.SETTLEMENTS.update().values(statement="{}"))


def test_a_rate_that_somebody_mistyped_draws_no_statement(db: Database) -> None:
    """Nobody signs amounts that no database can book."""
    abroad = replace(AGREEMENT, payout=replace(AGREEMENT.payout, currency="EUR"))
    with pytest.raises(AccountingError, match="rate"), db.write() as conn:
        settlements.add_rate(conn, Rate("CNY", "EUR", date(2026, 11, 27), 2**62, 1, "ECB"), now=T0)
        draw(conn, 1, agreement=abroad)


def test_a_centre_paid_in_another_currency_gains_or_loses_through_clearing_accounts(db: Database) -> None:
    abroad = replace(AGREEMENT, payout=replace(AGREEMENT.payout, currency="EUR"))
    with db.write() as conn, pytest.raises(AccountingError, match="no rate of CNY in EUR"):
        draw(conn, 1, agreement=abroad)
    with db.write() as conn:
        settlements.add_rate(conn, Rate("CNY", "EUR", date(2026, 11, 27), 128_413, 1_000_000, "ECB"), now=T0)
        found = agree(conn, draw(conn, 1, agreement=abroad))
        pay, net = int(found.said["pay"]), int(found.said["net"])
        assert pay == net * 128_413 // (10**6 * 10_000) * 10_000
        worth = int(found.said["pay_worth"])
        now = T0 + timedelta(days=45)
        part, cost = pay // 30_000 * 10_000, worth // 10_000 * 10_000
        settlements.pay(conn, "s1", amount=part, cost=cost // 30_000 * 10_000, reference="1", paid_at=now, now=now)
        with pytest.raises(AccountingError, match="CNY is no whole coins"):
            settlements.pay(conn, "s1", amount=pay - part, cost=12_345, reference="2", paid_at=now, now=now)
        settlements.pay(conn, "s1", amount=pay - part, cost=cost - cost // 30_000 * 10_000 - 20_000, reference="2",
                        paid_at=now, now=now)  # fmt: skip
        after = books.balances(conn)
        for account in ("operator:fx-clearing", "centre:c1:settled", "centre:c1:payable"):
            assert after.get((account, "CNY"), 0) == after.get((account, "EUR"), 0) == 0, account
        assert after["operator:fx-gain-loss", "CNY"] == cost - 20_000 - worth
        assert after["operator:cash", "CNY"] == -(cost - 20_000)
        assert books.check_books(conn) == []
        assert settlements.check_settlements(conn) == []


def test_a_centre_that_is_paid_in_another_currency_from_now_on_keeps_what_is_owed_and_carried(
    db: Database, verifier: ModuleType
) -> None:
    """What is owed in yuan is not added to euros; less than a fen is taken up, as it is in the agreement's currency."""
    abroad = replace(AGREEMENT, version=2, payout=replace(AGREEMENT.payout, currency="EUR"))
    december = (MONTH[1], MONTH[1] + timedelta(days=31))
    with db.write() as conn:
        sign_agreement(conn, abroad)
        settlements.add_rate(conn, Rate("CNY", "EUR", date(2026, 11, 27), 128_413, 1_000_000, "ECB"), now=T0)
        first = agree(conn, draw(conn, 1))
        book(conn, [8], ElapsedRaw="50")
        second = makers.draw(conn, abroad, settlement_id="s2", start=december[0], end=december[1], disputed={},
                             now=T0 + timedelta(days=70)).said  # fmt: skip
        assert (second["opening"], second["paid"], second["closing"]) == ("0", "0", second["pay"])
        assert second["carried_before"] == first.said["carried"] != "0"
        append_all(conn)
        checkpoint(conn)
        bundled = list(bundle(conn, About(*december, settlement_id="s2"), log_key=LOG, seal=SEAL))
    options = verifier.Options(LOG.vkey, [], None, 1, before=first.statement)
    findings, notes, _ = verifier.main_of(iter(bundled), options)
    assert (findings, [n for n in notes if "still owed in CNY" in n] != []) == ([], True)


@pytest.mark.parametrize("tiers", [(), (ShareTier(0, 70), ShareTier(1_000_000, 80))])
def test_the_verifier_re_adds_a_settlement_and_both_signatures(
    db: Database, verifier: ModuleType, tiers: tuple[ShareTier, ...]
) -> None:
    agreement = replace(AGREEMENT, version=2, payout=Payout(tiers, "WHT", 10, currency="EUR"))
    with db.write() as conn:
        sign_agreement(conn, agreement)
        settlements.add_rate(conn, Rate("CNY", "EUR", date(2026, 11, 27), 128_413, 1_000_000, "ECB"), now=T0)
        found = draw(conn, 1, agreement=agreement, **{"charge:5": "twice"})
        sign(conn, found, "operator")
        append_all(conn)
        checkpoint(conn)
        drawn = lines(conn)
        assert check(verifier, drawn) == []  # the centre looks before it signs
        sign(conn, found, "centre")
        settlements.agree(conn, "s1", by="test", now=T0 + timedelta(days=40))
        append_all(conn)
        checkpoint(conn)
        agreed = lines(conn)
    assert check(verifier, agreed) == []
    for name in ("net", "pay", "pay_worth", "carried", "closing", "earned", "centre_share", "credits"):
        value = found.said[name]
        forged = [line.replace(f'"{name}":"{value}"', f'"{name}":"{int(value) + 1}"') for line in agreed]
        assert check(verifier, forged), name


def test_a_statement_under_which_nothing_is_paid_fits_as_well(db: Database, verifier: ModuleType) -> None:
    """All of it is disputed, or was in an earlier one: its entry has one line, of 0."""
    with db.write() as conn:
        keys = set(conn.scalars(select(ENTRIES.c.idem_key)))
        waiting = drawing.still_open(conn, "c1", "CNY", MONTH[1], keys)
        found = draw(conn, 1, **dict.fromkeys(waiting, "node n3"))
        assert found.said["movements"] == [["centre:c1:payable", "CNY", "0"]]
        agree(conn, found)
        append_all(conn)
        checkpoint(conn)
        assert check(verifier, lines(conn)) == []


def lines(conn: Connection) -> list[str]:
    return list(bundle(conn, About(*MONTH, settlement_id="s1"), log_key=LOG, seal=SEAL, signers=public_keys()))


def check(verifier: ModuleType, bundle_lines: list[str]) -> list[str]:
    signers = [f"{side}={base64.b64encode(key).decode()}" for side, key in public_keys().items()]
    options = verifier.Options(LOG.vkey, [], None, 1, signers)
    findings, _, _ = verifier.main_of(iter(bundle_lines), options)
    return list(findings)


# ---------------------------------------------------------------- JWS


def test_a_signature_is_of_one_key_over_one_text() -> None:
    private, public = KEYS["centre"].private_bytes_raw(), note.public_bytes(KEYS["centre"])
    jws = signing.sign_jws(b'{"a":"1"}', private=private, key_id="k", kind="penstock-settlement")
    signing.verify_jws(jws, public=public, payload=b'{"a":"1"}', kind="penstock-settlement")
    assert signing.key_id_of(jws) == "k"
    for change in ({"payload": b'{"a":"2"}'}, {"public": note.public_bytes(KEYS["operator"])}, {"kind": "other"}):
        wanted = {"public": public, "payload": b'{"a":"1"}', "kind": "penstock-settlement"} | change
        with pytest.raises(signing.BadSignature):
            signing.verify_jws(jws, **wanted)  # type: ignore[arg-type]
    for text in ("", "a.b.c", jws[:-4] + "AAAA", "eyJhbGciOiJub25lIn0..", "eyJhbGciOiJub25lIn0.e30."):
        with pytest.raises(signing.BadSignature):
            signing.verify_jws(text, public=public, payload=b"{}", kind="penstock-settlement")


def test_settled_accounts_are_named_after_the_centre() -> None:
    assert settle.settled("c1") == "centre:c1:settled"
