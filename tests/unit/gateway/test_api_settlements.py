"""A centre and its money over HTTP: download, check with the independent verifier, sign with openssl, be paid."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from penstock import cli
from sqlalchemy import insert

from accounting import store as books
from accounting.agreement import Agreement, Model, Share, Shares
from accounting.evidence import note
from accounting.parties import Party, Role, Signature, SigningKey
from accounting.store import contracts, settlements
from accounting.tariff import PriceRule
from gateway.billing import evidence
from gateway.billing.signing import verify
from gateway.db import table_of
from gateway.identity import service
from gateway.identity.tables import CentreStaffRow
from tests.builders import Gateway

TOOLS = Path(__file__).parents[3] / "docs" / "verify"
START = datetime(2020, 1, 1, tzinfo=UTC)
FIRST = {party: Ed25519PrivateKey.from_private_bytes(party[:1].encode() * 32) for party in ("op", "c1")}


def run(tool: str, *arguments: str, token: str = "") -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "PENSTOCK_TOKEN": token}
    return subprocess.run([sys.executable, str(TOOLS / tool), *arguments], capture_output=True, text=True, check=False,
                          env=environment)  # fmt: skip


@pytest.fixture
def key(tmp_path: Path) -> tuple[Path, str]:
    """The centre's key file and its public key in base64, made by its own tool."""
    made = run("penstock_witness.py", "keygen", str(tmp_path / "centre.pem"))
    assert made.returncode == 0, made.stderr
    return tmp_path / "centre.pem", made.stdout.strip()


@pytest.fixture
def centre(gateway: Gateway, login: Callable[..., dict[str, str]], key: tuple[Path, str]) -> Mapping[str, str]:
    """A centre with a signed agreement and one of its staff, after a job has run there and was charged."""
    staff = login("staff")
    services = gateway.services
    agreement = Agreement(
        id="a1", version=1, operator_id="op", centre_id="c1", site_ids=("local",), model=Model.AGENCY,
        seller_of_record="c1", brand="Centre", collector="op", currency="CNY",
        shares=Shares(10, (Share("c1", 7), Share("op", 3)), "op"), valid_from=START,
    )  # fmt: skip
    with services.db.write() as conn:
        for party, role in (("op", Role.OPERATOR), ("c1", Role.CENTRE)):
            contracts.save_party(conn, Party(party, role, f"{party} Ltd", site_ids=("local",)), now=START)
            contracts.add_key(
                conn, party, SigningKey(f"{party}-first", "Ed25519", note.public_bytes(FIRST[party]), START)
            )
        contracts.save_agreement(conn, agreement, now=START)
        for party in ("op", "c1"):
            signature = FIRST[party].sign(agreement.payload)
            contracts.sign(conn, agreement.sha256, Signature(party, f"{party}-first", signature, START), verify)
        # So dear that a second of one core comes to coins: nothing less is paid.
        books.add_tariff(conn, PriceRule(0, "CNY", 360_000_000, START, site_id="local"), now=START)
        contracts.add_key(conn, "c1", SigningKey("c1-2026", "Ed25519", base64.b64decode(key[1]), START))
        user_id = service.user_id_of(conn, "staff")
        conn.execute(insert(table_of(CentreStaffRow)), [{"user_id": user_id, "site_id": "local"}])
    job_id = gateway.submit("local", "#!/bin/sh\nsleep 1\n")
    gateway.until(job_id, "completed")
    gateway.charged(job_id)
    evidence.append(services, None, services.clock())
    return staff


def period(gateway: Gateway) -> dict[str, str]:
    now = gateway.services.clock()
    return {"since": (now - timedelta(days=1)).isoformat(), "until": (now + timedelta(seconds=1)).isoformat()}


def drawn(gateway: Gateway, client: httpx.Client, operator: dict[str, str], **more: Any) -> dict[str, Any]:
    body = {"centre": "c1", **period(gateway), **more}
    made = client.post("/billing/settlements", json=body, headers=operator)
    assert made.status_code == 201, made.text
    found: dict[str, Any] = made.json()
    return found


