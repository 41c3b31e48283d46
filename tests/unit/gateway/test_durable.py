"""What a gateway has committed is on the disk, also when the power goes: tests run without, so a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_ASK = """
import sys
from gateway.db import Database
names = ("synchronous", "journal_mode", "foreign_keys")
with Database(f"sqlite:///{sys.argv[1]}").write() as conn:
    print(*(conn.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names))
"""
FULL = "2"


def test_a_commit_waits_for_the_disk(tmp_path: Path) -> None:
    asked = [sys.executable, "-c", _ASK, str(tmp_path / "x.sqlite")]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert said.split() == [FULL, "wal", "1"]
