"""Probes of a REST centre: each part of its API that we use, and what to do where it does not answer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

from site_adapters.errors import NotFound, SiteError
from site_adapters.northbound.commands import Api
from site_adapters.states import CredentialKind
from site_adapters.transport.http import HttpConnection
from site_adapters.types import CheckResult

_ACTOR, _METER = CredentialKind.ACTOR, CredentialKind.METER


def check(connection: HttpConnection, api: Api) -> list[CheckResult]:
    """The login first: where it is refused nothing else can be asked, and that is said."""
    try:
        manager = connection.run(api.clusters())
    except SiteError as exc:
        remedy = (
            "Check the key files, the address, and that this machine's clock is right: the login is signed by time."
        )
        lost = [CheckResult(name, True, "not asked: the login is refused") for name, _ in _PARTS]
        return [CheckResult("login", False, str(exc), remedy, _ACTOR), *lost]
    return [
        CheckResult("login", True, f"acts as {api.config.user}", credential=_ACTOR),
        CheckResult("scheduler", True, f"number {manager} at {api.config.cluster}"),
        *(_probed(name, partial(part, connection, api, manager)) for name, part in _PARTS),
    ]


def _probed(name: str, part: Callable[[], CheckResult]) -> CheckResult:
    try:
        return part()
    except SiteError as exc:
        return CheckResult(name, False, str(exc), "Ask the centre whether this part of its API is open to our user.")


def _queues(connection: HttpConnection, api: Api, manager: str) -> CheckResult:
    queues = connection.run(api.queues(manager))
    return CheckResult("queues", bool(queues), f"{len(queues)} shown", "" if queues else "Ask for the right to one.")


def _live_jobs(connection: HttpConnection, api: Api, manager: str) -> CheckResult:
    page = connection.run(api.listed("active-job", manager, 1))
    return CheckResult("live jobs", True, f"{page.total} of our user")


def _history(connection: HttpConnection, api: Api, manager: str) -> CheckResult:
    page = connection.run(api.listed("history-job", manager, 1))
    detail = f"{page.total} ended jobs are kept"
    if page.problems:
        looked = len(page.rows) + len(page.problems)
        detail = f"{page.total} ended jobs are kept, {len(page.problems)} of the first {looked} cannot be read"
    remedy = "Report these rows to us: what cannot be read is not charged." if page.problems else ""
    return CheckResult("history", not page.problems, detail, remedy, _METER)


def _files(connection: HttpConnection, api: Api, _manager: str) -> CheckResult:
    """A file that is not there: the answer that it is not proves that files can be asked for."""
    with suppress(NotFound):
        connection.run(api.file(f"{api.config.home}/.penstock-check-{api.config.user}", 0, 1))
    return CheckResult("files", True, f"outputs below {api.config.home} can be asked for", credential=_ACTOR)


_PARTS: tuple[tuple[str, Callable[[HttpConnection, Api, str], CheckResult]], ...] = (
    ("queues", _queues), ("live jobs", _live_jobs), ("history", _history), ("files", _files),
)  # fmt: skip