def test_a_centre_checks_signs_and_is_paid(
    gateway: Gateway, client: httpx.Client, operator: dict[str, str], centre: dict[str, str], key: tuple[Path, str],
    tmp_path: Path,
) -> None:  # fmt: skip
    settlement = drawn(gateway, client, operator)
    where = f"/billing/settlements/{settlement['id']}"
    assert [s["id"] for s in client.get("/billing/settlements", headers=centre).json()["items"]] == [settlement["id"]]
    vkey = client.get("/evidence/log").json()["vkey"]
    (tmp_path / "bundle").write_text(client.get(f"{where}/bundle", headers=centre).text)
    looked = run("penstock_verify.py", str(tmp_path / "bundle"), "--log-key", vkey)
    assert looked.returncode == 0, looked.stdout + looked.stderr
    assert "the centre has not signed" in looked.stdout
    (tmp_path / "statement").write_bytes(client.get(f"{where}/statement", headers=centre).content)
    signed = run("penstock_witness.py", "sign", "--statement", str(tmp_path / "statement"), "--key", str(key[0]),
                 "--key-id", "c1-2026")  # fmt: skip
    jws = {"jws": signed.stdout.strip()}
    assert client.post(f"{where}/sign", json=jws, headers=operator).status_code == 403  # not for the centre
    assert client.post(f"{where}/sign", json=jws).status_code == 404  # a researcher
    other = {"jws": jws["jws"][:-6] + ("AAAAAA" if jws["jws"][-6:] != "AAAAAA" else "BBBBBB")}
    assert client.post(f"{where}/sign", json=other, headers=centre).status_code == 422
    agreed = client.post(f"{where}/sign", json=jws, headers=centre)
    assert agreed.status_code == 200, agreed.text
    assert (agreed.json()["state"], agreed.json()["signed_by"]) == ("agreed", ["centre", "operator"])
    assert client.post(f"{where}/sign", json=jws, headers=centre).status_code == 409
    evidence.append(gateway.services, None, gateway.services.clock())
    (tmp_path / "bundle").write_text(client.get(f"{where}/bundle", headers=centre).text)
    looked = run("penstock_verify.py", str(tmp_path / "bundle"), "--log-key", vkey, "--signer", f"centre={key[1]}")
    assert looked.returncode == 0, looked.stdout
    assert "not agreed yet" not in looked.stdout
    full = client.get(where, headers=centre).json()
    assert full["keys"]["c1-2026"] == key[1]
    assert float(full["net"]) == pytest.approx(0.7 * float(full["earned"]), abs=1e-6)
    paid = client.post(f"{where}/payments", json={"amount": full["pay"], "reference": "b1"}, headers=operator)
    assert paid.json()["paid"] == full["pay"]
    again = client.post(f"{where}/payments", json={"amount": "0.000001", "reference": "b2"}, headers=operator)
    assert again.status_code == 409
    with gateway.services.db.read() as conn:
        assert settlements.check_settlements(conn) == []
    gateway.check_books()


def test_a_centre_objects_and_the_operator_draws_anew(
    gateway: Gateway, client: httpx.Client, operator: dict[str, str], centre: dict[str, str]
) -> None:
    first = drawn(gateway, client, operator)
    where = f"/billing/settlements/{first['id']}"
    again = client.post("/billing/settlements", json={"centre": "c1", **period(gateway)}, headers=operator)
    assert again.status_code == 409
    assert "waits for its signatures" in again.json()["detail"]
    objected = client.post(f"{where}/withdraw", json={"reason": "charge:1 ran twice"}, headers=centre)
    assert (objected.json()["state"], objected.json()["reason"]) == ("withdrawn", "charge:1 ran twice")
    second = drawn(gateway, client, operator, disputed=[])
    assert second["entries"] == first["entries"]


