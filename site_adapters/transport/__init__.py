"""Transports run commands: the only code that touches a process or a socket of a site.

`Connection` is bound to one login (site, account). `local.py` runs on this machine, `ssh.py` over paramiko.
Every method may be called from several threads. Reads raise `SiteUnreachable` when the answer was not seen
whole, writes raise `OutcomeUnknown`; nothing here repeats a write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from site_adapters.command import Command
from site_adapters.errors import SiteError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FileChunk:
    """Bytes of a file from `offset`; `size` is the file's size when it was read, `eof` is offset+len == size."""

    data: bytes
    offset: int
    size: int

    @property
    def eof(self) -> bool:
        return self.offset + len(self.data) >= self.size


class Connection(Protocol):
    """One login at one site."""

    @property
    def username(self) -> str:
        """The account's name at the site."""
        ...

    def run(self, command: Command[T]) -> T:
        """Run one command to its end and return what its parser made of the output."""
        ...

    def run_many(self, commands: Sequence[Command[T]]) -> list[T | SiteError]:
        """Run several commands in one round trip, in order; one result or one error for each.

        A cut in the middle yields the results seen so far and `OutcomeUnknown` / `SiteUnreachable` for the rest.
        """
        ...

    def read_file(self, path: str, *, offset: int, limit: int) -> FileChunk:
        """Up to `limit` bytes of `path` from `offset`; `~/` is the account's home. Raises `NotFound`."""
        ...

    def close(self) -> None:
        """Give back the connection; running commands fail with `SiteUnreachable`."""
        ...


class Logins(Protocol):
    """The connections of one site, by whose power they act; made lazily, kept in a pool."""

    def actor(self, username: str) -> Connection:
        """The person's own login; raises `CredentialRefused` where we hold no key for it."""
        ...

    def observer(self) -> Connection | None:
        """A login that sees everybody's jobs, or None: then each account is asked on its own."""
        ...

    def meter(self) -> Connection | None:
        """A login that reads everybody's accounting, or None."""
        ...

    def anyone(self) -> Connection | None:
        """For what everybody there may know: observer, meter, else a person's login that was used before."""
        ...

    def close(self) -> None:
        """Close every connection."""
        ...
