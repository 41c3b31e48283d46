"""`python -m gateway serve|worker|admin …`: the commands of whoever runs a gateway."""

from __future__ import annotations

import argparse
import sys

from gateway.admin import commands
from gateway.admin.texts import tr, use_catalogue
from site_adapters.terminal import harmless


def main(argv: list[str] | None = None) -> int:
    """Run one command; its exit code."""
    use_catalogue()
    parser = argparse.ArgumentParser(prog="python -m gateway", description=tr("Run and look after a Penstock gateway."))
    subs = parser.add_subparsers(required=True, metavar=tr("COMMAND"))
    commands.add_to(subs)
    args = parser.parse_args(argv)
    return int(args.run(args) or 0)


if __name__ == "__main__":
    sys.stdout, sys.stderr = harmless(sys.stdout), harmless(sys.stderr)
    sys.exit(main())
