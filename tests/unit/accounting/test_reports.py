"""Reports: sums by every key in the calendar of a zone, as it was known then; plots that are safe to show."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import combinations
from xml.etree.ElementTree import Element

import pytest
from defusedxml.ElementTree import fromstring

from accounting.calendar import month
from accounting.reports.plots import Bar, bars_svg
from accounting.reports.spending import By, Question, Scope, spent
from accounting.usage import Meter
from gateway.db import Database
from tests.unit.accounting.invoicing import NOW, T0, charge, parties, run

ZONE = "Asia/Shanghai"
ALL = Scope(True)
START, END = T0 - timedelta(days=10), NOW + timedelta(days=30)
MIDNIGHT = month("2026-11", ZONE).start


@pytest.fixture
def db(db_url: str) -> Iterator[Database]:
    made = Database(db_url)
    with made.write() as conn:
        parties(conn)
        charge(
            conn, run(3600), run(7200, user="u2"), run(3600, site="beta", project="r2"),
            run(1800, at=MIDNIGHT - timedelta(seconds=1)), run(5400, at=MIDNIGHT), run(900, meter=Meter.GATEWAY),
        )  # fmt: skip
    yield made
    made.dispose()


def ask(db: Database, *by: By, scope: Scope = ALL, **more: object) -> dict[tuple[str, ...], tuple[int, int, int]]:
    question = Question(by, **{"start": START, "end": END, "zone": ZONE, **more})  # type: ignore[arg-type]
    with db.read() as conn:
        return {s.keys: (s.runs, s.core_seconds, s.amount_micro) for s in spent(conn, question, scope)}


def test_sums_by_month_put_each_run_where_it_ended_in_the_zone(db: Database) -> None:
    assert ask(db, By.MONTH) == {("2026-10",): (5, 17_100, 237_500), ("2026-11",): (1, 5400, 75_000)}
    assert ask(db, By.MONTH, zone="UTC") == {("2026-10",): (6, 22_500, 312_500)}
    days = ask(db, By.DAY)
    assert days["2026-10-31",] == (1, 1800, 25_000) and days["2026-11-01",] == (1, 5400, 75_000)


def test_each_key_and_every_pair_sums_to_the_same_total(db: Database) -> None:
    whole = ask(db)[()]
    for by in [*((b,) for b in By), *combinations([b for b in By if b is not By.DAY], 2)]:
        found = ask(db, *by).values()
        assert tuple(map(sum, zip(*found, strict=True))) == whole, by
    assert ask(db, By.SITE, By.PROJECT)["beta", "r2"] == (1, 3600, 50_000)


def test_filters_and_scope(db: Database) -> None:
    assert ask(db, project_ids=("r2",)) == {(): (1, 3600, 50_000)}
    assert ask(db, site_ids=("alpha",), user_ids=("u2",)) == {(): (1, 7200, 100_000)}
    assert ask(db, By.PROJECT, scope=Scope(False, ("r2",), "u2")) == {
        ("r1",): (1, 7200, 100_000),
        ("r2",): (1, 3600, 50_000),
    }
    assert ask(db, scope=Scope(False, (), "nobody")) == {}


def test_as_of_says_what_was_known_then(db: Database) -> None:
    later = NOW + timedelta(days=1)
    with db.write() as conn:
        charge(conn, run(7200, key="k"), now=NOW)
        charge(conn, run(3600, key="k", note="changed"), now=later)
    before = ask(db, as_of=T0)[()]
    between = ask(db, as_of=NOW)[()]
    after = ask(db)[()]
    assert (between[2] - before[2], after[2] - before[2]) == (100_000, 50_000)
    assert ask(db, as_of=later) == {(): after}


def test_provisional_money_is_told_apart(db: Database) -> None:
    with db.read() as conn:
        [row] = spent(conn, Question((), START, END, ZONE), ALL)
    assert (row.provisional_micro, row.amount_micro) == (12_500, 312_500)


@pytest.mark.parametrize("more", [{"by": (By.DAY, By.MONTH)}, {"by": (By.SITE, By.SITE)}, {"end": START}])
def test_questions_that_make_no_sense_are_refused(more: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Question(**{"by": (), "start": START, "end": END, "zone": ZONE, **more})  # type: ignore[arg-type]


def test_more_days_than_a_report_holds_are_refused(db: Database) -> None:
    with pytest.raises(ValueError, match="periods"):
        ask(db, By.DAY, start=datetime(2020, 1, 1, tzinfo=UTC))


# ---------------------------------------------------------------- plots


def drawn(bars: list[Bar]) -> Element:
    root: Element = fromstring(bars_svg("Spent <b>", bars, note="n"))
    return root


def widths(root: Element, kind: str) -> list[int]:
    return [int(e.get("width", "")) for e in root.iter("{http://www.w3.org/2000/svg}rect") if e.get("class") == kind]


def test_bars_are_as_long_as_their_values_and_nothing_written_becomes_markup() -> None:
    hostile = "<script>alert(1)</script>\x00"
    more = [Bar("c", Decimal(-5), "-5"), Bar("d", Decimal("0.0001"), "tiny"), Bar("e", Decimal(0), "0")]
    root = drawn([Bar("a", Decimal(10), "10"), Bar(hostile, Decimal(5), "5", Decimal("2.5")), *more])
    a, b, d, e = widths(root, "b")
    assert (a, b, d, e) == (410, 205, 1, 0)
    assert (widths(root, "n"), widths(root, "p")) == ([205], [102])
    assert not [x for x in root.iter() if x.tag.endswith("script")]
    assert root.findtext("{http://www.w3.org/2000/svg}title") == "Spent <b>"


def test_long_lists_are_cut_and_empty_ones_say_so() -> None:
    assert len(widths(drawn([Bar(str(n), Decimal(n), str(n)) for n in range(50)]), "b")) == 40
    assert "+ 10 more" in bars_svg("t", [Bar(str(n), Decimal(n), str(n)) for n in range(50)])
    assert "Nothing" in bars_svg("t", [])
