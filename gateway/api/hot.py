"""The two hot routes without FastAPI's reading of parameters, which costs more than their answers do.

`POST /jobs` and `GET /jobs/{id}` are routes like all others: in the document, and with every check. A request in which
nothing is unusual is met before them by a route that reads the same parameters itself and calls the same function;
whatever is unusual (a long key, an odd id, a path behind a prefix) goes on to FastAPI and is judged there.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from gateway.api import jobs
from gateway.api.context import asking, body_of

_JOBS = "/api/v2/jobs"
_PLAIN_ID = re.compile(rf"{_JOBS}/([A-Za-z0-9_]{{1,64}})")
_KEY = b"idempotency-key"
_PLAIN_KEY_MAX = 255


def install(app: FastAPI) -> None:
    """Before all other routes."""
    app.router.routes[:0] = [_HotRoute("POST", _is_plain_post, _submit), _HotRoute("GET", _is_plain_look, _show)]


class _HotRoute(BaseRoute):
    """One method, and requests to which `is_plain` says yes; all else is none of its business."""

    def __init__(
        self, method: str, is_plain: Callable[[Scope], bool], answer: Callable[[Request], Awaitable[Response]]
    ) -> None:
        self._method, self._is_plain, self._answer = method, is_plain, answer

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        ours = scope["type"] == "http" and scope["method"] == self._method and not scope.get("root_path")
        ours = ours and not scope.get("query_string")  # FastAPI's route tells which parameters it does not know
        return (Match.FULL, {}) if ours and self._is_plain(scope) else (Match.NONE, {})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self._answer(Request(scope, receive, send))
        await answer(scope, receive, send)


def _is_plain_post(scope: Scope) -> bool:
    if scope["path"] != _JOBS:
        return False
    return all(0 < len(value) <= _PLAIN_KEY_MAX for name, value in scope["headers"] if name == _KEY)


def _is_plain_look(scope: Scope) -> bool:
    return _PLAIN_ID.fullmatch(scope["path"]) is not None


async def _submit(request: Request) -> Response:
    person = await asking(request, request.headers.get("authorization"))
    body = await body_of(request)
    return await jobs.submit(request.app.state.lanes, person, body, request.headers.get("idempotency-key"))


async def _show(request: Request) -> Response:
    person = await asking(request, request.headers.get("authorization"))
    return await jobs.show(request.app.state.lanes, person, request.scope["path"].rpartition("/")[2])
