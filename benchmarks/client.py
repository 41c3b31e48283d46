"""How long a person waits for the command line and the library: whole processes, best of ten, beside a bare Python."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks import stage
from benchmarks.stage import Row

_ANSWER = b'{"items": [], "next_cursor": null}'


def run() -> None:
    """Milliseconds."""
    penstock = str(Path(sys.executable).with_name("penstock"))
    bare = _best([sys.executable, "-c", "pass"])
    with _server() as url:
        call = f"import penstock; list(penstock.Client('{url}', 't').jobs())"
        figures = (
            ("penstock --help", [penstock, "--help"], "≤ 90 ms"),
            ("import penstock", [sys.executable, "-c", "import penstock"], "≤ 150 ms"),
            ("import penstock, first call answered", [sys.executable, "-c", call], ""),
        )
        rows = [Row(name, f"{_best(argv):.0f} ms", f"bare interpreter {bare:.0f} ms", to) for name, argv, to in figures]
    stage.report(rows)


def _best(argv: list[str]) -> float:
    return min(_once(argv) for _ in range(10))


def _once(argv: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(argv, check=True, capture_output=True)
    return (time.perf_counter() - began) * 1000


class _Empty(BaseHTTPRequestHandler):
    """A gateway without jobs."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(_ANSWER)))
        self.end_headers()
        self.wfile.write(_ANSWER)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def _server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Empty) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
