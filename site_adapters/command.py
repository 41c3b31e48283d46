"""A command is data: argv, stdin and a pure function that reads the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from site_adapters.errors import CommandFailed

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class Output:
    """What a command printed, as bytes, with its exit status.

    A transport only builds an `Output` for a command whose end it saw; a cut answer raises
    `SiteUnreachable` (reads) or `OutcomeUnknown` (writes) instead.
    """

    stdout: bytes
    stderr: bytes
    exit_code: int

    @property
    def text(self) -> str:
        return self.stdout.decode("utf-8", "replace")

    @property
    def error_text(self) -> str:
        """stderr and stdout as one text for people, cut to 2,000 characters."""
        both = self.stderr + (b"\n" if self.stderr and self.stdout else b"") + self.stdout
        return both.decode("utf-8", "replace").strip()[:2000]


@dataclass(frozen=True, slots=True)
class Command(Generic[T]):
    """`argv` to run, bytes for its stdin, and `parse` to read the output.

    `write` marks a command that changes something: no transport ever repeats it.
    `deadline_s` is the longest the caller will wait for its end.
    `stdout_bytes_max`: a longer answer raises `CommandFailed` rather than filling memory.
    """

    argv: tuple[str, ...]
    parse: Callable[[Output], T]
    stdin: bytes = b""
    write: bool = False
    deadline_s: float = 60.0
    stdout_bytes_max: int = 64 * 1024 * 1024
    env: tuple[tuple[str, str], ...] = field(default=())

    def then(self, read: Callable[[T], U]) -> Command[U]:
        """The same command with its answer read further."""
        return Command(
            self.argv, lambda out: read(self.parse(out)), self.stdin, self.write, self.deadline_s,
            self.stdout_bytes_max, self.env,
        )  # fmt: skip


class Garbled(CommandFailed):
    """The answer came in a form that cannot be read; `instead` asks for the same in another."""

    def __init__(self, message: str, *, native_text: str, instead: Command[Any]) -> None:
        super().__init__(message, native_text=native_text)
        self.instead = instead
