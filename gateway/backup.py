"""Copy a database while it is used, and put a copy back. The master key is not in it: keep that file elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
from datetime import datetime
from pathlib import Path

from sqlalchemy import URL, inspect, make_url

from gateway.db import Database
from gateway.errors import Refused
from gateway.jobs import standby
from gateway.migrations import schema
from gateway.settings import Settings

# `:'now'` is psql's own quoting of a variable.
_BEGIN_STANDBY = b"UPDATE public.gateway SET recovering_since = :'now';\n"


class BackupRefused(Refused):
    """The copy or its target is not what it should be; nothing was changed."""


def backup(settings: Settings, target: Path, *, now: datetime) -> Path:
    """One consistent copy with a manifest beside it (`.json`: digest, schema, time); readable by its owner only."""
    if target.exists():
        raise BackupRefused(f"{target} exists already")
    url = make_url(settings.effective_database_url)
    target.touch(0o600)  # before anything is in it
    try:
        if url.get_backend_name() == "sqlite":
            _copy_sqlite(Path(str(url.database)), target)
        else:
            _run(url, "pg_dump", "--format=custom", f"--file={target}")
    except BaseException:
        target.unlink()
        raise
    manifest = {
        "sha256": _sha256(target),
        "schema": schema.head(),
        "at": now.isoformat(),
        "kind": url.get_backend_name(),
    }
    _manifest(target).write_text(json.dumps(manifest, indent=2))
    return target


def restore(settings: Settings, source: Path, *, now: datetime, force: bool = False) -> None:
    """Put a copy in place of the database: all of it or nothing, whatever dies meanwhile.

    The gateway then takes no writes until `recover` has asked every site; there is no moment at which it would.
    """
    url = make_url(settings.effective_database_url)
    _check(source, url)
    if url.get_backend_name() == "sqlite":
        _restore_sqlite(source, Path(str(url.database)), now, force=force)
    else:
        _restore_postgresql(source, url, now, force=force)
    db = Database(settings.effective_database_url)
    schema.upgrade(db)
    db.dispose()


def _check(source: Path, url: URL) -> None:
    try:
        manifest = json.loads(_manifest(source).read_text())
        kind, digest = manifest["kind"], manifest["sha256"]
    except (OSError, ValueError, KeyError) as exc:
        raise BackupRefused(f"the manifest {_manifest(source).name} cannot be read: {exc}") from exc
    if digest != _sha256(source):
        raise BackupRefused("the copy is not the one that the manifest describes")
    if kind != url.get_backend_name():
        raise BackupRefused(f"the copy is of {kind}, the gateway uses {url.get_backend_name()}")


def _manifest(copy: Path) -> Path:
    return copy.with_suffix(copy.suffix + ".json")


def _copy_sqlite(place: Path, target: Path) -> None:
    source, copy = sqlite3.connect(f"file:{place}?mode=ro", uri=True), sqlite3.connect(target)
    try:
        source.backup(copy)  # a consistent snapshot, whoever writes meanwhile
    except sqlite3.Error as exc:
        raise BackupRefused(f"{place}: {exc}") from exc
    finally:
        copy.close()
        source.close()


def _restore_sqlite(source: Path, place: Path, now: datetime, *, force: bool) -> None:
    """The copy is put on standby beside the old database, and takes its place by one rename."""
    if place.exists() and not force:
        raise BackupRefused(f"{place} exists; say --force to replace it")
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_name(place.name + ".restoring")
    _forget(draft)
    shutil.copyfile(source, draft)
    db = Database(f"sqlite:///{draft}")
    with db.write() as conn:
        standby.begin(conn, now)
    with db.engine.connect() as conn:
        conn.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    db.dispose()
    # The journal of the old database must not be read into the new one.
    for name in ("-wal", "-shm"):
        Path(f"{place}{name}").unlink(missing_ok=True)
    draft.replace(place)
    _forget(draft)


def _forget(file: Path) -> None:
    for name in ("", "-wal", "-shm"):
        Path(f"{file}{name}").unlink(missing_ok=True)


def _restore_postgresql(source: Path, url: URL, now: datetime, *, force: bool) -> None:
    """Old schema out, copy in, standby set: one transaction."""
    db = Database(url.render_as_string(hide_password=False))
    full = inspect(db.engine).has_table("jobs")
    db.dispose()
    if full and not force:
        raise BackupRefused("the database is not empty; say --force to replace it")
    copy = _run(url, "pg_restore", "--no-owner", "--file=-", str(source), to_database=False)
    script = b"DROP SCHEMA public CASCADE;\nCREATE SCHEMA public;\n" + copy + b"\n" + _BEGIN_STANDBY
    _run(url, "psql", "--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1",
         f"--set=now={now.isoformat()}", "--file=-", stdin=script)  # fmt: skip


def _run(url: URL, *argv: str, stdin: bytes = b"", to_database: bool = True) -> bytes:
    """One of PostgreSQL's programs; the password travels in its environment, where other users cannot read it."""
    if shutil.which(argv[0]) is None:
        raise BackupRefused(f"{argv[0]} is not installed: it comes with PostgreSQL's client package")
    plain = url.set(drivername="postgresql", password=None).render_as_string()
    env = {**os.environ, "PGPASSWORD": url.password} if url.password else dict(os.environ)
    words = [*argv, f"--dbname={plain}"] if to_database else list(argv)
    done = subprocess.run(words, input=stdin, capture_output=True, env=env, check=False)
    if done.returncode != 0:
        raise BackupRefused(f"{argv[0]}: {done.stderr.decode('utf-8', 'replace').strip()[:1000]}")
    return done.stdout


def _sha256(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
