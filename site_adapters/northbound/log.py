"""What a job printed, fetched through the centre's file API."""

from __future__ import annotations

from dataclasses import dataclass

from site_adapters.northbound.commands import Api
from site_adapters.transport import FileChunk
from site_adapters.transport.http import HttpConnection
from site_adapters.types import SiteAccount


@dataclass(frozen=True, slots=True)
class NorthboundLog:
    """Output files of a job, by byte range."""

    connection: HttpConnection
    api: Api

    def read(self, account: SiteAccount, path: str, *, offset: int, limit: int) -> FileChunk:
        return self.connection.run(self.api.file(path, offset, limit))
