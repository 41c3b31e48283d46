"""Server-sent events: one tail for each (job, stream), shared by all who watch it.

Streams are async and their database work has a small thread pool of its own: 200 viewers do not slow a plain request.
"""

from __future__ import annotations

import asyncio
import codecs
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from gateway.api import output
from gateway.api.context import json_bytes
from gateway.api.output import Output
from gateway.errors import GatewayError, NotFound
from gateway.identity.access import Person
from gateway.jobs import views
from gateway.jobs.lifecycle import FINAL
from gateway.services import Services

POLL_S = 0.25
LOG_POLL_S = 0.5
_KEEP_ALIVE_S = 15.0
_CHUNK = 1 << 16
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@dataclass(slots=True)
class _Tail:
    """A loop that looks for news of one thing, and wakes everybody who waits for them."""

    look: Callable[[], Awaitable[bool]]
    every_s: float
    viewers: int = 0
    version: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        while self.viewers:
            try:
                news = await self.look()
            except GatewayError:
                news = True  # each viewer reads for itself, and is told the same
            if news:
                async with self.changed:
                    self.version += 1
                    self.changed.notify_all()
            await asyncio.sleep(self.every_s)


class Tails:
    """The tails that somebody watches."""

    def __init__(self) -> None:
        self._tails: dict[Any, _Tail] = {}

    async def watch(self, key: Any, look: Callable[[], Awaitable[bool]], every_s: float) -> AsyncIterator[None]:
        """Yields at once, and again whenever there is news (or a keep-alive is due)."""
        tail = self._tails.setdefault(key, _Tail(look, every_s))
        tail.viewers += 1
        if tail.task is None or tail.task.done():
            tail.task = asyncio.create_task(tail.run())
        try:
            seen = tail.version
            yield None
            while True:
                try:
                    async with asyncio.timeout(_KEEP_ALIVE_S), tail.changed:
                        await tail.changed.wait_for(lambda: tail.version > seen)  # noqa: B023 - read at once
                except TimeoutError:
                    pass
                seen = tail.version
                yield None
        finally:
            tail.viewers -= 1
            if tail.viewers == 0:
                self._tails.pop(key, None)


async def events(request: Request, services: Services, person: Person, job_id: str, after: int) -> Response:
    """A job's events as JSON, or as a stream that begins after `Last-Event-ID`."""
    pool: ThreadPoolExecutor = request.app.state.stream_pool
    loop = asyncio.get_running_loop()

    def fetch(n: int) -> list[dict[str, Any]]:
        with services.db.read() as conn:
            return views.events(conn, job_id, after=n)

    def visible() -> bool:
        with services.db.read() as conn:
            return views.show(conn, person, job_id) is not None

    if not await loop.run_in_executor(pool, visible):
        raise NotFound(f"There is no job {job_id!r}.")
    after = _last_event_id(request, after)
    if "text/event-stream" not in request.headers.get("accept", ""):
        return Response(json_bytes({"items": await loop.run_in_executor(pool, fetch, after)}),
                        media_type="application/json")  # fmt: skip
    newest = after

    async def look() -> bool:
        nonlocal newest
        found = await loop.run_in_executor(pool, fetch, newest)
        newest = found[-1]["n"] if found else newest
        return bool(found)

    async def lines() -> AsyncIterator[bytes]:
        n = after
        async for _ in request.app.state.tails.watch(("events", job_id), look, POLL_S):
            found = await loop.run_in_executor(pool, fetch, n)
            for event in found:
                n = event["n"]
                yield _sse(event["kind"], event, n)
            if found and found[-1]["state"] in FINAL and found[-1]["kind"] not in ("recovered",):
                yield _sse("end", {"state": found[-1]["state"]}, n)
                return
            if not found:
                yield b": alive\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers=_HEADERS)


async def follow_log(request: Request, locate: Callable[[], Awaitable[Output]], job_id: str, offset: int) -> Response:
    """A job's output as it comes; the id of each event is the byte offset to go on from.

    It may be followed from the moment it was accepted: the stream waits until a site has it.
    """
    services: Services = request.app.state.services
    offset = _last_event_id(request, offset)
    size = offset
    first: Output | None = None
    try:
        first = await locate()
    except output.NotYet:
        first = None  # the job is there, its output is not

    async def lines() -> AsyncIterator[bytes]:
        at, place = offset, first
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        try:
            while place is None:
                if await output.is_final(request, services, job_id):
                    yield _sse("end", {"next": at}, at)
                    return
                yield b": waiting\n\n"
                await asyncio.sleep(LOG_POLL_S)
                try:
                    place = await locate()
                except output.NotYet:
                    continue
            found = place

            async def look() -> bool:
                nonlocal size
                chunk = await output.read(request, services, found, size, 1)
                grown, size = chunk.size > size, chunk.size
                return grown or await output.is_final(request, services, job_id)

            async for _ in request.app.state.tails.watch(("log", place), look, LOG_POLL_S):
                final = await output.is_final(request, services, job_id)
                while True:
                    chunk = await output.read(request, services, place, at, _CHUNK)
                    if not chunk.data:
                        break
                    at += len(chunk.data)
                    # A character that is cut at the end waits in the decoder; the id says how far bytes are told.
                    text = decoder.decode(chunk.data)
                    told = at - len(decoder.getstate()[0])
                    yield _sse("chunk", {"data": text, "next": told}, told)
                if final:
                    yield _sse("end", {"next": at}, at)
                    return
                yield b": alive\n\n"
        except GatewayError as exc:
            yield _sse("error", {"code": exc.code, "detail": exc.detail}, at)

    return StreamingResponse(lines(), media_type="text/event-stream", headers=_HEADERS)


def _last_event_id(request: Request, otherwise: int) -> int:
    text = request.headers.get("last-event-id", "")
    return int(text) if text.isdigit() and len(text) < 16 else otherwise


def _sse(kind: str, data: Any, number: int) -> bytes:
    return f"id: {number}\nevent: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode("utf-8", "replace")
