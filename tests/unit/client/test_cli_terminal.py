"""What others wrote does not drive the terminal of who reads it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

REASON = "\x1b[1A\x1b[2K-9.99 CNY\r\u202egnihton\x9b"


class _Gateway(BaseHTTPRequestHandler):
    """Refuses everything with a reason that somebody wrote."""

    def do_GET(self) -> None:
        body = f'{{"detail": "{REASON}", "code": "conflict"}}'.replace("\x1b", "\\u001b").replace("\r", "\\r").encode()
        self.send_response(409)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_escape_sequences_and_marks_of_direction_are_shown_not_obeyed() -> None:
    server = HTTPServer(("127.0.0.1", 0), _Gateway)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    env = os.environ | {"PENSTOCK_URL": f"http://127.0.0.1:{server.server_port}", "PENSTOCK_TOKEN": "pst_x",
                        "PYTHONIOENCODING": "utf-8", "TERM": "xterm"}  # fmt: skip
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-c", "from penstock.cli import main; main()", "whoami"]
    done = subprocess.run(argv, env=env, stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL, check=False)
    os.close(theirs)
    seen = b""
    try:
        while part := os.read(ours, 4096):
            seen += part
    except OSError:  # Linux says so that nobody writes any more
        pass
    server.shutdown()
    server.server_close()
    text = seen.decode().replace("\r\n", "\n")  # the terminal's own
    assert done.returncode != 0
    assert "-9.99 CNY\ufffd\ufffdgnihton\ufffd" in text
    assert not set(text) & set("\x1b\r\u202e\x9b")
