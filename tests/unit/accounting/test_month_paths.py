"""What makes a month of a million runs fast must change no figure: prices from a shared timeline, long looks in spans,
statements spooled and signed at any size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting.calendar import Window, month
from accounting.evidence.note import public_bytes
from accounting.meter import MeteringPolicy, meter
from accounting.price import NoPrice, PriceBook, Segment, price
from accounting.reconciling.statement import Header
from accounting.reconciling.statement_formats import Profile, read_statement
from accounting.signing import BadSignature, sign_jws, verify_jws
from accounting.tariff import rule_at
from gateway import leases
from gateway.billing.collect import collect
from site_adapters.types import SiteUsage, UsageBatch
from tests.builders import Altered, Gateway, local_site, make_gateway
from tests.unit.accounting.makers import HERE, rule, run

ZONE = "Europe/Berlin"  # its clocks change twice a year
RULES = (
    rule(1, 150_000, zone=ZONE),
    rule(2, 100_000, zone=ZONE, window=Window(22 * 60, 8 * 60)),
    rule(3, 90_000, zone=ZONE, window=Window(9 * 60, 17 * 60, (5, 6))),
    rule(4, 2_000_000, resource="node_seconds", valid_from=datetime(2026, 3, 1, tzinfo=UTC)),
)
SHARED = PriceBook(RULES)


@settings(deadline=None, max_examples=60)
@given(start=st.integers(1_767_225_600, 1_798_761_600), elapsed=st.integers(1, 40 * 86_400), cores=st.integers(1, 999))
def test_a_price_from_the_shared_timeline_is_the_rule_of_every_moment(start: int, elapsed: int, cores: int) -> None:
    record = run(cores=cores, elapsed=elapsed, start=datetime.fromtimestamp(start, UTC))
    metered = meter(record, MeteringPolicy())

    def charged(book: PriceBook) -> list[Segment] | None:
        try:
            return list(price(record, metered, book, HERE).segments)
        except NoPrice:
            return None

    found = charged(SHARED)
    assert found == charged(PriceBook(RULES))
    if found is None:
        assert record.start_time is not None and record.start_time < RULES[-1].valid_from
        return
    for segment in found:
        rules = [r for r in RULES if r.resource == segment.resource]
        step = (segment.end - segment.start) / 7
        moments = [segment.start, *(segment.start + n * step for n in range(1, 7)), segment.end - timedelta(seconds=1)]
        assert {getattr(rule_at(rules, at), "id", None) for at in moments} == {segment.rule_id}
    assert sum(s.quantity for s in found if s.resource == "core_seconds") == cores * elapsed


def test_a_run_of_decades_is_priced_without_filling_the_timeline() -> None:
    book = PriceBook([rule(1, 360_000), rule(2, 180_000, valid_from=datetime(2024, 1, 1, tzinfo=UTC), queue="cpu")])
    wrong = run(elapsed=20 * 365 * 86_400, start=datetime(2020, 2, 1, tzinfo=UTC))
    assert len(price(wrong, meter(wrong, MeteringPolicy()), book, HERE).segments) == 2
    timeline = book.timeline(HERE, "core_seconds")
    assert timeline is not None and timeline._known is None


# ---------------------------------------------------------------- long looks


@pytest.fixture
def gateway(tmp_path: Path, db_url: str) -> Iterator[Gateway]:
    made = make_gateway(tmp_path, db_url, local_site(tmp_path))
    yield made
    made.services.close()


class BusyCentre:
    """So many rows an hour, each of somebody else's job; counts how it is asked."""

    def __init__(self, an_hour: int) -> None:
        self.an_hour, self.asked = an_hour, list[tuple[datetime, datetime, int]]()

    def usage(self, since: datetime, until: datetime, _accounts: Any = ()) -> UsageBatch:
        rows = int((until - since) / timedelta(hours=1) * self.an_hour)
        self.asked.append((since, until, rows))
        fields = {"JobID": "1.batch"}  # a step: read, and no run of its own
        return UsageBatch(tuple(SiteUsage("sacct/1", fields) for _ in range(rows)), ())


@pytest.mark.parametrize("an_hour", [0, 100, 2_000])
def test_a_long_look_is_taken_in_spans_that_fit_in_memory(gateway: Gateway, an_hour: int) -> None:
    centre, now = BusyCentre(an_hour), gateway.services.clock()
    site = replace(gateway.services.sites["local"], billing=Altered(None, usage=centre.usage))
    services = replace(gateway.services, sites={"local": site})
    report = collect(services, leases.take(services.db, "local", "test"), now)
    assert report.good and report.rows == sum(rows for *_, rows in centre.asked)
    begins, ends, rows = zip(*centre.asked, strict=True)
    assert begins[0] == now - timedelta(days=35) and ends[-1] == now
    assert begins[1:] == ends[:-1]  # no gap, no overlap
    assert max(rows) <= 50_000
    assert an_hour or len(rows) <= 13  # a quiet centre is not asked day by day


# ---------------------------------------------------------------- large statements


def test_a_statement_of_many_megabytes_can_be_signed_and_not_be_changed() -> None:
    key, document = Ed25519PrivateKey.generate(), b"alpha:1,3600\n" * 100_000
    head, _, tail = sign_jws(document, private=key.private_bytes_raw(), key_id="k", kind="s").split(".")
    verify_jws(f"{head}..{tail}", public=public_bytes(key), payload=document, kind="s")
    with pytest.raises(BadSignature):
        verify_jws(f"{head}..{tail}", public=public_bytes(key), payload=document + b"1", kind="s")


def test_the_lines_of_a_long_statement_come_back_in_order_and_as_they_were_read() -> None:
    lines = ["run_key,quantity,amount,start", *(f"alpha:{n},{n},0.{n:06d},{1_793_491_200 + n}" for n in range(12_345))]
    profile = Profile({"run_key": "run_key", "quantity": "quantity", "amount": "amount", "start": "start"})
    found = read_statement("\n".join(lines).encode(), site_id="alpha", format_name="csv", profile=profile,
                           header=Header(month("2026-11"), "CNY")).read  # fmt: skip
    for _ in range(2):  # as often as wanted
        rows = [row for batch in found.batches() for row in batch]
        assert [(row[0], row[1], row[14], row[16]) for row in rows] == [
            (n + 2, f"alpha:{n}", n, n) for n in range(12_345)
        ]
    assert (found.lines, found.core_seconds, found.amount_micro) == (12_345, sum(range(12_345)), sum(range(12_345)))


@pytest.mark.parametrize("text", ["1.5", "0.000001", "1e3", "12345678901", "0.1234567", "+3", "07", "1_000"])
def test_a_number_means_the_same_however_it_is_read(text: str) -> None:
    document = f"run_key,quantity,amount\nalpha:1,1,{text}\n".encode()
    found = read_statement(document, site_id="alpha", format_name="csv", header=Header(month("2026-11"), "CNY"),
                           profile=Profile({n: n for n in ("run_key", "quantity", "amount")}))  # fmt: skip
    exact = (Decimal(text) * 1_000_000).to_integral_value(ROUND_HALF_UP)
    assert found.read.amount_micro == int(exact)
