"""From an order to what it cost: opened at a centre by a tick, whatever is killed or lost in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from click.testing import CliRunner
from penstock.cli.orders import orders as command
from sqlalchemy import text

from gateway import leases
from gateway.billing.openings import open_orders
from gateway.jobs.opened import open_there, under_its_opening
from gateway.jobs.repository import StaleLease
from gateway.services import Sites
from site_adapters.centre.audit import AuditLog
from site_adapters.centre.journal import Store
from site_adapters.centre.opening import OrderDesk
from site_adapters.errors import OutcomeUnknown, SiteError
from site_adapters.orders import NoOrders, Ordering
from site_adapters.policy import Policy
from site_adapters.types import AccountFacts, Attributes, JobSpec, Rejected, Submission, SubmitOutcome
from tests.builders import Gateway, submitting_by
from tests.unit.gateway.test_api_books import payer

Headers = dict[str, str]


@dataclass(slots=True)
class Provisioner:
    """Writes down what the scheduler is told."""

    told: list[str] = field(default_factory=list)
    broken: bool = False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def note(*args: Any, **_options: Any) -> str:
            if self.broken:
                raise SiteError("slurmdbd is away")
            self.told.append(f"{name} {args[0]}")
            return str(args[0]) if name == "login_of" else "pn_demo"

        return note


@dataclass(slots=True)
class Line:
    """The way to the centre's order desk; `cut`: what is called happens, and its answer is lost."""

    desk: OrderDesk
    cut: bool = False
    calls: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.calls.append(name)
            found = getattr(self.desk, name)(*args, **options)
            if self.cut:
                raise OutcomeUnknown("the connection was cut")
            return found

        return call


@dataclass(slots=True)
class Centre:
    line: Line
    provisioner: Provisioner

    @property
    def desk(self) -> OrderDesk:
        return self.line.desk


@pytest.fixture
def centre(gateway: Gateway, tmp_path: Path) -> Iterator[Centre]:
    """The order desk that a docked centre has, behind the gateway's own site."""
    store, provisioner = Store(tmp_path / "orders.sqlite"), Provisioner()
    desk = OrderDesk(store, provisioner, AuditLog(tmp_path / "audit.jsonl"), lambda: datetime.now(UTC),
                     lambda name: AccountFacts(name, 1, "/"))  # fmt: skip
    line = Line(desk)
    sites = cast(Sites, gateway.services.sites)
    dict.__setitem__(sites, "local", replace(dict.__getitem__(sites, "local"), ordering=cast(Any, line)))
    yield Centre(line, provisioner)
    store.close()


