"""Dock a centre that runs `penstock-site`: our key towards it, and its site file."""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from gateway.admin.texts import said, tr
from gateway.bootstrap import compose
from gateway.errors import Conflict, Invalid, NotFound, SiteUnreachableError
from gateway.settings import Settings
from site_adapters.config import BrokenSite, load_site, load_sites
from site_adapters.errors import SiteError
from site_adapters.if2 import keys


def visiting() -> Settings:
    """For a command that asks centres: those that dial in are asked over the connection of the running gateway."""
    settings = Settings()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = settings.hub_url or f"http://{host}:{settings.port}"
    return settings.model_copy(update={"hub_url": url})


def dock(args: argparse.Namespace) -> None:
    """Write the site file and print our key, for the centre to trust."""
    try:
        keys.read_public(args.key)
    except ValueError as exc:
        raise Invalid(
            tr("The centre's key is not valid: {error}.", error=exc), remedy="Ask the centre for `penstock-site key`."
        ) from exc
    folder = Settings().effective_sites_dir
    file, key_file = folder / f"{args.site}.yaml", folder / f"{args.site}.key"
    if file.exists():
        raise Conflict(tr("{file} is there already.", file=file.name), remedy="Remove it first, or edit it.")
    made = keys.load_or_create(key_file)
    section = {"kind": "service" if args.url else "agent", "key_file": key_file.name, "centre_keys": [args.key]}
    section |= {"url": args.url} if args.url else {}
    section |= {"ca_file": str(Path(args.ca).absolute())} if args.ca else {}
    file.write_text(yaml.safe_dump({"site": args.site, "scheduler": "if2", "dock": section}, sort_keys=False), "utf-8")
    found = load_site(file)
    if isinstance(found, BrokenSite):
        file.unlink()
        raise Invalid("; ".join(found.reasons))
    print(tr("{site}: docked by {way}; restart the gateway to use it", site=args.site, way=section["kind"]))
    print(tr("our key, for `penstock-site trust`: {key}", key=keys.public_text(made.public)))


def dock_rotate(args: argparse.Namespace) -> None:
    """A new key beside the old one: the centre is told by a call that the old one signs, then the new one signs.

    A centre that we call is told now. One that dials in is told over its connection, which the running gateway has.
    """
    folder = Settings().effective_sites_dir
    sites = [found for found in load_sites(folder) if not isinstance(found, BrokenSite)]
    docks = {found.site: found.dock for found in sites if found.dock is not None}
    dock = docks.get(args.site)
    if dock is None:
        raise NotFound(tr("There is no docked centre {site}.", site=args.site), remedy="See the site files.")
    others = sorted(site for site, d in docks.items() if d.key_file == dock.key_file and site != args.site)
    if others:
        remedy = "Give each centre a key file of its own."
        told = tr("{file} is also the key towards {sites}.", file=dock.key_file.name, sites=", ".join(others))
        raise Conflict(told, remedy=remedy)
    made = keys.rotate(dock.key_file)
    if dock.kind == "service":
        services = compose(Settings())
        try:
            services.sites[args.site].renew_keys()
        except SiteError as exc:
            remedy = "The gateway tries again twice a minute; until then the old key signs."
            told = tr("{site} was not told: {error}", site=args.site, error=said(str(exc)))
            raise SiteUnreachableError(told, remedy=remedy) from exc
        finally:
            services.close()
        told = "{site}: signed with {key} from now on; the old key is good for a day more"
        print(tr(told, site=args.site, key=made.public.kid))
        return
    told = "{site}: {key} is announced over the centre's connection within a minute, then it signs"
    print(tr(told, site=args.site, key=made.public.kid))
