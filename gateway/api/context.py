"""What a route is given: the services, the person who asks, the body as JSON."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar, cast

import msgspec
from fastapi import Depends, Header, Path, Request
from pydantic import AfterValidator, BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from gateway.api.schemas import storable
from gateway.errors import Forbidden, Invalid, PayloadTooLarge, Problem, Unauthenticated
from gateway.identity.access import Person, Verb, can
from gateway.identity.tokens import Doorkeeper
from gateway.services import Services

M = TypeVar("M", bound=BaseModel)

_ENCODER = msgspec.json.Encoder()
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


async def services_of(request: Request) -> Services:
    """`async` so that it costs no thread."""
    return cast(Services, request.app.state.services)


def person_of(request: Request, authorization: str | None = None) -> Person:
    """Who asks, by bearer token (or the page's session cookie, which holds the same token)."""
    doorkeeper = cast(Doorkeeper, request.app.state.doorkeeper)
    return doorkeeper.person(_bearer(request, authorization), address=address_of(request))


async def asking(request: Request, authorization: Annotated[str | None, Header()] = None) -> Person:
    """Who asks; a token that was looked up within the second costs neither a thread nor a query."""
    doorkeeper = cast(Doorkeeper, request.app.state.doorkeeper)
    bearer = _bearer(request, authorization)
    if authorization is None and bearer is not None and request.method not in _SAFE:
        # Another site's page can make a browser send the cookie, but not the header.
        raise Unauthenticated("A bearer token is needed to change anything.", remedy="Send Authorization.")
    known = doorkeeper.recognise(bearer)
    if known is not None:
        return known
    return await run_in_threadpool(doorkeeper.person, bearer, address=address_of(request))


def bearer_of(request: Request) -> str | None:
    """The token of a request that was let in, for a stream that outlives its first look."""
    return _bearer(request, request.headers.get("authorization"))


def address_of(request: Request) -> str:
    return request.client.host if request.client is not None else ""


def _bearer(request: Request, authorization: str | None) -> str | None:
    if authorization is None:
        return request.cookies.get("penstock_token")
    scheme, _, bearer = authorization.partition(" ")
    return bearer.strip() if scheme.lower() == "bearer" else None


async def admin_of(person: Annotated[Person, Depends(asking)]) -> Person:
    if not can(person, Verb.OPERATE):
        raise Forbidden("Only the operator may do this.", remedy="Use an operator's token with the admin scope.")
    return person


async def body_of(request: Request) -> bytes:
    """The body, refused as soon as it is too long."""
    limit = (await services_of(request)).settings.body_bytes_max
    return await _within(request, limit, "Put large files at the site.")


async def long_body_of(request: Request) -> bytes:
    """A body that may hold a month of a big centre."""
    limit = (await services_of(request)).settings.statement_bytes_max
    return await _within(request, limit, "Send it packed, or let the operator receive the file at the gateway.")


async def _within(request: Request, limit: int, remedy: str) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit, remedy)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise _too_large(limit, remedy)
        parts.append(part)
    return b"".join(parts)


def _too_large(limit: int, remedy: str) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is longer than {limit} bytes.", remedy=remedy)


Svc = Annotated[Services, Depends(services_of)]
Who = Annotated[Person, Depends(asking)]
Admin = Annotated[Person, Depends(admin_of)]
Body = Annotated[bytes, Depends(body_of)]
LongBody = Annotated[bytes, Depends(long_body_of)]
IdemHeader = Annotated[
    str | None,
    Header(alias="Idempotency-Key", max_length=255, description="The same key again gets the same answer"),
]
# A word in a path or a query that goes into a statement: PostgreSQL takes no NUL.
Word = Annotated[str, AfterValidator(storable)]
JobId = Annotated[Word, Path(description="A job's id", max_length=64)]


def read(model: type[M], body: bytes) -> M:
    """The body as a model; a body that is no UTF-8 or no JSON is a problem like any other."""
    try:
        return model.model_validate_json(body)
    except ValidationError as exc:
        if exc.errors(include_url=False, include_input=False)[0]["type"] == "json_invalid":
            detail = exc.errors(include_url=False, include_input=False)[0]["msg"]
            problem = Problem("", detail, "not_json", "Send UTF-8 JSON.")
            raise Invalid("The body is no JSON.", problems=(problem,)) from exc
        raise


def json_bytes(value: Any) -> bytes:
    """JSON in UTF-8; half of a surrogate pair (a name in an odd encoding) becomes a question mark."""
    try:
        return _ENCODER.encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def answer(value: Any, status: int = 200, **headers: str) -> Response:
    """A JSON response from plain values: hot paths are not validated again on their way out."""
    return Response(json_bytes(value), status, headers, media_type="application/json")
