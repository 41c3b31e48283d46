"""A statement against the books: matching, causes, the workflow and what is posted, on both databases."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy import Connection, select

from accounting import store as books
from accounting.agreement import StatementTerms
from accounting.calendar import month
from accounting.reconciling import sides, statement_store
from accounting.reconciling import store as recon_store
from accounting.reconciling.breaks import Act, Category, Refused, State
from accounting.reconciling.drafts import Known, Rules
from accounting.reconciling.explain import Ground, Ratio
from accounting.reconciling.statement import Header, Line, Signed
from accounting.reconciling.statement_formats import Profile, read_statement
from accounting.reconciling.statement_store import statement_row
from accounting.reconciling.terms import rules_of
from accounting.sources import read_usage
from accounting.tariff import Discount
from accounting.usage import UsageRecord
from gateway.billing import reconcile
from gateway.billing.reconcile import Received, Reconciled
from gateway.identity import service
from tests import builders
from tests.builders import Gateway, local_site, make_gateway
from tests.lab.slurm import wait_for
from tests.unit.accounting.makers import agree, agreement

T0 = datetime(2026, 11, 10, 12, 0, tzinfo=UTC)
PRICE = 360_000  # micro-units per core-hour: 100 for each core-second
RULES = Rules(ground=Ground(cores_per_node=64, threads_per_core=2, price=PRICE, other_prices={"2026-01": 720_000}))


@pytest.fixture
def gateway(db_url: str, tmp_path: Path) -> Iterator[Gateway]:
    made = make_gateway(tmp_path, db_url, local_site(tmp_path))
    an_operator(made)
    yield made
    builders.OPENED.clear()
    made.services.close()


def row(n: int, **changes: str) -> dict[str, str]:
    """The n-th job as sacct gives it: 4 cores for an hour, one after the other."""
    start = int((T0 + timedelta(hours=n)).timestamp())
    found = {
        "DBIndex": str(100 + n), "Cluster": "alpha", "JobID": str(n), "JobIDRaw": str(n), "User": "alice",
        "Account": "p", "QOS": "", "Partition": "cpu", "State": "COMPLETED", "ExitCode": "0:0",
        "Submit": str(start - 5), "Start": str(start), "End": str(start + 3617), "ElapsedRaw": "3617",
        "Suspended": "", "AllocCPUS": "4", "AllocNodes": "1", "AllocTRES": "", "ReqCPUS": "4", "JobName": "x",
    }  # fmt: skip
    return found | changes


def have(gateway: Gateway, *rows: dict[str, str]) -> None:
    """The centre's meter delivered these records, and they were charged."""
    items = []
    for fields in rows:
        record = read_usage("sacct/1", fields, site_id="local")
        assert isinstance(record, UsageRecord), record
        items.append(books.Assigned(record, f"j{fields['JobIDRaw']}", gateway.project_id, "u1", "CNY"))
    with gateway.services.db.write() as conn:
        books.record_and_book(conn, items, now=T0)


def line(n: int, **changes: Any) -> dict[str, Any]:
    """The centre's line for the n-th job, as our books have it."""
    start = int((T0 + timedelta(hours=n)).timestamp())
    found = {"run_key": f"alpha:{100 + n}", "native_id": str(n), "username": "alice", "cores": 4, "nodes": 1,
             "start": start, "end": start + 3617, "elapsed": 3617, "quantity": 14_468, "amount": "1.4468"}  # fmt: skip
    return found | changes


def receive(gateway: Gateway, *lines: dict[str, Any], totals: dict[str, Any] | None = None, **more: Any) -> Received:
    document = json.dumps({"lines": lines, "totals": totals or {}}).encode()
    return reconcile.receive(gateway.services, document, site_id="local", period="2026-11", currency="CNY",
                             format_name="json", by="centre", **more)  # fmt: skip


