"""What the gateway says no with: one tree; each error knows its HTTP status, its code and its remedy.

GatewayError
├── Unauthenticated 401     ├── Forbidden 403          ├── NotFound 404
├── Conflict 409            ├── IdempotencyInFlight 409 ├── IdempotencyMismatch 422
├── Invalid 422 (many problems at once)                 ├── CreditExhausted 402
├── RateLimited 429         ├── PayloadTooLarge 413    ├── SiteClosedError 409
├── SiteUnreachableError 504└── NotReady 503 (recovering after a restore)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a request: where (JSON pointer), what, and what to do about it."""

    pointer: str
    detail: str
    code: str = "invalid"
    remedy: str = ""


class Refused(Exception):
    """What whoever runs the gateway asked of it at its machine cannot be done; the text says why."""


class GatewayError(Exception):
    """A request that cannot be served, in words that are safe to show."""

    status = 500
    code = "internal"
    title = "Internal error"

    def __init__(self, detail: str, *, remedy: str = "", problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy
        self.problems = problems


class Unauthenticated(GatewayError):
    """No token, or one that is unknown, expired or revoked."""

    status, code, title = 401, "unauthenticated", "Log in first"


class Forbidden(GatewayError):
    """Known, but not allowed."""

    status, code, title = 403, "forbidden", "Not allowed"


class NotFound(GatewayError):
    """Not there, or not yours to see (the two are not told apart)."""

    status, code, title = 404, "not_found", "Not found"


class Conflict(GatewayError):
    """The state does not allow this now."""

    status, code, title = 409, "conflict", "Not possible in this state"


class IdempotencyInFlight(GatewayError):
    """The first request with this key is still being answered."""

    status, code, title = 409, "idempotency_in_flight", "Same request in flight"


class IdempotencyMismatch(GatewayError):
    """The key was used before with other content."""

    status, code, title = 422, "idempotency_mismatch", "Idempotency key used for another request"


class Invalid(GatewayError):
    """The request as it stands cannot work; `problems` has every reason."""

    status, code, title = 422, "invalid", "The request has problems"


class CreditExhausted(GatewayError):
    """The project's credit does not cover the most this could cost."""

    status, code, title = 402, "credit_exhausted", "Not enough credit"


class PayloadTooLarge(GatewayError):
    """The body is larger than we read."""

    status, code, title = 413, "payload_too_large", "Request too large"


class RateLimited(GatewayError):
    """Too many requests; `retry_after_s` says when to come back."""

    status, code, title = 429, "rate_limited", "Too many requests"

    def __init__(self, detail: str, *, retry_after_s: int) -> None:
        super().__init__(detail, remedy=f"Try again in {retry_after_s} s.")
        self.retry_after_s = retry_after_s


class SiteClosedError(GatewayError):
    """The site is closed on our side or theirs."""

    status, code, title = 409, "site_closed", "The site is closed"


class SiteUnreachableError(GatewayError):
    """The site did not answer within the deadline of this request."""

    status, code, title = 504, "site_unreachable", "The site does not answer"


class NotReady(GatewayError):
    """The gateway does not take writes now (it recovers after a restore)."""

    status, code, title = 503, "not_ready", "Not ready"
