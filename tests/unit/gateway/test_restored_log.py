"""A gateway that is restored from an older copy does not sign a second history under the name that witnesses know."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from accounting import store as books
from accounting.evidence import log, merkle, witness
from accounting.evidence.merkle import BadProof
from gateway import recovery
from gateway.backup import backup, restore
from gateway.billing import evidence
from gateway.bootstrap import compose
from gateway.services import Services
from tests.builders import OPENED, local_site, make_gateway


@dataclass
class Witness:
    """A centre that cosigns only what follows from what it saw, log by log."""

    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    seen: dict[str, witness.Seen] = field(default_factory=dict)

    def looks(self, services: Services) -> str:
        """At the newest checkpoint, by the key that the gateway names for its log; the log's name."""
        with services.db.read() as conn:
            name = evidence.origin(services, conn)
            newest = log.checkpoint(conn)
            assert newest is not None
            (verifier,) = [k.verifier for k in evidence.known_keys(conn, purpose="log") if k.name == name]
            before = self.seen.get(name)
            proof = merkle.consistency(before.size, newest.size, log.tiles(conn)) if before is not None else []
        self.seen[name], _ = witness.look(before, newest.note, proof, log=verifier, name="centre.example", key=self.key,
                                          now=services.clock())  # fmt: skip
        return name


def grant(services: Services, project_id: str, *names: str) -> None:
    """Something is booked, and signed if the gateway signs."""
    now = services.clock()
    with services.db.write() as conn:
        for name in names:
            books.grant_credit(conn, project_id=project_id, commodity="CNY", amount=1, idem_key=name, now=now)
    evidence.append(services, None, now)


@pytest.fixture
def witness_() -> Witness:
    return Witness()


def restored(tmp_path: Path, db_url: str, watcher: Witness) -> tuple[Services, str]:
    """A copy was made, the log went on and was witnessed, and the copy is put back; its project."""
    gateway = make_gateway(tmp_path, db_url, local_site(tmp_path))
    services, copy = gateway.services, tmp_path / "copy.backup"
    grant(services, gateway.project_id, "a", "b")
    watcher.looks(services)
    backup(services.settings, copy, now=services.clock())
    grant(services, gateway.project_id, "lost 1", "lost 2")
    watcher.looks(services)
    services.close()
    restore(services.settings, copy, now=services.clock(), force=True)
    back = compose(services.settings)
    OPENED.append(back)
    return back, gateway.project_id


def test_a_witness_would_see_the_fork_if_the_log_went_on_under_its_name(
    tmp_path: Path, db_url: str, witness_: Witness
) -> None:
    services, project = restored(tmp_path, db_url, witness_)
    recovery.recover(services, back=timedelta(hours=1), now=services.clock(), keep_log=True)
    grant(services, project, "other 1", "other 2", "other 3")
    with pytest.raises(BadProof):
        witness_.looks(services)


def test_a_restored_gateway_signs_nothing_before_it_has_recovered(
    tmp_path: Path, db_url: str, witness_: Witness
) -> None:
    services, project = restored(tmp_path, db_url, witness_)
    with services.db.read() as conn:
        before = log.checkpoint(conn)
    grant(services, project, "other")
    with services.db.read() as conn:
        assert log.checkpoint(conn) == before


def test_after_recovery_the_log_has_a_new_name_and_key_and_says_what_was_before(
    tmp_path: Path, db_url: str, witness_: Witness
) -> None:
    services, project = restored(tmp_path, db_url, witness_)
    report = recovery.recover(services, back=timedelta(hours=1), now=services.clock())
    (old,) = witness_.seen
    assert report.origin.startswith(f"{old}/")
    assert witness_.looks(services) == report.origin
    grant(services, project, "other 1", "other 2")
    assert witness_.looks(services) == report.origin  # it follows from what was seen under the new name
    with services.db.read() as conn:
        leaf = log.find(conn, "origin", report.origin)
        assert leaf is not None and '"t":"origin"' in leaf.payload
        assert log.check_log(conn) == []
        assert len({k.public for k in evidence.known_keys(conn, purpose="log")}) == 2


def test_a_second_restore_of_the_same_copy_has_a_name_of_its_own(
    tmp_path: Path, db_url: str, witness_: Witness
) -> None:
    services, project = restored(tmp_path, db_url, witness_)
    first = recovery.recover(services, back=timedelta(hours=1), now=services.clock()).origin
    grant(services, project, "other 1")
    witness_.looks(services)
    services.close()
    restore(services.settings, tmp_path / "copy.backup", now=services.clock(), force=True)
    again = compose(services.settings)
    OPENED.append(again)
    later = services.clock() + timedelta(seconds=1)
    second = recovery.recover(again, back=timedelta(hours=1), now=later).origin
    assert len({first, second, *witness_.seen}) == 3
    assert witness_.looks(again) == second


def test_a_recovery_without_a_restore_changes_no_name(tmp_path: Path, db_url: str, witness_: Witness) -> None:
    gateway = make_gateway(tmp_path, db_url, local_site(tmp_path))
    grant(gateway.services, gateway.project_id, "a")
    assert recovery.recover(gateway.services, back=timedelta(hours=1), now=gateway.services.clock()).origin == ""
    grant(gateway.services, gateway.project_id, "b")
    witness_.looks(gateway.services)