def compare(gateway: Gateway, received: Received, rules: Rules = RULES) -> tuple[Reconciled, list[Any]]:
    done = reconcile.reconcile(gateway.services, received.statement_id, rules=rules, by="admin")
    with gateway.services.db.read() as conn:
        return done, recon_store.breaks(conn, statement_id=received.statement_id)


def kinds(found: list[Any]) -> list[tuple[str, str, str]]:
    return [(b.row.category, ",".join(b.row.causes), b.state.value) for b in found]


def owed(gateway: Gateway) -> int:
    with gateway.services.db.read() as conn:
        return next(e.settled for e in books.exposure(conn, gateway.project_id) if e.commodity == "CNY")


def an_operator(gateway: Gateway) -> None:
    """`admin`, without whom a centre would agree with itself."""
    with gateway.services.db.write() as conn:
        service.create_user(conn, name="admin", operator_admin=True, now=gateway.services.clock())


def act(gateway: Gateway, break_id: int, wanted: Act, by: str, **more: str) -> None:
    with gateway.services.db.write() as conn:
        reconcile.act(gateway.services, conn, break_id, wanted, by=by, **more)


def test_a_statement_that_agrees_has_no_break(gateway: Gateway) -> None:
    have(gateway, row(1), row(2))
    done, found = compare(gateway, receive(gateway, line(1), line(2), totals={"lines": 2, "core_seconds": 28_936}))
    assert (done.counts["agreed"], found) == (2, [])
    with gateway.services.db.read() as conn:
        assert recon_store.is_signed_off(conn, 1)


def test_the_same_bytes_are_the_same_statement(gateway: Gateway) -> None:
    first, second = receive(gateway, line(1)), receive(gateway, line(1))
    assert (first.statement_id, first.new, second.statement_id, second.new) == (1, True, 1, False)


def test_suspended_time_is_named_and_the_centres_figure_is_posted_as_a_new_reading(gateway: Gateway) -> None:
    have(gateway, row(1, ElapsedRaw="3500", Suspended="00:01:57"))
    received = receive(gateway, line(1))
    before = owed(gateway)
    done, found = compare(gateway, received)
    assert kinds(found) == [("B03", "suspended", "posted")]
    assert done.posted == 1
    assert (before, owed(gateway)) == (1_400_000, 1_446_800)
    gateway.check_books()
    _, again = compare(gateway, received)
    assert kinds(again) == [("B03", "suspended", "posted")]
    assert owed(gateway) == 1_446_800


