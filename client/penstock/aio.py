"""`AsyncClient`: the same calls for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import httpx

from penstock import calls
from penstock.api import AGAIN, TRIES, wait_s
from penstock.calls import Answer, Call, EventReader, checked
from penstock.config import resolve
from penstock.errors import NotReachable
from penstock.models import Chunk, Event, Job, Plan

T = TypeVar("T")


class AsyncClient:
    """A gateway and a token, as in `Client`."""

    def __init__(self, url: str | None = None, token: str | None = None, *, timeout_s: float = 60.0) -> None:
        profile = resolve(url, token)
        headers = {"Authorization": f"Bearer {profile.token}"} if profile.token else {}
        self._http = httpx.AsyncClient(base_url=profile.url, headers=headers, timeout=timeout_s)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._http.aclose()

    async def submit(self, *, idempotency_key: str | None = None, **spec: Any) -> Job:
        return await self._call(calls.submit(spec, idempotency_key))

    async def plan(self, **spec: Any) -> Plan:
        return await self._call(calls.plan(spec))

    async def job(self, job_id: str) -> Job:
        return await self._call(calls.job(job_id))

    async def jobs(self, **filters: Any) -> AsyncIterator[Job]:
        """The newest first, page by page."""
        cursor: str | None = None
        while True:
            page = await self._call(calls.jobs(cursor=cursor, **filters))
            for job in page.items:
                yield job
            cursor = page.next_cursor
            if cursor is None:
                return

    async def cancel(self, job_id: str) -> Job:
        return await self._call(calls.act(job_id, "cancel"))

    async def hold(self, job_id: str) -> Job:
        return await self._call(calls.act(job_id, "hold"))

    async def release(self, job_id: str) -> Job:
        return await self._call(calls.act(job_id, "release"))

    async def wait(self, job_id: str) -> Job:
        """Until it is final; use `asyncio.timeout` for a limit."""
        while True:
            async for _event in self.events(job_id):
                pass
            job = await self.job(job_id)
            if job.status.final:
                return job

    async def log(
        self, job_id: str, *, stream: str = "stdout", offset: int = 0, limit: int = 1 << 16, task: int | None = None
    ) -> Chunk:
        return await self._call(calls.log(job_id, stream, offset, limit, task))

    async def charges(self, job_id: str) -> dict[str, Any]:
        return await self._call(calls.details(job_id, "charges"))

    async def events(self, job_id: str, *, after: int = 0) -> AsyncIterator[Event]:
        """What happens to it, to its end; taken up where the connection broke."""
        path, params = calls.event_stream(job_id)
        failures = 0
        while True:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
            try:
                async with self._http.stream("GET", path, params=params, headers=headers, timeout=30.0) as answer:
                    if answer.status_code != 200:
                        checked(Answer(answer.status_code, dict(answer.headers), await answer.aread()))
                    reader = EventReader()
                    async for line in answer.aiter_lines():
                        event = reader.feed(line)
                        if event is not None:
                            failures, after = 0, event.id
                            yield event
                            if event.kind == "end":
                                return
            except httpx.TransportError as exc:
                failures += 1
                if failures >= TRIES:
                    raise NotReachable(f"{self._http.base_url} does not answer: {exc}") from exc
                await asyncio.sleep(wait_s(failures))

    async def _call(self, call: Call[T]) -> T:
        for attempt in range(TRIES):
            last = attempt == TRIES - 1
            try:
                got = await self._http.request(
                    call.method, call.path, params=call.params, headers=call.headers, json=call.body
                )
            except httpx.TransportError as exc:
                if last or not call.safe:
                    raise NotReachable(f"{self._http.base_url} does not answer: {exc}") from exc
            else:
                if last or not call.safe or got.status_code not in AGAIN:
                    return call.read(Answer(got.status_code, dict(got.headers), got.content))
            await asyncio.sleep(wait_s(attempt))
        raise AssertionError("the last try returns or raises")