def test_who_may_not_see_is_told_nothing(
    gateway: Gateway, client: httpx.Client, operator: dict[str, str], centre: dict[str, str]
) -> None:
    where = f"/billing/settlements/{drawn(gateway, client, operator)['id']}"
    assert client.get("/billing/settlements").json()["items"] == []
    for path in ("", "/statement", "/bundle"):
        assert client.get(where + path).status_code == 404
        assert client.get(f"/billing/settlements/nothing{path}", headers=operator).status_code == 404
    for path, body in (("", {"centre": "c1", **period(gateway)}), ("/x/payments", {"amount": "1", "reference": "r"})):
        assert client.post("/billing/settlements" + path, json=body, headers=centre).status_code == 403
    unknown = client.post("/billing/settlements", json={"centre": "c9", **period(gateway)}, headers=operator)
    assert unknown.status_code == 404
    rate = {"base": "CNY", "quote": "EUR", "day": "2026-11-27", "num": 128413, "den": 1000000, "source": "ECB"}
    assert client.post("/billing/fx-rates", json=rate, headers=operator).status_code == 201
    assert client.post("/billing/fx-rates", json=rate, headers=operator).status_code == 409
    assert client.post("/billing/fx-rates", json=rate | {"quote": "CNY"}, headers=operator).status_code == 422


def test_a_witness_cosigns_and_says_when_history_was_changed(
    gateway: Gateway, client: httpx.Client, operator: dict[str, str], centre: dict[str, str], key: tuple[Path, str],
    tmp_path: Path,
) -> None:  # fmt: skip
    known = {"owner": "local", "purpose": "witness", "name": "local.example/w", "public": key[1]}
    assert client.post("/evidence/keys", json=known | {"owner": "c1"}, headers=operator).status_code == 422  # no site
    vkey = client.get("/evidence/log").json()["vkey"]
    state = tmp_path / "seen.json"
    url = str(client.base_url).removesuffix("/api/v2/")
    arguments = ("watch", "--url", url, "--log-key", vkey, "--name", "local.example/w", "--key", str(key[0]),
                 "--state", str(state))  # fmt: skip
    token = centre["Authorization"].removeprefix("Bearer ")
    unknown = run("penstock_witness.py", *arguments, token=token)
    assert (unknown.returncode, unknown.stderr.splitlines()) == (2, [unknown.stderr.strip()])
    assert "Ask the operator to add it" in unknown.stderr
    made = client.post("/evidence/keys", json=known, headers=operator)
    assert made.status_code == 201
    named = run("penstock_witness.py", "keygen", str(tmp_path / "w.pem"), "--name", "local.example/w").stdout.split()
    assert named[1] == note.Verifier("local.example/w", note.COSIGNATURE, base64.b64decode(named[0])).vkey
    first = run("penstock_witness.py", *arguments, token=token)
    assert first.returncode == 0, first.stderr
    assert "— local.example/w " in client.get("/evidence/checkpoint").text
    job_id = gateway.submit("local")
    gateway.until(job_id, "completed")
    gateway.charged(job_id)
    evidence.append(gateway.services, None, gateway.services.clock())
    assert run("penstock_witness.py", *arguments, token=token).returncode == 0
    state.write_text(state.read_text().replace('"root": "', '"root": "AAAA', 1))  # as if another log had been shown
    changed = run("penstock_witness.py", *arguments, token=token)
    assert changed.returncode == 1
    assert "HISTORY WAS CHANGED" in changed.stderr


