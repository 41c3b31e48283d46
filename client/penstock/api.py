"""`Client`: every call of the gateway, typed; retries only what may be sent twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, BinaryIO, TypeVar

import httpx

from penstock import calls
from penstock.calls import Answer, Call, EventReader, checked
from penstock.config import resolve
from penstock.errors import NotReachable, PenstockError, Refused, TooMany
from penstock.models import Chunk, Event, Job, Plan

T = TypeVar("T")
TRIES = 5
AGAIN = frozenset({429, 502, 503, 504})


def wait_s(attempt: int) -> float:
    """0.2, 0.4, 0.8 … seconds."""
    return float(min(10.0, 0.2 * 2**attempt))


class Client:
    """A gateway and a token: given, or from `PENSTOCK_URL`/`PENSTOCK_TOKEN`, or from `penstock login`."""

    def __init__(self, url: str | None = None, token: str | None = None, *, timeout_s: float = 60.0) -> None:
        profile = resolve(url, token)
        headers = {"Authorization": f"Bearer {profile.token}"} if profile.token else {}
        self._http = httpx.Client(base_url=profile.url, headers=headers, timeout=timeout_s)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # ------------------------------------------------------------ jobs

    def submit(self, *, idempotency_key: str | None = None, **spec: Any) -> Job:
        """Submit a job spec; safe to lose the answer of."""
        return self._call(calls.submit(spec, idempotency_key))

    def plan(self, **spec: Any) -> Plan:
        """What would be sent where, and what it may cost."""
        return self._call(calls.plan(spec))

    def submit_many(self, specs: list[dict[str, Any]], *, idempotency_key: str | None = None) -> list[dict[str, Any]]:
        """Up to 1,000 at once; a result for each."""
        results: list[dict[str, Any]] = self._call(calls.bulk(specs, idempotency_key))["results"]
        return results

    def job(self, job_id: str) -> Job:
        return self._call(calls.job(job_id))

    def jobs(self, *, limit: int | None = None, **filters: Any) -> Iterator[Job]:
        """The newest first, page by page; `limit` in all."""
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            page = self._call(calls.jobs(cursor=cursor, limit=min(left or 100, 100), **filters))
            yield from page.items
            left = None if left is None else left - len(page.items)
            cursor = page.next_cursor
            if cursor is None:
                return

    def cancel(self, job_id: str) -> Job:
        return self._call(calls.act(job_id, "cancel"))

    def hold(self, job_id: str) -> Job:
        return self._call(calls.act(job_id, "hold"))

    def release(self, job_id: str) -> Job:
        return self._call(calls.act(job_id, "release"))

    def modify(self, job_id: str, **attributes: Any) -> Job:
        return self._call(calls.modify(job_id, attributes))

    def decide(self, job_id: str, decision: str, native_id: str | None = None) -> Job:
        return self._call(calls.decide(job_id, decision, native_id))

    def wait(self, job_id: str, *, timeout_s: float | None = None) -> Job:
        """Until it is final; raises `TimeoutError`. The gateway tells, nothing is polled."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            for _event in self.events(job_id, deadline=deadline):
                pass
            job = self.job(job_id)
            if job.status.final:
                return job
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"{job_id} is still {job.status.state}")

    # ------------------------------------------------------------ output

    def script(self, job_id: str) -> str:
        return self._call(calls.script(job_id))

    def log(
        self, job_id: str, *, stream: str = "stdout", offset: int = 0, limit: int = 1 << 16, task: int | None = None
    ) -> Chunk:
        return self._call(calls.log(job_id, stream, offset, limit, task))

    def follow_log(
        self, job_id: str, *, stream: str = "stdout", offset: int = 0, task: int | None = None
    ) -> Iterator[str]:
        """Text as it is printed, to the end; a cut connection is taken up at its byte offset."""
        path, params = calls.log_stream(job_id, stream, task)
        for event in self._events(path, params | {"offset": offset}, offset, None):
            if event.kind == "chunk":
                yield event.data["data"]
            elif event.kind == "error":
                raise PenstockError(event.data["detail"])

    def events(self, job_id: str, *, after: int = 0, deadline: float | None = None) -> Iterator[Event]:
        """What happens to it, to its end."""
        path, params = calls.event_stream(job_id)
        yield from self._events(path, params, after, deadline)

    # ------------------------------------------------------------ the rest

    def why(self, job_id: str) -> dict[str, Any]:
        return self._call(calls.details(job_id, "why"))

    def charges(self, job_id: str) -> dict[str, Any]:
        return self._call(calls.details(job_id, "charges"))

    def runs(self, job_id: str) -> list[dict[str, Any]]:
        return list(self._call(calls.details(job_id, "runs"))["items"])

    def projects(self) -> list[dict[str, Any]]:
        return list(self._call(calls.get("projects"))["items"])

    def sites(self) -> list[dict[str, Any]]:
        return list(self._call(calls.get("sites"))["items"])

    def whoami(self) -> dict[str, Any]:
        return self._call(calls.get("whoami"))

    def get(self, path: str, **params: Any) -> dict[str, Any]:
        return self._call(calls.get(path, **params))

    def ask(self, path: str, **params: Any) -> dict[str, Any]:
        """A read with a query."""
        return self._call(calls.ask(path, params))

    def text(self, path: str) -> str:
        return self._call(calls.text(path))

    def download(self, path: str, out: BinaryIO, **params: Any) -> int:
        """Write what a path answers (a PDF, a table, a bundle) to a file as it comes; the number of bytes."""
        size = 0
        wanted = {k: v for k, v in params.items() if v not in (None, "", (), [])}
        with self._http.stream("GET", f"{calls.ROOT}/{path}", params=wanted, timeout=None) as answer:
            if answer.status_code != 200:
                checked(Answer(answer.status_code, dict(answer.headers), answer.read()))
            for part in answer.iter_bytes():
                size += out.write(part)
        return size

    def post(self, path: str, body: Any) -> dict[str, Any]:
        return self._call(calls.post(path, body))

    def put(self, path: str, body: Any) -> dict[str, Any]:
        return self._call(calls.put(path, body))

    def delete(self, path: str) -> None:
        self._call(calls.delete(path))

    # ------------------------------------------------------------ running calls

    def _call(self, call: Call[T]) -> T:
        for attempt in range(TRIES):
            last = attempt == TRIES - 1
            try:
                got = self._http.request(
                    call.method, call.path, params=call.params, headers=call.headers, json=call.body
                )
            except httpx.TransportError as exc:
                if last or not call.safe:
                    raise NotReachable(f"{self._http.base_url} does not answer: {exc}") from exc
            else:
                answer = Answer(got.status_code, dict(got.headers), got.content)
                if last or not call.safe or got.status_code not in AGAIN:
                    return call.read(answer)
                try:
                    checked(answer)
                except TooMany as busy:
                    time.sleep(min(30, busy.retry_after_s))
                except Refused:
                    pass
            time.sleep(wait_s(attempt))
        raise AssertionError("the last try returns or raises")

    def _events(self, path: str, params: dict[str, Any], last_id: int, deadline: float | None) -> Iterator[Event]:
        """Events until `end`; taken up after the last one where the connection broke."""
        failures = 0
        while deadline is None or time.monotonic() < deadline:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(last_id)}
            try:
                with self._http.stream("GET", path, params=params, headers=headers, timeout=30.0) as answer:
                    if answer.status_code != 200:
                        checked(Answer(answer.status_code, dict(answer.headers), answer.read()))
                    reader = EventReader()
                    for line in answer.iter_lines():
                        event = reader.feed(line)
                        if event is not None:
                            failures, last_id = 0, event.id
                            yield event
                            if event.kind in ("end", "error"):
                                return
                        if deadline is not None and time.monotonic() >= deadline:
                            return
            except httpx.TransportError as exc:
                failures += 1
                if failures >= TRIES:
                    raise NotReachable(f"{self._http.base_url} does not answer: {exc}") from exc
                time.sleep(wait_s(failures))
