"""Admin commands about people: the first admin, projects and their members, staff of centres, tokens, logins."""

from __future__ import annotations

import argparse
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from gateway.admin.docking import visiting
from gateway.admin.named import project_named
from gateway.admin.texts import tr
from gateway.bootstrap import compose, utc_now
from gateway.errors import NotFound
from gateway.identity import service, tokens
from gateway.identity.keys import load_or_create
from gateway.settings import Settings


def init(args: argparse.Namespace) -> None:
    with closing(compose(Settings())) as services:
        now = utc_now()
        with services.db.write() as conn:
            user_id = service.create_user(conn, name=args.name, operator_admin=True, now=now)
            made = tokens.issue(conn, user_id=user_id, name="first", scopes=tokens.SCOPES, lifetime=timedelta(days=30),
                                now=now)  # fmt: skip
        print(made.secret)


def user(args: argparse.Namespace) -> None:
    with closing(compose(Settings())) as services, services.db.write() as conn:
        print(service.create_user(conn, name=args.name, operator_admin=args.admin, now=utc_now()))


def project(args: argparse.Namespace) -> None:
    with closing(compose(Settings())) as services:
        now = utc_now()
        with services.db.write() as conn:
            currency = args.currency or services.settings.currency
            project_id = service.create_project(conn, name=args.name, currency=currency, now=now)
            if args.owner:
                owner = service.user_id_of(conn, args.owner)
                service.add_member(conn, project_id=project_id, user_id=owner, role="owner", now=now)
        print(project_id)


def member(args: argparse.Namespace) -> None:
    with closing(compose(Settings())) as services, services.db.write() as conn:
        user_id, project_id = service.user_id_of(conn, args.user), project_named(conn, args.project)
        service.add_member(conn, project_id=project_id, user_id=user_id, role=args.role, now=utc_now())


def staff(args: argparse.Namespace) -> None:
    """They see what the centre may see: its jobs, its statements, what it will be paid."""
    with closing(compose(Settings())) as services:
        if args.site not in services.sites and not args.remove:
            raise NotFound(tr("There is no site {site}.", site=args.site))
        with services.db.write() as conn:
            user_id = service.user_id_of(conn, args.user)
            if args.remove:
                service.remove_staff(conn, site_id=args.site, user_id=user_id)
                print(tr("{user} does not work for {site} any more", user=args.user, site=args.site))
                return
            ended = service.add_staff(conn, site_id=args.site, user_id=user_id, now=utc_now())
    print(tr("{user} works for {site}", user=args.user, site=args.site))
    if ended:
        print(tr("their tokens have ended; a new one: python -m gateway admin token {user}", user=args.user))


def token(args: argparse.Namespace) -> None:
    with closing(compose(Settings())) as services:
        with services.db.write() as conn:
            user_id = service.user_id_of(conn, args.user)
            made = tokens.issue(conn, user_id=user_id, name="admin-made", scopes=args.scopes.split(","),
                                lifetime=timedelta(days=args.days), now=utc_now())  # fmt: skip
        print(made.secret)


def account(args: argparse.Namespace) -> None:
    with closing(compose(visiting())) as services:
        adapter = services.sites.get(args.site)
        if adapter is None:
            raise NotFound(tr("There is no site {site}.", site=args.site))
        master = load_or_create(services.settings.effective_master_key_file)
        key = Path(args.key_file).read_text() if args.key_file else None
        with services.db.write() as conn:
            user_id = service.user_id_of(conn, args.user)
            made = service.link_account(conn, adapter, master, user_id=user_id, username=args.login, private_key=key,
                                        now=utc_now())  # fmt: skip
        service.verify_account(services, account_id=made.account_id, user_id=user_id, now=utc_now())
        print(made.account_id)
