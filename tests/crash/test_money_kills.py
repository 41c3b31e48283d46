"""`kill -9` around each commit of a request about money; the client asks again: done once, and the books whole."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import func, select

from accounting import store as books
from accounting.parties import SigningKey
from accounting.signing import sign_jws
from accounting.store import allocations, contracts, settlements
from accounting.store.cancellations import Cancellation, request_cancellation
from accounting.store.schema import CANCELLATIONS, ORDER_PRICES, ORDERS
from gateway.billing import evidence
from gateway.identity import service, tokens
from tests.builders import Gateway, api, local_site, make_gateway
from tests.crash.zygote import Zygote
from tests.lab.slurm import wait_for
from tests.unit.accounting.makers import LONG_AGO, agree, agreement
from tests.unit.gateway.test_api_billing import Billing

pytestmark = pytest.mark.live

Headers = dict[str, str]
MOMENTS = ("before commit", "after commit")
PRIVATE = b"c" * 32
PATIENCE_S = 240  # a busy machine is slow; each cut comes when its commit does
ROWS = "r1,2026-11-02,1.00,uni,PS-000001\nr2,2026-11-02,2.00,uni,?\n"
BANK = {"format": "csv", "profile": {"account": "ACC"}, "content": f"reference,date,amount,payer,remittance\n{ROWS}"}


@dataclass(slots=True)
class Kills:
    """A gateway whose HTTP dies in the middle of requests."""

    billing: Billing
    staff: Headers
    zygote: Zygote
    folder: Path
    died: list[str] = field(default_factory=list)

    def through(self, path: str, body: Any, headers: Headers, *, commits: int = 1) -> httpx.Response:
        """Ask, be cut off before and after each commit in turn, and ask again where nothing is cut off: the answer."""
        headers = headers | {"Idempotency-Key": f"key-{path}"}
        for nth in range(1, commits + 1):
            for moment in MOMENTS:
                self._cut_off(path, body, headers, moment, nth)
                self.billing.gateway.check_books()
        return self.billing.client.post(path, json=body, headers=headers)

    def _cut_off(self, path: str, body: Any, headers: Headers, moment: str, nth: int) -> None:
        port_file = self.folder / f"port{len(self.died)}"
        settings = self.billing.gateway.services.settings.model_dump(mode="json")
        order = {
            "settings": settings,
            "point": moment,
            "nth": nth,
            "kill_after_s": PATIENCE_S,
            "port_file": str(port_file),
        }
        with ThreadPoolExecutor(1) as pool:
            life = pool.submit(self.zygote.life, order)
            wait_for(lambda: port_file.exists() or life.done(), "the gateway", PATIENCE_S, every=0.01)
            url = f"http://127.0.0.1:{port_file.read_text()}/api/v2"
            with pytest.raises(httpx.TransportError):
                httpx.post(f"{url}/{path}", json=body, headers=headers, timeout=PATIENCE_S)
            died = life.result()
        assert (died["status"], died["at_point"]) == (signal.SIGKILL, True), (path, moment, nth, died)
        self.died.append(f"{path}: {moment} {nth}")

    def count(self, table: Any, *where: Any) -> int:
        with self.billing.gateway.services.db.read() as conn:
            return int(conn.scalar(select(func.count()).select_from(table).where(*where)) or 0)


@pytest.fixture
def kills(tmp_path: Path, db_url: str) -> Iterator[Kills]:
    gateway = make_gateway(tmp_path, db_url, local_site(tmp_path))
    agree(gateway.services.db, agreement(site_ids=("local",), unused_back_ppm=800_000))
    operator, carl = _login(gateway, "operator", operator=True), _login(gateway, "carl", staff=True)
    public = Ed25519PrivateKey.from_private_bytes(PRIVATE).public_key().public_bytes_raw()
    with gateway.services.db.write() as conn:
        contracts.add_key(conn, "centre", SigningKey("c1", "Ed25519", public, LONG_AGO))
    zygote = Zygote(tmp_path / "servers.log")
    try:
        with api(gateway) as client:
            yield Kills(Billing(gateway, client, operator), carl, zygote, tmp_path)
    finally:
        zygote.close()


def _login(gateway: Gateway, name: str, *, operator: bool = False, staff: bool = False) -> Headers:
    now = gateway.services.clock()
    scopes = tokens.SCOPES if operator else ("read", "submit")
    with gateway.services.db.write() as conn:
        user_id = service.create_user(conn, name=name, operator_admin=operator, now=now)
        if staff:
            service.add_staff(conn, site_id="local", user_id=user_id, now=now)
        made = tokens.issue(conn, user_id=user_id, name="t", scopes=scopes, lifetime=timedelta(days=3), now=now)
    return {"Authorization": f"Bearer {made.secret}"}


def ok(answer: httpx.Response, status: int) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


def test_an_order_and_its_cancellation_are_booked_once(kills: Kills) -> None:
    gateway, operator = kills.billing.gateway, kills.billing.operator
    body = {"project": "demo", "payer": "uni", "kind": "block", "amount": 3600, "price": "10", "agreement": "a1",
            "ends_at": (gateway.services.clock() + timedelta(days=30)).isoformat()}  # fmt: skip
    placed = ok(kills.through("orders", body, operator), 201)["id"]
    assert (kills.count(ORDERS), kills.count(ORDER_PRICES)) == (1, 1)
    assert _standing(gateway) == (10_000_000, {placed: 3600})

    canceled = ok(kills.through(f"orders/{placed}/cancel", {"reason": "the project ended"}, operator), 201)
    assert canceled["state"] == "posted"
    assert (kills.count(CANCELLATIONS), kills.count(ORDER_PRICES)) == (1, 2)
    assert _standing(gateway) == (2_000_000, {placed: 0})
    assert len(kills.died) == 4


def test_a_cancellation_that_waits_for_a_second_person_is_decided_once(kills: Kills) -> None:
    gateway, operator = kills.billing.gateway, kills.billing.operator
    second = _login(gateway, "second", operator=True)
    body = {"project": "demo", "payer": "uni", "kind": "block", "amount": 3600, "price": "900", "agreement": "a1"}
    placed = ok(kills.billing.client.post("orders", json=body, headers=operator), 201)["id"]
    with gateway.services.db.write() as conn:
        asked = Cancellation("k1", placed, "the project ended", service.user_id_of(conn, "operator"))
        assert request_cancellation(conn, asked, four_eyes_micro=1, now=gateway.services.clock()) == "waiting"
    again = kills.through("cancellations/k1/decide", {"approve": True}, second)
    assert (again.status_code, "posted already" in again.text) == (409, True), again.text
    assert _standing(gateway) == (180_000_000, {placed: 0})


def test_a_banks_file_and_money_allocated_by_hand_are_booked_once(kills: Kills) -> None:
    billing, operator = kills.billing, kills.billing.operator
    billing.work(36_000)
    billing.bill()
    ok(kills.through("billing/payments-import", BANK, operator, commits=2), 200)
    items = billing.get("payments", headers=operator)["items"]
    assert sorted((p["bank_ref"], p["amount"], p["unallocated"]) for p in items) == [
        ("r1", "1.00", "0.00"), ("r2", "2.00", "2.00"),
    ]  # fmt: skip
    waits = next(p["id"] for p in items if p["bank_ref"] == "r2")
    ok(kills.through(f"billing/payments/{waits}/allocate", {"invoice": "PS-000001", "amount": "1.50"}, operator), 200)
    assert billing.get("invoices/PS-000001")["open"] == "1.32"  # of 3.82
    services = billing.gateway.services
    evidence.append(services, None, services.clock())
    log = billing.client.get("evidence/log").json()
    assert (log["waiting"], log["size"]) == (0, log["checkpoint"])


def test_a_settlement_is_drawn_signed_and_paid_once(kills: Kills) -> None:
    billing, operator = kills.billing, kills.billing.operator
    billing.work(36_000)
    now = billing.gateway.services.clock()
    span = {"since": (now - timedelta(days=90)).isoformat(), "until": now.isoformat()}
    drawn = ok(kills.through("billing/settlements", {"centre": "centre"} | span, operator), 201)
    where = f"billing/settlements/{drawn['id']}"
    text = billing.client.get(f"{where}/statement", headers=kills.staff).content
    jws = sign_jws(text, private=PRIVATE, key_id="c1", kind="penstock-settlement")
    again = kills.through(f"{where}/sign", {"jws": jws}, kills.staff)
    assert (again.status_code, "agreed" in again.text) == (409, True), again.text
    ok(kills.through(f"{where}/payments", {"amount": drawn["pay"], "reference": "b1"}, operator), 201)
    (seen,) = billing.get("settlements", headers=operator)["items"]
    assert (seen["state"], seen["paid"]) == ("agreed", drawn["pay"])
    with billing.gateway.services.db.read() as conn:
        assert settlements.check_settlements(conn) == []


def _standing(gateway: Gateway) -> tuple[int, dict[str, int]]:
    """What the project owes in money, and what is left of what it bought."""
    with gateway.services.db.read() as conn:
        money = next(e for e in books.exposure(conn, gateway.project_id) if e.commodity == "CNY")
        return money.settled, allocations.remaining(conn, gateway.project_id, "core-seconds")
