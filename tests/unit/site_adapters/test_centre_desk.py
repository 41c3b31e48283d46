"""One call at the centre: verified, allowed, done once, written down; and the log that keeps it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from site_adapters.centre.audit import FORMATS, AuditLog
from site_adapters.centre.home import Centre
from site_adapters.errors import OutcomeUnknown, Refused, SiteClosed
from site_adapters.if2 import keys, tokens
from site_adapters.if2.verbs import VERBS
from site_adapters.if2.wire import Call, read_answer
from site_adapters.types import Accepted, JobRef, SiteAccount
from tests.docking import Docked, dock
from tests.fake_site import FakeSite, submission


@pytest.fixture
def site() -> FakeSite:
    return FakeSite()


@pytest.fixture
def docked(tmp_path: Path) -> Docked:
    wanted = {"site": "fake", "scheduler": "local", "transport": {"kind": "local"}}
    return dock(tmp_path, wanted, accounts=["alice"])


@pytest.fixture
def centre(docked: Docked, site: FakeSite) -> Iterator[Centre]:
    composed = docked.compose(adapter=site.adapter())
    yield composed
    composed.close()


def send(docked: Docked, centre: Centre, verb: str, args: dict[str, Any], call_id: str = "") -> Any:
    call = Call(call_id or secrets.token_hex(12), verb, args, 60.0)
    body = call.to_bytes()
    key = keys.load(docked.gateway_key)
    token = tokens.sign(key, issuer="penstock", audience="fake", about=call.id, body=body)
    return read_answer(VERBS[verb], call.id, centre.desk.take(token, body).answer.result(30))


def test_a_call_that_a_dead_service_had_begun_is_not_begun_again(
    docked: Docked, centre: Centre, site: FakeSite
) -> None:
    """The service was killed between its note and the answer: what it did is not known, so it is said to be unknown."""
    args = VERBS["management.submit"].pack([submission(1)])
    call_id = "begun-and-dead"
    centre.desk._journal.begin(call_id, _mark(call_id, args), "management.submit")
    outcome = send(docked, centre, "management.submit", args, call_id)[0]
    assert not isinstance(outcome, Accepted)
    assert not site.handed


def _mark(call_id: str, args: dict[str, Any]) -> str:
    body = Call(call_id, "management.submit", args, 60.0).to_bytes()
    return keys.digest(f"management.submit {body!r}".encode())


def test_another_write_that_was_begun_is_unknown(docked: Docked, centre: Centre) -> None:
    args = {"account": {"username": "alice", "home": "/home/alice", "uid": 1001}, "jobs": []}
    call_id = "begun-and-dead-too"
    body = Call(call_id, "management.cancel", args, 60.0).to_bytes()
    centre.desk._journal.begin(call_id, keys.digest(f"management.cancel {body!r}".encode()), "management.cancel")
    with pytest.raises(OutcomeUnknown):
        send(docked, centre, "management.cancel", args, call_id)


def test_answers_survive_a_restart_of_the_service(docked: Docked, centre: Centre, site: FakeSite) -> None:
    args = VERBS["management.submit"].pack([submission(1)])
    first = send(docked, centre, "management.submit", args, "the-same-call")
    again = docked.compose(adapter=site.adapter())
    try:
        assert send(docked, again, "management.submit", args, "the-same-call") == first
    finally:
        again.close()
    assert site.handed.total() == 1


def test_a_stopped_centre_refuses_everything_but_its_name(docked: Docked, centre: Centre) -> None:
    docked.home.stop("drill")
    with pytest.raises(SiteClosed, match="drill"):
        send(docked, centre, "management.health", {})
    assert send(docked, centre, "docking.describe", {}).site == "fake"


def test_no_login_is_used_that_was_not_given(docked: Docked, centre: Centre) -> None:
    for username in ("bob", "root", "alice2"):
        with pytest.raises(Refused, match="has not given"):
            send(docked, centre, "auth.probe", {"username": username})


def test_what_ran_before_its_login_was_shut_is_still_followed_and_billed(
    docked: Docked, centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one shut login would hide the jobs of all others: they are asked for in one call."""
    [accepted] = send(docked, centre, "management.submit", VERBS["management.submit"].pack([submission(1)]))
    monkeypatch.setattr(centre.desk, "_rules", replace(centre.desk._rules, may_act_as=lambda _username: False))
    ref = JobRef(accepted.native_id, accepted.cluster, "alice", "t", datetime.now(UTC), False)
    seen = send(docked, centre, "management.observe", VERBS["management.observe"].pack([ref]))
    assert [run.native_id for run in seen.queue.runs] == [accepted.native_id]
    alice = SiteAccount("alice", "/home/alice")
    with pytest.raises(Refused, match="has not given us the account bob"):
        send(docked, centre, "management.observe", VERBS["management.observe"].pack([replace(ref, username="bob")]))
    with pytest.raises(Refused, match="has not given us the account alice"):
        send(docked, centre, "management.cancel", VERBS["management.cancel"].pack(alice, [ref]))


def test_the_gateways_key_is_replaced_by_a_call_that_the_old_one_signs(docked: Docked, centre: Centre) -> None:
    following = keys.rotate(docked.gateway_key)
    send(docked, centre, "docking.trust", VERBS["docking.trust"].pack(following.public))
    keys.promote(docked.gateway_key)
    assert send(docked, centre, "docking.load", {}).jobs == 0
    assert len([k for k in docked.home.trust.all() if k.until is None]) == 1


# ---------------------------------------------------------------- audit


def test_each_change_of_the_log_is_noticed(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    for number in range(20):
        log.append("call", verb="log.read", number=number)
    assert log.verify()[2] is None
    whole = (tmp_path / "audit.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    changes = {
        "changed": whole.replace(b'"number":7', b'"number":8'),
        "removed": b"".join(lines[:5] + lines[6:]),
        "swapped": b"".join([*lines[:3], lines[4], lines[3], *lines[5:]]),
        "cut in front": b"".join(lines[2:]),
    }
    for change, content in changes.items():
        (tmp_path / "audit.jsonl").write_bytes(content)
        assert log.verify()[2] is not None, change


def test_a_line_that_a_crash_cut_does_not_end_the_log(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.append("one")
    with (tmp_path / "audit.jsonl").open("ab") as file:
        file.write(b'{"n":2,"ki')
    log.append("two")
    assert (tmp_path / "audit.jsonl").read_text().count("\n") == 3


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_an_entry_is_one_line_in_every_format(tmp_path: Path, form: str) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.append("call", verb="a|b", detail="line\nbreak = | \\", people=["u1"], outcome="Busy")
    (entry,) = log.entries()
    text = FORMATS[form](entry)
    assert "\n" not in text and "u1" in text
    if form == "jsonl":
        assert json.loads(text) == entry
