"""Statements, comparisons and breaks over HTTP, for the operator and a centre's own staff; and the admin's commands."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from penstock.cli import penstock
from sqlalchemy import insert

from accounting import store as books
from accounting.agreement import StatementTerms
from accounting.evidence import log
from accounting.parties import SigningKey
from accounting.sources import read_usage
from accounting.store import contracts
from accounting.usage import UsageRecord
from gateway.__main__ import main
from gateway.billing import evidence
from gateway.db import table_of
from gateway.identity import service, tokens
from gateway.identity.tables import CentreStaffRow
from tests.builders import Gateway, local_site, make_gateway, served
from tests.unit.accounting.makers import LONG_AGO, agree, agreement

TOOLS = Path(__file__).parents[3] / "docs" / "verify"
T0 = datetime(2026, 11, 10, 12, tzinfo=UTC)


@pytest.fixture
def gateway(db_url: str, tmp_path: Path) -> Gateway:
    made = make_gateway(tmp_path, db_url, local_site(tmp_path))
    start = int(T0.timestamp())
    fields = {"DBIndex": "1", "Cluster": "c", "JobID": "7", "JobIDRaw": "7", "User": "alice", "State": "COMPLETED",
              "Submit": str(start), "Start": str(start), "End": str(start + 3617), "ElapsedRaw": "3500",
              "Suspended": "00:01:57", "AllocCPUS": "4", "AllocNodes": "1"}  # fmt: skip
    record = read_usage("sacct/1", fields, site_id="local")
    assert isinstance(record, UsageRecord)
    with made.services.db.write() as conn:
        books.record_and_book(conn, [books.Assigned(record, "j7", made.project_id, "u", "CNY")], now=T0)
    return made


def person(gateway: Gateway, name: str, *, admin: bool = False, staff: bool = False) -> str:
    now = gateway.services.clock()
    with gateway.services.db.write() as conn:
        user = service.create_user(conn, name=name, operator_admin=admin, now=now)
        if staff:
            conn.execute(insert(table_of(CentreStaffRow)).values(site_id="local", user_id=user))
        scopes = ["read", "submit", "admin"] if admin else ["read", "submit"]
        return tokens.issue(conn, user_id=user, name="t", scopes=scopes, lifetime=timedelta(days=1), now=now).secret


@pytest.fixture
def address(gateway: Gateway) -> Iterator[str]:
    with served(gateway.services) as url:
        yield url


def client(address: str, secret: str) -> httpx.Client:
    return httpx.Client(base_url=f"{address}/api/v2/billing", headers={"Authorization": f"Bearer {secret}"}, timeout=30)


def statement(**changes: Any) -> dict[str, Any]:
    start = int(T0.timestamp())
    line = {"run_key": "c:1", "native_id": "7", "username": "alice", "cores": 4, "start": start, "end": start + 3617,
            "elapsed": 3617, "quantity": 14_468, "amount": "1.4468", **changes}  # fmt: skip
    return {"site": "local", "period": "2026-11", "currency": "CNY", "format": "json",
            "content": json.dumps({"lines": [line]})}  # fmt: skip


def test_a_month_is_received_compared_settled_and_signed_off(gateway: Gateway, address: str) -> None:
    agree(gateway.services.db, agreement(site_ids=("local",)))
    admin, centre = person(gateway, "admin", admin=True), person(gateway, "staff", staff=True)
    with client(address, centre) as theirs, client(address, admin) as ours:
        received = theirs.post("/statements", json=statement(amount="9.99"))
        assert received.status_code == 200, received.text
        done = ours.post("/reconciliations", json={"statement": received.json()["id"]})
        assert done.status_code == 200, done.text
        assert (done.json()["counts"]["lines"], done.json()["posted"]) == (1, 0)
        (item,) = theirs.get("/breaks").json()["items"]
        assert (item["category"], item["state"], item["delta_amount"]) == ("B03", "open", "8.59")
        path = f"/breaks/{item['id']}"
        assert ours.post(f"{path}/propose", json={"note": "as billed"}).status_code == 409
        assert ours.post(f"{path}/propose", json={"note": "as billed", "resolution": "post"}).status_code == 200
        assert ours.post(f"{path}/countersign", json={"note": "me too"}).status_code == 409
        settled = theirs.post(f"{path}/countersign", json={"note": "agreed"})
        assert settled.status_code == 200, settled.text
        assert [e["act"] for e in settled.json()["history"]] == ["explain", "propose", "countersign", "post"]
        assert settled.json()["raw"]["amount"] == "9.99"
        (head,) = theirs.get("/statements", params={"period": "2026-11"}).json()["items"]
        assert (head["signed_off"], head["open_breaks"], head["lines"]) == (True, 0, 1)
        assert len(theirs.get("/reconciliations").json()["items"]) == 1
    gateway.check_books()


def packed(content: bytes) -> dict[str, Any]:
    told = {k: v for k, v in statement().items() if k != "content"}
    return told | {"packed": "gzip", "content_base64": base64.b64encode(gzip.compress(content)).decode()}


def test_a_big_centres_month_is_longer_than_other_bodies_and_may_come_packed(gateway: Gateway, address: str) -> None:
    centre, limit = person(gateway, "staff", staff=True), gateway.services.settings.body_bytes_max
    long = statement()["content"] + " " * limit
    with client(address, centre) as theirs:
        plain = theirs.post("/statements", json=statement() | {"content": long})
        assert plain.status_code == 200, plain.text
        again = theirs.post("/statements", json=packed(long.encode()))
        assert again.status_code == 200, again.text
        assert (again.json()["id"], again.json()["new"]) == (plain.json()["id"], False), "the very same bytes"


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"no gzip", "not packed by gzip"), (gzip.compress(b"{}")[:-4], "not whole"),
     (gzip.compress(b"{}") + b"more", "not whole"), (gzip.compress(b" " * 4_000_001), "longer than 4000000 bytes")],
    ids=["no gzip", "cut", "more behind it", "too long"],  # the bytes have the hour in them
)  # fmt: skip
def test_what_cannot_be_unpacked_is_said(gateway: Gateway, address: str, content: bytes, told: str) -> None:
    gateway.services.settings.statement_bytes_max = 1_000_000
    body = packed(b"") | {"content_base64": base64.b64encode(content).decode()}
    with client(address, person(gateway, "staff", staff=True)) as theirs:
        refused = theirs.post("/statements", json=body)
    assert (refused.status_code, told in refused.json()["detail"]) == (422, True), refused.text


def test_neither_side_settles_a_break_alone(gateway: Gateway, address: str) -> None:
    """Two of the operator let a centre's claim go, two of a centre grant it to themselves: neither is an agreement."""
    agree(gateway.services.db, agreement(site_ids=("local",)))
    one, two = person(gateway, "admin", admin=True), person(gateway, "second", admin=True)
    with client(address, one) as ours, client(address, two) as ours_too:
        number = ours.post("/statements", json=statement(amount="9.99")).json()["id"]
        ours.post("/reconciliations", json={"statement": number})
        (item,) = ours.get("/breaks").json()["items"]
        path = f"/breaks/{item['id']}"
        centre, other = person(gateway, "staff", staff=True), person(gateway, "colleague", staff=True)
        with client(address, centre) as theirs, client(address, other) as theirs_too:
            for proposer, second, side in ((ours, ours_too, "operator"), (theirs, theirs_too, "centre")):
                assert proposer.post(f"{path}/propose", json={"note": "so", "resolution": "waive"}).status_code == 200
                alone = second.post(f"{path}/countersign", json={"note": "yes"})
                assert (alone.status_code, f"the {side} has done both" in alone.json()["detail"]) == (409, True)
                assert second.post(f"{path}/reopen", json={"note": "again"}).json()["state"] == "open"
            ours.post(f"{path}/propose", json={"note": "so", "resolution": "waive"})
            assert theirs.post(f"{path}/countersign", json={"note": "yes"}).json()["state"] == "waived"