def test_the_command_line_downloads_shows_and_signs(
    gateway: Gateway, client: httpx.Client, operator: dict[str, str], centre: dict[str, str], key: tuple[Path, str],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    settlement = drawn(gateway, client, operator)["id"]
    monkeypatch.setenv("PENSTOCK_URL", str(client.base_url).removesuffix("/api/v2/"))
    monkeypatch.setenv("PENSTOCK_TOKEN", centre["Authorization"].removeprefix("Bearer "))

    def penstock(*arguments: str) -> str:
        done = CliRunner().invoke(cli.penstock, arguments)
        assert done.exit_code == 0, done.output
        return done.output

    assert settlement in penstock("settlement", "list")
    penstock("settlement", "download", settlement, "-o", str(tmp_path))
    status = penstock("evidence", "status")
    stated = next(k["public"] for k in client.get("/evidence/keys").json()["items"] if k["purpose"] == "statement")
    assert "leaves" in status and f"operator={stated}" in status  # what the verifier's --signer takes
    (tmp_path / "seen").write_text(penstock("evidence", "checkpoint"))
    vkey = client.get("/evidence/log").json()["vkey"]
    looked = run("penstock_verify.py", str(tmp_path / f"{settlement}.jsonl"), "--log-key", vkey)
    assert looked.returncode == 0, looked.stdout
    signed = run("penstock_witness.py", "sign", "--statement", str(tmp_path / f"{settlement}.json"), "--key",
                 str(key[0]), "--key-id", "c1-2026")  # fmt: skip
    (tmp_path / "jws").write_text(signed.stdout)
    assert "agreed: " in penstock("settlement", "sign", settlement, str(tmp_path / "jws"))
    assert "signed by centre, operator" in penstock("settlement", "show", settlement)
    asked = period(gateway)
    penstock("evidence", "bundle", "--site", "local", "--since", asked["since"], "--until", asked["until"], "-o",
             str(tmp_path / "site.jsonl"))  # fmt: skip
    looked = run(
        "penstock_verify.py", str(tmp_path / "site.jsonl"), "--log-key", vkey, "--seen", str(tmp_path / "seen")
    )
    assert looked.returncode == 0, looked.stdout


def test_the_command_line_signs_with_a_key_that_stays_here(
    gateway: Gateway, client: httpx.Client, operator: dict[str, str], centre: dict[str, str], key: tuple[Path, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    settlement = drawn(gateway, client, operator)["id"]
    monkeypatch.setenv("PENSTOCK_URL", str(client.base_url).removesuffix("/api/v2/"))
    monkeypatch.setenv("PENSTOCK_TOKEN", centre["Authorization"].removeprefix("Bearer "))
    with_key = ("--key", str(key[0]), "--key-id", "c1-2026", "--json")
    assert CliRunner().invoke(cli.penstock, ["settlement", "sign", settlement, *with_key[:2]]).exit_code == 2
    done = CliRunner().invoke(cli.penstock, ["settlement", "sign", settlement, *with_key])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output.splitlines()[-1])["signed_by"] == ["centre", "operator"]


def test_the_operator_draws_a_month_and_the_centre_reads_what_it_will_be_paid(
    gateway: Gateway, client: httpx.Client, operator: dict[str, str], centre: Mapping[str, str]
) -> None:
    month = f"{gateway.services.clock().astimezone(ZoneInfo('Asia/Shanghai')):%Y-%m}"

    def penstock(headers: Mapping[str, str], *words: str) -> str:
        env = {"PENSTOCK_URL": str(client.base_url).removesuffix("/api/v2/"), "COLUMNS": "200",
               "PENSTOCK_TOKEN": headers["Authorization"].removeprefix("Bearer ")}  # fmt: skip
        done = CliRunner().invoke(cli.penstock, words, env=env, standalone_mode=False)
        assert done.exception is None, (done.exception, done.output)
        return done.output

    drawn = penstock(operator, "settlement", "draw", "c1", month)
    number, _, told = drawn.splitlines()[-1].partition(": ")  # the server in this process logs to the same place
    money, end, _ = told.partition(" to c1, drawn")
    assert end and money.endswith(" CNY") and float(money.removesuffix(" CNY")) > 0, told
    [row] = [line for line in penstock(centre, "settlement", "list").splitlines() if line.startswith(number)]
    assert f"{month} (Asia/Shanghai)" in row and money in row
    assert "  c1 Ltd  " in row, "by its name"
    shown = penstock(centre, "settlement", "show", number)
    for words in ("earned", "centre share", "owed before", "owed now"):
        assert any(line.startswith(f"  {words} ") and line.endswith(" CNY") for line in shown.splitlines()), shown
    assert f"To agree: penstock settlement sign {number}" in shown


def test_the_operator_holds_back_what_is_in_dispute_keeps_a_rate_and_pays_on_the_command_line(
    gateway: Gateway, client: httpx.Client, operator: dict[str, str], centre: dict[str, str], key: tuple[Path, str]
) -> None:
    month = f"{gateway.services.clock().astimezone(ZoneInfo('Asia/Shanghai')):%Y-%m}"

    def penstock(headers: Mapping[str, str], *words: str) -> str:
        env = {"PENSTOCK_URL": str(client.base_url).removesuffix("/api/v2/"), "COLUMNS": "200",
               "PENSTOCK_TOKEN": headers["Authorization"].removeprefix("Bearer ")}  # fmt: skip
        done = CliRunner().invoke(cli.penstock, words, env=env)
        assert done.exit_code in (0, 2), (done.exception, done.output)
        return done.output

    assert "Write --disputed like" in penstock(operator, "settlement", "draw", "c1", month, "--disputed", "charge:1")
    made = penstock(operator, "settlement", "draw", "c1", month, "--disputed", "charge:1=ran twice", "--json")
    held = json.loads(made.splitlines()[-1])
    assert held["disputed"] == 1
    assert "charge:1 (ran twice)" in penstock(centre, "settlement", "show", held["id"])
    penstock(centre, "settlement", "object", held["id"], "it did not")
    drawn = json.loads(penstock(operator, "settlement", "draw", "c1", month, "--json").splitlines()[-1])
    assert drawn["disputed"] == 0 and float(drawn["pay"]) > float(held["pay"])
    penstock(centre, "settlement", "sign", drawn["id"], "--key", str(key[0]), "--key-id", "c1-2026")
    paid = penstock(operator, "settlement", "paid", drawn["id"], drawn["pay"], "--reference", "B-1")
    assert f"{drawn['pay']} of {drawn['pay']} CNY is paid" in paid

    kept = penstock(operator, "settlement", "rate", "CNY", "EUR", "2026-11-10", "0.128413", "--source", "ECB")
    assert "128413/1000000 EUR for one CNY on 2026-11-10, by ECB" in kept
    kept = penstock(operator, "settlement", "rate", "CNY", "EUR", "2026-11-11", "700/5451", "--source", "ECB")
    assert "700/5451 EUR for one CNY" in kept
    assert "Write the rate like" in penstock(
        operator, "settlement", "rate", "CNY", "EUR", "2026-11-12", "1/0", "--source", "x"
    )


def test_a_payment_that_is_recorded_again_is_the_same_payment(
    gateway: Gateway, client: httpx.Client, operator: dict[str, str], centre: dict[str, str], key: tuple[Path, str],
    tmp_path: Path,
) -> None:  # fmt: skip
    """The bank's reference decides: twice is once, and with another amount it is refused."""
    where = f"/billing/settlements/{drawn(gateway, client, operator)['id']}"
    (tmp_path / "statement").write_bytes(client.get(f"{where}/statement", headers=centre).content)
    signed = run("penstock_witness.py", "sign", "--statement", str(tmp_path / "statement"), "--key", str(key[0]),
                 "--key-id", "c1-2026")  # fmt: skip
    assert client.post(f"{where}/sign", json={"jws": signed.stdout.strip()}, headers=centre).status_code == 200
    part = {"amount": "0.01", "reference": "b1"}
    for _ in range(2):
        paid = client.post(f"{where}/payments", json=part, headers=operator)
        assert (paid.status_code, paid.json()["paid"]) == (201, "0.01"), paid.text
    assert client.post(f"{where}/payments", json=part | {"amount": "0.02"}, headers=operator).status_code == 409
    for broken in ("-1", "0", "0.000001", "0.015", "1e3", "x", "9" * 30):
        refused = client.post(f"{where}/payments", json={"amount": broken, "reference": "b2"}, headers=operator)
        assert refused.status_code in (409, 422), refused.text
    gateway.check_books()
