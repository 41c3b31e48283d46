"""Viewers of jobs' live events, as many as one likes, from one thread of the measuring process."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

# Given the job and the event as soon as its line has come.
Told = Callable[[str, dict[str, Any]], None]


@contextmanager
def viewing(address: str, secret: str, job_ids: Sequence[str], *, told: Told | None = None) -> Iterator[None]:
    """Within, one stream for each of the ids is open, and read."""
    opened = threading.Semaphore(0)
    loop = asyncio.new_event_loop()
    tasks: list[asyncio.Task[None]] = []

    async def all_of_them() -> None:
        tasks.extend(asyncio.create_task(_view(address, secret, job_id, opened, told)) for job_id in job_ids)
        await asyncio.gather(*tasks, return_exceptions=True)

    def end() -> None:
        for task in tasks:
            task.cancel()

    thread = threading.Thread(target=lambda: loop.run_until_complete(all_of_them()))
    thread.start()
    try:
        for _ in job_ids:
            assert opened.acquire(timeout=30), "a stream was not opened"
        time.sleep(1.0)  # what happened before has been told
        yield
    finally:
        loop.call_soon_threadsafe(end)
        thread.join()
        loop.close()


async def _view(address: str, secret: str, job_id: str, opened: threading.Semaphore, told: Told | None) -> None:
    place = urlsplit(address)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        writer.write(
            f"GET /api/v2/jobs/{job_id}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\n"
            "Accept: text/event-stream\r\n\r\n".encode()
        )
        assert b" 200 " in await reader.readline()
        opened.release()
        while line := await reader.readline():
            if told is not None and line.startswith(b"data: "):
                told(job_id, json.loads(line[6:]))
    finally:
        writer.close()
