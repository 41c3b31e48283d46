"""A stand-in for the operator's receiver of webhooks: a real HTTP server on loopback that verifies what it is sent."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Receiver:
    """What came, in order. `answers` are given one after the other, then 204 for ever; `meanwhile` runs before each."""

    url: str
    posts: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    meanwhile: Callable[[], Any] = lambda: None

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.posts]

    @property
    def told(self) -> Sequence[dict[str, Any]]:
        return [json.loads(body)["data"] for _, body in self.posts]

    def good(self, secret_file: Path) -> bool:
        """Whether every signature is that of the specification: HMAC-SHA256 over `id.timestamp.body`."""
        secret = base64.b64decode(secret_file.read_text().strip().removeprefix("whsec_"))
        for headers, body in self.posts:
            text = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{body.decode()}"
            made = base64.b64encode(hmac.new(secret, text.encode(), hashlib.sha256).digest()).decode()
            if headers["webhook-signature"] != f"v1,{made}":
                return False
        return True


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.meanwhile()
            receiver.posts.append(({k.lower(): v for k, v in self.headers.items()}, body))
            self.send_response(receiver.answers.pop(0) if receiver.answers else 204)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on the tests' terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_port}/budgets"
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
