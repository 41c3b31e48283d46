"""Breaks put into raw sources by a maker that shares no code with the explainer: which of them are found, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from accounting import store as books
from accounting.reconciling.breaks import Cause, State
from accounting.reconciling.drafts import Rules
from accounting.reconciling.explain import Ground, Ratio
from accounting.reconciling.statement_formats import Profile
from accounting.reconciling.store import breaks
from accounting.sources import sacct
from gateway.billing import reconcile
from tests import break_maker, builders
from tests.break_maker import BILL, SACCT, make
from tests.builders import Gateway, local_site, make_gateway

PROFILE = Profile({
    "run_key": "key", "native_id": "job", "username": "user", "cores": "cores", "nodes": "nodes", "start": "start",
    "end": "end", "elapsed": "seconds", "quantity": "core_seconds", "amount": "money",
})  # fmt: skip
# The contract as its two parties signed it; the maker knows the same contract by its own constants.
RULES = Rules(ground=Ground(
    cores_per_node=64, threads_per_core=2, price=360_000, other_prices={"of January": 310_000},
    rates=(Ratio("of 3 November", 731, 725),), taxes=(Ratio("VAT 6 %", 106, 100),),
))  # fmt: skip


@pytest.fixture
def gateway(db_url: str, tmp_path: Path) -> Iterator[Gateway]:
    made = make_gateway(tmp_path, db_url, local_site(tmp_path))
    yield made
    builders.OPENED.clear()
    made.services.close()


def deliver(gateway: Gateway, month: break_maker.Month) -> int:
    """Both sides' raw text comes in; the statement's id."""
    reading = sacct.read_document("\n".join(month.sacct), site_id="local", columns=SACCT)
    assert reading.problems == ()
    assert reading.rows == len(month.sacct)
    services = gateway.services
    items = [books.Assigned(r, f"j{r.native_id}", gateway.project_id, r.username, "CNY") for r in reading.records]
    for at in range(0, len(items), 5000):
        with services.db.write() as conn:
            books.record_and_book(conn, items[at : at + 5000], now=services.clock())
    document = "\n".join([",".join(BILL), *month.bill]).encode()
    received = reconcile.receive(services, document, site_id="local", period="2026-11", currency="CNY",
                                 format_name="csv", by="centre", profile=PROFILE)  # fmt: skip
    assert received.problems == 0
    return received.statement_id


def check(gateway: Gateway, month: break_maker.Month) -> tuple[Counter[str], dict[str, tuple[object, ...]]]:
    """How many injected breaks are explained rightly, how many wrongly posted, how many alarms nobody caused."""
    statement_id = deliver(gateway, month)
    reconcile.reconcile(gateway.services, statement_id, rules=RULES, by="admin")
    with gateway.services.db.read() as conn:
        found = breaks(conn, statement_id=statement_id)
        keys = {row.id: row.run_key for row in conn.execute(books.USAGE.select())}
        of_line = {n: line.split(",")[0] for n, line in enumerate(month.bill, 2)}
    gateway.check_books()
    score: Counter[str] = Counter()
    wrong: dict[str, tuple[object, ...]] = {}
    seen: set[str] = set()
    for item in found:
        key = keys[item.row.usage_record_id] if item.row.usage_record_id else of_line[item.row.line_no]
        seen.add(key)
        injected = month.injected.get(key)
        if injected is None:
            score["false alarms"] += 1
            wrong[key] = ("false alarm", item.row.category, item.row.explanation)
            continue
        right = _is_right(item, injected)
        score["right" if right else "wrong"] += 1
        if not right:
            wrong[key] = (injected, item.row.category, item.row.causes, item.row.explanation)
        if item.state is State.POSTED and not (right and set(injected) <= {c.value for c in RULES.auto_causes}):
            score["wrongly posted"] += 1
        score["posted"] += item.state is State.POSTED
    score["missed"] = len(set(month.injected) - seen)
    return score, wrong


def _is_right(item: object, injected: tuple[str, ...]) -> bool:
    row = item.row  # type: ignore[attr-defined]
    if not injected:
        return not row.causes  # what has no reason must not be given one
    if injected[0] in {cause.value for cause in Cause}:
        return set(row.causes) == set(injected)
    return bool(row.category == injected[0])


def test_of_breaks_put_into_raw_sources_nearly_all_are_named_rightly_and_none_is_posted_wrongly(
    gateway: Gateway,
) -> None:
    month = make(4600, seed=4, every=5)
    score, wrong = check(gateway, month)
    print(dict(score))
    total = score["right"] + score["wrong"]
    assert total >= len(month.injected)
    assert score["right"] >= 0.95 * total, (score, list(wrong.items())[:10])
    assert (score["wrongly posted"], score["missed"], score["false alarms"]) == (0, 0, 0)
    assert score["posted"] > 100


@pytest.mark.soak
def test_of_a_hundred_thousand_jobs_without_a_difference_none_raises_an_alarm(gateway: Gateway) -> None:
    month = make(100_000, seed=5, every=10**9)
    score, _ = check(gateway, month)
    assert score["false alarms"] == 0
