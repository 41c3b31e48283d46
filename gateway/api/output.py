"""Where a job's output is, and reading it: the one kind of request that talks to a site.

It has threads and a limit for each site of its own, so that a dead site cannot take the threads of other requests.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import Request
from sqlalchemy import select

from gateway.errors import NotFound, RateLimited, SiteClosedError, SiteUnreachableError
from gateway.identity.access import Person, Verb, can
from gateway.jobs import repository
from gateway.jobs.lifecycle import FINAL
from gateway.jobs.repository import ATTEMPTS, JOBS, Owner
from gateway.services import Services
from site_adapters.errors import NotFound as NoFile
from site_adapters.errors import SiteClosed, SiteError
from site_adapters.transport import FileChunk
from site_adapters.types import SiteAccount

_PER_SITE = 8
_DEADLINE_S = 25.0


@dataclass(frozen=True, slots=True)
class Output:
    """One stream of one job (or of one task), where it lies at its site."""

    job_id: str
    site_id: str
    account: SiteAccount
    path: str


class NotYet(NotFound):
    """No site has the job yet: there will be an output."""


class SiteReaders:
    """Threads for reading files, so many for each site."""

    def __init__(self) -> None:
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._waiting: dict[str, int] = defaultdict(int)

    async def run(self, site_id: str, work: Any) -> FileChunk:
        """Run `work` on a thread of this site, refused when too many wait already."""
        if self._waiting[site_id] >= 4 * _PER_SITE:
            raise RateLimited(f"Too many reads wait for {site_id}.", retry_after_s=2)
        pool = self._pools.setdefault(site_id, ThreadPoolExecutor(_PER_SITE, f"read-{site_id}"))
        self._waiting[site_id] += 1
        try:
            loop = asyncio.get_running_loop()
            chunk: FileChunk = await asyncio.wait_for(loop.run_in_executor(pool, work), _DEADLINE_S)
            return chunk
        finally:
            self._waiting[site_id] -= 1

    def close(self) -> None:
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)


async def locate(
    request: Request, services: Services, person: Person, job_id: str, stream: Literal["stdout", "stderr"],
    task: int | None,
) -> Output:  # fmt: skip
    """The file behind a stream; raises `NotFound` before the job was handed over."""
    pool: ThreadPoolExecutor = request.app.state.stream_pool
    return await asyncio.get_running_loop().run_in_executor(
        pool, lambda: _locate(services, person, job_id, stream, task)
    )


def _locate(services: Services, person: Person, job_id: str, stream: str, task: int | None) -> Output:
    query = (
        select(JOBS.c.user_id, JOBS.c.project_id, JOBS.c.site_id, JOBS.c.site_account_id, JOBS.c.array_size,
               JOBS.c.native_id, ATTEMPTS.c.stdout_path, ATTEMPTS.c.stderr_path)
        .join(ATTEMPTS, (ATTEMPTS.c.job_id == JOBS.c.id) & (ATTEMPTS.c.attempt == JOBS.c.attempt), isouter=True)
        .where(JOBS.c.id == job_id)
    )  # fmt: skip
    with services.db.read() as conn:
        row = conn.execute(query).one_or_none()
        owner = None if row is None else Owner(row.user_id, row.project_id, row.site_id)
        if row is None or owner is None or not can(person, Verb.READ_OUTPUT, ("job", owner)):
            raise NotFound(f"There is no job {job_id!r}.")
        account = repository.site_account(conn, row.site_account_id)
    path = row.stdout_path if stream == "stdout" else row.stderr_path
    if not path or row.native_id is None:
        raise NotYet("It has not been handed over yet.", remedy="Follow it, or try again later.")
    if row.array_size is not None and task is None and "{task}" in path:
        raise NotFound("An array has an output for each task.", remedy="Add ?task=N.")
    return Output(
        job_id, row.site_id, account, path.replace("{task}", str(task)).replace("{native}", str(row.native_id))
    )


async def read(request: Request, services: Services, place: Output, offset: int, limit: int) -> FileChunk:
    """Bytes of an output; an output that does not exist yet is empty while the job is not final."""
    adapter = services.sites.get(place.site_id)
    if adapter is None:
        raise SiteClosedError(f"{place.site_id} is not docked any more.")
    readers: SiteReaders = request.app.state.readers
    try:
        return await readers.run(
            place.site_id, lambda: adapter.log.read(place.account, place.path, offset=offset, limit=limit)
        )
    except NoFile as exc:
        if await is_final(request, services, place.job_id):
            raise NotFound("There is no output file.", remedy="The job may not have started.") from exc
        return FileChunk(b"", 0, 0)
    except SiteClosed as exc:
        raise SiteClosedError(f"{place.site_id}: {exc}") from exc
    except (SiteError, TimeoutError) as exc:
        raise SiteUnreachableError(f"{place.site_id}: {exc}", remedy="Try again later.") from exc


async def is_final(request: Request, services: Services, job_id: str) -> bool:
    """Whether the job has ended."""

    def look() -> bool:
        with services.db.read() as conn:
            return conn.scalar(select(JOBS.c.state).where(JOBS.c.id == job_id)) in FINAL

    pool: ThreadPoolExecutor = request.app.state.stream_pool
    return await asyncio.get_running_loop().run_in_executor(pool, look)