def test_where_nobody_speaks_for_a_centre_two_of_the_operator_settle_a_break(gateway: Gateway, address: str) -> None:
    agree(gateway.services.db, agreement(site_ids=("local",)))
    one, two = person(gateway, "admin", admin=True), person(gateway, "second", admin=True)
    with client(address, one) as ours, client(address, two) as ours_too:
        number = ours.post("/statements", json=statement(amount="9.99")).json()["id"]
        ours.post("/reconciliations", json={"statement": number})
        (item,) = ours.get("/breaks").json()["items"]
        ours.post(f"/breaks/{item['id']}/propose", json={"note": "so", "resolution": "waive"})
        assert ours_too.post(f"/breaks/{item['id']}/countersign", json={"note": "y"}).json()["state"] == "waived"


def test_what_the_centre_says_of_the_whole_is_given_beside_the_file(
    gateway: Gateway, address: str, tmp_path: Path
) -> None:
    (tmp_path / "bill.json").write_text(statement()["content"])
    told = ["--lines", "1", "--core-seconds", "14468", "--amount", "2.00", "--number", "R-7"]
    words = ["statements", "send", str(tmp_path / "bill.json"), "--site", "local", "--month", "2026-11", "--currency",
             "CNY", "--format", "json", *told]  # fmt: skip
    env = {"PENSTOCK_URL": address, "PENSTOCK_TOKEN": person(gateway, "staff", staff=True), "COLUMNS": "200"}
    done = CliRunner().invoke(penstock, words, env=env)
    assert done.exit_code == 0, done.output
    assert "B14 its own totals: it bills 2.00 CNY, and its lines sum to 1.4468" in done.output
    assert done.output.count("B14") == 1


