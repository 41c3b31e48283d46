"""Who we are at a REST centre: the operator's own user; people are told apart by the gateway (tenant mandate)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from site_adapters.errors import CredentialRefused, Unsupported
from site_adapters.northbound.checks import check
from site_adapters.northbound.commands import Api
from site_adapters.transport.http import HttpConnection
from site_adapters.types import AccountFacts, CheckResult

NO_UID = -1  # the API tells no number


@dataclass(frozen=True, slots=True)
class NorthboundAuth:
    """One user for all."""

    connection: HttpConnection
    api: Api

    def probe(self, username: str) -> AccountFacts:
        if username != self.api.config.user:
            raise CredentialRefused(f"at this centre everybody acts as {self.api.config.user}")
        self.connection.run(self.api.clusters())
        return AccountFacts(username, NO_UID, self.api.config.home)

    def check(self) -> list[CheckResult]:
        return check(self.connection, self.api)

    def provision(self, username: str, project: str) -> NoReturn:
        raise Unsupported("accounts are opened by the centre")

    def suspend(self, username: str) -> NoReturn:
        raise Unsupported("accounts are suspended by the centre")

    def revoke(self, username: str) -> NoReturn:
        raise Unsupported("accounts are revoked by the centre")
