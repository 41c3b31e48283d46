"""What a centre signed is in the bundle, and the verifier says of each run whether one side or both stand for it."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import func, select, text, update

from accounting.agreement import PostingLimits
from accounting.evidence import confirmations
from accounting.evidence.about import About
from accounting.evidence.canonical import canonical
from accounting.evidence.confirmations import PARTS
from accounting.parties import SigningKey
from accounting.reconciling import confirmed
from accounting.reconciling.found import Agreed
from accounting.reconciling.statement_store import STATEMENTS
from accounting.signing import sign_jws
from accounting.store import contracts
from gateway.billing import evidence, proofs, reconcile
from gateway.billing.signing import STATEMENT, STATEMENT_HASH
from tests import builders
from tests.builders import Gateway, local_site, make_gateway
from tests.unit.accounting.makers import LONG_AGO
from tests.unit.accounting.test_evidence_verifier import changed, scalars, verifier
from tests.unit.accounting.test_reconcile import compare, have, line, receive, row
from tests.unit.accounting.test_reconcile_by_contract import rules, signed

_ = verifier  # the fixture

CENTRE = Ed25519PrivateKey.from_private_bytes(b"\x0c" * 32)
CENTRE_PUBLIC = base64.b64encode(CENTRE.public_key().public_bytes_raw()).decode()
DAY = datetime(2026, 11, 10, tzinfo=UTC)
RUNS = 6


@pytest.fixture
def gateway(db_url: str, tmp_path: Path) -> Iterator[Gateway]:
    made = make_gateway(tmp_path, db_url, local_site(tmp_path))
    signed(made, limits=PostingLimits(increase_micro=1_000_000))
    key = SigningKey("c1", "Ed25519", CENTRE.public_key().public_bytes_raw(), LONG_AGO)
    with made.services.db.write() as conn:
        contracts.add_key(conn, "centre", key)
    have(made, *(row(n) for n in range(1, RUNS)), row(RUNS, ElapsedRaw="3500", Suspended="00:01:57"))
    yield made
    builders.OPENED.clear()
    made.services.close()


LINES = [line(n) for n in range(1, RUNS + 1) if n != 2]  # the centre says nothing of the second run
DOCUMENT = json.dumps({"lines": LINES, "totals": {}}).encode()


def reconciled(gateway: Gateway, kind: str = STATEMENT_HASH, signer: str = "centre") -> None:
    """The centre's statement came with its signature, and was compared; five runs are in it."""
    payload = DOCUMENT if kind == STATEMENT else canonical({"sha256": hashlib.sha256(DOCUMENT).hexdigest()})
    jws = sign_jws(payload, private=b"\x0c" * 32, key_id="c1", kind=kind)
    received = receive(gateway, *LINES, signature=jws.encode())
    assert received.signed.signer == signer, received.signed.refused
    compare(gateway, received, rules(gateway, received.statement_id))


def bundle_of(gateway: Gateway, start: datetime = DAY, end: datetime = DAY + timedelta(days=3)) -> list[str]:
    now = gateway.services.clock()
    evidence.append(gateway.services, None, now)
    wanted = proofs.Wanted(About(start, end, gateway.project_id))
    return list(proofs.lines(gateway.services, wanted, now))


def look(verifier: ModuleType, lines: list[str], *documents: bytes, signer: str = f"centre={CENTRE_PUBLIC}") -> Any:
    log = json.loads(lines[0])["log"]
    return verifier.checked(iter(lines), verifier.Options(log, [], None, 1, [signer], documents))


def sides(found: Any) -> list[str]:
    """What is said of each run, in the order of the runs."""
    return [said.partition("; ")[2] for said in sorted(found.runs())]


