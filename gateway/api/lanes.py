"""Lanes: requests that arrive together are answered together, by one thread, on one connection, with one commit.

Many threads in one process do not make short questions to a database faster, but slower: each statement gives the
interpreter's lock away and queues for it again (32 threads took three times the processor time of one, measured). A
lane takes whatever has gathered while it worked; under load its batches grow, and what each request costs falls.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

A = TypeVar("A")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class _Asked(Generic[A, R]):
    """One question, and whom the answer goes to."""

    item: A
    answer: asyncio.Future[R]
    loop: asyncio.AbstractEventLoop


class Lane(Generic[A, R]):
    """One thread that does `work` on all that has gathered, at most `most` at once.

    `work` gives a result for each item, in order; an exception among them is raised to the one who asked. What it
    raises itself is raised to all of its batch.
    """

    def __init__(self, name: str, work: Callable[[Sequence[A]], Sequence[R | Exception]], *, most: int) -> None:
        self._name, self._work, self._most = name, work, most
        self._asked: queue.SimpleQueue[_Asked[A, R] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def ask(self, item: A) -> R:
        """The answer, as soon as its batch is done."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()
        self._asked.put(_Asked(item, answer, loop))
        return await answer

    def close(self) -> None:
        """Answer what was asked before, then end."""
        if self._thread is not None:
            self._asked.put(None)
            self._thread.join(30)

    def _run(self) -> None:
        while True:
            batch = self._gathered()
            if not batch:
                return
            results: Sequence[R | Exception]
            try:
                results = self._work([asked.item for asked in batch])
            except Exception as exc:  # noqa: BLE001 - goes to all who asked
                results = [exc] * len(batch)
            _hand_back(batch, results)

    def _gathered(self) -> list[_Asked[A, R]]:
        """Wait for the first, take what else is there; empty at the end."""
        batch: list[_Asked[A, R]] = []
        asked = self._asked.get()
        while asked is not None:
            batch.append(asked)
            if len(batch) == self._most:
                break
            try:
                asked = self._asked.get_nowait()
            except queue.Empty:
                break
            if asked is None:
                self._asked.put(None)  # the end comes after this batch
        return batch


def _hand_back(batch: Sequence[_Asked[A, R]], results: Sequence[R | Exception]) -> None:
    """Wake each event loop once (there is one, except in tests)."""
    pairs = list(zip(batch, results, strict=True))
    for loop in {asked.loop for asked in batch}:
        mine = [pair for pair in pairs if pair[0].loop is loop]
        try:
            loop.call_soon_threadsafe(_settle, mine)
        except RuntimeError:
            continue  # the loop has ended, and nobody waits for an answer any more


def _settle(pairs: Sequence[tuple[_Asked[Any, Any], Any]]) -> None:
    for asked, result in pairs:
        if asked.answer.done():
            continue  # the client has gone
        if isinstance(result, Exception):
            asked.answer.set_exception(result)
        else:
            asked.answer.set_result(result)
