"""`python -m benchmarks [accept|dispatch|client …]`: run measurements and print them; none: all."""

from __future__ import annotations

import sys

from benchmarks import accept, client, dispatch, docking

ALL = {"accept": accept.run, "dispatch": dispatch.run, "docking": docking.run, "client": client.run}


def main() -> None:
    for name in sys.argv[1:] or ALL:
        print(f"== {name}", flush=True)
        ALL[name]()


main()