def test_a_run_that_the_centre_confirmed_is_two_sided_and_one_that_it_did_not_is_not(
    gateway: Gateway, verifier: ModuleType
) -> None:
    reconciled(gateway)
    found = look(verifier, bundle_of(gateway))
    assert found.findings == []
    statement = hashlib.sha256(DOCUMENT).hexdigest()
    one_sided = "one-sided: the centre has signed nothing for it"
    confirmed = [f"two-sided: line {n} of centre's statement {statement}" for n in (1, 2, 3, 4, 5)]
    assert sides(found) == [confirmed[0], one_sided, *confirmed[1:]]
    assert "two-sided, the centre's signature checked: 5; one-sided: 1" in " ".join(found.summary())
    # The last run was posted from its line of the statement: agreed, and no scheduler's record.
    assert list(found.not_metered().values()) == ["agreed from a line of the centre's statement"]
    assert "metered again from the raw records of the centres: 5 of 6 charges" in " ".join(found.summary())


def test_what_is_confirmed_is_the_same_in_however_many_parts_it_is_kept(
    gateway: Gateway, verifier: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confirmed, "_PART", 2)
    monkeypatch.setattr(confirmations, "_PARTS", 1)
    reconciled(gateway)
    with gateway.services.db.read() as conn:
        parts = conn.execute(select(PARTS).order_by(PARTS.c.first_reading)).all()
        assert [[line for _, line in part.runs] for part in parts] == [[1, 2], [3, 4]]
        readings = [reading for part in parts for reading, _ in part.runs]
        assert {found.line_no for found in confirmed.confirmed(conn, readings[1:3]).values()} == {2, 3}
        assert confirmed.confirmed(conn, [readings[0] + 1, readings[-1] + 1]) == {}
    found = look(verifier, bundle_of(gateway))
    assert found.findings == []
    assert "two-sided, the centre's signature checked: 5; one-sided: 1" in " ".join(found.summary())


def test_a_comparison_that_another_was_faster_than_confirms_nothing_twice(gateway: Gateway) -> None:
    """Two look at the same books; both would confirm the same runs."""
    reconciled(gateway)
    with gateway.services.db.write() as conn:
        row_ = conn.execute(select(STATEMENTS)).one()
        agreed = Agreed()
        agreed.add(*zip(*confirmations.runs_of(conn, row_.id), strict=True))
        late = confirmed.Confirmation(0, len(agreed), [(1, 9, "[]")], {}, "centre")
        assert confirmed.confirm(conn, row_, agreed, late, run_id=2) == 0
        assert conn.scalar(select(func.count()).select_from(PARTS)) == 1


def test_a_run_is_one_sided_until_the_centre_has_signed(gateway: Gateway, verifier: ModuleType) -> None:
    received = receive(gateway, *LINES)
    compare(gateway, received, rules(gateway, received.statement_id))
    found = look(verifier, bundle_of(gateway))
    assert found.findings == []
    assert set(sides(found)) == {"one-sided: the centre has signed nothing for it"}


def test_a_signature_over_the_whole_statement_is_checked_by_who_has_it(gateway: Gateway, verifier: ModuleType) -> None:
    reconciled(gateway, STATEMENT)
    lines = bundle_of(gateway)
    for documents, told in (((), "two-sided by the log (signature not checked): line 1"), ((b"other",), "two-sided by"),
                            ((DOCUMENT,), "two-sided: line 1")):  # fmt: skip
        found = look(verifier, lines, *documents)
        assert found.findings == []
        assert sides(found)[0].startswith(told)


def test_a_confirmation_shows_the_runs_that_were_asked_for_and_no_other(gateway: Gateway, verifier: ModuleType) -> None:
    reconciled(gateway)
    lines = bundle_of(gateway, DAY + timedelta(hours=15.5), DAY + timedelta(hours=17.5))  # runs 3 and 4
    shown = [json.loads(text) for text in lines if text.startswith('{"t":"runs"')]
    assert [[run[2] for run in part["runs"]] for part in shown] == [["alpha:103", "alpha:104"]]
    found = look(verifier, lines)
    assert found.findings == []
    assert [said[:9] for said in sides(found)] == ["two-sided", "two-sided"]


