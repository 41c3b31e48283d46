"""Where a job's output is, reading it, and following it: one reader for each file, however many people follow."""

from __future__ import annotations

import asyncio
import codecs
import threading
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

import structlog
from sqlalchemy import Connection, select

from gateway.errors import Forbidden, GatewayError, NotFound, RateLimited, SiteClosedError, SiteUnreachableError
from gateway.identity.access import Person, Verb, can
from gateway.jobs import repository
from gateway.jobs.events import EventFeed, Run, wait
from gateway.jobs.lifecycle import FINAL
from gateway.jobs.repository import ATTEMPTS, JOBS, Owner
from gateway.services import Services
from site_adapters.errors import NotFound as NoFile
from site_adapters.errors import Refused, SiteClosed, SiteError
from site_adapters.transport import FileChunk
from site_adapters.types import SiteAccount

log = structlog.get_logger()

Stream = Literal["stdout", "stderr"]

_PER_SITE = 8
_WAITING_MAX = 32
_DEADLINE_S = 25.0
_CHUNK = 1 << 16
_KEPT = 1 << 20  # bytes of one output in memory; who is further behind reads them from the site
_POLL_S, _POLL_MAX_S = 0.5, 2.0
_RETRY_S, _RETRY_MAX_S = 2.0, 15.0
_QUIET_AFTER_END = 2  # reads without news after the end: a shared file system may show the last lines late


@dataclass(frozen=True, slots=True)
class Output:
    """One stream of one attempt of a job (or of one task), where it lies at its site."""

    job_id: str
    attempt: int
    site_id: str
    account: SiteAccount
    path: str


class NotYet(NotFound):
    """No site has the job yet: there will be an output."""


def locate(conn: Connection, person: Person, job_id: str, stream: Stream, task: int | None) -> Output:
    """The file behind a stream; raises `NotYet` before the job was handed over."""
    query = (
        select(JOBS.c.user_id, JOBS.c.project_id, JOBS.c.site_id, JOBS.c.site_account_id, JOBS.c.array_size,
               JOBS.c.native_id, JOBS.c.attempt, ATTEMPTS.c.stdout_path, ATTEMPTS.c.stderr_path)
        .join(ATTEMPTS, (ATTEMPTS.c.job_id == JOBS.c.id) & (ATTEMPTS.c.attempt == JOBS.c.attempt), isouter=True)
        .where(JOBS.c.id == job_id)
    )  # fmt: skip
    row = conn.execute(query).one_or_none()
    owner = None if row is None else Owner(row.user_id, row.project_id, row.site_id)
    if row is None or owner is None or not can(person, Verb.SEE_JOB, ("job", owner)):
        raise NotFound(f"There is no job {job_id!r}.")
    if not can(person, Verb.READ_OUTPUT, ("job", owner)):
        raise Forbidden("You may see this job, but not what it printed.", remedy="Ask its owner.")
    path = row.stdout_path if stream == "stdout" else row.stderr_path
    if row.array_size is not None and task is None and (not path or "{task}" in path):
        raise NotFound("An array has an output for each task.", remedy="Add ?task=N.")
    if not path or row.native_id is None:
        raise NotYet("It has not been handed over yet.", remedy="Follow it, or try again later.")
    account = repository.site_account(conn, row.site_account_id)
    path = path.replace("{task}", str(task)).replace("{native}", str(row.native_id))
    return Output(job_id, row.attempt, row.site_id, account, path)


