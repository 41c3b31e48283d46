"""Every call of the API as data: method, path, body and what to make of the answer; `api` and `aio` run them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec

from penstock.errors import refusal
from penstock.models import Chunk, Event, Job, Page, Plan

T = TypeVar("T")
ROOT = "/api/v2"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request. `safe` calls may be sent again when no answer came: reads, and writes with a key."""

    method: str
    path: str
    read: Callable[[Answer], T]
    body: Any = None
    params: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    safe: bool = True


def checked(answer: Answer) -> Answer:
    """The answer, or the gateway's refusal raised."""
    if answer.status < 400:
        return answer
    try:
        document = json.loads(answer.body)
    except ValueError:
        document = {"detail": answer.body.decode("utf-8", "replace")[:500] or f"HTTP {answer.status}"}
    raise refusal(answer.status, document, answer.headers.get("retry-after"))


def _as(kind: type[T]) -> Callable[[Answer], T]:
    return lambda answer: msgspec.json.decode(checked(answer).body, type=kind)


def _plain(answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(checked(answer).body)
    return found


def _text(answer: Answer) -> str:
    return checked(answer).body.decode("utf-8", "replace")


def _chunk(answer: Answer) -> Chunk:
    headers = checked(answer).headers
    return Chunk(answer.body, int(headers["x-offset"]), int(headers["x-size"]))


def submit(spec: dict[str, Any], key: str | None) -> Call[Job]:
    """Every submission has a key, so that a retry after a lost answer makes no second job."""
    key = key or secrets.token_hex(16)
    return Call("POST", f"{ROOT}/jobs", _as(Job), spec, headers={"Idempotency-Key": key})


def plan(spec: dict[str, Any]) -> Call[Plan]:
    return Call("POST", f"{ROOT}/jobs:plan", _as(Plan), spec)


def bulk(specs: list[dict[str, Any]], key: str | None) -> Call[dict[str, Any]]:
    key = key or secrets.token_hex(16)
    return Call("POST", f"{ROOT}/jobs:bulk", _plain, {"jobs": specs}, headers={"Idempotency-Key": key})


def job(job_id: str) -> Call[Job]:
    return Call("GET", f"{ROOT}/jobs/{job_id}", _as(Job))


def jobs(**filters: Any) -> Call[Page]:
    return Call("GET", f"{ROOT}/jobs", _as(Page), params={k: v for k, v in filters.items() if v not in (None, [], ())})


def act(job_id: str, verb: str) -> Call[Job]:
    """cancel, hold, release: asking twice is asking once."""
    return Call("POST", f"{ROOT}/jobs/{job_id}/{verb}", _as(Job))


def modify(job_id: str, attributes: dict[str, Any]) -> Call[Job]:
    return Call("PATCH", f"{ROOT}/jobs/{job_id}", _as(Job), {"attributes": attributes})


def decide(job_id: str, decision: str, native_id: str | None) -> Call[Job]:
    body = {"decision": decision} | ({"native_id": native_id} if native_id else {})
    return Call("POST", f"{ROOT}/jobs/{job_id}/decide", _as(Job), body, safe=False)


def script(job_id: str) -> Call[str]:
    return Call("GET", f"{ROOT}/jobs/{job_id}/script", _text)


def log(job_id: str, stream: str, offset: int, limit: int, task: int | None) -> Call[Chunk]:
    params = {"stream": stream, "offset": offset, "limit": limit} | ({"task": task} if task is not None else {})
    return Call("GET", f"{ROOT}/jobs/{job_id}/log", _chunk, params=params)


def details(job_id: str, what: str) -> Call[dict[str, Any]]:
    """why, charges, runs, events."""
    return Call("GET", f"{ROOT}/jobs/{job_id}/{what}", _plain)


def get(path: str, **params: Any) -> Call[dict[str, Any]]:
    return Call("GET", f"{ROOT}/{path}", _plain, params={k: v for k, v in params.items() if v is not None})


def ask(path: str, params: dict[str, Any]) -> Call[dict[str, Any]]:
    """A read with a query; what is None or empty is left out."""
    return Call(
        "GET", f"{ROOT}/{path}", _plain, params={k: v for k, v in params.items() if v not in (None, "", (), [])}
    )


def text(path: str) -> Call[str]:
    return Call("GET", f"{ROOT}/{path}", _text)


def post(path: str, body: Any) -> Call[dict[str, Any]]:
    return Call("POST", f"{ROOT}/{path}", _plain, body, safe=False)


def put(path: str, body: Any) -> Call[dict[str, Any]]:
    """Twice is once, so that it is tried again."""
    return Call("PUT", f"{ROOT}/{path}", _plain, body)


def delete(path: str) -> Call[str]:
    return Call("DELETE", f"{ROOT}/{path}", _text)


def log_stream(job_id: str, stream: str, task: int | None) -> tuple[str, dict[str, Any]]:
    params = {"stream": stream, "follow": "true"} | ({"task": task} if task is not None else {})
    return f"{ROOT}/jobs/{job_id}/log", params


def event_stream(job_id: str) -> tuple[str, dict[str, Any]]:
    return f"{ROOT}/jobs/{job_id}/events", {}


class EventReader:
    """Lines of an event stream as events (WHATWG HTML, section 9.2)."""

    def __init__(self) -> None:
        self._kind, self._id, self._data = "message", 0, list[str]()

    def feed(self, line: str) -> Event | None:
        """One line without its end; an event when the line ends one."""
        if line == "":
            if not self._data:
                self._kind = "message"
                return None
            event = Event(self._kind, self._id, json.loads("\n".join(self._data)))
            self._kind, self._data = "message", []
            return event
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._kind = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and value.isdigit():
            self._id = int(value)
        return None
