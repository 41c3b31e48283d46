"""Prepare many rows in processes of their own, while this one books: one interpreter uses one core.

A helper is asked over its standard input and answers on its standard output, each message a length and msgpack; it
ends when its input does, so that it outlives nobody. What a helper cannot do is done here.

python -m gateway.billing.preparers         (a helper: it is started by `Preparers`)
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import structlog
from msgspec import MsgspecError, Struct, msgpack

from gateway.billing.prepare import Prepared, prepare
from gateway.db import Database
from gateway.identity import vault
from gateway.services import Services
from gateway.settings import Settings
from site_adapters.types import SiteUsage

log = structlog.get_logger()

CHUNK = 1000
# A helper takes about a second to start: fewer rows than this are read sooner than that.
_MANY = 5_000
# One core books.
_HELPERS = max(0, min(4, len(os.sched_getaffinity(0)) - 1))
_LENGTH = 4


class _Place(Struct, frozen=True):
    """Which gateway's rows a helper prepares."""

    database_url: str
    master_key_file: str
    gateway_id: str
    site_id: str


class Preparers:
    """Prepares the rows of one site, in helpers once they are many."""

    def __init__(self, services: Services, site_id: str, now: datetime) -> None:
        self._services, self._site_id, self._now = services, site_id, now
        self._helpers: list[_Helper] = []
        self._rows = 0

    def __enter__(self) -> Preparers:
        return self

    def __exit__(self, *exc: object) -> None:
        for helper in self._helpers:
            helper.close()

    def prepared(self, usages: Sequence[SiteUsage]) -> Iterator[Prepared]:
        """The rows, `CHUNK` at a time and in order; the next ones are under way while one is used."""
        chunks = [usages[at : at + CHUNK] for at in range(0, len(usages), CHUNK)]
        self._rows += len(usages)
        if self._rows >= _MANY and not self._helpers:
            self._start()
        if not self._helpers:
            yield from map(self._here, chunks)
            return
        asked: deque[tuple[Sequence[SiteUsage], Future[Prepared | None]]] = deque()
        for number, chunk in enumerate(chunks):
            asked.append((chunk, self._helpers[number % len(self._helpers)].ask(chunk)))
            if len(asked) > 2 * len(self._helpers):
                yield self._answer(*asked.popleft())
        while asked:
            yield self._answer(*asked.popleft())

    def _answer(self, chunk: Sequence[SiteUsage], asked: Future[Prepared | None]) -> Prepared:
        found = asked.result()
        return self._here(chunk) if found is None or found.keyless else found

    def _here(self, chunk: Sequence[SiteUsage]) -> Prepared:
        found = prepare(self._services, self._site_id, chunk)
        if not found.keyless:
            return found
        with self._services.db.write() as conn:
            vault.keys_of(self._services, conn, found.keyless, self._now)
        return prepare(self._services, self._site_id, chunk)

    def _start(self) -> None:
        services = self._services
        place = _Place(services.db.url, str(services.settings.effective_master_key_file.absolute()),
                       services.gateway_id, self._site_id)  # fmt: skip
        try:
            self._helpers = [_Helper(place) for _ in range(_HELPERS)]
        except OSError as exc:  # no memory for another process: all is prepared here
            log.warning("no_preparing_helper", error=str(exc))


class _Helper:
    """A process that prepares chunks in the order of asking; what it cannot, its asker has to."""

    def __init__(self, place: _Place) -> None:
        argv = [sys.executable, "-m", __name__]
        # A session of its own: what interrupts this process must not cut the helper's answer in the middle.
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ask")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="answer")
        self._writer.submit(self._send, msgpack.encode(place))

    def ask(self, chunk: Sequence[SiteUsage]) -> Future[Prepared | None]:
        """What a chunk is to the books, some time later; None where the helper cannot say."""
        try:
            question = msgpack.encode([(usage.format, usage.fields) for usage in chunk])
        except UnicodeEncodeError:  # half a surrogate pair cannot be passed on
            nothing: Future[Prepared | None] = Future()
            nothing.set_result(None)
            return nothing
        self._writer.submit(self._send, question)
        return self._reader.submit(self._answer)

    def close(self) -> None:
        """Let it end; what was asked and is not wanted any more is dropped."""
        self._process.kill()
        for pool in (self._writer, self._reader):
            pool.shutdown(cancel_futures=True)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
        self._process.wait()

    def _send(self, message: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has died: its answer says so
            _write(self._process.stdin, message)

    def _answer(self) -> Prepared | None:
        assert self._process.stdout is not None
        try:
            answer = _read(self._process.stdout)
            return _ANSWERS.decode(answer)
        except (EOFError, MsgspecError) as exc:
            log.warning("preparing_helper_failed", error=f"{type(exc).__name__}: {exc}")
            return None


_ANSWERS = msgpack.Decoder(Prepared)
_QUESTIONS = msgpack.Decoder(list[tuple[str, dict[str, str]]])


def main() -> None:
    """Answer until the input ends."""
    gc.disable()  # thousands of records that live for a moment, and have no cycles
    asked = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints, prints elsewhere
    place = msgpack.decode(_read(asked), type=_Place)
    settings = Settings(master_key_file=Path(place.master_key_file), database_url=place.database_url)
    services = Services(settings, Database(place.database_url, pool_size=1), place.gateway_id, {},
                        clock=lambda: datetime.now(UTC), wake=lambda _site_id: None)  # fmt: skip
    while True:
        try:
            question = _QUESTIONS.decode(_read(asked))
        except EOFError:
            return
        found = prepare(services, place.site_id, [SiteUsage(*row) for row in question])
        _write(answers, msgpack.encode(found))


def _write(out: IO[bytes], message: bytes) -> None:
    out.write(len(message).to_bytes(_LENGTH))
    out.write(message)
    out.flush()


def _read(source: IO[bytes]) -> bytes:
    head = source.read(_LENGTH)
    if len(head) < _LENGTH:
        raise EOFError("it ended")
    message = source.read(int.from_bytes(head))
    if len(message) < int.from_bytes(head):
        raise EOFError("it was cut")
    return message


if __name__ == "__main__":
    main()
