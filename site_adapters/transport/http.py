"""Requests to centres that are reached by REST: the HTTP twin of a command over a login.

A request is data: method, path, body and a pure function that reads the answer. Nothing here repeats a write, but for
one that the site refused because the login had run out: then nothing was done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import httpx

from site_adapters.errors import CommandFailed, CredentialRefused, OutcomeUnknown, SiteError, SiteUnreachable

T = TypeVar("T")
_ANSWER_BYTES_MAX = 64 * 1024 * 1024


class LoginRanOut(SiteError):
    """The site asks for a new login; what was asked was not done."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, as bytes, with its HTTP status."""

    status: int
    content: bytes
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """What to ask and how to read it; `url` is whole, `json` or `form` is its body."""

    method: str
    url: str
    parse: Callable[[Answer], T]
    query: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    form: Mapping[str, str] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    write: bool = False
    deadline_s: float = 30.0


class Login(Protocol):
    """How requests prove who asks."""

    def headers(self, ask: Callable[[Request[Any]], Any]) -> Mapping[str, str]:
        """The headers of a valid login; `ask` runs a request without one."""
        ...

    def forget(self) -> None:
        """The login was refused: the next one is fresh."""
        ...


class HttpConnection:
    """One login at one REST centre; may be used from several threads."""

    def __init__(self, login: Login) -> None:
        self._login = login
        self._client = httpx.Client(follow_redirects=False)
        self._lock = threading.Lock()

    def run(self, request: Request[T]) -> T:
        """Ask, and return what the request's parser makes of the answer."""
        try:
            return self._send(request, self._headers())
        except LoginRanOut:
            with self._lock:
                self._login.forget()
        try:
            return self._send(request, self._headers())
        except LoginRanOut as exc:
            raise CredentialRefused("the centre accepts no login of ours") from exc

    def close(self) -> None:
        self._client.close()

    def _headers(self) -> Mapping[str, str]:
        with self._lock:
            return self._login.headers(lambda request: self._send(request, {}))

    def _send(self, request: Request[T], headers: Mapping[str, str]) -> T:
        lost: type[SiteUnreachable] = OutcomeUnknown if request.write else SiteUnreachable
        try:
            found = self._client.request(
                request.method, request.url, params=dict(request.query), json=request.json, data=request.form,
                headers={**headers, **request.headers}, timeout=request.deadline_s,
            )  # fmt: skip
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            raise SiteUnreachable(f"{request.url} cannot be reached: {exc}") from exc  # nothing was sent
        except httpx.HTTPError as exc:
            raise lost(f"{request.url} gave no answer: {type(exc).__name__}") from exc
        if found.status_code >= 500:
            raise lost(f"{request.url} answered {found.status_code}")
        if len(found.content) > _ANSWER_BYTES_MAX:
            raise CommandFailed(f"{request.url} answered more than is allowed")
        try:
            return request.parse(Answer(found.status_code, found.content, found.headers.get("content-type", "")))
        except (ValueError, LookupError, TypeError) as exc:
            what = f"{request.url} gave an answer that we do not understand ({exc})"
            raise OutcomeUnknown(what) if request.write else CommandFailed(what) from exc
