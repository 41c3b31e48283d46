"""`python -m benchmarks NAME …`: run measurements and print their tables (`all`: every one); none named: the list."""

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
    if not names:
        print("python -m benchmarks NAME …   (or `all`)\n")
        for name in ALL:
            told = import_module(f"benchmarks.{name}").__doc__ or ""
            print(f"  {name:10} {told.splitlines()[0]}")
        return 0
    unknown = [name for name in names if name not in (*ALL, "all")]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(ALL)}")
        return 2
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    for name in ALL if "all" in names else names:
        print(f"== {name}", flush=True)
        import_module(f"benchmarks.{name}").run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
