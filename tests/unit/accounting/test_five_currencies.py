"""Five currencies, tiers, hours of the day, three grades, tax and a 70/30 split: the same micro-units from each
database and from a computation in Decimal that shares no code with ours; no drift after a thousand late corrections."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from zoneinfo import ZoneInfo

from msgspec import structs
from sqlalchemy import select

from accounting import store as books
from accounting.agreement import Tax, TaxKind
from accounting.calendar import Window
from accounting.ledger import TAX, payable
from accounting.store.schema import CHARGES, REVERSALS
from accounting.usage import CORE_SECONDS, GPU_SECONDS, UsageRecord
from gateway.db import Database
from tests.unit.accounting.makers import NOW, agree, agreement, rule, run

CURRENCIES = ("CNY", "EUR", "USD", "JPY", "GBP")
GRADES = {"economy": "惠算", "quality": "质算", "super": "超算"}
ZONE = "Asia/Shanghai"
HOUR_PRICE = {
    "惠算": 37_013,
    "质算": 81_007,
    "超算": 199_999,
}  # micro-units a core-hour, in every currency × its number
NIGHT = Window(23 * 60, 7 * 60)
TIERS = ((0, 2_500_003), (40_000, 1_999_999), (200_000, 1_234_567))  # GPU-seconds in the month, a GPU-hour
START = datetime(2026, 10, 1, tzinfo=UTC)
RUNS, CORRECTIONS = 600, 1_000


def price_of(currency: str, grade: str) -> int:
    return HOUR_PRICE[grade] * (CURRENCIES.index(currency) + 1)


def set_up(db: Database) -> None:
    terms = agreement(zone=ZONE, grades=GRADES, tax=Tax(TaxKind.INCLUSIVE, "VAT", 6, 100))
    agree(db, terms)
    with db.write() as conn:
        for currency in CURRENCIES:
            books.open_project_accounts(conn, f"p{currency}", currency=currency)
            for grade in GRADES.values():
                micro = price_of(currency, grade)
                for item in (rule(0, micro, grade=grade), rule(0, micro // 2, grade=grade, window=NIGHT, zone=ZONE)):
                    books.add_tariff(conn, replace(item, currency=currency), now=START)
            for bound, micro in TIERS:
                tier = rule(0, micro, resource=GPU_SECONDS, tier_from=bound, zone=ZONE)
                books.add_tariff(conn, replace(tier, currency=currency), now=START)


@dataclass(frozen=True)
class Sample:
    """A run and who pays for it."""

    record: UsageRecord
    currency: str


def some_run(number: int, dice: random.Random) -> Sample:
    start = START + timedelta(minutes=dice.randrange(60 * 24 * 40))
    minutes = dice.randrange(1, 60 * 30)
    cores = dice.randrange(1, 97)
    gpus = dice.choice((0, 0, 1, 3))
    record = run(str(number), cores=cores, elapsed=minutes * 60, start=start, queue=dice.choice(sorted(GRADES)),
                 gpu_seconds=gpus * minutes * 60, raw={"n": str(number), "s": start.isoformat(), "m": str(minutes),
                                                       "c": str(cores), "g": str(gpus)})  # fmt: skip
    return Sample(record, CURRENCIES[number % 5])


def book(db: Database, samples: list[Sample], now: datetime) -> None:
    for i in range(0, len(samples), 250):
        with db.write() as conn:
            items = [books.Assigned(s.record, f"j{s.record.run_key}", f"p{s.currency}", "u", s.currency)
                     for s in samples[i : i + 250]]  # fmt: skip
            books.record_and_book(conn, items, now=now)


# ---------------------------------------------------------------- the other computation


def rounded(value: Decimal) -> int:
    return int(value.quantize(Decimal(1), ROUND_HALF_UP))


def cores_in_decimal(sample: Sample) -> int:
    """Minute by minute by the wall clock; what follows in a row at one price is rounded once."""
    r = sample.record
    assert r.start_time is not None
    pieces: list[list[int]] = []
    for minute in range(r.elapsed_s // 60):
        hour = (r.start_time + timedelta(minutes=minute)).astimezone(ZoneInfo(ZONE)).hour
        day_price = price_of(sample.currency, GRADES[r.queue])
        micro = day_price // 2 if hour >= 23 or hour < 7 else day_price
        if pieces and pieces[-1][0] == micro:
            pieces[-1][1] += 60 * r.cores
        else:
            pieces.append([micro, 60 * r.cores])
    return sum(rounded(Decimal(micro) * seconds / 3600) for micro, seconds in pieces)


def gpus_in_decimal(samples: list[Sample]) -> int:
    """Month by month: the whole month's GPU-seconds through the tiers."""
    months: dict[tuple[int, int], int] = {}
    for s in samples:
        r = s.record
        assert r.start_time is not None
        gpus = r.gpu_seconds // r.elapsed_s
        for minute in range(r.elapsed_s // 60 if gpus else 0):
            local = (r.start_time + timedelta(minutes=minute)).astimezone(ZoneInfo(ZONE))
            key = (local.year, local.month)
            months[key] = months.get(key, 0) + 60 * gpus
    total = 0
    for seconds in months.values():
        for i, (bound, micro) in enumerate(TIERS):
            top = TIERS[i + 1][0] if i + 1 < len(TIERS) else seconds
            part = max(0, min(seconds, top) - bound)
            total += rounded(Decimal(micro) * part / 3600)
    return total


def expected(samples: list[Sample], currency: str) -> int:
    own = [s for s in samples if s.currency == currency]
    return sum(cores_in_decimal(s) for s in own) + gpus_in_decimal(own)


def parts_in_decimal(gross: int) -> tuple[int, int]:
    """Tax that the price contains, and the centre's 70 % of the rest with what rounding leaves of the operator's 30."""
    tax = rounded(Decimal(gross) * 6 / 106)
    return tax, (gross - tax) - (gross - tax) * 30 // 100


def assert_books_agree(db: Database, samples: list[Sample]) -> None:
    with db.read() as conn:
        assert books.check_books(conn) == []
        stood = books.balances(conn)
        live = conn.execute(
            select(CHARGES.c.currency, CHARGES.c.gross_micro)
            .outerjoin(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id)
            .where(REVERSALS.c.charge_id.is_(None))
        ).all()
    for currency in CURRENCIES:
        assert stood[f"project:p{currency}:usage", currency] == expected(samples, currency)
        parts = [parts_in_decimal(c.gross_micro) for c in live if c.currency == currency]
        assert stood[TAX, currency] == -sum(tax for tax, _ in parts)
        assert stood[payable("centre"), currency] == -sum(centre for _, centre in parts)


def test_the_same_micro_units_from_both_databases_and_from_decimal(db_url: str) -> None:
    dice = random.Random(4)
    db = Database(db_url)
    set_up(db)
    samples = [some_run(i, dice) for i in range(RUNS)]
    dice.shuffle(samples)
    book(db, samples, NOW)
    assert_books_agree(db, samples)
    assert any(s.record.resources.get(CORE_SECONDS) for s in samples)

    # A thousand late corrections, in any order: figures, queues and months change, GPUs come and go.
    live = {s.record.run_key: s for s in samples}
    for round_number in range(CORRECTIONS // 250):
        changed = []
        for number in dice.sample(range(RUNS), 250):
            new = some_run(number, dice)
            record = structs.replace(new.record, raw={**new.record.raw, "round": str(round_number)})
            changed.append(Sample(record, new.currency))
        live |= {s.record.run_key: s for s in changed}
        book(db, changed, NOW + timedelta(days=round_number))
    assert_books_agree(db, list(live.values()))
    db.dispose()