def test_every_value_that_makes_a_run_two_sided_is_evidence(gateway: Gateway, verifier: ModuleType) -> None:
    """Each single value of the lines about the statement is changed, one after the other."""
    reconciled(gateway)
    lines = bundle_of(gateway, DAY, DAY + timedelta(hours=17.5))  # some runs are between
    kinds = ("received", "signed", "confirmed", "runs", "between", "seal")
    assert {json.loads(text)["t"] for text in lines} >= set(kinds)
    missed, rng = [], random.Random(1)
    for number, text_ in enumerate(lines):
        if json.loads(text_)["t"] not in kinds:
            continue
        for path in scalars(json.loads(text_)):
            value = at = json.loads(text_)
            for part in path[:-1]:
                at = at[part]
            before, at[path[-1]] = at[path[-1]], changed(at[path[-1]], rng)
            forged = [*lines[:number], json.dumps(value), *lines[number + 1 :]]
            if not is_found(verifier, forged):
                missed.append(f"{path}: {before!r}")
        assert is_found(verifier, lines[:number] + lines[number + 1 :]), text_
    assert missed == []


def is_found(verifier: ModuleType, lines: list[str]) -> bool:
    try:
        return bool(look(verifier, lines).findings)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return True  # the verifier exits with 2: it cannot be read


@pytest.mark.parametrize("change", [(0, 1), (100, 0)], ids=["another line", "another reading"])
def test_a_confirmation_that_is_changed_in_the_books_is_found(
    gateway: Gateway, verifier: ModuleType, change: tuple[int, int]
) -> None:
    reconciled(gateway)
    with gateway.services.db.write() as conn:
        for verb in ("update", "delete"):
            on = "" if gateway.services.db.is_sqlite else " ON confirmed_part"
            conn.execute(text(f"DROP TRIGGER confirmed_part_no_{verb}{on}"))
        (part,) = conn.execute(select(PARTS)).all()
        runs = [[run + change[0], line + change[1]] if line == 3 else [run, line] for run, line in part.runs]
        assert runs != part.runs
        conn.execute(update(PARTS).values(runs=runs))
    assert is_found(verifier, bundle_of(gateway))


def test_an_operator_who_signs_in_the_centres_place_is_found_by_who_knows_the_centres_key(
    gateway: Gateway, verifier: ModuleType
) -> None:
    """The log is consistent; the key under the statement is not the one of the contract."""
    reconciled(gateway)
    lines = bundle_of(gateway)
    assert not [told for told in look(verifier, lines).notes if "was taken from the log" in told]
    other = look(verifier, lines, signer=f"centre={base64.b64encode(b'k' * 32).decode()}")
    assert other.findings == ["statement 1 is signed by another key of centre than yours"]


@pytest.mark.parametrize("signer", [f"operator={CENTRE_PUBLIC}", f"beta={CENTRE_PUBLIC}"])
def test_a_signature_by_a_key_that_nobody_named_for_the_centre_is_not_called_checked(
    gateway: Gateway, verifier: ModuleType, signer: str
) -> None:
    reconciled(gateway)
    found = look(verifier, bundle_of(gateway), signer=signer)
    assert found.findings == []
    assert sides(found)[0].startswith("two-sided by the log (signature not checked)")
    assert "two-sided, the centre's signature checked: 0; one-sided: 1" in " ".join(found.summary())
    assert any("was taken from the log: compare it" in told for told in found.notes)


def test_a_statement_that_another_party_signed_than_the_agreements_centre_is_found(
    gateway: Gateway, verifier: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator takes its own signature for the centre's, and logs that."""
    signed_by = reconcile.by_keys_of
    monkeypatch.setattr(
        reconcile, "by_keys_of",
        lambda party, keys, now: lambda *both: replace(signed_by(party, keys, now=now)(*both), signer="op"),
    )  # fmt: skip
    reconciled(gateway, signer="op")
    assert "is signed by op, the agreement is" in " ".join(look(verifier, bundle_of(gateway)).findings)
