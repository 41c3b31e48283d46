"""What a route is given: the services, the person who asks, the body as JSON."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Annotated, Any, TypeVar, cast

from fastapi import Depends, Header, Request
from pydantic import BaseModel, ValidationError

from gateway.errors import Forbidden, Invalid, PayloadTooLarge, Problem
from gateway.identity.access import Person, Verb, can
from gateway.identity.tokens import Doorkeeper
from gateway.jobs.service import IdempotencyKey
from gateway.services import Services

M = TypeVar("M", bound=BaseModel)


def services_of(request: Request) -> Services:
    return cast(Services, request.app.state.services)


def person_of(request: Request, authorization: Annotated[str | None, Header()] = None) -> Person:
    """Who asks, by bearer token (or the page's session cookie, which holds the same token)."""
    doorkeeper = cast(Doorkeeper, request.app.state.doorkeeper)
    scheme, _, bearer = (authorization or "").partition(" ")
    if scheme.lower() != "bearer":
        bearer = request.cookies.get("penstock_token", "")
    return doorkeeper.person(bearer.strip() or None)


def admin_of(person: Annotated[Person, Depends(person_of)]) -> Person:
    if not can(person, Verb.OPERATE):
        raise Forbidden("Only the operator may do this.", remedy="Use a token with the admin scope.")
    return person


async def body_of(request: Request) -> bytes:
    """The body, refused as soon as it is too long."""
    limit = services_of(request).settings.body_bytes_max
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise PayloadTooLarge(f"More than {limit} bytes.", remedy="Put large files at the site.")
        parts.append(part)
    return b"".join(parts)


Svc = Annotated[Services, Depends(services_of)]
Who = Annotated[Person, Depends(person_of)]
Admin = Annotated[Person, Depends(admin_of)]
Body = Annotated[bytes, Depends(body_of)]
IdemHeader = Annotated[str | None, Header(alias="Idempotency-Key", max_length=255)]


def read(model: type[M], body: bytes) -> M:
    """The body as a model; a body that is no UTF-8 or no JSON is a problem like any other."""
    try:
        return model.model_validate_json(body)
    except ValidationError as exc:
        if exc.errors()[0]["type"] == "json_invalid":
            detail = exc.errors()[0]["msg"]
            problem = Problem("", detail, "not_json", "Send UTF-8 JSON.")
            raise Invalid("The body is no JSON.", problems=(problem,)) from exc
        raise


def idempotency(key: str | None, body: bytes) -> IdempotencyKey | None:
    """The key and the content it stands for; the same JSON in another layout is the same content."""
    if key is None:
        return None
    try:
        content = json.dumps(json.loads(body), sort_keys=True).encode()
    except (ValueError, RecursionError):
        content = body
    return IdempotencyKey(_sha256(key.encode("utf-8", "surrogateescape")), _sha256(content))


def cursor_of(last: str | None) -> str | None:
    return None if last is None else base64.urlsafe_b64encode(last.encode()).decode()


def from_cursor(cursor: str | None) -> str | None:
    if cursor is None:
        return None
    try:
        return base64.urlsafe_b64decode(cursor.encode()).decode("ascii")
    except (ValueError, UnicodeError) as exc:
        problem = Problem("/cursor", "This is no cursor of ours.", "invalid", "Start again without a cursor.")
        raise Invalid("The cursor is not valid.", problems=(problem,)) from exc


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def json_bytes(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
