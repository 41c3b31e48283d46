"""A real PostgreSQL on loopback, with an empty database for each test."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from tests.lab.slurm import wait_for


def _bin() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if found:
        return found[-1].parent
    which = shutil.which("postgres")
    return Path(which).parent if which else None


def missing_reason() -> str | None:
    return None if _bin() else "PostgreSQL is not installed (tests/lab/install.sh)"


# Whatever a test may have changed of the schema wrote a row of these anew, with its transaction's number, or took one.
_CATALOGUES = {
    "pg_attribute": "attrelid", "pg_index": "indexrelid", "pg_constraint": "oid", "pg_trigger": "oid", "pg_proc": "oid",
}  # fmt: skip
_OF_A_CATALOGUE = "(SELECT (count(*), max(xmin::text::bigint)) FROM {} WHERE {} >= 16384)"
_SHAPE = "SELECT " + ", ".join(_OF_A_CATALOGUE.format(*catalogue) for catalogue in _CATALOGUES.items())
_SEQUENCES = """
    SELECT schemaname || '.' || sequencename, coalesce(last_value, start_value), last_value IS NOT NULL
    FROM pg_sequences"""
_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename"
_WRITTEN = """
    SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
    AND pg_relation_size(oid) > 0"""
_MANY_ROWS = 20_000  # after so many deletions a new database is cheaper than one full of dead rows


@dataclass(frozen=True, slots=True)
class _AsMade:
    """How a copy of a template looked before its first test."""

    shape: Sequence[Any]
    rows: dict[str, bytes]  # of the tables that are not empty, as COPY writes them
    sequences: Sequence[Any]

    @classmethod
    def of(cls, conn: psycopg.Connection) -> _AsMade:
        rows = {}
        for (name,) in conn.execute(_TABLES).fetchall():
            with conn.cursor().copy(sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(name))) as out:
                rows[name] = b"".join(bytes(part) for part in out)
        sequences = conn.execute(_SEQUENCES).fetchall()
        return cls(_one(conn, _SHAPE), {name: data for name, data in rows.items() if data}, sequences)

    def again(self, conn: psycopg.Connection) -> bool:
        """Make a used copy what it was; False where that cannot be had, or costs more than a new one."""
        conn.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                     " WHERE datname = current_database() AND pid <> pg_backend_pid()")  # fmt: skip
        if _one(conn, _SHAPE) != self.shape:
            return False
        conn.execute("SET session_replication_role = replica")  # neither foreign keys nor the guards of the books
        deleted = 0
        for (name,) in conn.execute(_WRITTEN).fetchall():
            deleted += conn.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(name))).rowcount
        for name, data in self.rows.items():
            with conn.cursor().copy(sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(name))) as into:
                into.write(data)
        again = sql.SQL("setval({}, {}, {})")
        conn.execute(sql.SQL("SELECT ") + sql.SQL(", ").join(again.format(*sequence) for sequence in self.sequences))
        return deleted < _MANY_ROWS


def _libpq(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://", 1)


def _one(conn: psycopg.Connection, query: str) -> Sequence[Any]:
    row = conn.execute(query).fetchone()
    assert row is not None
    return row


class PostgresLab:
    """One cluster of databases. `durable` keeps fsync on, for measuring."""

    def __init__(self, root: Path, *, port: int = 25432, durable: bool = False) -> None:
        self._root, self._port, self._durable = root, port, durable
        self._process: subprocess.Popen[bytes] | None = None
        self._count = 0
        self._as_made: dict[str, _AsMade] = {}
        self._idle: dict[str, str] = {}  # template: the URL of a copy that a test has given back

    def start(self) -> None:
        folder = _bin()
        assert folder is not None
        shutil.rmtree(self._root, ignore_errors=True)
        self._root.mkdir(parents=True)
        as_user: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(self._root, "postgres", "postgres")
            as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=KILL"]
        data = self._root / "data"
        initdb = [str(folder / "initdb"), "-D", str(data), "-U", "penstock", "-A", "trust", "--no-sync", "-E", "UTF8",
                  "--locale=C.UTF-8"]  # fmt: skip
        subprocess.run([*as_user, *initdb], check=True, capture_output=True, cwd="/")
        settings = {"port": self._port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "",
                    "max_connections": 200, "fsync": "on" if self._durable else "off",
                    "synchronous_commit": "on" if self._durable else "off", "shared_buffers": "256MB"}  # fmt: skip
        options = [f"-c{name}={value}" for name, value in settings.items()]
        argv = [*as_user, str(folder / "postgres"), "-D", str(data), *options]
        with (self._root / "log").open("wb") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd="/")
        wait_for(self._answers, "PostgreSQL")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def fresh(self, template: str = "template0") -> str:
        """The URL of a new database: empty, or a copy of one that nobody is connected to."""
        self._count += 1
        name = f"t{os.getpid()}_{self._count}"
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as conn:
            conn.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return f"postgresql+psycopg://penstock@127.0.0.1:{self._port}/{name}"

    def lend(self, template: str) -> str:
        """The URL of a copy of a template: made now (thousands of files), or one that was given back."""
        url = self._idle.pop(template, "") or self.fresh(template)
        if template not in self._as_made:
            with psycopg.connect(_libpq(url), autocommit=True) as conn:
                self._as_made[template] = _AsMade.of(conn)
        return url

    def give_back(self, url: str, template: str) -> None:
        """Empty a copy for the next test."""
        with psycopg.connect(_libpq(url), autocommit=True) as conn:
            sound = self._as_made[template].again(conn)
        if sound and template not in self._idle:
            self._idle[template] = url
        else:
            self.drop(url)

    def drop(self, url: str) -> None:
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as conn:
            conn.execute(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)")

    def _dsn(self, database: str) -> str:
        return f"postgresql://penstock@127.0.0.1:{self._port}/{database}"

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise RuntimeError(f"PostgreSQL ended: {(self._root / 'log').read_text()[-2000:]}")
        try:
            psycopg.connect(self._dsn("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True
