"""Evidence over HTTP: a job that ran becomes a bill that the independent verifier accepts; who may see what."""

from __future__ import annotations

import base64
import getpass
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from accounting.evidence import merkle, note
from accounting.evidence.about import NothingToShow
from gateway.billing import evidence, proofs
from gateway.jobs import standby
from tests.builders import Gateway

VERIFIER = Path(__file__).parents[3] / "docs" / "verify" / "penstock_verify.py"
CENTRE_KEY = Ed25519PrivateKey.from_private_bytes(b"\x0b" * 32)
CENTRE = note.Verifier("local.example/witness", note.COSIGNATURE, note.public_bytes(CENTRE_KEY))


@pytest.fixture
def charged(gateway: Gateway) -> str:
    job_id = gateway.submit("local", "#!/bin/sh\nsleep 1\n")
    gateway.until(job_id, "completed")
    gateway.charged(job_id)
    evidence.append(gateway.services, None, gateway.services.clock())
    return job_id


def period(gateway: Gateway) -> dict[str, str]:
    now = gateway.services.clock()
    return {"since": (now - timedelta(days=1)).isoformat(), "until": (now + timedelta(days=1)).isoformat()}


def verify(folder: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "bundle.jsonl").write_text(text)
    argv = [sys.executable, "-I", str(VERIFIER), str(folder / "bundle.jsonl"), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_a_researcher_checks_the_bill_without_trusting_the_gateway(
    gateway: Gateway, client: httpx.Client, charged: str, operator: dict[str, str], tmp_path: Path
) -> None:
    log = client.get("/evidence/log").json()
    assert log["waiting"] == 0
    assert log["size"] == log["checkpoint"] > 1
    key = {"owner": "local", "purpose": "witness", "name": CENTRE.name, "did": "did:web:local.example",
           "public": base64.b64encode(CENTRE.public).decode()}  # fmt: skip
    assert client.post("/evidence/keys", json=key, headers=operator).status_code == 201
    checkpoint = note.parse(client.get("/evidence/checkpoint").text)
    line = note.cosign(checkpoint.body, name=CENTRE.name, key=CENTRE_KEY, timestamp=5)
    handed_in = {"size": checkpoint.size, "line": line}
    assert client.post("/evidence/cosignatures", json=handed_in, headers=operator).status_code == 201
    bundle = client.get("/evidence/bundle", params={"project": "demo", "disclose": "true", **period(gateway)})
    assert bundle.status_code == 200
    assert f'"username":"{getpass.getuser()}"' in bundle.text  # its own people may know what the log only commits to
    done = verify(tmp_path, bundle.text, "--log-key", log["vkey"], "--witness", CENTRE.vkey)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "everything fits" in done.stdout
    forged = bundle.text.replace('"amount_micro":"', '"amount_micro":"9', 1)
    done = verify(tmp_path, forged, "--log-key", log["vkey"])
    assert done.returncode == 1
    assert "THE ENTRIES ARE NOT THOSE OF THE LOG" not in done.stdout  # the leaf is as it was: its charge is not
    assert "the charges are not those that the leaf commits to" in done.stdout
    assert verify(tmp_path, "not a bundle").returncode == 2


def test_proofs_lead_to_the_signed_root(gateway: Gateway, client: httpx.Client, charged: str) -> None:
    first = note.parse(client.get("/evidence/checkpoint").text)
    entry = client.get("/evidence/proof", params={"kind": "entry", "ref": "2"}).json()
    leaf = merkle.leaf_hash(entry["leaf"].encode())
    path = [base64.b64decode(h) for h in entry["path"]]
    merkle.check_inclusion(leaf, entry["seq"], first.size, path, first.root)
    again = gateway.submit("local")
    gateway.until(again, "completed")
    gateway.charged(again)
    evidence.append(gateway.services, None, gateway.services.clock())
    second = note.parse(client.get("/evidence/checkpoint").text)
    answer = client.get("/evidence/consistency", params={"old": first.size}).json()
    proof = [base64.b64decode(h) for h in answer["hashes"]]
    merkle.check_consistency(first.size, second.size, first.root, second.root, proof)
    tile = client.get(f"/evidence/tile/0/000.p/{second.size}").content
    leaves = [tile[i : i + 32] for i in range(0, len(tile), 32)]
    assert merkle.root(second.size, lambda _level, _index: leaves) == second.root


def test_what_leaves_say_is_for_those_whom_it_concerns(
    gateway: Gateway, client: httpx.Client, charged: str, login: Callable[..., dict[str, str]]
) -> None:
    stranger = login("stranger")
    entry = {"kind": "entry", "ref": "2"}
    assert client.get("/evidence/checkpoint", headers=stranger).status_code == 200
    assert client.get("/evidence/proof", params=entry, headers=stranger).status_code == 404
    for named, status in (({"project": "demo"}, 404), ({"site": "local"}, 404), ({}, 403)):
        got = client.get("/evidence/bundle", params={**named, **period(gateway)}, headers=stranger)
        assert got.status_code == status, got.text
    for path, body in (("keys", {}), ("erasures", {"user": "alice"})):
        assert client.post(f"/evidence/{path}", json=body, headers=stranger).status_code == 403


def test_a_document_that_is_in_no_checkpoint_yet_keeps_its_number(
    gateway: Gateway, client: httpx.Client, charged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_yet(*_args: object) -> Iterator[str]:
        raise NothingToShow("PS-000001 is in no checkpoint yet")
        yield ""

    monkeypatch.setattr(proofs, "_lines", not_yet)
    refused = client.get("/evidence/bundle", params={"project": "demo", **period(gateway)})

    assert (refused.status_code, refused.json()["detail"]) == (409, "PS-000001 is in no checkpoint yet.")


@pytest.mark.parametrize("path", ["proof?kind=entry&ref=%00", "proof?kind=entry&ref=999", "tile/0/../x", "tile/9/000",
                                  "tile/0/000.p/999", "consistency?old=5&new=3", "consistency?old=99999999",
                                  "checkpoint?size=77", "bundle?project=demo&since=x&until=y",
                                  "bundle?project=demo&since=2026-01-01&until=2025-01-01"])  # fmt: skip
def test_a_question_that_makes_no_sense_is_refused(client: httpx.Client, charged: str, path: str) -> None:
    answer = client.get(f"/evidence/{path}")
    assert answer.status_code in (404, 422), answer.text
    assert answer.json()["detail"]


def test_a_cosignature_that_is_not_good_is_refused(
    client: httpx.Client, charged: str, operator: dict[str, str]
) -> None:
    size = note.parse(client.get("/evidence/checkpoint").text).size
    good = note.cosign(b"another note", name=CENTRE.name, key=CENTRE_KEY, timestamp=5)
    for line, status in ((good, 404), ("nonsense", 422)):  # its key is not known yet
        answer = client.post("/evidence/cosignatures", json={"size": size, "line": line}, headers=operator)
        assert answer.status_code == status
    key = {"owner": "local", "purpose": "witness", "name": CENTRE.name,
           "public": base64.b64encode(CENTRE.public).decode()}  # fmt: skip
    client.post("/evidence/keys", json=key, headers=operator)
    answer = client.post("/evidence/cosignatures", json={"size": size, "line": good}, headers=operator)
    assert answer.status_code == 422
    assert "did not sign this" in answer.json()["detail"]


def test_erasing_a_person_takes_the_names_and_leaves_the_proof(
    gateway: Gateway, client: httpx.Client, charged: str, operator: dict[str, str], tmp_path: Path
) -> None:
    vkey = client.get("/evidence/log").json()["vkey"]
    assert client.post("/evidence/erasures", json={"user": "alice"}, headers=operator).json()["erased"] is True
    bundle = client.get("/evidence/bundle", params={"project": "demo", "disclose": "true", **period(gateway)})
    assert '"username"' not in bundle.text
    done = verify(tmp_path, bundle.text, "--log-key", vkey)
    assert done.returncode == 0, done.stdout
    gateway.tick("collect")  # the centre's records come again in the overlapping window
    gateway.check_books()


def test_a_restored_gateway_seals_no_bundle(gateway: Gateway, client: httpx.Client, charged: str) -> None:
    asked = {"project": "demo", **period(gateway)}
    assert client.get("/evidence/bundle", params=asked).status_code == 200
    with gateway.services.db.write() as conn:
        standby.begin(conn, gateway.services.clock())
    assert client.get("/evidence/bundle", params=asked).status_code == 503


def test_a_key_that_nobody_would_read_is_refused(client: httpx.Client, operator: dict[str, str]) -> None:
    key = {"owner": "local", "purpose": "statement", "name": "c1", "public": base64.b64encode(b"k" * 32).decode()}
    refused = client.post("/evidence/keys", json=key, headers=operator)
    assert refused.status_code == 422, refused.text
    assert client.get("/evidence/keys", headers=operator).json()["items"] == []
