"""Streams: one look and one reader however many people follow; resumable; cut when the token is."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import httpx
import pytest

from gateway.api.streams import Streams
from gateway.errors import SiteUnreachableError
from gateway.identity import tokens
from gateway.identity.tokens import Doorkeeper
from gateway.jobs import repository
from gateway.jobs.logs import Piece
from gateway.jobs.repository import ATTEMPTS, JOBS
from site_adapters.errors import NotFound, Refused, SiteUnreachable
from site_adapters.transport import FileChunk
from tests.builders import Altered, Gateway
from tests.lab.slurm import wait_for

SPEC: dict[str, Any] = {"executable": "/bin/true", "attributes": {"duration": 60}, "inherit_environment": False}


class Output:
    """A file at a site that a test writes; counts who reads it."""

    def __init__(self) -> None:
        self.data: bytes | None = None
        self.reads = 0
        self.away = False

    def read(self, _account: object, _path: str, *, offset: int, limit: int) -> FileChunk:
        self.reads += 1
        if self.away:
            raise SiteUnreachable("no route to host")
        if self.data is None:
            raise NotFound("there is no file")
        at = min(offset, len(self.data))
        return FileChunk(self.data[at : at + limit], at, len(self.data))


@pytest.fixture
def output(gateway: Gateway) -> Output:
    made = Output()
    sites: Any = gateway.services.sites
    sites["local"] = replace(sites["local"], log=Altered(sites["local"].log, read=made.read))
    return made


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"logs._POLL_S": 0.02, "logs._POLL_MAX_S": 0.05, "logs._RETRY_S": 0.05,
                          "events.LOOK_EVERY_S": 0.02, "events.TICK_S": 0.1}.items():  # fmt: skip
        monkeypatch.setattr(f"gateway.jobs.{name}", seconds)


def submitted(gateway: Gateway) -> str:
    return gateway.submit("local")


def handed_over(gateway: Gateway, job_id: str, attempt: int = 1) -> None:
    """As the dispatch tick leaves a job that its site has taken."""
    now = gateway.services.clock()
    with gateway.services.db.write() as conn:
        changes = {"phase": "at_site", "state": "active", "attempt": attempt, "native_id": f"n{attempt}"}
        conn.execute(JOBS.update().where(JOBS.c.id == job_id).values(**changes))
        row = {"job_id": job_id, "attempt": attempt, "site_id": "local", "outcome": "accepted", "site_name": "x",
               "stdout_path": f"/out.{attempt}", "stderr_path": "/err", "intent_at": now}  # fmt: skip
        conn.execute(ATTEMPTS.insert().values(**row))
        repository.note(conn, job_id, "accepted", {}, now=now)


def ended(gateway: Gateway, job_id: str) -> None:
    with gateway.services.db.write() as conn:
        conn.execute(JOBS.update().where(JOBS.c.id == job_id).values(phase="ended", state="completed"))
        repository.note(conn, job_id, "finished", {}, now=gateway.services.clock())


def follow(gateway: Gateway, body: Callable[[Streams], Coroutine[Any, Any, Any]]) -> Any:
    """Run a test's coroutine with the streams of one process."""

    async def run() -> Any:
        streams = Streams(gateway.services, Doorkeeper(gateway.services))
        try:
            return await asyncio.wait_for(body(streams), 20)
        finally:
            streams.close()

    return asyncio.run(run())


async def pieces(streams: Streams, gateway: Gateway, job_id: str, offset: int = 0) -> list[Piece]:
    found = streams.logs.follow(gateway.person, job_id, "stdout", None, offset)
    return [piece async for piece in found if piece.kind != "tick"]


