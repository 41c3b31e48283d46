"""Admin commands that keep the gateway: copies and what follows a restore, keys, sites, forgetting a person."""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from gateway import backup as copies
from gateway import recovery
from gateway.admin.docking import visiting
from gateway.admin.texts import said, tr
from gateway.billing import evidence
from gateway.bootstrap import compose, lock_home, utc_now
from gateway.errors import Invalid, NotFound
from gateway.identity import service, vault
from gateway.identity.keys import load_or_create
from gateway.jobs import repository
from gateway.notices import addresses
from gateway.settings import Settings


def backup(args: argparse.Namespace) -> None:
    print(copies.backup(Settings(), Path(args.file), now=utc_now()))


def restore(args: argparse.Namespace) -> None:
    settings = Settings()
    with closing(lock_home(settings.home)):
        copies.restore(settings, Path(args.file), now=utc_now(), force=args.force)
    print(tr("restored; run `python -m gateway admin recover` before it takes writes"))


def recover(args: argparse.Namespace) -> int:
    """Ask every site, then accept writes; the last line is JSON for programs, what to do stands above it."""
    with closing(compose(visiting())) as services:
        report = recovery.recover(services, back=timedelta(hours=args.back_hours), now=utc_now(),
                                  skip=frozenset(args.skip_site), keep_log=args.keep_log)  # fmt: skip
    for site, why in sorted(report.unreachable.items()):
        told = "{site} did not answer ({why}): no writes are taken. Try again, or leave it out by --skip-site."
        print(tr(told, site=site, why=said(why)))
    if report.origin:
        print(
            tr("The evidence log goes on under a new name, {origin}: tell it to the witnesses.", origin=report.origin)
        )
    print(json.dumps({"attached": report.attached, "rebuilt": report.rebuilt, "foreign": report.foreign,
                      "unreachable": report.unreachable, "evidence_origin": report.origin}))  # fmt: skip
    return 1 if report.unreachable else 0


def rotate_keys(_args: argparse.Namespace) -> None:
    """The new key is complete beside the old one before the database changes, and takes its place after."""
    with closing(compose(Settings())) as services:
        file = services.settings.effective_master_key_file
        old, fresh = load_or_create(file), file.with_suffix(".next")
        new = load_or_create(fresh)
        with services.db.write() as conn:
            count = service.reseal_all(conn, old, new) + evidence.reseal(conn, old, new) + vault.reseal(conn, old, new)
    file.rename(file.with_suffix(".old"))
    fresh.rename(file)
    print(tr("{count} keys sealed anew; restart the gateway, then remove {file}", count=count,
             file=file.with_suffix(".old").name))  # fmt: skip


def open_site(args: argparse.Namespace) -> None:
    query = repository.SITES.update().where(repository.SITES.c.id == args.site).values(closed_reason=None)
    with closing(compose(Settings())) as services, services.db.write() as conn:
        if conn.execute(query).rowcount != 1:
            raise NotFound(tr("There is no site {site}.", site=args.site))
    print(tr("{site}: open", site=args.site))


def erase(args: argparse.Namespace) -> None:
    """What the raw records say of a person can be read no more; charges, bills and proofs stay as they are."""
    if not args.yes:
        raise Invalid(tr("Erasing cannot be undone; say --yes."))
    with closing(compose(Settings())) as services, services.db.write() as conn:
        user_id = service.user_id_of(conn, args.user)
        addresses.forget_address(conn, user_id)
        done = vault.erase(conn, user_id, now=services.clock())
    told = "{user}: erased; every proof still holds" if done else "{user}: nothing to erase"
    print(tr(told, user=args.user))
