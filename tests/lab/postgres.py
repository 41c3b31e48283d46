"""A real PostgreSQL on loopback, with a fresh database for each test."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import psycopg

from tests.lab.slurm import wait_for


def _bin() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if found:
        return found[-1].parent
    which = shutil.which("postgres")
    return Path(which).parent if which else None


def missing_reason() -> str | None:
    return None if _bin() else "PostgreSQL is not installed (tests/lab/install.sh)"


class PostgresLab:
    """One cluster of databases. `durable` keeps fsync on, for measuring."""

    def __init__(self, root: Path, *, port: int = 25432, durable: bool = False) -> None:
        self._root, self._port, self._durable = root, port, durable
        self._process: subprocess.Popen[bytes] | None = None
        self._count = 0

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
