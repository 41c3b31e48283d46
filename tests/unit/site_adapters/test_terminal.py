"""What others wrote does not drive the terminal of an operator or of a centre's staff."""

from __future__ import annotations

import logging
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import logs

HOSTILE = "\x1b[1A\x1b[2K9.99\r\u202egnihton"


@pytest.mark.parametrize(
    "argv",
    [
        ["-m", "gateway", "admin", "credit", "demo", "1", HOSTILE],
        ["-c", "from site_adapters.centre.cli import main; main()", "orders", "refuse", HOSTILE, "--reason", "x"],
    ],
    ids=["gateway", "penstock-site"],
)
def test_escape_sequences_are_shown_not_obeyed(argv: list[str], tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("site: here\nscheduler: local\ntransport: {kind: local}\n")
    env = os.environ | {"PENSTOCK_HOME": str(tmp_path), "PENSTOCK_SITE_HOME": str(tmp_path), "TERM": "xterm",
                        "PYTHONIOENCODING": "utf-8"}  # fmt: skip
    ours, theirs = pty.openpty()
    subprocess.run(
        [sys.executable, *argv], env=env, stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL, check=False
    )
    os.close(theirs)
    seen = b""
    try:
        while part := os.read(ours, 4096):
            seen += part
    except OSError:
        pass  # the other side is closed: all is read
    os.close(ours)

    assert "9.99\ufffd\ufffdgnihton".encode() in seen
    assert b"\x1b" not in seen


def test_a_tick_that_takes_long_is_no_line_in_the_log() -> None:
    logs.configure()

    assert not logging.getLogger("apscheduler.scheduler").isEnabledFor(logging.WARNING)
    assert logging.getLogger("apscheduler.executors.default").isEnabledFor(logging.ERROR)
