"""Processes of one gateway that start at the same moment."""

from __future__ import annotations

import subprocess
import sys

from tests.lab.postgres import PostgresLab

_UPGRADE = "import sys; from gateway.db import Database; from gateway.migrations import schema; "
_UPGRADE += "schema.upgrade(Database(sys.argv[1]))"


def test_processes_that_start_at_once_on_an_empty_database_all_start(postgres: PostgresLab) -> None:
    url = postgres.fresh()
    started = [subprocess.Popen([sys.executable, "-c", _UPGRADE, url], stderr=subprocess.PIPE) for _ in range(3)]
    told = [process.communicate(timeout=120)[1].decode() for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], told
    postgres.drop(url)
