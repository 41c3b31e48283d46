"""Copy a database while it is used, and put a copy back. The master key is not in it: keep that file elsewhere."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import subprocess
from datetime import datetime
from pathlib import Path

from sqlalchemy import inspect, make_url

from gateway.db import Database, libpq_url
from gateway.jobs import standby
from gateway.migrations import schema
from gateway.settings import Settings


class BackupRefused(Exception):
    """The copy or its target is not what it should be; nothing was changed."""


def backup(settings: Settings, target: Path, *, now: datetime) -> Path:
    """One consistent copy with a manifest beside it (`.json`: digest, schema, time)."""
    if target.exists():
        raise BackupRefused(f"{target} exists already")
    url = make_url(settings.effective_database_url)
    if url.get_backend_name() == "sqlite":
        source = sqlite3.connect(f"file:{url.database}?mode=ro", uri=True)
        copy = sqlite3.connect(target)
        try:
            source.backup(copy)  # a consistent snapshot, whoever writes meanwhile
        finally:
            copy.close()
            source.close()
    else:
        _run("pg_dump", "--format=custom", f"--file={target}", libpq_url(Database(settings.effective_database_url)))
    manifest = {
        "sha256": _sha256(target),
        "schema": schema.head(),
        "at": now.isoformat(),
        "kind": url.get_backend_name(),
    }
    target.with_suffix(target.suffix + ".json").write_text(json.dumps(manifest, indent=2))
    return target


def restore(settings: Settings, source: Path, *, now: datetime, force: bool = False) -> None:
    """Put a copy in place of the database. The gateway then takes no writes until `recover` has asked every site."""
    manifest = json.loads(source.with_suffix(source.suffix + ".json").read_text())
    url = make_url(settings.effective_database_url)
    if manifest["sha256"] != _sha256(source):
        raise BackupRefused("the copy is not the one that the manifest describes")
    if manifest["kind"] != url.get_backend_name():
        raise BackupRefused(f"the copy is of {manifest['kind']}, the gateway uses {url.get_backend_name()}")
    if url.get_backend_name() == "sqlite":
        place = Path(str(url.database))
        if place.exists() and not force:
            raise BackupRefused(f"{place} exists; say --force to replace it")
        for name in ("", "-wal", "-shm"):
            Path(f"{place}{name}").unlink(missing_ok=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, place)
    else:
        db = Database(settings.effective_database_url)
        if inspect(db.engine).has_table("jobs") and not force:
            raise BackupRefused("the database is not empty; say --force to replace it")
        with db.write() as conn:
            conn.exec_driver_sql("DROP SCHEMA public CASCADE")
            conn.exec_driver_sql("CREATE SCHEMA public")
        db.dispose()
        _run("pg_restore", "--no-owner", f"--dbname={libpq_url(db)}", str(source))
    db = Database(settings.effective_database_url)
    schema.upgrade(db)
    with db.write() as conn:
        standby.begin(conn, now)
    db.dispose()


def _run(*argv: str) -> None:
    if shutil.which(argv[0]) is None:
        raise BackupRefused(f"{argv[0]} is not installed: it comes with PostgreSQL's client package")
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BackupRefused(f"{argv[0]}: {done.stderr.strip()[:1000]}")


def _sha256(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
