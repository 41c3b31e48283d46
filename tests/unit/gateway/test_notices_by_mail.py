"""Budget alerts by e-mail: to a project's owners who have said where to, by a server that is verified."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from gateway import leases
from gateway.billing.upkeep import upkeep
from gateway.identity import service
from gateway.notices.deliver import deliver
from tests.builders import Gateway, api, local_site, make_gateway
from tests.unit.gateway.mail_server import certificate_of_loopback, mail_server
from tests.unit.gateway.test_api_books import charge, ok
from tests.unit.gateway.test_notices import at, budget


def mailing(folder: Path, db_url: str, port: int, **more: object) -> Gateway:
    settings = {"smtp_host": "127.0.0.1", "smtp_port": port, "smtp_security": "none", "mail_from": "pen@gw.example"}
    return make_gateway(folder, db_url, local_site(folder), **(settings | more))


def told(gateway: Gateway) -> int:
    lease = leases.take(gateway.services.db, "local", "test")
    upkeep(gateway.services, lease, gateway.services.clock())
    return deliver(gateway.services, lease, gateway.services.clock())


def test_owners_who_have_said_where_to_are_told_once(db_url: str, tmp_path: Path) -> None:
    with mail_server() as server:
        gateway = mailing(tmp_path, db_url, server.port)
        charge(gateway)
        with gateway.services.db.write() as conn:
            for name, role in (("bob", "owner"), ("rita", "researcher")):
                user = service.create_user(conn, name=name, now=gateway.services.clock())
                service.add_member(conn, project_id=gateway.project_id, user_id=user, role=role,
                                   now=gateway.services.clock())  # fmt: skip
        with api(gateway) as client:
            assert (
                ok(client.put("whoami/mail", json={"address": "alice@uni.example"}))["address"] == "alice@uni.example"
            )
            budget(client, "1.60", thresholds=[80], stop=True)
            assert told(gateway) == 1 and told(gateway) == 0
            (alert,) = ok(client.get("billing/alerts?project=demo"))["items"]
        assert [(d["channel"], d["state"]) for d in alert["deliveries"]] == [("mail", "delivered")]
    ((recipient, letter),) = server.letters
    assert recipient == letter["To"] == "alice@uni.example"
    assert letter["Message-ID"] == f"<{alert['id']}@gw.example>"
    assert letter["Subject"] == "demo: 80 % of a budget / 预算已达 80 %"
    text = letter.get_content()
    assert "Charged 1.44, held 0.00, of 1.60 CNY (month)." in text
    assert "项目 demo 的预算已用或占用 80 %：1.44 + 0.00 / 1.60 CNY（本月）。" in text
    assert "Nothing more can be submitted" not in text


def test_an_address_is_the_persons_own(
    gateway: Gateway, client: httpx.Client, type_: Callable[..., str], login: Callable[..., dict[str, str]]
) -> None:
    alice = {"Authorization": str(client.headers["authorization"])}
    assert type_("mail", as_=alice) == "nowhere\n"
    assert type_("mail", "alice@uni.example", as_=alice) == type_("mail", as_=alice) == "alice@uni.example\n"
    assert type_("mail") == "nowhere\n"
    for bad in ("alice", "a@b\r\nBcc: x@y", "a b@c", "名@例", "a@" + "b" * 250):
        assert client.put("whoami/mail", json={"address": bad}).status_code == 422, bad
    reading = login("reader", scopes=("read",))
    assert client.put("whoami/mail", json={"address": "a@b.example"}, headers=reading).status_code == 403
    assert type_("mail", "--forget", as_=alice) == "nowhere\n"


def test_a_letter_that_is_refused_is_tried_again_without_telling_whose(db_url: str, tmp_path: Path) -> None:
    with mail_server() as server:
        gateway = mailing(tmp_path, db_url, server.port)
        charge(gateway)
        with api(gateway) as client:
            ok(client.put("whoami/mail", json={"address": "alice@uni.example"}))
            budget(client, "1.44", thresholds=[100])
            server.refuses = {"alice@uni.example"}
            assert told(gateway) == 0
            server.refuses = set()
            later = gateway.services.clock() + timedelta(minutes=1)
            lease = leases.take(gateway.services.db, "local", "test")
            with gateway.services.db.read() as conn:
                said = conn.exec_driver_sql("SELECT error FROM notice_deliveries").scalars().all()
            assert len(said) == 1 and "550" in said[0] and "alice@" not in said[0]
            assert deliver(at(gateway, later).services, lease, later) == 1
            ok(client.put("whoami/mail", json={"address": "new@uni.example"}))
    assert [to for to, _ in server.letters] == ["alice@uni.example"]


def test_the_server_is_verified_before_it_is_given_a_password(
    db_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = certificate_of_loopback(tmp_path)
    secret = tmp_path / "smtp.password"
    secret.write_text("s3cret\n")
    with mail_server(certificate) as server:
        gateway = mailing(tmp_path, db_url, server.port, smtp_security="tls", smtp_username="pen",
                          smtp_password_file=secret)  # fmt: skip
        charge(gateway)
        with api(gateway) as client:
            ok(client.put("whoami/mail", json={"address": "alice@uni.example"}))
            budget(client, "1.44", thresholds=[100])
        assert told(gateway) == 0 and server.logins == [] and server.letters == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        later = gateway.services.clock() + timedelta(minutes=1)
        lease = leases.take(gateway.services.db, "local", "test")
        assert deliver(at(gateway, later).services, lease, later) == 1
    assert [base64.b64decode(word) for word in server.logins] == [b"\0pen\0s3cret"] and len(server.letters) == 1


def test_a_server_without_starttls_is_not_spoken_to_in_the_clear(db_url: str, tmp_path: Path) -> None:
    with mail_server() as server:
        gateway = mailing(tmp_path, db_url, server.port, smtp_security="starttls")
        charge(gateway)
        with api(gateway) as client:
            ok(client.put("whoami/mail", json={"address": "alice@uni.example"}))
            budget(client, "1.44", thresholds=[100])
        assert told(gateway) == 0 and server.letters == []
