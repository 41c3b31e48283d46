"""Dock a centre that runs `penstock-site`: our key towards it, and its site file."""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from gateway.errors import Conflict, Invalid
from gateway.settings import Settings
from site_adapters.config import BrokenSite, load_site
from site_adapters.if2 import keys


def dock(args: argparse.Namespace) -> None:
    """Write the site file and print our key, for the centre to trust."""
    try:
        keys.read_public(args.key)
    except ValueError as exc:
        raise Invalid(
            f"The centre's key is not valid: {exc}.", remedy="Ask the centre for `penstock-site key`."
        ) from exc
    folder = Settings().effective_sites_dir
    file, key_file = folder / f"{args.site}.yaml", folder / f"{args.site}.key"
    if file.exists():
        raise Conflict(f"{file.name} is there already.", remedy="Remove it first, or edit it.")
    made = keys.load_or_create(key_file)
    section = {"kind": "service" if args.url else "agent", "key_file": key_file.name, "centre_keys": [args.key]}
    section |= {"url": args.url} if args.url else {}
    section |= {"ca_file": str(Path(args.ca).absolute())} if args.ca else {}
    file.write_text(yaml.safe_dump({"site": args.site, "scheduler": "if2", "dock": section}, sort_keys=False), "utf-8")
    found = load_site(file)
    if isinstance(found, BrokenSite):
        file.unlink()
        raise Invalid("; ".join(found.reasons))
    print(f"{args.site}: docked by {section['kind']}; restart the gateway to use it")
    print(f"our key, for `penstock-site trust`: {keys.public_text(made.public)}")
