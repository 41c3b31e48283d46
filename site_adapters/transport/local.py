"""Run commands on this machine: own process group, deadline, output limit; as another user only as root."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from site_adapters.command import Command, Output
from site_adapters.errors import CommandFailed, CredentialRefused, NotFound, OutcomeUnknown, SiteError, SiteUnreachable
from site_adapters.transport import FileChunk
from site_adapters.transport.files import read_chunk

T = TypeVar("T")

# Never the gateway's own environment: only what a program needs to be found and to talk plainly.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class LocalConnection:
    """One login on this machine: the own user, or any user where the gateway is root and may switch."""

    def __init__(self, username: str, *, environment: Mapping[str, str], switch_user: bool) -> None:
        try:
            self._account = pwd.getpwnam(username)
        except KeyError:
            raise CredentialRefused(f"there is no user {username!r} on this machine") from None
        self._switch = self._account.pw_uid != os.geteuid()
        if self._switch and not (switch_user and os.geteuid() == 0):
            me = pwd.getpwuid(os.geteuid()).pw_name
            raise CredentialRefused(f"only jobs of {me!r} can run here: acting for others takes root and switch_user")
        self._environment = dict(environment)

    @property
    def username(self) -> str:
        return self._account.pw_name

    def run(self, command: Command[T]) -> T:
        return command.parse(self._output(command))

    def run_many(self, commands: Sequence[Command[T]]) -> list[T | SiteError]:
        results: list[T | SiteError] = []
        for command in commands:
            try:
                results.append(self.run(command))
            except SiteError as exc:
                results.append(exc)
        return results

    def read_file(self, path: str, *, offset: int, limit: int) -> FileChunk:
        if self._switch:
            return self.run(read_chunk(path, offset=offset, limit=limit))
        place = Path(self._account.pw_dir, path[2:]) if path.startswith("~/") else Path(path)
        try:
            with place.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(min(offset, size))
                return FileChunk(file.read(limit), min(offset, size), size)
        except FileNotFoundError:
            raise NotFound(f"there is no file {path}") from None
        except OSError as exc:
            raise CommandFailed(f"{path}: {exc.strerror}") from exc

    def close(self) -> None:
        """Nothing is kept open."""

    def _output(self, command: Command[Any]) -> Output:
        user: dict[str, Any] = {}
        if self._switch:
            groups = os.getgrouplist(self._account.pw_name, self._account.pw_gid)
            user = {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": groups}
        try:
            process = subprocess.Popen(
                command.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env=self._env(command), cwd=self._cwd(), start_new_session=True, **user,
            )  # fmt: skip
        except FileNotFoundError:
            return Output(b"", f"{command.argv[0]}: not found".encode(), 127)
        except OSError as exc:
            return Output(b"", f"{command.argv[0]}: {exc.strerror}".encode(), 126)
        try:
            stdout, stderr = process.communicate(command.stdin, timeout=command.deadline_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            what = f"{command.argv[0]} did not end within {command.deadline_s:g} s"
            raise (OutcomeUnknown(what) if command.write else SiteUnreachable(what)) from None
        if len(stdout) > command.stdout_bytes_max:
            raise CommandFailed(f"{command.argv[0]} printed more than {command.stdout_bytes_max} bytes")
        if process.returncode < 0 and command.write:
            raise OutcomeUnknown(f"{command.argv[0]} was killed by signal {-process.returncode}")
        return Output(stdout, stderr, process.returncode if process.returncode >= 0 else 128 - process.returncode)

    def _cwd(self) -> str:
        return self._account.pw_dir if Path(self._account.pw_dir).is_dir() else "/"

    def _env(self, command: Command[Any]) -> dict[str, str]:
        own = {"HOME": self._account.pw_dir, "USER": self.username, "LOGNAME": self.username, "LC_ALL": "C"}
        return {"PATH": _PATH, **own, **self._environment, **dict(command.env)}