def ok(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


def tick(gateway: Gateway) -> None:
    """A run of the tick, as if the time after which a centre is asked again had gone by."""
    with gateway.services.db.write() as conn:
        conn.execute(text("UPDATE opening SET tried_at = NULL"))
    gateway.tick("orders")


def ordered(client: httpx.Client, operator: Headers) -> tuple[str, str]:
    """An order of 10 core-hours to be opened at the centre, and its opening."""
    wanted = {"project": "demo", "payer": "inst", "kind": "trial", "amount": 36_000, "site": "local"}
    payer(client, operator)
    order = ok(client.post("orders", json=wanted, headers=operator), 201)["id"]
    (opening,) = ok(client.get(f"orders/{order}"))["openings"]
    assert (opening["state"], opening["pending"]) == ("new", True)
    return order, opening["id"]


def test_an_order_is_opened_run_and_charged_and_all_of_it_is_one_call_away(
    gateway: Gateway, client: httpx.Client, operator: Headers, centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, opening = ordered(client, operator)
    gateway.tick("orders")
    assert ok(client.get(f"openings/{opening}"))["state"] == "asked"
    assert [o.order_id for o in centre.desk.waiting()] == [opening]

    centre.desk.approve(opening, by="staff")
    tick(gateway)
    job = gateway.submit("local")
    gateway.until(job, "completed")
    gateway.charged(job)

    traced = ok(client.get(f"orders/{order}"))
    (found,) = traced["openings"]
    assert traced["allocations"] == [order]
    assert (found["state"], found["native_account"], found["pending"]) == ("opened", "pn_demo", False)
    assert [(e["act"], e["state"]) for e in found["events"]] == [
        ("open", "new"), ("answer", "asked"), ("answer", "opened")
    ]  # fmt: skip
    assert [(j["id"], len(j["charges"])) for j in found["jobs"]] == [(job, 1)]
    monkeypatch.setenv("PENSTOCK_URL", str(client.base_url).removesuffix("/api/v2/"))
    monkeypatch.setenv("PENSTOCK_TOKEN", gateway.secret)
    shown = CliRunner().invoke(command, ["show", order], standalone_mode=False).output
    assert job in shown and "opened" in shown
    assert "10 core-hours" in CliRunner().invoke(command, ["list", "demo"], standalone_mode=False).output


def test_jobs_are_submitted_under_the_account_and_the_qos_that_the_centre_opened(
    gateway: Gateway, client: httpx.Client, operator: Headers, centre: Centre
) -> None:
    def handed_over(**attributes: Any) -> tuple[str | None, str | None]:
        seen: list[Submission] = []

        def submit(submissions: Sequence[Submission]) -> list[SubmitOutcome]:
            seen.extend(submissions)
            return [Rejected("enough seen") for _ in submissions]

        with submitting_by(gateway, "local", submit):
            gateway.submit("local", attributes=Attributes(duration=600, **attributes))
            gateway.tick("dispatch")
        return seen[-1].spec.attributes.account, seen[-1].spec.attributes.qos

    _, block = ordered(client, operator)
    gateway.tick("orders")
    assert handed_over() == (None, None)  # asked for, not yet opened
    centre.desk.approve(block, by="staff")
    tick(gateway)
    assert handed_over() == ("pn_demo", None)
    assert handed_over(account="own") == ("own", None)

    wanted = {"project": "demo", "site": "local", "kind": "queue_share", "cores": 4}
    share = ok(client.post("openings", json=wanted, headers=operator), 201)["id"]
    tick(gateway)
    centre.desk.approve(share, by="staff")
    tick(gateway)
    assert handed_over() == ("pn_demo", "pn_demo")  # what the provisioner of this test calls everything
    assert handed_over(qos="own") == ("pn_demo", "own")

    for opening in (block, share):
        ok(client.post(f"openings/{opening}/close", json={"reason": "over"}, headers=operator))
    assert handed_over() == (None, None)


def test_an_account_that_was_opened_for_another_login_is_not_ours(
    gateway: Gateway, client: httpx.Client, operator: Headers, centre: Centre
) -> None:
    wanted = {"project": "demo", "site": "local", "kind": "account", "username": "somebody"}
    opening = ok(client.post("openings", json=wanted, headers=operator), 201)["id"]
    gateway.tick("orders")
    centre.desk.approve(opening, by="staff")
    tick(gateway)
    with gateway.services.db.read() as conn:
        there = open_there(conn, "local", gateway.services.clock())

    def account_of(username: str, project_id: str = gateway.project_id) -> str | None:
        spec = under_its_opening(JobSpec(), there, project_id=project_id, username=username, queue="default",
                                 policy=Policy())  # fmt: skip
        return spec.attributes.account

    assert (account_of("somebody"), account_of("me"), account_of("somebody", "r0")) == ("pn_demo", None, None)
    later = gateway.services.clock() + timedelta(days=9)
    with gateway.services.db.write() as conn:
        conn.execute(text("UPDATE opening SET valid_until = :t"), {"t": "2027-01-01 00:00:00"})
    with gateway.services.db.read() as conn:
        assert open_there(conn, "local", later.replace(year=2028)) == []


def test_a_lost_answer_and_a_killed_worker_open_nothing_twice(
    gateway: Gateway, client: httpx.Client, operator: Headers, centre: Centre
) -> None:
    _, opening = ordered(client, operator)
    centre.line.cut = True
    gateway.tick("orders")
    found = ok(client.get(f"openings/{opening}"))
    assert (found["state"], found["pending"], found["detail"]) == ("new", True, "the connection was cut")
    ok(client.post(f"openings/{opening}/change", json={"core_seconds": 72_000}, headers=operator))

    centre.line.cut = False
    tick(gateway)
    centre.desk.approve(opening, by="staff")
    tick(gateway)
    tick(gateway)

    assert ok(client.get(f"openings/{opening}"))["state"] == "opened"
    (at_the_centre,) = centre.desk.openings()
    assert at_the_centre.core_seconds == 72_000  # the newer terms, though the centre knew the older ones already
    assert centre.provisioner.told == ["open_project " + gateway.project_id]


def test_no_transaction_is_open_while_the_centre_is_asked(
    gateway: Gateway, client: httpx.Client, operator: Headers, centre: Centre
) -> None:
    ordered(client, operator)
    tick_of = centre.line.desk.open

    def open_and_write(*args: Any) -> Any:
        with gateway.services.db.write() as conn:  # would wait for ever, or fail, inside another one
            conn.execute(text("UPDATE opening SET detail = 'written meanwhile'"))
        return tick_of(*args)

    class Watched:
        open = staticmethod(open_and_write)

    sites = cast(Sites, gateway.services.sites)
    dict.__setitem__(sites, "local", replace(dict.__getitem__(sites, "local"), ordering=cast(Any, Watched())))
    gateway.tick("orders")
    assert len(centre.desk.waiting()) == 1


def test_a_refusal_a_failure_and_a_centre_without_a_desk_are_told_in_words(
    gateway: Gateway, client: httpx.Client, operator: Headers, centre: Centre
) -> None:
    _, refused = ordered(client, operator)
    _, failed = ordered(client, operator)
    gateway.tick("orders")
    centre.desk.refuse(refused, by="staff", reason="no budget agreed")
    centre.provisioner.broken = True
    centre.desk.approve(failed, by="staff")
    tick(gateway)
    found = ok(client.get(f"openings/{refused}"))
    assert (found["state"], found["detail"]) == ("refused", "no budget agreed")
    found = ok(client.get(f"openings/{failed}"))
    assert (found["state"], found["detail"]) == ("approved", "slurmdbd is away")
    again = client.post(f"openings/{refused}/change", json={"core_seconds": 1}, headers=operator)
    assert (again.status_code, again.headers["content-type"]) == (409, "application/problem+json")

    sites = cast(Sites, gateway.services.sites)
    without = replace(dict.__getitem__(sites, "local"), ordering=cast(Ordering, NoOrders()))
    dict.__setitem__(sites, "local", without)
    _, nowhere = ordered(client, operator)
    gateway.tick("orders")
    found = ok(client.get(f"openings/{nowhere}"))
    assert found["state"] == "refused" and "penstock-site" in found["detail"]


def test_change_renew_and_close_go_to_the_centre_once(
    gateway: Gateway, client: httpx.Client, operator: Headers, centre: Centre
) -> None:
    body = {"project": "demo", "site": "local", "kind": "account", "username": "pn_alice", "person": "alice"}
    opening = ok(client.post("openings", json=body, headers=operator), 201)["id"]
    gateway.tick("orders")
    centre.desk.approve(opening, by="staff")
    tick(gateway)
    until = (datetime.now(UTC) + timedelta(days=30)).replace(microsecond=0)
    ok(client.post(f"openings/{opening}/renew", json={"valid_until": until.isoformat()}, headers=operator))
    tick(gateway)
    assert ok(client.get(f"openings/{opening}"))["state"] == "asked"
    centre.desk.approve(opening, by="staff")
    tick(gateway)
    assert (ok(client.get(f"openings/{opening}"))["state"], centre.desk.opening(opening).valid_until) == (
        "opened", until
    )  # fmt: skip

    for _ in range(2):
        ok(client.post(f"openings/{opening}/close", json={"reason": "left"}, headers=operator))
        tick(gateway)
    found = ok(client.get(f"openings/{opening}"))
    assert (found["state"], found["pending"], found["detail"]) == ("closed", False, "left")
    assert centre.line.calls.count("close") == 1
    assert [e["act"] for e in found["events"]].count("close") == 1


def test_what_the_centre_closes_by_itself_is_seen(
    gateway: Gateway, client: httpx.Client, operator: Headers, centre: Centre
) -> None:
    _, opening = ordered(client, operator)
    gateway.tick("orders")
    centre.desk.approve(opening, by="staff")
    tick(gateway)
    centre.desk.close(opening, reason="its time is over")
    gateway.tick("orders")
    assert ok(client.get(f"openings/{opening}"))["state"] == "opened"  # what is open is not asked about at each tick
    tick(gateway)
    assert ok(client.get(f"openings/{opening}"))["state"] == "closed"


def test_only_the_operator_asks_and_only_members_see(
    gateway: Gateway, client: httpx.Client, operator: Headers, login: Callable[..., Headers], centre: Centre
) -> None:
    order, opening = ordered(client, operator)
    stranger = login("stranger")
    for path in (f"orders/{order}", f"openings/{opening}", "openings?project=demo"):
        assert client.get(path, headers=stranger).status_code == 404, path
        ok(client.get(path))
    for path in ("openings", f"openings/{opening}/change", f"openings/{opening}/renew", f"openings/{opening}/close"):
        assert client.post(path, json={}).status_code == 403, path
    nowhere = {"project": "demo", "site": "nowhere", "kind": "account", "username": "x"}
    answer = client.post("openings", json=nowhere, headers=operator)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/site")
    assert (
        client.post("openings", json=nowhere | {"site": "local", "username": ""}, headers=operator).status_code == 409
    )


def test_a_worker_that_lost_the_site_keeps_no_answer(
    gateway: Gateway, client: httpx.Client, operator: Headers, centre: Centre
) -> None:
    _, opening = ordered(client, operator)
    old = leases.take(gateway.services.db, "local", "old")
    leases.take(gateway.services.db, "local", "new")
    with pytest.raises(StaleLease):
        open_orders(gateway.services, old, gateway.services.clock())
    assert ok(client.get(f"openings/{opening}"))["state"] == "new"
    gateway.leases.clear()
    gateway.tick("orders")
    assert ok(client.get(f"openings/{opening}"))["state"] == "asked"