class SiteReaders:
    """Threads for reading files, so many for each site: a site that hangs takes no others."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._taken: dict[str, int] = defaultdict(int)
        self._lock = threading.Lock()

    async def read(self, place: Output, offset: int, limit: int) -> FileChunk:
        """Bytes of an output; raises `NotFound` while there is no file."""
        adapter = self._services.sites.get(place.site_id)
        if adapter is None:
            raise SiteClosedError(f"{place.site_id} is not docked any more.")
        work = self._submit(
            place.site_id, lambda: adapter.log.read(place.account, place.path, offset=offset, limit=limit)
        )
        try:
            return await asyncio.wait_for(asyncio.wrap_future(work), _DEADLINE_S)
        except NoFile as exc:
            raise NotFound("There is no output file.", remedy="The job may not have started.") from exc
        except Refused as exc:
            remedy = "Name an output that is a file of your own, and may be read."
            raise NotFound(f"There is no output to read: {exc}", remedy=remedy) from exc
        except SiteClosed as exc:
            raise SiteClosedError(f"{place.site_id}: {exc}") from exc
        except TimeoutError as exc:
            raise SiteUnreachableError(f"{place.site_id} did not answer in time.", remedy="Try again later.") from exc
        except SiteError as exc:
            raise SiteUnreachableError(
                f"{place.site_id}: {str(exc).removeprefix(f'{place.site_id}: ')}", remedy="Try again later."
            ) from exc
        except Exception as exc:
            log.exception("output_not_read", job=place.job_id, site=place.site_id)
            raise SiteUnreachableError(f"The output cannot be read from {place.site_id} now.") from exc

    def _submit(self, site_id: str, work: Callable[[], FileChunk]) -> Future[FileChunk]:
        with self._lock:
            if self._taken[site_id] >= _WAITING_MAX:
                raise RateLimited(f"Too many reads wait for {site_id}.", retry_after_s=2)
            self._taken[site_id] += 1
            pool = self._pools.setdefault(site_id, ThreadPoolExecutor(_PER_SITE, f"read-{site_id}"))
        future = pool.submit(work)
        # Not when we stop waiting: a read that hangs keeps its place until it ends.
        future.add_done_callback(lambda _: self._give_back(site_id))
        return future

    def _give_back(self, site_id: str) -> None:
        with self._lock:
            self._taken[site_id] -= 1

    def close(self) -> None:
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class Piece:
    """What a follower is told: text up to the byte `next`; or that something happened (`kind`)."""

    kind: Literal["chunk", "tick", "stale", "restart", "end"]
    next: int
    text: str = ""


@dataclass(slots=True)
class _Tail:
    """The newest bytes of one output, and whether there will be more. `round` counts how often it began anew."""

    followers: int = 0
    task: asyncio.Task[None] | None = None
    start: int = 0
    data: bytearray = field(default_factory=bytearray)
    round: int = 0
    size: int = 0  # of the file, when it was last read
    opened: bool = False
    ended: bool = False
    trouble: str = ""
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def end(self) -> int:
        return self.start + len(self.data)

    def tell(self) -> None:
        old, self.news = self.news, asyncio.Event()
        old.set()

    def take(self, chunk: FileChunk) -> bool:
        """Keep what was read; True where it was anything new."""
        self.size = chunk.size
        if chunk.size < self.end:  # somebody truncated the file
            self.start, self.data, self.opened, self.round = 0, bytearray(), False, self.round + 1
            return True
        if not self.opened:
            self.opened = True
            if not chunk.eof:  # long already: only its end is shared
                self.start = max(0, chunk.size - _KEPT // 2)
                return True
        self.data += chunk.data
        if len(self.data) > _KEPT:
            cut = len(self.data) - _KEPT // 2
            self.start += cut
            del self.data[:cut]
        return bool(chunk.data)


class LogFeed:
    """The outputs that are followed in this process."""

    def __init__(self, services: Services, events: EventFeed, readers: SiteReaders, run: Run[Any]) -> None:
        self._services, self._events, self._readers, self._run = services, events, readers, run
        self._tails: dict[Output, _Tail] = {}

    async def follow(
        self, person: Person, job_id: str, stream: Stream, task: int | None, offset: int
    ) -> AsyncGenerator[Piece]:
        """A job's output from a byte on, until the job has ended; from the moment it was accepted, whoever runs it.

        A later attempt of the job writes its own output: the follower is told and begins at 0 again.
        """
        at = offset
        with self._events.watching(job_id) as watched:
            while True:
                news = watched.news
                try:
                    place = await self._run(lambda: self._locate(person, job_id, stream, task))
                except NotYet:
                    if watched.head is not None and watched.head.final:
                        yield Piece("end", at)
                        return
                    await wait(news)
                    yield Piece("tick", at)
                    continue
                async with aclosing(self._follow_file(place, at)) as pieces:
                    async for piece in pieces:
                        yield piece
                        if piece.kind == "end":
                            return
                        if piece.kind == "tick" and watched.head is not None and watched.head.attempt > place.attempt:
                            break
                at = 0
                yield Piece("restart", at)

    async def read(self, place: Output, offset: int, limit: int) -> FileChunk:
        """Bytes of an output as it is now; one that does not exist yet is empty while the job lives."""
        try:
            return await self._readers.read(place, offset, limit)
        except NotFound:
            if await self._run(lambda: self._ended(place.job_id)):
                raise
            return FileChunk(b"", 0, 0)

    def close(self) -> None:
        for tail in self._tails.values():
            if tail.task is not None:
                tail.task.cancel()

    def _ended(self, job_id: str) -> bool:
        with self._services.db.read() as conn:
            return conn.scalar(select(JOBS.c.state).where(JOBS.c.id == job_id)) in FINAL

    def _locate(self, person: Person, job_id: str, stream: Stream, task: int | None) -> Output:
        with self._services.db.read() as conn:
            return locate(conn, person, job_id, stream, task)

    async def _follow_file(self, place: Output, at: int) -> AsyncGenerator[Piece]:
        tail = self._tails.setdefault(place, _Tail())
        tail.followers += 1
        if tail.task is None or tail.task.done():
            tail.task = asyncio.create_task(self._read_on(place, tail))
        began, told = tail.round, ""
        try:
            while True:
                news, ended = tail.news, tail.ended
                if tail.round != began:
                    began, at = tail.round, 0
                    yield Piece("restart", 0)
                if tail.opened and at > tail.size:  # the id is of an earlier attempt, which wrote another file
                    at = 0
                    yield Piece("restart", 0)
                text, at = await self._piece(place, tail, at, last=ended)
                if text:
                    yield Piece("chunk", at, text)
                    continue
                if ended and at >= tail.end:
                    yield Piece("end", at)
                    return
                if tail.trouble and tail.trouble != told:
                    yield Piece("stale", at, tail.trouble)
                told = tail.trouble
                await wait(news)
                yield Piece("tick", at)
        finally:
            tail.followers -= 1
            if tail.followers == 0 and self._tails.get(place) is tail:
                del self._tails[place]

    async def _piece(self, place: Output, tail: _Tail, at: int, *, last: bool) -> tuple[str, int]:
        """The next text from a byte on, and the byte behind it; a character that is cut waits for its rest."""
        if not tail.opened or (at >= tail.end and not last):
            return "", at
        if at >= tail.start:
            data = bytes(tail.data[at - tail.start : at - tail.start + _CHUNK])
        else:
            try:
                data = (await self._readers.read(place, at, _CHUNK)).data
            except GatewayError as exc:
                tail.trouble = exc.detail
                return "", at
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(data, final=last and at + len(data) >= tail.end)
        return text, at + len(data) - len(decoder.getstate()[0])

    async def _read_on(self, place: Output, tail: _Tail) -> None:
        """Read the end of the file for all its followers, less often while nothing comes."""
        pause_s, retry_s, quiet = _POLL_S, _RETRY_S, 0
        with self._events.watching(place.job_id) as watched:
            while tail.followers and not tail.ended:
                news, head = watched.news, watched.head  # before the read: what comes after the end is not lost
                try:
                    grown = tail.take(await self._readers.read(place, tail.end, _KEPT // 2))
                except NotFound:
                    grown = False  # it has printed nothing yet
                except GatewayError as exc:  # followers are told, and it is tried again
                    tail.trouble = exc.detail
                    tail.tell()
                    await asyncio.sleep(retry_s)
                    retry_s = min(retry_s * 2, _RETRY_MAX_S)
                    continue
                tail.trouble, retry_s = "", _RETRY_S
                if grown:
                    pause_s, quiet = _POLL_S, 0
                    tail.tell()
                    continue
                final = head is not None and head.final
                quiet = quiet + 1 if final else 0
                if quiet == _QUIET_AFTER_END:
                    tail.opened = tail.ended = True
                    tail.tell()
                    return
                await wait(news, _POLL_S if final else pause_s)
                pause_s = min(pause_s * 1.5, _POLL_MAX_S)
