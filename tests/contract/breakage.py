"""Lose the answers of a real site on purpose: stands between an adapter and its logins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from site_adapters.command import Command
from site_adapters.errors import OutcomeUnknown, SiteError
from site_adapters.transport import Connection, FileChunk, Logins

Land = Callable[[], None]


class Breakage(Protocol):
    """Two ways in which the answer to a write is not seen."""

    def cut(self) -> Any:
        """Context: what is written arrives and is carried out; its answer is lost."""
        ...

    def late(self) -> Any:
        """Context, yields `land`: what is written within arrives only when `land()` is called; its answer is lost."""
        ...


@dataclass(slots=True)
class LoginBreakage:
    """For adapters that log in: `around` wraps their logins."""

    mode: str = ""
    kept: list[tuple[Connection, Sequence[Command[Any]]]] = field(default_factory=list)

    def around(self, logins: Logins) -> BreakableLogins:
        return BreakableLogins(logins, self)

    @contextmanager
    def cut(self) -> Iterator[None]:
        self.mode = "cut"
        try:
            yield
        finally:
            self.mode = ""

    @contextmanager
    def late(self) -> Iterator[Land]:
        self.mode = "late"
        try:
            yield self.land
        finally:
            self.mode = ""

    def land(self) -> None:
        """What was kept back arrives now; nobody sees the answers."""
        self.mode = ""
        kept, self.kept = self.kept, []
        for connection, commands in kept:
            connection.run_many(commands)

    def answers(self, connection: Connection, commands: Sequence[Command[Any]]) -> list[Any]:
        """What the adapter is told; commands that change nothing are never touched."""
        if not self.mode or not any(c.write for c in commands):
            return connection.run_many(commands)
        if self.mode == "cut":
            connection.run_many(commands)
        else:
            self.kept.append((connection, commands))
        return [OutcomeUnknown("the test lost the answer") for _ in commands]


class BreakableLogins:
    """`Logins` whose connections ask the breakage first."""

    def __init__(self, real: Logins, breakage: LoginBreakage) -> None:
        self._real, self._breakage = real, breakage

    def actor(self, username: str) -> Connection:
        return _Breakable(self._real.actor(username), self._breakage)

    def observer(self) -> Connection | None:
        return self._wrapped(self._real.observer())

    def meter(self) -> Connection | None:
        return self._wrapped(self._real.meter())

    def anyone(self) -> Connection | None:
        return self._wrapped(self._real.anyone())

    def close(self) -> None:
        self._real.close()

    def _wrapped(self, connection: Connection | None) -> Connection | None:
        return None if connection is None else _Breakable(connection, self._breakage)


class _Breakable:
    def __init__(self, real: Connection, breakage: LoginBreakage) -> None:
        self._real, self._breakage = real, breakage

    @property
    def username(self) -> str:
        return self._real.username

    def run(self, command: Command[Any]) -> Any:
        answer = self.run_many([command])[0]
        if isinstance(answer, SiteError):
            raise answer
        return answer

    def run_many(self, commands: Sequence[Command[Any]]) -> list[Any]:
        return self._breakage.answers(self._real, commands)

    def read_file(self, path: str, *, offset: int, limit: int) -> FileChunk:
        return self._real.read_file(path, offset=offset, limit=limit)

    def close(self) -> None:
        self._real.close()
