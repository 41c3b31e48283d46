"""The hot routes' lanes: jobs that are posted, and jobs that are looked at, at the same moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, cast

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from gateway.api import submitting
from gateway.api.lanes import Lane
from gateway.api.submitting import Posted
from gateway.identity.access import Person
from gateway.jobs import views
from gateway.services import Services

# A longer script is read on a thread of its own, so that it keeps nobody waiting.
_SHORT_BYTES = 256 * 1024
_SHOWN_AT_ONCE = 50


class HotLanes:
    """One lane for submissions and one for looks, each begun at its first use."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._posts: Lane[Posted, dict[str, Any]] = Lane("accept", self._submit, most=submitting.AT_ONCE)
        self._looks: Lane[tuple[Person, str], dict[str, Any] | None] = Lane("show", self._show, most=_SHOWN_AT_ONCE)

    async def submit(self, post: Posted) -> dict[str, Any]:
        """Accept a job, and show it."""
        if len(post.body) <= _SHORT_BYTES:
            return await self._posts.ask(post)
        made = (await run_in_threadpool(self._submit, [post]))[0]
        if isinstance(made, Exception):
            raise made
        return made

    async def show(self, asked: tuple[Person, str]) -> dict[str, Any] | None:
        """A job as this person may see it; None where there is none."""
        return await self._looks.ask(asked)

    def close(self) -> None:
        self._posts.close()
        self._looks.close()

    def _submit(self, posts: Sequence[Posted]) -> list[dict[str, Any] | Exception]:
        return submitting.submit(self._services, posts)

    def _show(self, asked: Sequence[tuple[Person, str]]) -> list[dict[str, Any] | None]:
        with self._services.db.read() as conn:
            return views.show_each(conn, asked)


async def _lanes_of(request: Request) -> HotLanes:
    return cast(HotLanes, request.app.state.lanes)


Lanes = Annotated[HotLanes, Depends(_lanes_of)]
