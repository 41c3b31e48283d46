"""A real sshd for the user who runs the tests, and a wire to it that can be cut at any byte."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from site_adapters.command import Command, Output
from site_adapters.transport.door import Door
from site_adapters.transport.ssh import Endpoint, SshConnection
from tests.lab.slurm import wait_for

ME = pwd.getpwuid(os.geteuid()).pw_name
SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def missing_reason() -> str | None:
    """Why no sshd can be started here; None where it can."""
    if SSHD is None or shutil.which("ssh-keygen") is None:
        return "not installed: openssh-server"
    if not pwd.getpwnam(ME).pw_shell.endswith("bash"):
        return "the login shell of the tests' user must be bash: its profile is part of the tests"
    return None


def command(*argv: str, **more: Any) -> Command[Output]:
    return Command(argv, lambda output: output, **more)


def shell(text: str, **more: Any) -> Command[Output]:
    return command("/bin/sh", "-c", text, **more)


@dataclass(slots=True)
class Sshd:
    """One daemon on a free loopback port, with a home of its own; `options` are lines of its configuration."""

    folder: Path
    options: tuple[str, ...] = ()
    profile: str = ""
    port: int = 0
    host_key_type: str = "ed25519"
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> Sshd:
        self.folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        self._key("user", "ed25519")
        self._key(f"host_{self.host_key_type}", self.host_key_type)
        (self.folder / "authorized_keys").write_bytes((self.folder / "user.pub").read_bytes())
        # Not the profile of whoever runs the tests: it may do anything, and slowly.
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        (home / ".bashrc").write_text(self.profile)
        self.port = self.port or free_port()
        lines = [
            f"ListenAddress 127.0.0.1:{self.port}", f"HostKey {self.folder}/host_{self.host_key_type}", "PidFile none",
            f"AuthorizedKeysFile {self.folder}/authorized_keys", "StrictModes no", "UsePAM no", "LogLevel VERBOSE",
            "PermitRootLogin yes", f"SetEnv HOME={home}", "MaxStartups 100", "Subsystem sftp internal-sftp",
            *self.options,
        ]  # fmt: skip
        (self.folder / "sshd_config").write_text("\n".join(lines) + "\n")
        argv = [str(SSHD), "-D", "-f", str(self.folder / "sshd_config"), "-E", str(self.folder / "log")]
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)
        wait_for(lambda: "Server listening" in self.log, f"sshd in {self.folder}")
        return self

    def stop(self) -> None:
        if self._process is None:
            return
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        (self.folder / "log").unlink()

    def pids(self, *, sessions_only: bool = False) -> list[int]:
        """The daemon and what serves its connections (not the commands that these run)."""
        assert self._process is not None
        found = _sshd_below(self._process.pid)
        return found if sessions_only else [self._process.pid, *found]

    def pause(self) -> None:
        for pid in self.pids():
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in self.pids():
            os.kill(pid, signal.SIGCONT)

    def drop_connections(self) -> None:
        """Kill whoever serves a connection; the daemon goes on."""
        for pid in self.pids(sessions_only=True):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not self.pids(sessions_only=True), "the sessions to die")

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def logins(self) -> int:
        return self.log.count("Accepted publickey")

    @property
    def host_key(self) -> str:
        return (self.folder / f"host_{self.host_key_type}.pub").read_text().strip()

    @property
    def user_key(self) -> str:
        return (self.folder / "user").read_text()

    def endpoint(self, **more: object) -> Endpoint:
        wanted: dict[str, object] = {"host": "127.0.0.1", "port": self.port, "host_key": self.host_key, **more}
        return Endpoint(**wanted)  # type: ignore[arg-type]

    def connect(self, *, door: Door | None = None, key: str | None = None, **more: object) -> SshConnection:
        """A connection of one's own; `more` are fields of the endpoint."""
        return SshConnection(
            self.endpoint(**more), ME, key or self.user_key, door=door or Door(1000), environment={"SITE": "here"}
        )

    def _key(self, name: str, kind: str) -> None:
        if not (self.folder / name).exists():
            argv = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(self.folder / name)]
            subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)


# What the fixture `start` gives: options of sshd -> a daemon of the test's own.
Start = Callable[..., Sshd]


@dataclass(slots=True)
class Wire:
    """A TCP proxy: `cut(up=n)` lets n more bytes pass towards the server, then cuts every connection."""

    target: int
    port: int = 0
    up: int = 0
    down: int = 0
    cuts: int = 0
    _limits: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _listener: socket.socket | None = None
    _open: list[socket.socket] = field(default_factory=list)

    def start(self) -> Wire:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def stop(self) -> None:
        assert self._listener is not None
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._cut_all()

    def cut(self, *, up: int | None = None, down: int | None = None) -> None:
        with self._lock:
            self._limits = {}
            if up is not None:
                self._limits["up"] = self.up + up
            if down is not None:
                self._limits["down"] = self.down + down

    def mend(self) -> None:
        with self._lock:
            self._limits = {}

    def _serve(self) -> None:
        assert self._listener is not None
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.target))
            self._open += [client, server]
            for one, other, way in ((client, server, "up"), (server, client, "down")):
                threading.Thread(target=self._pass, args=(one, other, way), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket, way: str) -> None:
        try:
            while data := one.recv(65536):
                with self._lock:
                    room = self._limits.get(way, 1 << 60) - getattr(self, way)
                    data, over = data[: max(0, room)], len(data) > room
                    setattr(self, way, getattr(self, way) + len(data))
                other.sendall(data)
                if over:
                    break
        except OSError:
            self.cuts += 1
        for sock in (one, other):
            _end(sock)

    def _cut_all(self) -> None:
        for sock in self._open:
            _end(sock)


def _end(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
    finally:
        sock.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def _sshd_below(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            name, _, rest = (entry / "stat").read_text().partition(")")
        except OSError:
            continue
        if entry.name.isdigit() and int(rest.split()[1]) == pid and "(sshd" in name and rest.split()[0] != "Z":
            found += [int(entry.name), *_sshd_below(int(entry.name))]
    return found
