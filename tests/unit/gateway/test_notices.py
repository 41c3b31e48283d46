"""Budget alerts go out: signed, once for each threshold and span, tried again, and never in anybody's way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest

from gateway import leases
from gateway.billing.upkeep import upkeep
from gateway.embedded import EmbeddedWorker
from gateway.errors import Refused
from gateway.notices import outbox
from gateway.notices.deliver import deliver
from gateway.notices.webhook import load_or_create_secret, signature
from gateway.services import Lease
from tests.builders import Gateway, api, local_site, make_gateway
from tests.lab.slurm import wait_for
from tests.unit.gateway.receiver import Receiver, receiving
from tests.unit.gateway.test_api_books import charge, ok
from tests.unit.gateway.test_budgets import HOUR


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def gateway(db_url: str, tmp_path: Path, receiver: Receiver) -> Gateway:
    return make_gateway(tmp_path, db_url, local_site(tmp_path), webhook_url=receiver.url)


@pytest.fixture
def lease(gateway: Gateway) -> Lease:
    return leases.take(gateway.services.db, "local", "test")


def budget(client: httpx.Client, amount: str = "1.44", **more: object) -> str:
    return str(ok(client.post("billing/budgets", json={"project": "demo", "amount": amount, **more}), 201)["id"])


def at(gateway: Gateway, moment: datetime) -> Gateway:
    return replace(gateway, services=replace(gateway.services, clock=lambda: moment))


def test_each_threshold_goes_out_once_and_signed(
    gateway: Gateway, client: httpx.Client, lease: Lease, receiver: Receiver, type_: Callable[..., str]
) -> None:
    charge(gateway)
    services, now = gateway.services, gateway.services.clock()
    number = budget(client, "2.00", stop=True)
    assert upkeep(services, lease, now).alerts == 1 and receiver.posts == [], "the books wait for no receiver"
    assert deliver(services, lease, now) == 1
    ok(client.post("jobs", json=HOUR), 202)
    for _ in range(2):
        upkeep(services, lease, services.clock())
        deliver(services, lease, services.clock())
    assert receiver.good(services.settings.effective_webhook_secret_file)
    assert receiver.posts[0][0]["content-type"] == "application/json"
    assert [(t["budget"], t["threshold_percent"], t["spent"], t["held"]) for t in receiver.told] == [
        (number, 50, "1.44", "0.00"),
        (number, 80, "1.44", "0.36"),
    ]
    first = receiver.told[0]
    assert (first["project"], first["amount"], first["currency"], first["span"]) == ("demo", "2.00", "CNY", "month")
    listed = ok(client.get("billing/alerts", params={"project": "demo"}))["items"]
    assert [a["id"] for a in listed] == receiver.ids[::-1]
    assert [(d["channel"], d["state"], d["tries"]) for a in listed for d in a["deliveries"]] == [
        ("webhook", "delivered", 1)
    ] * 2
    assert "webhook: sent" in type_("billing", "alerts", "demo")
    assert client.get("billing/alerts", params={"project": "other"}).status_code == 404


def test_what_was_not_taken_is_sent_again_as_it_was(
    gateway: Gateway, client: httpx.Client, lease: Lease, receiver: Receiver
) -> None:
    charge(gateway)
    budget(client, thresholds=[100])
    now = gateway.services.clock()
    upkeep(gateway.services, lease, now)
    receiver.answers = [500, 302]
    for passed, sent in ((0, 1), (5, 1), (11, 2), (60, 2), (80, 3), (100_000, 3)):
        then = now + timedelta(seconds=passed)
        deliver(at(gateway, then).services, lease, then)
        assert len(receiver.posts) == sent, passed
    assert len(set(receiver.ids)) == 1 and len({body for _, body in receiver.posts}) == 1
    assert len({headers["webhook-timestamp"] for headers, _ in receiver.posts}) == 3
    assert receiver.good(gateway.services.settings.effective_webhook_secret_file)


def test_after_three_days_it_is_given_up_and_that_is_said(
    gateway: Gateway, client: httpx.Client, lease: Lease, receiver: Receiver, type_: Callable[..., str]
) -> None:
    charge(gateway)
    budget(client, thresholds=[100])
    then = gateway.services.clock()
    upkeep(gateway.services, lease, then)
    receiver.answers = [503] * 100
    for _ in range(30):
        deliver(at(gateway, then).services, lease, then)
        then += timedelta(hours=25)
    assert len(receiver.posts) == len(outbox.WAITS) + 1
    assert timedelta(days=3) < sum(outbox.WAITS, timedelta()) < timedelta(days=4)
    assert "webhook: given up (the receiver answered 503)" in type_("billing", "alerts", "demo")
    (told,) = ok(client.get("billing/alerts", params={"project": "demo"}))["items"]
    assert told["deliveries"][0]["error"] == "", "where the operator's receiver is, is no matter of the project's"


def test_what_a_dead_worker_was_sending_is_taken_over(
    gateway: Gateway, client: httpx.Client, lease: Lease, receiver: Receiver
) -> None:
    charge(gateway)
    budget(client, thresholds=[100])
    now = gateway.services.clock()
    upkeep(gateway.services, lease, now)
    with gateway.services.db.write() as conn:
        assert outbox.claim(conn, now=now) is not None
    assert deliver(gateway.services, lease, now) == 0
    later = now + timedelta(minutes=3)
    assert deliver(at(gateway, later).services, lease, later) == 1


def test_eight_workers_send_each_notice_once(
    gateway: Gateway, client: httpx.Client, lease: Lease, receiver: Receiver
) -> None:
    charge(gateway)
    for _ in range(3):
        budget(client)
    now = gateway.services.clock()
    assert upkeep(gateway.services, lease, now).alerts == 9
    with ThreadPoolExecutor(8) as workers:
        sent = list(workers.map(lambda _: deliver(gateway.services, lease, now), range(8)))
    assert sum(sent) == 9 and len(set(receiver.ids)) == len(receiver.ids) == 9
    assert sorted(receiver.ids) == [a["id"] for a in ok(client.get("billing/alerts?project=demo"))["items"]][::-1]


def test_while_a_receiver_thinks_people_work(
    gateway: Gateway, client: httpx.Client, lease: Lease, receiver: Receiver
) -> None:
    charge(gateway)
    budget(client, thresholds=[100])
    upkeep(gateway.services, lease, gateway.services.clock())
    done: list[int] = []
    receiver.meanwhile = lambda: done.append(client.post("jobs", json=HOUR).status_code)
    assert deliver(gateway.services, lease, gateway.services.clock()) == 1
    assert done == [202], "a transaction that was open would have kept this one waiting"


def test_a_receiver_that_is_away_is_tried_again(gateway: Gateway, client: httpx.Client, lease: Lease) -> None:
    charge(gateway)
    budget(client, thresholds=[100])
    away = replace(gateway.services, settings=gateway.services.settings.model_copy(
        update={"webhook_url": "http://127.0.0.1:9/nobody"}
    ))  # fmt: skip
    upkeep(away, lease, away.clock())
    assert deliver(away, lease, away.clock()) == 0
    (told,) = ok(client.get("billing/alerts", params={"project": "demo"}))["items"]
    assert [(d["state"], d["tries"]) for d in told["deliveries"]] == [("waiting", 1)]


def test_the_gateway_sends_by_itself(db_url: str, tmp_path: Path, receiver: Receiver) -> None:
    gateway = make_gateway(tmp_path, db_url, local_site(tmp_path), webhook_url=receiver.url, facts_s=0.3, notices_s=0.1)
    charge(gateway)
    with api(gateway) as client:
        budget(client, thresholds=[100])
    worker = EmbeddedWorker(gateway.services)
    worker.start()
    try:
        wait_for(lambda: len(receiver.posts) == 1, "the alert")
    finally:
        worker.stop()
    assert receiver.good(gateway.services.settings.effective_webhook_secret_file) and len(receiver.posts) == 1


def test_signatures_are_those_of_the_specifications_own_library(tmp_path: Path) -> None:
    """Made once with standardwebhooks 1.0.0: Webhook(secret).sign(id, time, body)."""
    file = tmp_path / "webhook.secret"
    file.write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
    found = signature(load_or_create_secret(file), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_file_without_a_secret_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "webhook.secret").write_text("whsec_c2hvcnQ=\n")
    with pytest.raises(Refused, match="5 bytes, not 24 to 64"):
        make_gateway(tmp_path, f"sqlite:///{tmp_path / 'w.sqlite'}", webhook_url="https://receiver.example/x")
    made = tmp_path / "other.secret"
    assert len(load_or_create_secret(made)) == 32 and made.stat().st_mode & 0o777 == 0o600
