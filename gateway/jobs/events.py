"""Follow jobs as they change: one look at all jobs that are watched, however many people watch them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog
from sqlalchemy import select

from gateway.db import Database
from gateway.jobs import views
from gateway.jobs.lifecycle import FINAL
from gateway.jobs.repository import JOBS

log = structlog.get_logger()

T = TypeVar("T")
# Runs blocking work on the few threads that streams have for themselves.
Run = Callable[[Callable[[], T]], Awaitable[T]]

# A change is told at most this late; a look costs one statement.
LOOK_EVERY_S = 0.25
# Followers are woken at least so often, to see whether they may still follow.
TICK_S = 1.0
_KEPT = 256  # events of one job in memory; who is further behind reads them from the database
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Head:
    """Where a job stands: what its followers wait for."""

    state: str
    last_event: int
    attempt: int
    native_id: str | None

    @property
    def final(self) -> bool:
        return self.state in FINAL


@dataclass(slots=True)
class Watched:
    """One job that somebody watches. `news` is set, and replaced, at each change."""

    followers: int = 0
    head: Head | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def after(self, n: int) -> list[dict[str, Any]] | None:
        """Events behind the n-th; None where memory does not reach back so far."""
        if self.head is None:
            return None
        if n >= self.head.last_event:
            return []
        found = [event for event in self.events if event["n"] > n]
        return found if found and found[0]["n"] == n + 1 else None

    def changed(self, head: Head, events: Sequence[dict[str, Any]]) -> None:
        self.head = head
        self.events = [*self.events, *events][-_KEPT:]
        old, self.news = self.news, asyncio.Event()
        old.set()


class EventFeed:
    """The jobs that are watched in this process, and the loop that looks at all of them."""

    def __init__(self, db: Database, run: Run[Any], *, every_s: float = LOOK_EVERY_S) -> None:
        self._db, self._run, self._every_s = db, run, every_s
        self._watched: dict[str, Watched] = {}
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def watching(self, job_id: str) -> Iterator[Watched]:
        """Keep an eye on a job; its first `head` comes with the next look."""
        watched = self._watched.setdefault(job_id, Watched())
        watched.followers += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look_until_nobody_watches())
        try:
            yield watched
        finally:
            watched.followers -= 1
            if watched.followers == 0:
                self._watched.pop(job_id, None)

    async def follow(self, job_id: str, after: int) -> AsyncGenerator[list[dict[str, Any]]]:
        """Batches of events behind the n-th, until the job has ended and all is told; empty ones are ticks.

        A number that the job has not reached is of another job, or of before a restore: all is told.
        """
        with self.watching(job_id) as watched:
            while True:
                news = watched.news
                if watched.head is not None and after > watched.head.last_event:
                    after = 0
                batch = watched.after(after)
                if batch is None:
                    batch = await self._run(lambda n=after: self._fetch(job_id, n))  # type: ignore[misc]
                if batch:
                    after = batch[-1]["n"]
                    yield batch
                elif watched.head is not None and watched.head.final:
                    return
                else:
                    await wait(news)
                    if watched.news is news:
                        yield []

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _look_until_nobody_watches(self) -> None:
        while self._watched:
            known = {job_id: w.head.last_event if w.head else None for job_id, w in self._watched.items()}
            try:
                found = await self._run(lambda k=known: self._look(k))  # type: ignore[misc]
            except Exception:  # whatever it was, followers are better served by the next look than by none
                log.exception("events_not_read")
                await asyncio.sleep(TICK_S)
                continue
            for job_id, (head, events) in found.items():
                watched = self._watched.get(job_id)
                if watched is not None and watched.head != head:
                    watched.changed(head, events)
            await asyncio.sleep(self._every_s)

    def _look(self, known: Mapping[str, int | None]) -> dict[str, tuple[Head, list[dict[str, Any]]]]:
        """The heads of these jobs, and the events of those that moved."""
        ids, found = list(known), {}
        with self._db.read() as conn:
            for start in range(0, len(ids), _AT_ONCE):
                query = select(JOBS.c.id, JOBS.c.state, JOBS.c.last_event, JOBS.c.attempt, JOBS.c.native_id)
                for row in conn.execute(query.where(JOBS.c.id.in_(ids[start : start + _AT_ONCE]))).all():
                    head, seen = Head(row.state, row.last_event, row.attempt, row.native_id), known[row.id]
                    moved = seen is not None and row.last_event > seen
                    found[row.id] = (head, views.events(conn, row.id, after=seen or 0) if moved else [])
        return found

    def _fetch(self, job_id: str, after: int) -> list[dict[str, Any]]:
        with self._db.read() as conn:
            return views.events(conn, job_id, after=after)


async def wait(news: asyncio.Event, timeout_s: float = TICK_S) -> None:
    """Until there is news, or a tick has passed."""
    try:
        await asyncio.wait_for(news.wait(), timeout_s)
    except TimeoutError:
        return
