"""Where centres' agents dial in: calls wait here for a site's agent, and are sent again when it comes back.

A call keeps its id over every cut: the centre keeps what it did for each id, so sending again does nothing twice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as OutOfTime
from dataclasses import dataclass, field

from site_adapters.errors import SiteUnreachable
from site_adapters.if2 import wire
from site_adapters.if2.channel import Channel, HttpChannel, Seal
from site_adapters.if2.verbs import Verb

GONE_S = 3.0  # without an agent for so long: nothing more is begun
LOST_S = 30.0  # and for so long: what was sent is not waited for any longer
WAITING_MAX = 256
_LOOK_S = 1.0


@dataclass(slots=True)
class _Waiting:
    frame: Callable[[], str]
    answer: Future[tuple[str, bytes]]
    sent: bool = False


@dataclass(slots=True)
class AgentLine:
    """The calls to one site's agent, whether it is connected or not."""

    site: str
    seal: Seal
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _waiting: dict[str, _Waiting] = field(default_factory=dict)
    _send: Callable[[str], None] | None = None
    _window: int = 0
    _left_at: float = field(default_factory=time.monotonic)

    # ------------------------------------------------------------ callers, in their threads

    def exchange(self, verb: Verb, call_id: str, frame: Callable[[], str], deadline_s: float) -> tuple[str, bytes]:
        """The signed answer to a call. Raises as `Channel.ask`."""
        waiting = _Waiting(frame, Future())
        with self._lock:
            if self._away() > GONE_S:
                raise SiteUnreachable(f"the agent of {self.site} is not connected")
            if len(self._waiting) >= WAITING_MAX:
                raise SiteUnreachable(f"too many calls are waiting for the agent of {self.site}")
            self._waiting[call_id] = waiting
        self._pump()
        end = time.monotonic() + deadline_s
        try:
            return self._answer(verb, waiting, end)
        finally:
            with self._lock:
                self._waiting.pop(call_id, None)
            self._pump()

    def _answer(self, verb: Verb, waiting: _Waiting, end: float) -> tuple[str, bytes]:
        while True:
            try:
                return waiting.answer.result(min(_LOOK_S, max(0.0, end - time.monotonic())))
            except OutOfTime:
                with self._lock:
                    away, sent = self._away(), waiting.sent
            late = time.monotonic() >= end
            if not sent and (late or away > GONE_S):
                raise SiteUnreachable(f"the agent of {self.site} took no call: nothing was done")
            if late or away > LOST_S:
                raise wire.lost(verb, f"the agent of {self.site} gave no answer")

    # ------------------------------------------------------------ the connection, in the event loop

    def connected(self, send: Callable[[str], None], window: int) -> None:
        """An agent is there: everything without an answer is sent (again). `send` does not block."""
        with self._lock:
            self._send, self._window = send, max(1, window)
            for waiting in self._waiting.values():
                waiting.sent = False
        self._pump()

    def left(self, send: Callable[[str], None]) -> None:
        """That connection is over; a newer one stays."""
        with self._lock:
            if self._send is send:
                self._send, self._left_at = None, time.monotonic()

    def answered(self, call_id: str, token: str, body: bytes) -> None:
        with self._lock:
            waiting = self._waiting.get(call_id)
        if waiting is not None and not waiting.answer.done():
            waiting.answer.set_result((token, body))

    @property
    def is_connected(self) -> bool:
        return self._send is not None

    def _pump(self) -> None:
        """Send what waits, at most `window` without an answer at a time: the agent says how many it takes."""
        with self._lock:
            if self._send is None:
                return
            out = sum(w.sent and not w.answer.done() for w in self._waiting.values())
            ready = [w for w in self._waiting.values() if not w.sent and not w.answer.done()]
            chosen, send = ready[: max(0, self._window - out)], self._send
            for waiting in chosen:
                waiting.sent = True
        for waiting in chosen:
            send(waiting.frame())

    def _away(self) -> float:
        return 0.0 if self._send is not None else time.monotonic() - self._left_at


@dataclass(slots=True)
class Hub:
    """The lines of all sites that are docked by an agent."""

    lines: dict[str, AgentLine] = field(default_factory=dict)

    def channel(self, site: str, seal: Seal) -> Channel:
        """How the adapter of such a site calls it."""
        self.lines[site] = AgentLine(site, seal)
        return AgentChannel(self.lines[site])


@dataclass(frozen=True, slots=True)
class AgentChannel:
    """Calls through the hub of this very process."""

    line: AgentLine

    def ask(self, verb: Verb, call: wire.Call) -> bytes:
        body, seal = call.to_bytes(), self.line.seal
        frame = lambda: f"{seal.sign(call.id, body)}\n{body.decode()}"  # noqa: E731 - signed anew at each sending
        token, answer = self.line.exchange(verb, call.id, frame, call.deadline_s)
        return seal.opened(token, call.id, answer)

    def close(self) -> None:
        """The agent's connection is the server's."""


def relayed(url: str) -> Callable[[str, Seal], Channel]:
    """For a worker that serves no HTTP: its calls go through the process at which the agents are connected."""

    def channel(site: str, seal: Seal) -> Channel:
        dock = seal.dock.model_copy(update={"url": f"{url.rstrip('/')}/if2/relay/{site}"})
        return HttpChannel(Seal(site, dock, seal.trust))

    return channel
