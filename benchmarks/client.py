"""How long a person waits for the command line to start: whole processes, best of ten, beside a bare interpreter."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path


def run() -> None:
    """Milliseconds."""
    penstock = str(Path(sys.executable).with_name("penstock"))
    for name, argv in {
        "python -c pass": [sys.executable, "-c", "pass"],
        "penstock --help": [penstock, "--help"],
        "import penstock": [sys.executable, "-c", "import penstock"],
        "import, first Client": [sys.executable, "-c", "import penstock; penstock.Client('http://127.0.0.1:9')"],
    }.items():
        print(f"{name:22} {min(_once(argv) for _ in range(10)):6.0f} ms")


def _once(argv: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(argv, check=True, capture_output=True)
    return (time.perf_counter() - began) * 1000
