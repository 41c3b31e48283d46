"""What can go wrong, from the caller's side.

PenstockError
├── NotReachable      the gateway gave no answer (retryable)
└── Refused           the gateway said no; `problems` has every reason
    ├── NeedsLogin    401
    ├── Forbidden     403
    ├── NotFound      404
    ├── NoCredit      402
    ├── TooMany       429 (retryable; `retry_after_s`)
    └── SiteDown      409 site_closed, 504 (retryable)
"""

from __future__ import annotations

from typing import Any


class PenstockError(Exception):
    """A call did not succeed; `retryable` says whether the same call may work later."""

    retryable = False


class NotReachable(PenstockError):
    """The gateway did not answer."""

    retryable = True


class Refused(PenstockError):
    """The gateway said no, in words."""

    def __init__(self, status: int, document: dict[str, Any]) -> None:
        super().__init__(str(document.get("detail") or f"HTTP {status}"))
        self.status = status
        self.code = str(document.get("code", ""))
        self.remedy = str(document.get("remedy", ""))
        self.problems: list[dict[str, str]] = list(document.get("errors", []))


class NeedsLogin(Refused):
    """No token, or one that is not valid any more."""


class Forbidden(Refused):
    """Known, but not allowed."""


class NotFound(Refused):
    """Not there, or not yours to see."""


class NoCredit(Refused):
    """The project's credit does not cover the most this could cost."""


class TooMany(Refused):
    """Asked too often."""

    retryable = True
    retry_after_s = 1


class SiteDown(Refused):
    """The site is closed or does not answer."""

    retryable = True


_KINDS: dict[int, type[Refused]] = {
    401: NeedsLogin, 402: NoCredit, 403: Forbidden, 404: NotFound, 429: TooMany, 504: SiteDown
}  # fmt: skip


def refusal(status: int, document: dict[str, Any], retry_after: str | None) -> Refused:
    """The error of an answer that is no success."""
    kind = SiteDown if document.get("code") == "site_closed" else _KINDS.get(status, Refused)
    error = kind(status, document)
    if isinstance(error, TooMany) and retry_after is not None and retry_after.isdigit():
        error.retry_after_s = int(retry_after)
    return error
