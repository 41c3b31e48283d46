"""A copy put back by the commands, on each kind of database: the evidence log goes on under a new name, believed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from accounting.evidence import log
from accounting.tables import APPEND_ONLY
from gateway.billing import evidence
from gateway.bootstrap import compose
from gateway.db import Database
from tests.builders import OPENED, Gateway, api, local_site, make_gateway
from tests.unit.gateway.test_restored_log import Witness

pytestmark = pytest.mark.live

VERIFIER = Path(__file__).parents[2] / "docs" / "verify" / "penstock_verify.py"


def admin(home: Path, url: str, *words: str) -> str:
    env = {**os.environ, "PENSTOCK_HOME": str(home), "PENSTOCK_DATABASE_URL": url}
    done = subprocess.run([sys.executable, "-m", "gateway", "admin", *words], env=env, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def paid(gateway: Gateway) -> str:
    """A job that ran, was charged, and whose charge is signed."""
    job_id = gateway.submit("local")
    gateway.until(job_id, "completed")
    gateway.charged(job_id)
    evidence.append(gateway.services, None, gateway.services.clock())
    return job_id


def verified(gateway: Gateway, folder: Path, key: str) -> tuple[int, str]:
    """What the independent verifier says of everything of the project, by one key of the log."""
    now, file = gateway.services.clock(), folder / "bundle.jsonl"
    with api(gateway) as client:
        asked = {"project": "demo", "since": (now - timedelta(days=2)).isoformat(),
                 "until": (now + timedelta(days=2)).isoformat()}  # fmt: skip
        file.write_text(client.get("evidence/bundle", params=asked).raise_for_status().text)
    argv = [sys.executable, "-I", str(VERIFIER), str(file), "--log-key", key]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_restored_log_has_a_new_name_and_the_verifier_believes_it_by_its_new_key(
    tmp_path: Path, db_url: str, other_url: str
) -> None:
    home, new_home, copy, witness = tmp_path / "old", tmp_path / "new", tmp_path / "copy.backup", Witness()
    home.mkdir()
    gateway = make_gateway(home, db_url, local_site(home))
    first = paid(gateway)
    old = witness.looks(gateway.services)
    admin(home, db_url, "backup", str(copy))
    lost = paid(gateway)
    assert witness.looks(gateway.services) == old
    gateway.services.close()

    new_home.mkdir()
    for name in ("sites", "master.key", *(p.name for p in home.iterdir() if p.name.endswith(".yaml"))):
        (shutil.copytree if (home / name).is_dir() else shutil.copy)(home / name, new_home / name)
    assert "python -m gateway admin recover" in admin(new_home, other_url, "restore", str(copy))
    told = admin(new_home, other_url, "recover", "--back-hours", "1").splitlines()
    origin = json.loads(told[-1])["evidence_origin"]
    assert origin.startswith(f"{old}/") and f"under a new name, {origin}" in told[-2]

    settings = gateway.services.settings.model_copy(update={"home": new_home, "database_url": other_url})
    back = Gateway(compose(settings), gateway.person, gateway.project_id, gateway.secret)
    OPENED.append(back.services)
    later = paid(back)  # what the database counts by itself goes on, too
    assert len({first, lost, later}) == 3
    assert witness.looks(back.services) == origin
    with back.services.db.read() as conn:
        keys = {k.name: k.verifier.vkey for k in evidence.known_keys(conn, purpose="log")}
        assert log.check_log(conn) == []
    back.check_books()
    code, said = verified(back, tmp_path, keys[origin])
    assert code == 0 and "everything fits" in said, said
    assert verified(back, tmp_path, keys[old])[0] != 0
    assert {"posting", "journal_entry", "charge", "evidence_leaf"} <= refuse_deletion(back.services.db)


def refuse_deletion(db: Database) -> set[str]:
    """The tables of history that hold something; none of them lets go of it."""
    with db.read() as conn:
        full = {table for table in APPEND_ONLY if conn.scalar(text(f"SELECT count(*) FROM {table}"))}
    for table in full:
        with pytest.raises(DBAPIError, match="append-only"), db.write() as conn:
            conn.execute(text(f"DELETE FROM {table}"))
    return full
