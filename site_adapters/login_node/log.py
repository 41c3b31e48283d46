"""What a job printed, read through the person's own login."""

from __future__ import annotations

from dataclasses import dataclass

from site_adapters.transport import FileChunk, Logins
from site_adapters.types import SiteAccount


@dataclass(frozen=True, slots=True)
class LoginNodeLog:
    """Output files of a job, by byte range."""

    logins: Logins

    def read(self, account: SiteAccount, path: str, *, offset: int, limit: int) -> FileChunk:
        return self.logins.actor(account.username).read_file(path, offset=offset, limit=limit)