def test_the_centres_log_fetched_again_does_not_undo_what_was_agreed(gateway: Gateway) -> None:
    have(gateway, row(1, ElapsedRaw="3500", Suspended="00:01:57"))
    compare(gateway, receive(gateway, line(1)))
    have(gateway, row(1, ElapsedRaw="3500", Suspended="00:01:57"))
    assert owed(gateway) == 1_446_800


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ({}, {"quantity": 64 * 3617, "amount": "23.1488"}, ("B03", "exclusive", "explained")),  # above the cap
        ({}, {"quantity": 28_936, "amount": "2.8936"}, ("B03", "threads", "explained")),
        ({"ReqCPUS": "3"}, {"quantity": 10_851, "amount": "1.0851"}, ("B03", "requested", "explained")),
        ({"ElapsedRaw": "3603"}, {"quantity": 14_400, "amount": "1.44", "elapsed": 3600},
         ("B03", "truncation,skew", "posted")),  # both come to the same
        ({}, {"quantity": 14_400, "amount": "1.44", "elapsed": 3600}, ("B03", "truncation", "posted")),
        ({}, {"quantity": 14_480, "amount": "1.448", "elapsed": 3620}, ("B03", "skew", "posted")),
        ({}, {"amount": "2.8936"}, ("B04", "price", "explained")),
        ({}, {"quantity": 4, "amount": "0.0004"}, ("B10", "unit", "explained")),
        ({}, {"username": "bob"}, ("B08", "", "open")),
        ({"Account": "physics"}, {"account": "chemistry"}, ("B08", "account", "explained")),
        ({"Account": "physics", "ElapsedRaw": "3500", "Suspended": "00:01:57"}, {"account": "chemistry"},
         ("B03", "suspended,account", "explained")),
        ({}, {"quantity": 14_999, "amount": "1.4999"}, ("B03", "", "open")),
        ({}, {"amount": "9.99"}, ("B04", "", "open")),
        ({}, {"quantity": 0, "amount": "0"}, ("B09", "state", "posted")),
    ],
)  # fmt: skip
def test_a_difference_is_named_by_what_gives_it_to_the_second(
    gateway: Gateway, ours: dict[str, str], theirs: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    have(gateway, row(1, **ours))
    rules = replace(RULES, ground=replace(RULES.ground, skew_s=5))
    _, found = compare(gateway, receive(gateway, line(1, **theirs)), rules)
    assert kinds(found) == [expected]
    gateway.check_books()


def test_an_account_is_compared_as_far_as_the_agreement_says_so(gateway: Gateway) -> None:
    have(gateway, *(row(n, Account="physics") for n in (1, 2, 3, 4)))
    lines = [line(1, account="Physics"), line(2, account="physics"), line(3), line(4, account="P-17", run_key="")]
    _, found = compare(gateway, receive(gateway, *lines))
    assert [(*kinds([item])[0], item.row.line_no) for item in found] == [("B08", "account", "explained", 4)]
    assert found[0].row.explanation == "billed to account P-17, and run under physics"
    own = rules_of(agreement(statements=StatementTerms(own_accounts=True)), coin_micro=10_000)
    assert kinds(compare(gateway, receive(gateway, *lines), own)[1]) == [("B08", "account", "gone")]


def test_tax_and_exchange_rate_are_found_also_together_with_suspension(gateway: Gateway) -> None:
    ground = replace(RULES.ground, taxes=(Ratio("VAT 6 %", 106, 100),), rates=(Ratio("of 1 November", 11, 10),))
    rules = replace(RULES, ground=ground)
    have(gateway, row(1), row(2), row(3, ElapsedRaw="3500", Suspended="00:01:57"))
    lines = [line(1, amount="1.533608"), line(2, amount="1.59148"), line(3, amount="1.533608")]
    _, found = compare(gateway, receive(gateway, *lines), rules)
    assert kinds(found) == [
        ("B11", "tax", "explained"), ("B05", "exchange_rate", "explained"), ("B03", "suspended,tax", "explained"),
    ]  # fmt: skip


def test_a_run_billed_twice_is_never_posted_by_the_machine(gateway: Gateway) -> None:
    have(gateway, row(1))
    _, found = compare(gateway, receive(gateway, line(1), line(1)))
    assert kinds(found) == [("B06", "", "open")]
    assert found[0].row.explanation == "line 1 bills this run already"


def test_usage_that_never_went_through_penstock_shows_as_such(gateway: Gateway) -> None:
    _, found = compare(gateway, receive(gateway, line(7, username="mallory")))
    assert kinds(found) == [("B02", "", "open")]
    assert "never went through Penstock" in found[0].row.explanation


def test_a_run_that_the_centre_does_not_bill_is_a_break_of_its_own(gateway: Gateway) -> None:
    have(gateway, row(1), row(2, State="NODE_FAIL"))
    _, found = compare(gateway, receive(gateway))
    assert kinds(found) == [("B01", "", "open"), ("B01", "state", "explained")]


def test_a_requeued_job_billed_on_one_line_names_the_other_run_and_posts_nothing(gateway: Gateway) -> None:
    have(gateway, row(1, State="REQUEUED"), row(2, JobID="1", JobIDRaw="1"))
    _, found = compare(gateway, receive(gateway, line(2, native_id="1", quantity=28_936, amount="2.8936")))
    assert kinds(found) == [("B03", "requeue", "explained"), ("B01", "requeue", "explained")]
    assert owed(gateway) == 2_893_600


def test_a_run_counted_in_another_period_is_a_cut_off(gateway: Gateway) -> None:
    start = datetime(2026, 11, 30, 23, 30, tzinfo=UTC)
    late = row(1, Submit=str(int(start.timestamp())), Start=str(int(start.timestamp())),
               End=str(int(start.timestamp()) + 3600))  # fmt: skip
    have(gateway, late)
    half = line(1, start=int(start.timestamp()), end=int(start.timestamp()) + 1800, elapsed=1800, quantity=7200,
                amount="0.72")  # fmt: skip
    _, found = compare(gateway, receive(gateway, half))
    assert kinds(found) == [("B07", "cut_off", "explained")]


def test_a_run_of_another_month_is_found_by_its_id_and_start(gateway: Gateway) -> None:
    start = int(datetime(2026, 10, 31, 20, 0, tzinfo=UTC).timestamp())
    times = {"Submit": str(start), "Start": str(start), "End": str(start + 3617)}
    have(gateway, row(1, **times), row(2, **times))
    billed = line(1, run_key="", start=start, end=start + 3617)
    _, found = compare(gateway, receive(gateway, billed))
    assert [(*kinds([b])[0], b.row.tier) for b in found] == [("B07", "cut_off", "explained", "T1")]


def test_a_person_who_is_kept_under_two_names_is_one(gateway: Gateway) -> None:
    have(gateway, row(1, User="~a"), row(2, User="~b"))
    received = receive(gateway, line(1), line(2))
    known = Known(pseudonyms={"~a": "alice", "~b": "bob"})
    found = reconcile.look(gateway.services.db, received.statement_id, RULES, known=lambda _conn: known)
    assert (found.matched.agreed, len(found.matched.agreeing)) == (1, 1)
    assert [draft.category for draft in found.drafts] == [Category.IDENTITY]


def test_without_run_keys_id_and_start_are_enough_and_without_ids_a_person_must_say(gateway: Gateway) -> None:
    have(gateway, row(1), row(2))
    lines = [line(1, run_key=""), line(2, run_key="", native_id="", username="alice")]
    done, found = compare(gateway, receive(gateway, *lines))
    assert done.counts["agreed"] == 1
    assert [(b.row.category, b.row.tier, b.state) for b in found] == [("B02", "T2", State.OPEN)]


@pytest.mark.parametrize(("named", "number"), [("7.pbs01", "7"), ("8[].pbs01", "8[1]")])
def test_a_centre_that_leaves_its_server_out_of_ids_is_understood(gateway: Gateway, named: str, number: str) -> None:
    """And so is the line that bills the run once more."""
    record = read_usage("sacct/1", row(1), site_id="local")
    assert isinstance(record, UsageRecord)
    named_so = structs.replace(record, native_id=named, task=1 if "[" in named else None)
    with gateway.services.db.write() as conn:
        books.record_and_book(conn, [books.Assigned(named_so, "j1", gateway.project_id, "u1", "CNY")], now=T0)
    have(gateway, row(2))
    bare = line(1, run_key="", native_id=number)
    done, found = compare(gateway, receive(gateway, bare, bare | {"end": bare["end"] + 1}, line(2)))
    assert (done.counts["agreed"], [b.row.category for b in found]) == (2, ["B06"])


def test_sums_are_compared_with_sums(gateway: Gateway) -> None:
    have(gateway, row(1), row(2), row(3, Partition="gpu"))
    cpu = {"queue": "cpu", "quantity": 28_936, "amount": "2.8936"}
    gpu = {"queue": "gpu", "quantity": 9, "amount": "1"}
    _, found = compare(gateway, receive(gateway, cpu, gpu))
    assert [(b.row.category, b.row.tier, b.row.ours_core_seconds, b.row.line_no) for b in found] == [
        ("B03", "T3", 14_468, 2)
    ]  # fmt: skip


def test_a_statement_whose_lines_do_not_sum_to_its_totals_posts_nothing(gateway: Gateway) -> None:
    have(gateway, row(1, ElapsedRaw="3500", Suspended="00:01:57"))
    done, found = compare(gateway, receive(gateway, line(1), totals={"core_seconds": 99}))
    assert kinds(found) == [("B03", "suspended", "explained"), ("B14", "", "open")]
    assert done.posted == 0


def test_a_signature_that_does_not_verify_posts_nothing(gateway: Gateway) -> None:
    have(gateway, row(1, ElapsedRaw="3500", Suspended="00:01:57"))
    received = receive(gateway, line(1), signature=b"x", verify=lambda _d, _s: Signed("", "not by the centre's key"))
    done, found = compare(gateway, received)
    assert [b.row.category for b in found] == ["B03", "B13"]
    assert done.posted == 0


def test_a_line_that_cannot_be_read_stays_visible(gateway: Gateway) -> None:
    received = receive(gateway, line(1, quantity="many"))
    _, found = compare(gateway, received)
    assert received.problems == 1
    assert [b.row.category for b in found] == ["B14"]
    assert "line 1: 'many' is no number" in found[0].row.explanation


def test_nothing_above_the_contracts_limits_posts_by_itself(gateway: Gateway) -> None:
    have(gateway, row(1, ElapsedRaw="3500", Suspended="00:01:57"), row(2, ElapsedRaw="3500", Suspended="00:01:57"))
    for rules, expected in [
        (replace(RULES, auto_break_micro=46_799), 0),
        (replace(RULES, increase_micro=46_799), 0),
        (replace(RULES, auto_statement_micro=46_800), 1),
    ]:  # fmt: skip
        statement_id = receive(gateway, line(1), line(2)).statement_id
        found = reconcile.look(gateway.services.db, statement_id, rules)
        assert sum(d.accepted for d in found.drafts) == expected


def test_who_proposes_does_not_countersign_and_what_is_agreed_is_posted_once(gateway: Gateway) -> None:
    agree(gateway.services.db, agreement(site_ids=("local",)))
    have(gateway, row(1))
    _, (item,) = compare(gateway, receive(gateway, line(1, amount="2.8936")))
    act(gateway, item.row.id, Act.PROPOSE, "admin", note="the new price holds", resolution="post")
    with pytest.raises(Refused, match="the other side does"):
        act(gateway, item.row.id, Act.COUNTERSIGN, "admin")
    with pytest.raises(Refused, match=r"^this break is proposed: what may be done now: countersign, dispute, reopen$"):
        act(gateway, item.row.id, Act.PROPOSE, "admin", note="anew", resolution="waive")
    act(gateway, item.row.id, Act.COUNTERSIGN, "second")
    with gateway.services.db.read() as conn:
        (item,) = recon_store.breaks(conn, statement_id=1)
        assert item.state is State.POSTED
        assert [(e.act.value, e.by) for e in recon_store.history(conn, item.row.id)][-3:] == [
            ("propose", "admin"), ("countersign", "second"), ("post", "second"),
        ]  # fmt: skip
        assert recon_store.is_signed_off(conn, 1)
    with pytest.raises(Refused):
        act(gateway, item.row.id, Act.PROPOSE, "admin", note="again", resolution="post")
    gateway.check_books()


def test_another_text_after_both_agreed_is_a_break(gateway: Gateway) -> None:
    have(gateway, row(1))
    compare(gateway, receive(gateway, line(1)))
    _, found = compare(gateway, receive(gateway, line(1), line(9)))
    assert [b.row.category for b in found] == [Category.UNKNOWN_TO_US, Category.CHANGED_AFTER]


def test_a_task_of_an_array_is_told_by_the_id_as_schedulers_write_it() -> None:
    header = Header(month("2026-11", "UTC"), "CNY")
    text = "id,no,sum\n211_2,,1\n211[3].pbs01,,1\n211[4],,1\n211,5,1\n211_2,6,1\nx_1,,1\n"
    profile = Profile({"native_id": "id", "task": "no", "quantity": "sum"})
    found = read_statement(text.encode(), site_id="a", format_name="csv", header=header, profile=profile)
    assert [(cells[2], cells[3]) for batch in found.read.batches() for cells in batch] == [
        ("211", 2), ("211[].pbs01", 3), ("211[]", 4), ("211", 5), ("211_2", 6), ("x_1", None),
    ]  # fmt: skip


def test_a_column_that_a_centres_export_lacks_is_named_in_words(gateway: Gateway) -> None:
    at = b"2026-11-01T00:00:00"
    text = b"JobIDRaw|JobID|State|Submit|Start|End|ElapsedRaw|AllocCPUS\n1|1|COMPLETED|%b|%b|%b|0|2\n" % (at, at, at)
    got = reconcile.receive(gateway.services, text, site_id="local", period="2026-11", currency="CNY",
                            format_name="sacct", by="centre")  # fmt: skip
    assert any("it has no 'Cluster'" in f for f in got.findings) and not any("KeyError" in f for f in got.findings)


def test_a_run_that_is_read_anew_during_a_comparison_is_compared_as_it_was_found(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(gateway, row(1), row(2))
    received = receive(gateway, line(1, quantity=20_000, amount=None), line(2))
    lines_of = sides.lines_of

    def meanwhile(conn: Connection, scope: sides.Scope, numbers: Sequence[int]) -> Iterator[Line]:
        have(gateway, row(1, ElapsedRaw="3000"))  # the same again is no new reading
        return lines_of(conn, scope, numbers)

    monkeypatch.setattr(sides, "lines_of", meanwhile)
    done, (found,) = compare(gateway, received)
    assert (done.counts["agreed"], found.row.ours_core_seconds, found.row.theirs_core_seconds) == (1, 14_468, 20_000)


def test_a_statement_sent_anew_takes_the_place_of_the_one_that_was_wrong(gateway: Gateway) -> None:
    agree(gateway.services.db, agreement(site_ids=("local",)))
    have(gateway, row(1), row(2))
    wrong = receive(gateway, line(1, amount="2.8936"), line(9))
    _, (price, unknown, missing) = compare(gateway, wrong)
    act(gateway, price.row.id, Act.PROPOSE, "admin", note="the new price holds", resolution="post")

    _, found = compare(gateway, receive(gateway, line(1), line(2)))

    assert found == [], "nothing of the wrong one was agreed, so that nothing was changed after it"
    with gateway.services.db.read() as conn:
        before = {b.row.id: b for b in recon_store.breaks(conn, statement_id=wrong.statement_id)}
        assert [before[b.row.id].state for b in (unknown, missing)] == [State.GONE] * 2
        assert before[price.row.id].state is State.PROPOSED, "what people have begun they also end"
        assert "statement 2 has taken the place" in recon_store.history(conn, missing.row.id)[-1].note
        assert not recon_store.is_signed_off(conn, wrong.statement_id)
        assert recon_store.is_replaced(conn, wrong.statement_id)
    _, found = compare(gateway, receive(gateway, line(1), line(2), line(3)))
    assert {b.row.category for b in found} == {Category.UNKNOWN_TO_US, Category.CHANGED_AFTER}, "of the second"


def test_a_break_that_a_late_record_explains_away_is_gone(gateway: Gateway) -> None:
    received = receive(gateway, line(1))
    _, found = compare(gateway, received)
    assert kinds(found) == [("B02", "", "open")]
    have(gateway, row(1))
    _, found = compare(gateway, received)
    assert kinds(found) == [("B02", "", "gone")]


def test_money_of_a_quantity_is_told_by_our_price_where_the_centre_names_none(gateway: Gateway) -> None:
    have(gateway, row(1), row(2))
    without = {"quantity": 14_868, "amount": None}
    received = receive(gateway, line(1), {k: v for k, v in (line(2) | without).items() if v is not None})
    _, [found] = compare(gateway, received)
    assert (found.row.category, reconcile.delta_micro(found)) == ("B03", 40_000)
    with gateway.services.db.read() as conn:
        statement = statement_row(conn, received.statement_id)
        assert reconcile.standing(conn, statement, now=gateway.services.clock()).open_micro == 40_000


def test_what_costs_nothing_in_a_block_is_no_matter_of_how_it_ended(gateway: Gateway) -> None:
    have(gateway, row(1))
    with gateway.services.db.write() as conn:
        books.add_discount(conn, Discount(0, gateway.project_id, 0, 1, T0 + timedelta(hours=3)), now=T0)
    have(gateway, row(4))
    _, [found] = compare(gateway, receive(gateway, line(1), line(4)))
    assert (found.row.category, found.row.causes, found.row.ours_micro) == ("B04", ["price"], 0)
    assert found.row.explanation == "by our prices it costs nothing, as in a block that was bought"


def test_a_day_that_cannot_be_read_is_told_in_words(gateway: Gateway) -> None:
    received = receive(gateway, line(1, start="10 of November"))
    assert any(text.endswith("'10 of November' is no time") for text in received.findings)


def test_ages_and_money_of_what_waits(gateway: Gateway) -> None:
    have(gateway, row(1), row(2))
    received = receive(gateway, line(1), line(2, amount="9.99"))
    compare(gateway, received)
    with gateway.services.db.read() as conn:
        statement = statement_row(conn, received.statement_id)
        now = gateway.services.clock() + timedelta(days=9)
        at_a_glance = reconcile.standing(conn, statement, now=now)
    assert (at_a_glance.lines, at_a_glance.agreed, at_a_glance.open_breaks) == (2, 1, 1)
    assert (at_a_glance.open_micro, at_a_glance.oldest_days) == (8_543_200, 9)


def test_other_writers_have_their_turn_while_a_long_statement_arrives(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever wants to write meanwhile waits for some of the lines, never for all; half a statement shows to nobody."""
    db = gateway.services.db
    seen: list[Any] = []
    writers: list[threading.Thread] = []

    def write() -> None:
        with db.write() as conn:
            seen.append(statement_store.statements(conn))

    def kept(conn: Connection, number: int, rows: Sequence[tuple[Any, ...]]) -> None:
        real(conn, number, rows)
        writers.append(threading.Thread(target=write))
        writers[-1].start()
        if (lock := db._write_lock) is None:
            writers[-1].join()
        else:
            wait_for(lambda: len(lock._waiting) > 0, "the other writer to queue")

    real = statement_store.save_lines
    monkeypatch.setattr(statement_store, "save_lines", kept)
    monkeypatch.setattr(reconcile, "_AT_ONCE", 10)

    received = receive(gateway, *map(line, range(1, 36)))

    for writer in writers:
        writer.join()
    assert len(writers) == 4
    assert received.new and seen == [[]] * 4
    with db.read() as conn:
        assert statement_row(conn, received.statement_id).lines == 35
        assert len(conn.execute(select(statement_store.LINES)).all()) == 35


def test_a_statement_that_was_cut_off_is_not_there_and_arrives_whole_the_next_time(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(conn: Connection, number: int, rows: Sequence[tuple[Any, ...]]) -> None:
        real(conn, number, rows)
        if len(conn.execute(select(statement_store.LINES)).all()) > 15:
            raise RuntimeError("power failure")

    real = statement_store.save_lines
    monkeypatch.setattr(reconcile, "_AT_ONCE", 10)
    with monkeypatch.context() as broken:
        broken.setattr(statement_store, "save_lines", cut)
        with pytest.raises(RuntimeError):
            receive(gateway, *map(line, range(1, 36)))
    with gateway.services.db.read() as conn:
        assert statement_store.statements(conn) == []

    received = receive(gateway, *map(line, range(1, 36)))

    assert received.new and not receive(gateway, *map(line, range(1, 36))).new
    _, found = compare(gateway, received)
    assert len(found) == 35
