"""`python -m benchmarks [NAME …]`: run measurements and print their tables; none named: all."""

from __future__ import annotations

import logging
import sys
from importlib import import_module

import structlog

# In the order of the README; each module has `run()`.
ALL = (
    "accept",
    "read",
    "list",
    "watch",
    "dispatch",
    "isolation",
    "client",
    "reconcile",
    "month",
    "evidence",
    "docking",
    "dialects",
)


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in ALL]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(ALL)}")
        return 2
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    for name in names or ALL:
        print(f"== {name}", flush=True)
        import_module(f"benchmarks.{name}").run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
