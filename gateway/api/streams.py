"""Server-sent events of jobs and of their outputs: the HTTP side of `jobs.events` and `jobs.logs`.

Streams are async and have a few threads of their own: 200 viewers do not slow a plain request. A stream ends within a
second after its token was revoked.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, TypeVar, cast

import structlog
from fastapi import Request
from starlette.responses import StreamingResponse

from gateway.api.context import bearer_of
from gateway.errors import RateLimited
from gateway.identity.access import Person
from gateway.identity.tokens import Doorkeeper
from gateway.jobs.events import EventFeed
from gateway.jobs.logs import LogFeed, Piece, SiteReaders, Stream
from gateway.services import Services

log = structlog.get_logger()

T = TypeVar("T")

_THREADS = 4
_STREAMS_MAX = 2000
_SESSIONS_EVERY_S = 0.8
_KEEP_ALIVE_S = 15.0
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class Streams:
    """Everything that streams of this process share."""

    def __init__(self, services: Services, doorkeeper: Doorkeeper) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, "streams")
        self._doorkeeper = doorkeeper
        self.readers = SiteReaders(services)
        self.events = EventFeed(services.db, self.run)
        self.logs = LogFeed(services, self.events, self.readers, self.run)
        self._open: dict[str, int] = {}  # tokens, and how many streams each has
        self._revoked: set[str] = set()
        self._sessions: asyncio.Task[None] | None = None

    def run(self, work: Callable[[], T]) -> Awaitable[T]:
        """Run blocking work on the streams' own threads."""
        return asyncio.get_running_loop().run_in_executor(self._pool, work)

    def enter(self, token: str) -> None:
        """One stream more; raises `RateLimited` where there are too many."""
        if sum(self._open.values()) >= _STREAMS_MAX:
            raise RateLimited("Too many streams are open.", retry_after_s=10)
        self._open[token] = self._open.get(token, 0) + 1
        if self._sessions is None or self._sessions.done():
            self._sessions = asyncio.create_task(self._watch_sessions())

    def leave(self, token: str) -> None:
        self._open[token] -= 1
        if self._open[token] == 0:
            del self._open[token]
            self._revoked.discard(token)

    def may_go_on(self, token: str) -> bool:
        return token not in self._revoked

    def close(self) -> None:
        """Stop reading; streams that are still open get nothing more."""
        if self._sessions is not None:
            self._sessions.cancel()
        self.logs.close()
        self.events.close()
        self.readers.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _watch_sessions(self) -> None:
        """One query for all tokens that have a stream open."""
        while self._open:
            tokens = list(self._open)
            try:
                good = await self.run(lambda t=tokens: self._doorkeeper.still_valid(t))  # type: ignore[misc]
                self._revoked = {token for token in tokens if token not in good and token in self._open}
            except Exception:  # the database is away: nobody is sent off for that
                log.exception("sessions_not_checked")
            await asyncio.sleep(_SESSIONS_EVERY_S)


def streams_of(request: Request) -> Streams:
    return cast(Streams, request.app.state.streams)


def wanted(request: Request) -> bool:
    """Whether the client asks for events rather than for what is there now."""
    return "text/event-stream" in request.headers.get("accept", "")


def follow_events(request: Request, job_id: str, after: int) -> StreamingResponse:
    """A job's events behind `Last-Event-ID`, until it has ended."""
    after = _last_event_id(request, after)
    feed = streams_of(request).events

    async def lines() -> AsyncGenerator[bytes]:
        n, state = after, ""
        async with aclosing(feed.follow(job_id, after)) as batches:
            async for batch in batches:
                for event in batch:
                    n, state = event["n"], event["state"]
                    yield _sse(event["kind"], event, n)
                if not batch:
                    yield b""
        yield _sse("end", {"state": state} if state else {}, n)

    return _response(request, lines())


def follow_log(
    request: Request, person: Person, job_id: str, stream: Stream, task: int | None, offset: int
) -> StreamingResponse:
    """A job's output as it comes; the id of each event is the byte offset to go on from."""
    offset = _last_event_id(request, offset)
    feed = streams_of(request).logs

    async def lines() -> AsyncGenerator[bytes]:
        at = offset
        async with aclosing(feed.follow(person, job_id, stream, task, offset)) as pieces:
            async for piece in pieces:
                yield b"" if piece.kind == "tick" else _sse(piece.kind, _told(piece, at), piece.next)
                at = piece.next

    return _response(request, lines())


def _response(request: Request, lines: AsyncGenerator[bytes]) -> StreamingResponse:
    """The lines, with comments that keep the connection open, until the token is no good any more."""
    streams, token = streams_of(request), bearer_of(request) or ""
    streams.enter(token)

    async def checked() -> AsyncGenerator[bytes]:
        told_at = time.monotonic()
        try:
            yield b": open\n\n"
            async for line in lines:
                if not streams.may_go_on(token):
                    yield _sse(
                        "error", {"code": "unauthenticated", "detail": "The token was revoked or ran out."}, None
                    )
                    return
                if line:
                    yield line
                elif time.monotonic() - told_at > _KEEP_ALIVE_S:
                    yield b": alive\n\n"
                else:
                    continue
                told_at = time.monotonic()
        finally:
            await lines.aclose()
            streams.leave(token)

    return StreamingResponse(checked(), media_type="text/event-stream", headers=_HEADERS)


def _told(piece: Piece, at: int) -> dict[str, Any]:
    if piece.kind == "chunk":
        return {"data": piece.text, "offset": at, "next": piece.next}
    return {"next": piece.next, "detail": piece.text} if piece.text else {"next": piece.next}


def _last_event_id(request: Request, otherwise: int) -> int:
    text = request.headers.get("last-event-id", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else otherwise


def _sse(kind: str, data: Any, number: int | None) -> bytes:
    head = "" if number is None else f"id: {number}\n"
    return f"{head}event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode("utf-8", "replace")
