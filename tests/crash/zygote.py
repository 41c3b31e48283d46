"""Forks children that have everything imported already, kills them in time, and says how each died.

A line of JSON in (what `worker.live` or `server.live` wants, `kill_after_s`), a line of JSON out (`at_point`,
`alive_s`, `status`).
"""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from tests.crash import server, worker


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what children print is for the log
    gc.freeze()  # or each child's first look for garbage would copy all that was imported
    for line in sys.stdin:
        print(json.dumps(_one_life(json.loads(line))), file=answers, flush=True)


def _one_life(order: dict[str, Any]) -> dict[str, Any]:
    hear, tell = os.pipe()
    begun = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(hear)
        try:
            (server if "port_file" in order else worker).live(order, tell)
        finally:
            os._exit(1)
    os.close(tell)
    status = _until_dead(pid, begun + order["kill_after_s"])
    at_point = os.read(hear, 1) == b"!"
    os.close(hear)
    return {"at_point": at_point, "alive_s": time.monotonic() - begun, "status": status}


def _until_dead(pid: int, deadline: float) -> int:
    """The wait status; the child is killed at the deadline."""
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.003)
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


class Zygote:
    """The process that forks, as the test sees it."""

    def __init__(self, log: Path) -> None:
        self._log: IO[bytes] = log.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.zygote"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._log, text=True, bufsize=1,
        )  # fmt: skip

    def life(self, order: dict[str, Any]) -> dict[str, Any]:
        """One child from its fork to its death."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()
        self._log.close()


if __name__ == "__main__":
    main()
