"""The IF2 agent: dials out to the gateway over one connection and answers what comes; nothing listens at the centre."""

from __future__ import annotations

import json
import logging
import secrets
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from site_adapters.centre.desk import AT_ONCE, Desk, Pending
from site_adapters.errors import CredentialRefused
from site_adapters.if2 import tokens
from site_adapters.if2.codec import Malformed
from site_adapters.if2.keys import SigningKey, TrustStore
from site_adapters.if2.profile import VERSIONS
from site_adapters.if2.wire import BODY_BYTES_MAX

log = logging.getLogger("penstock.agent")
_WAIT_S = (0.2, 30.0)  # between two tries to connect, doubling
_BROKEN = (OSError, EOFError, WebSocketException)


@dataclass(slots=True)
class Agent:
    """Keeps one connection to the gateway, for as long as it runs."""

    desk: Desk
    url: str
    gateway: str
    key: Callable[[], SigningKey]
    trust: TrustStore
    software: str = ""
    ca_file: Path | None = None
    stopped: Callable[[], str | None] = lambda: None
    connections: int = 0
    _ending: threading.Event = field(default_factory=threading.Event)
    _socket: ClientConnection | None = None
    _sending: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        """Connect, answer, connect again; returns after `close`."""
        wait = _WAIT_S[0]
        while not self._ending.is_set():
            before = self.connections
            try:
                if self.stopped() is None:
                    self._once()
            except CredentialRefused as exc:
                log.error("the gateway and we do not trust each other: %s", exc)  # noqa: TRY400 - told in words
                wait = _WAIT_S[1]
            except _BROKEN as exc:
                log.warning("no connection to the gateway: %s", exc)
            if self.connections > before:  # it was a good connection that broke: come back at once
                wait = _WAIT_S[0]
            # Not all agents of a gateway that restarts come back at the same instant.
            self._ending.wait(wait * (0.5 + secrets.randbelow(1000) / 1000))
            wait = min(wait * 2, _WAIT_S[1])

    def close(self) -> None:
        self._ending.set()
        socket = self._socket
        if socket is not None:
            socket.close()

    # ------------------------------------------------------------ one connection

    def _once(self) -> None:
        nonce = secrets.token_hex(12)
        token = tokens.sign(self.key(), issuer=self.desk.site, audience=self.gateway, about=nonce, body=b"if2-agent")
        headers = {"Authorization": f"Bearer {token}", "Penstock-Site": self.desk.site}
        context = None
        if self.url.startswith("wss:"):
            context = ssl.create_default_context(cafile=None if self.ca_file is None else str(self.ca_file))
        with connect(
            self.url, ssl=context, additional_headers=headers, open_timeout=10, close_timeout=2, ping_interval=10,
            ping_timeout=20, max_size=BODY_BYTES_MAX, compression=None, proxy=None,
        ) as socket:  # fmt: skip
            self._socket = socket
            try:
                self._greet(socket, nonce)
                self.connections += 1
                log.info("connected to %s", self.url)
                for frame in socket:
                    if self.stopped() is not None:
                        return
                    self._begin(socket, str(frame))
            finally:
                self._socket = None

    def _greet(self, socket: ClientConnection, nonce: str) -> None:
        """The gateway proves that it is ours before it is told anything."""
        token, _, body = str(socket.recv(timeout=10)).partition("\n")
        claims = tokens.verify(token, self.trust, audience=self.desk.site, body=body.encode())
        hello = json.loads(body)
        if claims.about != nonce or hello.get("nonce") != nonce:
            raise CredentialRefused("the gateway answered another greeting")
        if not set(hello.get("versions", ())) & set(VERSIONS):
            raise CredentialRefused(f"the gateway speaks IF2 {hello.get('versions')}, we speak {VERSIONS}")
        socket.send(json.dumps({"window": AT_ONCE, "software": self.software}))

    def _begin(self, socket: ClientConnection, frame: str) -> None:
        token, _, body = frame.partition("\n")
        try:
            pending = self.desk.take(token, body.encode())
        except (CredentialRefused, Malformed) as exc:
            log.warning("a call was refused: %s", exc)
            return
        pending.answer.add_done_callback(lambda done: self._answer(socket, pending, done))

    def _answer(self, socket: ClientConnection, pending: Pending, done: Future[bytes]) -> None:
        """Send an answer on the connection that asked; where it broke, the gateway asks again by the id."""
        if done.cancelled():
            return
        answer = done.result()
        try:
            with self._sending:
                socket.send(f"{pending.id}\n{self.desk.sign(pending, answer)}\n{answer.decode()}")
        except _BROKEN as exc:
            log.info("the answer to %s waits to be asked for again: %s", pending.id, type(exc).__name__)


def run_until(agent: Agent, ending: threading.Event) -> None:
    """Run the agent in a thread of its own until the event is set."""
    thread = threading.Thread(target=agent.run, name="if2-agent")
    thread.start()
    while not ending.wait(0.2):
        if not thread.is_alive():
            break
    agent.close()
    thread.join(timeout=15)
