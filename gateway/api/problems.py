"""Errors as problem+json (RFC 9457): what, where (JSON pointer) and what to do; never a 500 for bad input.

A browser that asked for a page is given a page that says the same.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from accounting.bound import kind_of, place_of
from accounting.errors import AccountingError, FourEyes, RefundTooLarge, TooMuch
from accounting.errors import CreditExhausted as NoCredit
from accounting.ledger import PEOPLE_COUNT
from accounting.money import format_micro, is_currency
from gateway.errors import Conflict, CreditExhausted, Forbidden, GatewayError, Invalid, Problem, RateLimited

log = structlog.get_logger()

# A unique key; a deadlock; a serialisation failure.
_SECOND = frozenset({"SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY", "23505", "40P01", "40001"})
_MEDIA = "application/problem+json"
# Shows a problem document to a person.
Page = Callable[[Request, dict[str, Any]], Response]
# What the design promises and this gateway does not do yet: told apart from a typing mistake.
_LATER = frozenset({"container", "stage_in", "stage_out", "cleanup", "template", "objective"})


def body(error: GatewayError) -> dict[str, Any]:
    """The problem document of an error."""
    found: dict[str, Any] = {
        "type": f"https://penstock.dev/problems/{error.code}", "title": error.title, "status": error.status,
        "detail": error.detail, "code": error.code,
    }  # fmt: skip
    if error.remedy:
        found["remedy"] = error.remedy
    if error.problems:
        found["errors"] = [problem_json(p) for p in error.problems]
    return found


def problem_json(problem: Problem) -> dict[str, str]:
    return {"pointer": problem.pointer, "detail": problem.detail, "code": problem.code, "remedy": problem.remedy}


def answer(error: GatewayError) -> Response:
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, RateLimited) else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(_clean(body(error)), error.status, headers, media_type=_MEDIA)


def of_validation(errors: Sequence[Any], *, skip: int = 0) -> tuple[Problem, ...]:
    """pydantic's errors as problems, each with its pointer."""
    found = []
    for error in errors:
        location = [str(part) for part in error["loc"][skip:]]
        pointer = "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in location)
        detail, remedy = error["msg"].removeprefix("Value error, "), ""
        if error["type"] == "extra_forbidden":
            name = location[-1] if location else ""
            later = name in _LATER
            detail = f"{name!r} is not offered by this gateway yet." if later else f"There is no field {name!r} here."
            remedy = "Leave it out." if later else "Check the spelling; the fields are in /docs."
        found.append(Problem(pointer, detail, "invalid", remedy))
    return tuple(found)


def no_credit(error: NoCredit) -> CreditExhausted:
    """The books' refusal in people's units."""
    if isinstance(error, RefundTooLarge):
        most = f"{format_micro(error.available)} {error.commodity}"
        detail = f"At most {most} can be paid back: what came in before use and is neither used nor set aside."
        return CreditExhausted(detail, remedy="Ask for no more than that; what was granted is used, not paid out.")
    kind, place = kind_of(error.commodity), place_of(error.commodity)
    there = f" @ {place}" if place else ""
    if kind in PEOPLE_COUNT:
        name, per = PEOPLE_COUNT[kind]
        detail = f"It may use {error.needed / per:.1f} {name}{there}, and {error.available / per:.1f} are left."
    elif not is_currency(kind):
        detail = f"It may use {error.needed} {kind}{there}, and {max(0, error.available)} are left."
    else:
        needed, left = format_micro(error.needed), format_micro(max(0, error.available))
        detail = f"It may cost {needed} {error.commodity}, and {left} {error.commodity} are left."
    return CreditExhausted(detail, remedy="Ask for less time or fewer cores, or ask the project owner for credit.")


def install(app: FastAPI, page: Page) -> None:
    """Every way an error can leave this process."""

    def reply(request: Request, error: GatewayError) -> Response:
        return page(request, _clean(body(error))) if wants_page(request) else answer(error)

    @app.exception_handler(GatewayError)
    def _ours(request: Request, exc: GatewayError) -> Response:
        return reply(request, exc)

    @app.exception_handler(NoCredit)
    def _credit(request: Request, exc: NoCredit) -> Response:
        return reply(request, no_credit(exc))

    @app.exception_handler(FourEyes)
    def _four_eyes(request: Request, exc: FourEyes) -> Response:
        return reply(request, Forbidden(str(exc), remedy="Ask another operator."))

    @app.exception_handler(TooMuch)
    def _too_much(request: Request, exc: TooMuch) -> Response:
        problem = Problem("/amount", f"{exc}.", "over_limit", "Give less.")
        return reply(request, Invalid("That is more than can be counted.", problems=(problem,)))

    @app.exception_handler(AccountingError)
    def _books(request: Request, exc: AccountingError) -> Response:
        return reply(request, Conflict(f"The books refuse this: {exc}."))

    @app.exception_handler(DBAPIError)
    def _database(request: Request, exc: DBAPIError) -> Response:
        if not _was_second(exc):
            raise exc
        log.info("request_came_second", path=request.url.path)
        return reply(request, Conflict("Somebody has done this already, or something beside it just now.",
                                       remedy="Look again, then decide whether it is still to be done."))  # fmt: skip

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, exc: RequestValidationError) -> Response:
        problems = of_validation(list(exc.errors()), skip=1)
        return reply(request, as_invalid(problems))

    @app.exception_handler(ValidationError)
    def _model(request: Request, exc: ValidationError) -> Response:
        return reply(request, as_invalid(of_validation(exc.errors(include_url=False))))

    @app.exception_handler(HTTPException)
    def _http(request: Request, exc: HTTPException) -> Response:
        found = {"type": "about:blank", "title": str(exc.detail), "status": exc.status_code,
                 "detail": str(exc.detail), "code": f"http_{exc.status_code}"}  # fmt: skip
        if wants_page(request):
            return page(request, found)
        return JSONResponse(found, exc.status_code, exc.headers, media_type=_MEDIA)

    app.add_middleware(_Guard)


def _was_second(exc: DBAPIError) -> bool:
    """Whether a unique key, or two transactions that waited for each other, refused what somebody else did first."""
    code = str(getattr(exc.orig, "sqlstate", None) or getattr(exc.orig, "sqlite_errorname", ""))
    return code in _SECOND


def wants_page(request: Request) -> bool:
    """A person's browser, outside the API."""
    return not request.url.path.startswith("/api/") and "text/html" in request.headers.get("accept", "")


class _Guard:
    """Whatever else goes wrong is a bug of ours: the client gets a number, the log all the rest."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except ClientDisconnect:
            log.info("client_gone", path=scope.get("path", ""))  # in the middle of its body: nobody to answer
        except Exception:
            number = secrets.token_hex(6)
            log.exception("request_failed", incident=number, path=scope.get("path", ""))
            if scope["type"] != "http" or started:
                raise
            told = GatewayError(f"Something went wrong here. Its number is {number}.", remedy="Tell the operator.")
            await answer(told)(scope, receive, send)


def as_invalid(problems: tuple[Problem, ...]) -> Invalid:
    """All problems of a request, the first of them in the headline."""
    first = problems[0].detail if problems else "it cannot be read"
    return Invalid(f"The request has {len(problems)} problem{'s' * (len(problems) != 1)}: {first}", problems=problems)


def _clean(value: Any) -> Any:
    """Text that JSON can carry: half a surrogate pair from a request must not break the answer to it."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return value
