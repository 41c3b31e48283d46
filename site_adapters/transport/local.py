"""Run commands on this machine: own process group, deadline, output limit; as another user only as root."""

from __future__ import annotations

import os
import pwd
import selectors
import signal
import stat
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from site_adapters.command import Command, Output
from site_adapters.errors import CredentialRefused, NotFound, Refused, SiteError
from site_adapters.transport import FileChunk
from site_adapters.transport.files import read_chunk
from site_adapters.transport.framing import STDERR_BYTES_MAX, refusal_of, result_of

T = TypeVar("T")

# Never the gateway's own environment: only what a program needs to be found and to talk plainly.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NO_LOGIN = ("nologin", "false")


class LocalConnection:
    """One login on this machine: the own user, or any user where the gateway is root and may switch."""

    def __init__(self, username: str, *, environment: Mapping[str, str], switch_user: bool) -> None:
        try:
            self._account = pwd.getpwnam(username)
        except (KeyError, ValueError):
            raise CredentialRefused(f"there is no user {username!r} on this machine") from None
        self._switch = self._account.pw_uid != os.geteuid()
        if self._switch and not (switch_user and os.geteuid() == 0):
            me = pwd.getpwuid(os.geteuid()).pw_name
            raise CredentialRefused(f"only jobs of {me!r} can run here: acting for others takes root and switch_user")
        if self._switch and Path(self._account.pw_shell).name in _NO_LOGIN:
            raise CredentialRefused(f"{username} is no login of a person")
        self._environment = dict(environment)

    @property
    def username(self) -> str:
        return self._account.pw_name

    @property
    def uid(self) -> int:
        return self._account.pw_uid

    def run(self, command: Command[T]) -> T:
        result = self.run_many([command])[0]
        if isinstance(result, SiteError):
            raise result
        return result

    def run_many(self, commands: Sequence[Command[T]]) -> list[T | SiteError]:
        results: list[T | SiteError] = []
        for command in commands:
            refusal = refusal_of(command)
            if refusal is not None:
                results.append(refusal)
                continue
            output, broken = self._output(command)
            result = result_of(command, output, broken == _TOO_MUCH, broken)
            results.append(result)
        return results

    def read_file(self, path: str, *, offset: int, limit: int) -> FileChunk:
        if self._switch:
            return self.run(read_chunk(path, offset=offset, limit=limit))
        place = Path(self._account.pw_dir, path[2:]) if path.startswith("~/") else Path(path)
        try:
            # Not blocking: a job may have put a FIFO in the place of its output.
            with open(os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise Refused(f"{path} is no file", code="permission")
                file.seek(min(offset, status.st_size))
                return FileChunk(file.read(limit), min(offset, status.st_size), status.st_size)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"there is no file {path}") from None
        except (OSError, ValueError) as exc:
            raise Refused(f"{path} cannot be read: {exc}", code="permission") from exc

    def close(self) -> None:
        """Nothing is kept open."""

    def _output(self, command: Command[Any]) -> tuple[Output | None, str]:
        user: dict[str, Any] = {}
        if self._switch:
            groups = os.getgrouplist(self._account.pw_name, self._account.pw_gid)
            user = {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": groups, "umask": 0o022}
        try:
            process = subprocess.Popen(
                command.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env=self._env(command), cwd=self._cwd(), start_new_session=True, **user,
            )  # fmt: skip
        except FileNotFoundError:
            return Output(b"", f"{command.argv[0]}: not found".encode(), 127), ""
        except OSError as exc:
            return Output(b"", f"{command.argv[0]}: {exc.strerror}".encode(), 126), ""
        with process, _Talk(process, command) as talk:
            broken = talk.until_end()
            if broken:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                return None, broken
        if process.returncode < 0 and command.write:
            return None, f"it was killed by signal {-process.returncode}"
        code = process.returncode if process.returncode >= 0 else 128 - process.returncode
        return Output(bytes(talk.stdout), bytes(talk.stderr), code), ""

    def _cwd(self) -> str:
        return self._account.pw_dir if Path(self._account.pw_dir).is_dir() else "/"

    def _env(self, command: Command[Any]) -> dict[str, str]:
        own = {"HOME": self._account.pw_dir, "USER": self.username, "LOGNAME": self.username, "LC_ALL": "C"}
        return {"PATH": _PATH, **own, **self._environment, **dict(command.env)}


_TOO_MUCH = "it printed more than is allowed"
_LEFT_OPEN_S = 0.05


class _Talk:
    """Feeds a process and listens to it, within the command's deadline and limits."""

    def __init__(self, process: subprocess.Popen[bytes], command: Command[Any]) -> None:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        self._process, self._deadline = process, time.monotonic() + command.deadline_s
        self._name, self._limit, self._to_send = command.argv[0], command.stdout_bytes_max, memoryview(command.stdin)
        self.stdout, self.stderr = bytearray(), bytearray()
        self._stdin: IO[bytes] = process.stdin
        self._heard: dict[IO[bytes], bytearray] = {process.stdout: self.stdout, process.stderr: self.stderr}
        self._selector = selectors.DefaultSelector()
        for pipe in (self._stdin, *self._heard):
            os.set_blocking(pipe.fileno(), False)
        for pipe in self._heard:
            self._selector.register(pipe, selectors.EVENT_READ)
        self._selector.register(self._stdin, selectors.EVENT_WRITE)

    def __enter__(self) -> _Talk:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._selector.close()

    def until_end(self) -> str:
        """Wait for the end of the process and of what it printed; returns why not, if not."""
        while self._heard_open():
            left = self._deadline - time.monotonic()
            if left <= 0:
                return "no end within its deadline"
            ended = self._process.poll() is not None
            ready = self._selector.select(0 if ended else min(left, _LEFT_OPEN_S))
            for key, _ in ready:
                self._send() if key.fileobj is self._stdin else self._hear(key.fileobj)
            if len(self.stdout) > self._limit:
                return _TOO_MUCH
            if ended and not any(key.fileobj is not self._stdin for key, _ in ready):
                return ""  # something that it started holds its streams open: not ours to wait for
        try:
            self._process.wait(max(0.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return "no end within its deadline"
        return ""

    def _heard_open(self) -> bool:
        return any(pipe in self._selector.get_map() for pipe in self._heard)

    def _send(self) -> None:
        try:
            self._to_send = self._to_send[os.write(self._stdin.fileno(), self._to_send[:65536]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._to_send = self._to_send[:0]  # it does not want the rest
        if not self._to_send:
            self._selector.unregister(self._stdin)
            self._stdin.close()

    def _hear(self, pipe: Any) -> None:
        heard = self._heard[pipe]
        data = os.read(pipe.fileno(), 1 << 20)
        if not data:
            self._selector.unregister(pipe)
        elif heard is self.stdout or len(heard) < STDERR_BYTES_MAX:
            heard += data
