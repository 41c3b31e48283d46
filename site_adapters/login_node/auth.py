"""Who a login is at a site, proved by logging in; and probes of each credential with what to do where one fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NoReturn

from site_adapters.command import Command, Output
from site_adapters.errors import CommandFailed, SiteError, Unsupported
from site_adapters.states import CredentialKind
from site_adapters.transport import Connection, Logins
from site_adapters.types import AccountFacts, CheckResult


def whoami() -> Command[AccountFacts]:
    """uid, name, home and groups of the login."""

    def parse(output: Output) -> AccountFacts:
        lines = output.text.splitlines()
        if output.exit_code != 0 or len(lines) < 4 or not lines[0].isdigit():
            raise CommandFailed("the site does not say who we are", native_text=output.error_text)
        return AccountFacts(lines[1], int(lines[0]), lines[2], tuple(lines[3].split()))

    return Command(("/bin/sh", "-c", 'id -u && id -un && echo "$HOME" && id -Gn'), parse, deadline_s=20.0)


def clock() -> Command[datetime]:
    """The login node's clock."""

    def parse(output: Output) -> datetime:
        if not output.text.strip().isdigit():
            raise CommandFailed("the site does not tell the time", native_text=output.error_text)
        return datetime.fromtimestamp(int(output.text), UTC)

    return Command(("date", "+%s"), parse, deadline_s=20.0)


@dataclass(frozen=True, slots=True)
class LoginNodeAuth:
    """Auth by logging in. Opening accounts needs a service at the centre: `Unsupported` here."""

    logins: Logins
    probes: tuple[Callable[[], CheckResult], ...] = ()

    def probe(self, username: str) -> AccountFacts:
        facts = self.logins.actor(username).run(whoami())
        if facts.username != username:
            raise CommandFailed(f"the key of {username} logs in as {facts.username}")
        return facts

    def check(self) -> list[CheckResult]:
        results = [
            check_login(CredentialKind.OBSERVER, self.logins.observer, "Without one each account is asked on its own."),
            check_login(CredentialKind.METER, self.logins.meter, "Without one each account's own records are read."),
            CheckResult("provisioner", True, "Accounts are opened at the centre only.",
                        credential=CredentialKind.PROVISIONER),
        ]  # fmt: skip
        return [*results, *(probe() for probe in self.probes)]

    def provision(self, username: str, project: str) -> NoReturn:
        raise Unsupported("accounts are opened by the centre, not over a login")

    def suspend(self, username: str) -> NoReturn:
        raise Unsupported("accounts are suspended by the centre, not over a login")

    def revoke(self, username: str) -> NoReturn:
        raise Unsupported("accounts are revoked by the centre, not over a login")


def check_login(kind: CredentialKind, login: Callable[[], Connection | None], without: str) -> CheckResult:
    """Whether a login of the gateway's own works."""
    name = f"{kind.value} login"
    try:
        connection = login()
        if connection is None:
            return CheckResult(name, True, f"none configured: {without}", credential=kind)
        facts = connection.run(whoami())
    except SiteError as exc:
        return CheckResult(name, False, str(exc), f"Check the key and the account of the {kind.value}.", kind)
    return CheckResult(name, True, f"logs in as {facts.username} (uid {facts.uid})", credential=kind)
