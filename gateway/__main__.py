"""`python -m gateway serve|worker|admin …`: the commands of whoever runs a gateway."""

from __future__ import annotations

import argparse
import sys

from gateway.admin import commands


def main(argv: list[str] | None = None) -> int:
    """Run one command; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m gateway", description="Run and look after a Penstock gateway.")
    subs = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_to(subs)
    args = parser.parse_args(argv)
    return int(args.run(args) or 0)


if __name__ == "__main__":
    sys.exit(main())