async def soon(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for is not told by an event
        await asyncio.sleep(0.01)


def text_of(found: list[Piece]) -> str:
    return "".join(piece.text for piece in found if piece.kind == "chunk")


def test_events_come_in_order_without_gaps_and_end_with_the_job(gateway: Gateway) -> None:
    job_id = submitted(gateway)

    async def body(streams: Streams) -> list[int]:
        seen: list[int] = []

        async def read() -> None:
            async for batch in streams.events.follow(job_id, 0):
                seen.extend(event["n"] for event in batch)

        task = asyncio.create_task(read())
        await soon(lambda: seen == [1])
        await asyncio.to_thread(handed_over, gateway, job_id)
        await soon(lambda: seen == [1, 2])
        await asyncio.to_thread(ended, gateway, job_id)
        await task
        return seen

    assert follow(gateway, body) == [1, 2, 3]


def test_a_follower_resumes_behind_what_it_has_and_an_ended_job_ends_at_once(gateway: Gateway) -> None:
    job_id = submitted(gateway)
    handed_over(gateway, job_id)
    ended(gateway, job_id)

    async def read(streams: Streams, after: int) -> list[int]:
        return [event["n"] async for batch in streams.events.follow(job_id, after) for event in batch]

    async def body(streams: Streams) -> list[list[int]]:
        return [await read(streams, after) for after in (0, 1, 3)]

    assert follow(gateway, body) == [[1, 2, 3], [2, 3], []]


def test_200_followers_of_a_job_cost_the_looks_of_one(gateway: Gateway, output: Output) -> None:
    job_id = submitted(gateway)
    handed_over(gateway, job_id)
    output.data = b"hello\n"

    async def body(streams: Streams) -> list[str]:
        tasks = [asyncio.create_task(pieces(streams, gateway, job_id)) for _ in range(200)]
        await soon(lambda: output.reads > 3)
        output.data = b"hello\nworld\n"
        await asyncio.to_thread(ended, gateway, job_id)
        return [text_of(found) for found in await asyncio.gather(*tasks)]

    began = time.monotonic()
    assert follow(gateway, body) == ["hello\nworld\n"] * 200
    # At most one read for each pause, and a few at the end: not one for each follower.
    assert output.reads < 20 + (time.monotonic() - began) / 0.02


def test_a_log_is_followed_from_the_moment_the_job_was_accepted(gateway: Gateway, output: Output) -> None:
    job_id = submitted(gateway)

    async def body(streams: Streams) -> list[Piece]:
        task = asyncio.create_task(pieces(streams, gateway, job_id))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(handed_over, gateway, job_id)
        await soon(lambda: output.reads > 2)  # there is no file yet
        output.data = b"first\n"
        await asyncio.to_thread(ended, gateway, job_id)
        return await task

    assert [(p.kind, p.next) for p in follow(gateway, body)] == [("chunk", 6), ("end", 6)]


def test_a_character_that_is_cut_waits_for_its_rest_and_bad_bytes_do_not(gateway: Gateway, output: Output) -> None:
    job_id = submitted(gateway)
    handed_over(gateway, job_id)
    output.data = "日".encode()[:2]

    async def body(streams: Streams) -> list[Piece]:
        task = asyncio.create_task(pieces(streams, gateway, job_id))
        await soon(lambda: output.reads > 2)
        output.data = "日".encode() + b"\xff\n" + "本".encode()[:1]
        await asyncio.to_thread(ended, gateway, job_id)
        return await task

    found = follow(gateway, body)
    assert text_of(found) == "日\ufffd\n\ufffd"
    assert found[-1] == Piece("end", 6)


@pytest.mark.parametrize("offset", [0, 3, 700_000, 2_999_999, 3_000_000])
def test_a_long_log_is_followed_whole_from_any_byte(gateway: Gateway, output: Output, offset: int) -> None:
    job_id = submitted(gateway)
    handed_over(gateway, job_id)
    ended(gateway, job_id)
    output.data = b"0123456789" * 300_000

    async def body(streams: Streams) -> list[Piece]:
        return await pieces(streams, gateway, job_id, offset)

    assert text_of(follow(gateway, body)).encode() == output.data[offset:]


def test_a_truncated_file_and_a_later_attempt_begin_anew(gateway: Gateway, output: Output) -> None:
    job_id = submitted(gateway)
    handed_over(gateway, job_id)
    output.data = b"one two three\n"

    async def body(streams: Streams) -> list[Piece]:
        found: list[Piece] = []

        async def read() -> None:
            async for piece in streams.logs.follow(gateway.person, job_id, "stdout", None, 0):
                found.extend([piece] if piece.kind != "tick" else [])

        task = asyncio.create_task(read())
        await soon(lambda: len(found) == 1)
        output.data = b"four\n"
        await soon(lambda: len(found) == 3)
        await asyncio.to_thread(handed_over, gateway, job_id, 2)
        await soon(lambda: len(found) == 5)
        await asyncio.to_thread(ended, gateway, job_id)
        await task
        return found

    assert [(p.kind, p.text) for p in follow(gateway, body)] == [
        ("chunk", "one two three\n"), ("restart", ""), ("chunk", "four\n"), ("restart", ""), ("chunk", "four\n"),
        ("end", ""),
    ]  # fmt: skip


@pytest.mark.parametrize("is_over", [False, True])
def test_an_id_that_an_earlier_attempt_gave_begins_anew(gateway: Gateway, output: Output, is_over: bool) -> None:
    """Cut at byte 5000 of the first attempt: the second has printed 12, and would be told from its 5001st only."""
    job_id = submitted(gateway)
    output.data = b"second life\n"
    handed_over(gateway, job_id, attempt=2)
    if is_over:
        ended(gateway, job_id)

    async def body(streams: Streams) -> list[Piece]:
        task = asyncio.create_task(pieces(streams, gateway, job_id, offset=5000))
        await soon(lambda: output.reads > 2)
        if not is_over:
            await asyncio.to_thread(ended, gateway, job_id)
        return await task

    found = follow(gateway, body)
    assert [piece.kind for piece in found] == ["restart", "chunk", "end"]
    assert text_of(found) == "second life\n"


@pytest.mark.parametrize("is_over", [False, True])
def test_an_event_id_that_the_job_never_gave_hides_none_of_its_events(gateway: Gateway, is_over: bool) -> None:
    """Of a gateway restored from its backup, or of another job."""
    job_id = submitted(gateway)
    handed_over(gateway, job_id)
    if is_over:
        ended(gateway, job_id)

    async def body(streams: Streams) -> list[int]:
        seen: list[int] = []

        async def read() -> None:
            async for batch in streams.events.follow(job_id, 999):
                seen.extend(event["n"] for event in batch)

        task = asyncio.create_task(read())
        if not is_over:
            await soon(lambda: seen == [1, 2])
            await asyncio.to_thread(ended, gateway, job_id)
        await task
        return seen

    assert follow(gateway, body) == [1, 2, 3]


def test_output_that_is_no_file_is_told_as_that_and_not_as_a_site_that_is_away(
    gateway: Gateway, output: Output, client: httpx.Client
) -> None:
    """`#SBATCH -o /dev/null` was answered 504, and followed for ever."""
    job_id = submitted(gateway)
    handed_over(gateway, job_id)
    ended(gateway, job_id)
    sites: Any = gateway.services.sites

    def refuse(*_: object, **__: object) -> FileChunk:
        raise Refused("/dev/null is no file", code="permission")

    sites["local"] = replace(sites["local"], log=Altered(sites["local"].log, read=refuse))

    answer = client.get(f"/jobs/{job_id}/log")

    assert answer.status_code == 404
    assert "/dev/null is no file" in answer.json()["detail"]
    assert [piece.kind for piece in follow(gateway, lambda s: pieces(s, gateway, job_id))] == ["end"]


def test_a_site_that_is_away_is_told_once_and_its_output_comes_when_it_is_back(
    gateway: Gateway, output: Output
) -> None:
    job_id = submitted(gateway)
    handed_over(gateway, job_id)
    output.data, output.away = b"late\n", True

    async def body(streams: Streams) -> list[Piece]:
        task = asyncio.create_task(pieces(streams, gateway, job_id))
        await soon(lambda: output.reads > 2)
        output.away = False
        await asyncio.to_thread(ended, gateway, job_id)
        return await task

    assert [p.kind for p in follow(gateway, body)] == ["stale", "chunk", "end"]


def test_a_dead_site_takes_no_more_than_its_own_threads(gateway: Gateway, output: Output) -> None:
    job_id = submitted(gateway)
    handed_over(gateway, job_id)
    hang, seen = threading.Event(), []

    def dead(*_: object, **__: object) -> FileChunk:
        seen.append(threading.current_thread().name)
        hang.wait(20)
        raise SiteUnreachable("no answer")

    sites: Any = gateway.services.sites
    sites["local"] = replace(sites["local"], log=Altered(sites["local"].log, read=dead))

    async def body(streams: Streams) -> list[str]:
        place = await streams.run(lambda: streams.logs._locate(gateway.person, job_id, "stdout", None))
        reads = [asyncio.create_task(streams.logs.read(place, 0, 10)) for _ in range(50)]
        await soon(lambda: sum(task.done() for task in reads) == 18)
        refused = [type(task.exception()).__name__ for task in reads if task.done()]
        assert await streams.run(lambda: 42) == 42
        hang.set()
        rest = await asyncio.gather(*reads, return_exceptions=True)
        assert sum(isinstance(exc, SiteUnreachableError) for exc in rest) == 32
        return refused

    assert follow(gateway, body) == ["RateLimited"] * 18
    assert len(set(seen)) <= 8


# ---------------------------------------------------------------- over HTTP


def read_events(answer: httpx.Response) -> list[tuple[str, str, Any]]:
    found, kind, number = [], "", ""
    for line in answer.iter_lines():
        if line.startswith("event: "):
            kind = line[7:]
        elif line.startswith("id: "):
            number = line[4:]
        elif line.startswith("data: "):
            found.append((kind, number, json.loads(line[6:])))
    return found


def test_a_real_job_is_followed_by_events_and_by_log(gateway: Gateway, client: httpx.Client) -> None:
    spec = SPEC | {"executable": None, "script": "#!/bin/sh\necho åß\nsleep 1\necho 日\n"}
    job_id = client.post("/jobs", json=spec).json()["id"]
    ticking = threading.Thread(target=gateway.until, args=(job_id, "completed"))
    ticking.start()

    with client.stream("GET", f"/jobs/{job_id}/log", params={"follow": True}, timeout=60) as stream:
        log = read_events(stream)
    with client.stream("GET", f"/jobs/{job_id}/events", headers={"Accept": "text/event-stream"}) as stream:
        events = read_events(stream)
    ticking.join()
    resumed = {"Accept": "text/event-stream", "Last-Event-ID": "5"}
    with client.stream("GET", f"/jobs/{job_id}/log", headers=resumed) as stream:
        rest = read_events(stream)

    assert "".join(data["data"] for kind, _, data in log if kind == "chunk") == "åß\n日\n"
    assert log[-1] == ("end", "9", {"next": 9})
    assert [kind for kind, _, _ in events][-2:] == ["finished", "end"]
    assert [number for _, number, _ in events[:-1]] == [str(n) for n in range(1, len(events))]
    assert [data.get("data") for _, _, data in rest] == ["日\n", None]


def test_a_stream_ends_within_a_second_after_its_token(gateway: Gateway, client: httpx.Client) -> None:
    job_id = submitted(gateway)
    services = gateway.services
    found: list[tuple[str, str, Any]] = []

    def read() -> None:
        headers = {"Accept": "text/event-stream"}
        with client.stream("GET", f"/jobs/{job_id}/events", headers=headers, timeout=20) as stream:
            found.extend(read_events(stream))

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.5)
    with services.db.write() as conn:
        for row in conn.execute(tokens.TOKENS.select()).all():
            tokens.revoke(conn, token_id=row.id, user_id=None, now=services.clock())
    began = time.monotonic()
    wait_for(lambda: not thread.is_alive(), "the stream to end", 5)

    assert time.monotonic() - began < 1.3  # a second, and what two cores that are shared take
    assert found[-1][0] == "error" and found[-1][2]["code"] == "unauthenticated"


def test_a_plain_read_stays_quick_beside_200_viewers(gateway: Gateway, client: httpx.Client) -> None:
    job_id = submitted(gateway)
    host, _, port = str(client.base_url.netloc.decode()).partition(":")
    request = (f"GET /api/v2/jobs/{job_id}/events HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n"
               f"Authorization: Bearer {gateway.secret}\r\n\r\n").encode()  # fmt: skip

    async def watch() -> list[float]:
        async def viewer() -> asyncio.StreamWriter:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(request)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            return writer

        writers = await asyncio.gather(*(viewer() for _ in range(200)))
        took = await asyncio.to_thread(reads)
        for writer in writers:
            writer.close()
        return took

    def reads() -> list[float]:
        took = []
        for _ in range(200):
            began = time.perf_counter()
            assert client.get(f"/jobs/{job_id}").status_code == 200
            took.append(time.perf_counter() - began)
        return sorted(took)

    took = asyncio.run(watch())
    assert took[100] < 0.05, f"median {took[100] * 1000:.1f} ms"  # the figure itself is in benchmarks/