def test_what_another_statement_settled_is_listed_where_it_is_asked_for(
    gateway: Gateway, address: str, tmp_path: Path
) -> None:
    env = {"PENSTOCK_URL": address, "PENSTOCK_TOKEN": person(gateway, "admin", admin=True), "COLUMNS": "200"}

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(penstock, arguments, env=env)
        assert done.exception is None, done.output
        return done.output

    for amount in ("9.99", "1.4468"):
        (tmp_path / "bill.json").write_text(statement(amount=amount)["content"])
        sent = run("statements", "send", str(tmp_path / "bill.json"), "--site", "local", "--month", "2026-11",
                   "--currency", "CNY", "--format", "json", "--json")  # fmt: skip
        run("statements", "compare", str(json.loads(sent)["id"]))
    (first,) = json.loads(run("breaks", "list", "--state", "gone", "--json"))
    shown = [row.split()[0] for row in run("breaks", "list").splitlines()[1:]]
    assert shown and str(first["id"]) not in shown
    assert str(first["id"]) in run("breaks", "list", "--state", "gone")


def test_both_sides_settle_a_break_on_the_command_line(gateway: Gateway, address: str, tmp_path: Path) -> None:
    agree(gateway.services.db, agreement(site_ids=("local",)))
    admin, centre = person(gateway, "admin", admin=True), person(gateway, "staff", staff=True)

    def run(secret: str, *arguments: str) -> str:
        env = {"PENSTOCK_URL": address, "PENSTOCK_TOKEN": secret, "COLUMNS": "200"}
        done = CliRunner().invoke(penstock, arguments, env=env)
        assert done.exception is None, done.output
        return done.output

    (tmp_path / "bill.json").write_text(statement(amount="9.99")["content"])
    sent = run(centre, "statements", "send", str(tmp_path / "bill.json"), "--site", "local", "--month", "2026-11",
               "--currency", "CNY", "--format", "json", "--json")  # fmt: skip
    assert "lines: 1" in run(admin, "statements", "compare", str(json.loads(sent)["id"]))
    [item] = json.loads(run(centre, "breaks", "list", "--state", "open", "--json"))
    listed = run(centre, "breaks", "list").splitlines()
    assert listed[1].split()[:8] == [str(item["id"]), "local", "2026-11", "B03", "quantity", "open", "8.59", "CNY"]
    assert "dispute by staff: we ran it" in run(centre, "breaks", "dispute", str(item["id"]), "--note", "we ran it")
    run(admin, "breaks", "reopen", str(item["id"]), "--note", "let us see")
    run(admin, "breaks", "propose", str(item["id"]), "post", "--note", "as billed")
    assert ": posted" in run(centre, "breaks", "countersign", str(item["id"]), "--note", "agreed")
    assert "propose (post) by admin: as billed" in run(centre, "breaks", "show", str(item["id"]))
    assert run(centre, "statements", "list").splitlines()[1].split()[-1] == "yes"


def test_others_see_nothing_and_may_do_nothing(gateway: Gateway, address: str) -> None:
    stranger, centre = person(gateway, "stranger"), person(gateway, "staff", staff=True)
    with client(address, stranger) as nobody, client(address, centre) as theirs:
        assert theirs.post("/statements", json=statement()).status_code == 200
        assert nobody.post("/statements", json=statement()).status_code == 403
        assert nobody.get("/statements").json() == {"items": []}
        assert nobody.get("/statements/1").status_code == 404
        assert nobody.get("/breaks/1").status_code == 404
        assert theirs.post("/reconciliations", json={"statement": 1}).status_code == 403


@pytest.mark.parametrize(
    "changes",
    [
        {"content": "{"},
        {"content": ""},
        {"format": "csv"},
        {"period": "2026-13"},
        {"format": "sacct", "content": "\u0000"},
        {"profile": {"columns": {"color": "x"}}},
        {"profile": {"columns": {}, "zone": "Mars"}},
        {"totals": {"amount": "x"}},
        {"content": "", "content_base64": "%"},
    ],
)
def test_what_cannot_be_read_is_a_problem_with_a_remedy(
    gateway: Gateway, address: str, changes: dict[str, Any]
) -> None:
    with client(address, person(gateway, "admin", admin=True)) as ours:
        refused = ours.post("/statements", json=statement() | changes)
        assert refused.status_code == 422, refused.text
        assert refused.headers["content-type"] == "application/problem+json"
        assert ours.get("/statements").json()["items"] == []


def test_the_admins_commands(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path))
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", gateway.services.db.url)
    file = tmp_path / "november.json"
    file.write_text(statement(username="mallory")["content"])
    assert main(["admin", "statement", "local", "2026-11", str(file), "--format", "json"]) == 0
    assert main(["admin", "reconcile", "1"]) == 0
    assert main(["admin", "breaks", "--json"]) == 0
    assert main(["admin", "month", "2026-11"]) == 0
    assert main(["admin", "statement", "local", "2026-11", str(file), "--format", "xls"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "statement 1"
    assert out[1] == "0 of 1 lines agree; 1 differ, 0 posted by the contract (no agreement)"
    assert json.loads(out[2])[0]["category"] == "B08"
    file.write_text(statement()["content"])
    said = ["--lines", "2", "--core-seconds", "9", "--amount", "1.50", "--number", "R-7"]
    assert main(["admin", "statement", "local", "2026-11", str(file), "--format", "json", *said]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "! B14: it says 2 lines, and has 1", "! B14: it says 9 core-seconds, and its lines sum to 14468",
        "! B14: it bills 1.50 CNY, and its lines sum to 1.4468",
    ]  # fmt: skip
    assert out[3].startswith("local 2026-11: 0 of 1 lines agree; 1 open (1 identity), 0.0468 CNY, oldest ")


@pytest.mark.parametrize("kind", ["statement", "statement-hash"])
def test_a_centre_signs_its_statement_with_its_own_tool(
    gateway: Gateway, address: str, tmp_path: Path, kind: str
) -> None:
    agree(gateway.services.db, agreement(site_ids=("local",), statements=StatementTerms(must_be_signed=True)))
    tool, key = [sys.executable, str(TOOLS / "penstock_witness.py")], str(tmp_path / "k.pem")
    public = subprocess.run([*tool, "keygen", key], capture_output=True, text=True, check=True).stdout
    with gateway.services.db.write() as conn:
        contracts.add_key(conn, "centre", SigningKey("c-2026", "Ed25519", base64.b64decode(public), LONG_AGO))
    document = statement()["content"]
    (tmp_path / "november.json").write_text(document)
    jws = subprocess.run(
        [*tool, "sign", "--statement", str(tmp_path / "november.json"), "--key", key, "--key-id", "c-2026", "--kind",
         kind], capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    with client(address, person(gateway, "staff", staff=True)) as theirs:
        unsigned = theirs.post("/statements", json=statement()).json()
        assert [f.split(":")[0] for f in unsigned["findings"]] == ["B13"]
        other = theirs.post("/statements", json=statement(amount="9") | {"signature": jws}).json()
        assert (other["signer"], other["findings"][0][:3]) == ("", "B13")
        assert {"statement": "not good", "statement-hash": "another document"}[kind] in other["signature_refused"]
        signed = theirs.post("/statements", json=statement() | {"signature": jws})
        assert signed.status_code == 200, signed.text
        assert (signed.json()["id"], signed.json()["new"]) == (unsigned["id"], False)
        assert (signed.json()["signer"], signed.json()["findings"]) == ("centre", [])
    with client(address, person(gateway, "admin", admin=True)) as ours:
        done = ours.post("/reconciliations", json={"statement": unsigned["id"]}).json()
        assert "B13" not in done["counts"]
        done = ours.post("/reconciliations", json={"statement": other["id"]}).json()
        assert done["counts"]["B13"] == 1
    evidence.append(gateway.services, None, gateway.services.clock())
    with gateway.services.db.read() as conn:
        leaf = log.find(conn, "statement", str(unsigned["id"]))
        assert leaf is not None
        assert json.loads(leaf.payload)["sha256"] == hashlib.sha256(document.encode()).hexdigest()
        assert log.find(conn, "signature", f"statement:{unsigned['id']}/centre") is not None
