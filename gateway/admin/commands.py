"""The admin commands: each parses its words, calls a service, prints one line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from accounting import store as books
from accounting.errors import AccountingError
from accounting.ledger import CORE_SECONDS
from accounting.money import parse_amount
from accounting.tariff import PriceRule
from gateway import backup as copies
from gateway import recovery
from gateway.admin import checking, docking, reconciling, serving
from gateway.admin.docking import visiting
from gateway.billing import evidence
from gateway.bootstrap import compose, lock_home, utc_now
from gateway.errors import GatewayError
from gateway.identity import service, tokens, vault
from gateway.identity.keys import load_or_create
from gateway.ids import new_id
from gateway.jobs import repository
from gateway.settings import Settings

Run = Callable[[argparse.Namespace], int | None]


def add_to(subs: Any) -> None:
    """Every command with its arguments."""
    _add(subs, "serve", serving.serve, "Serve HTTP (and, by default, run the ticks)")
    _add(subs, "worker", serving.work, "Run the ticks only (PostgreSQL)")
    admin = _add_group(subs, "admin", "Look after the gateway")
    _add(admin, "init", init, "The first admin and a token", ("name", {}))
    _add(admin, "user", user, "A new person", ("name", {}), ("--admin", {"action": "store_true"}))
    _add(admin, "project", project, "A new project", ("name", {}), ("--currency", {"default": None}),
         ("--owner", {"default": None}))  # fmt: skip
    _add(admin, "member", member, "Let a person work for a project", ("project", {}), ("user", {}),
         ("--role", {"default": "researcher"}))  # fmt: skip
    _add(admin, "staff", staff, "Let a person speak for a centre: its statements, breaks, disputes, settlements",
         ("site", {}), ("user", {}), ("--remove", {"action": "store_true"}))  # fmt: skip
    _add(admin, "credit", credit, "Grant credit", ("project", {}), ("amount", {}),
         ("--core-hours", {"action": "store_true"}), ("--key", {"default": None}))  # fmt: skip
    _add(admin, "tariff", tariff, "A price per core-hour", ("price", {}), ("--currency", {"default": None}),
         ("--site", {"default": None}), ("--queue", {"default": None}))  # fmt: skip
    _add(admin, "token", token, "A token for a person", ("user", {}), ("--scopes", {"default": "read,submit"}),
         ("--days", {"type": int, "default": 30}))  # fmt: skip
    _add(admin, "account", account, "Link and verify a login at a site", ("user", {}), ("site", {}), ("login", {}),
         ("--key-file", {"default": None}))  # fmt: skip
    _add(admin, "dock", docking.dock, "Dock a centre that runs penstock-site", ("site", {}), ("key", {}),
         ("--url", {"default": ""}), ("--ca", {"default": ""}))  # fmt: skip
    _add(admin, "dock-rotate", docking.dock_rotate, "A new docking key towards a centre", ("site", {}))
    _add(admin, "rotate-keys", rotate_keys, "A new master key; every stored key is sealed anew")
    _add(admin, "check", checking.check, "Probe every site and check the books")
    _add(admin, "backup", backup, "Copy the database while it is used", ("file", {}))
    _add(admin, "restore", restore, "Put a copy back", ("file", {}), ("--force", {"action": "store_true"}))
    _add(admin, "recover", recover, "After a restore: ask every site, then accept writes",
         ("--back-hours", {"type": int, "default": 48}),
         ("--skip-site", {"action": "append", "default": []}),
         ("--keep-log", {"action": "store_true", "help": "nothing was signed after the copy: the same evidence log"})
         )  # fmt: skip
    _add(admin, "statement", reconciling.receive, "Receive a centre's statement from a file", ("site", {}),
         ("period", {}), ("file", {}), ("--currency", {"default": "CNY"}), ("--format", {"default": "csv"}),
         ("--profile", {"default": None}), ("--signature", {"default": "", "help": "a file with the centre's JWS"}),
         ("--everybody", {"action": "store_true", "help": "all people's jobs: tell holes in ids"}))  # fmt: skip
    _add(admin, "reconcile", reconciling.compare, "Compare a statement with the books", ("statement", {"type": int}),
         ("--json", {"action": "store_true"}))  # fmt: skip
    _add(admin, "month", reconciling.month, "Matched, late, breaks with money and age", ("period", {}),
         ("--json", {"action": "store_true"}))  # fmt: skip
    _add(admin, "breaks", reconciling.breaks, "Differences that are not settled", ("--site", {"default": ""}),
         ("--period", {"default": ""}), ("--json", {"action": "store_true"}))  # fmt: skip
    _add(
        admin, "alarms", reconciling.alarms, "What is wrong with centres' meters", ("--json", {"action": "store_true"})
    )
    _add(admin, "open-site", open_site, "Lift the reason for which a site was closed", ("site", {}))


def _add_group(subs: Any, name: str, text: str) -> Any:
    return subs.add_parser(name, help=text, description=text).add_subparsers(required=True, metavar="COMMAND")


def _add(subs: Any, name: str, run: Run, text: str, *arguments: tuple[str, dict[str, Any]]) -> None:
    parser = subs.add_parser(name, help=text, description=text)
    for flag, options in arguments:
        parser.add_argument(flag, **options)
    parser.set_defaults(run=_told(run))


def _told(run: Run) -> Run:
    """Errors as one line for people, exit code 1."""

    def wrapped(args: argparse.Namespace) -> int | None:
        try:
            return run(args)
        except (GatewayError, copies.BackupRefused, AccountingError) as exc:
            print(f"gateway: {exc}", file=sys.stderr)
            return 1

    return wrapped


# ---------------------------------------------------------------- people and projects


def init(args: argparse.Namespace) -> None:
    services = compose(Settings())
    now = utc_now()
    with services.db.write() as conn:
        user_id = service.create_user(conn, name=args.name, operator_admin=True, now=now)
        made = tokens.issue(conn, user_id=user_id, name="first", scopes=tokens.SCOPES, lifetime=timedelta(days=30),
                            now=now)  # fmt: skip
    print(made.secret)


def user(args: argparse.Namespace) -> None:
    services = compose(Settings())
    with services.db.write() as conn:
        print(service.create_user(conn, name=args.name, operator_admin=args.admin, now=utc_now()))


def project(args: argparse.Namespace) -> None:
    services = compose(Settings())
    now = utc_now()
    with services.db.write() as conn:
        currency = args.currency or services.settings.currency
        project_id = service.create_project(conn, name=args.name, currency=currency, now=now)
        if args.owner:
            owner = service.user_id_of(conn, args.owner)
            service.add_member(conn, project_id=project_id, user_id=owner, role="owner", now=now)
    print(project_id)


def member(args: argparse.Namespace) -> None:
    services = compose(Settings())
    with services.db.write() as conn:
        service.add_member(conn, project_id=_project(conn, args.project), user_id=service.user_id_of(conn, args.user),
                           role=args.role, now=utc_now())  # fmt: skip


def staff(args: argparse.Namespace) -> None:
    services = compose(Settings())
    if args.site not in services.sites and not args.remove:
        raise GatewayError(f"there is no site {args.site!r}")
    change = service.remove_staff if args.remove else service.add_staff
    with services.db.write() as conn:
        change(conn, site_id=args.site, user_id=service.user_id_of(conn, args.user))


def credit(args: argparse.Namespace) -> None:
    services = compose(Settings())
    now = utc_now()
    with services.db.write() as conn:
        project_id = _project(conn, args.project)
        currency = repository.project_currency(conn, project_id)
        amount = int(args.amount) * 3600 if args.core_hours else parse_amount(args.amount)
        commodity = CORE_SECONDS if args.core_hours else currency
        key = f"grant:admin:{args.key or new_id('g', now)}"
        booked = books.grant_credit(conn, project_id=project_id, commodity=commodity, amount=amount, idem_key=key,
                                    now=now)  # fmt: skip
    print("granted" if booked else "granted before")


def tariff(args: argparse.Namespace) -> None:
    services = compose(Settings())
    now = utc_now()
    currency = args.currency or services.settings.currency
    rule = PriceRule(0, currency, parse_amount(args.price), now, None, args.site, args.queue)
    with services.db.write() as conn:
        print(books.add_tariff(conn, rule, now=now))


def token(args: argparse.Namespace) -> None:
    services = compose(Settings())
    with services.db.write() as conn:
        user_id = service.user_id_of(conn, args.user)
        made = tokens.issue(conn, user_id=user_id, name="admin-made", scopes=args.scopes.split(","),
                            lifetime=timedelta(days=args.days), now=utc_now())  # fmt: skip
    print(made.secret)


def account(args: argparse.Namespace) -> None:
    services = compose(visiting())
    adapter = services.sites.get(args.site)
    if adapter is None:
        raise GatewayError(f"there is no site {args.site!r}")
    master = load_or_create(services.settings.effective_master_key_file)
    key = Path(args.key_file).read_text() if args.key_file else None
    with services.db.write() as conn:
        user_id = service.user_id_of(conn, args.user)
        made = service.link_account(conn, adapter, master, user_id=user_id, username=args.login, private_key=key,
                                    now=utc_now())  # fmt: skip
    service.verify_account(services, account_id=made.account_id, user_id=user_id, now=utc_now())
    print(made.account_id)


def rotate_keys(_args: argparse.Namespace) -> None:
    """The new key is complete beside the old one before the database changes, and takes its place after."""
    services = compose(Settings())
    file = services.settings.effective_master_key_file
    old, fresh = load_or_create(file), file.with_suffix(".next")
    new = load_or_create(fresh)
    with services.db.write() as conn:
        count = service.reseal_all(conn, old, new) + evidence.reseal(conn, old, new) + vault.reseal(conn, old, new)
    file.rename(file.with_suffix(".old"))
    fresh.rename(file)
    print(f"{count} keys sealed anew; restart the gateway, then remove {file.with_suffix('.old').name}")


def _project(conn: Any, name: str) -> str:
    found = repository.project_id(conn, name)
    if found is None:
        raise GatewayError(f"there is no project {name!r}")
    return found


# ---------------------------------------------------------------- sites, books, copies


def backup(args: argparse.Namespace) -> None:
    print(copies.backup(Settings(), Path(args.file), now=utc_now()))


def restore(args: argparse.Namespace) -> None:
    settings = Settings()
    lock = lock_home(settings.home)
    copies.restore(settings, Path(args.file), now=utc_now(), force=args.force)
    lock.close()
    print("restored; run `python -m gateway admin recover` before it takes writes")


def recover(args: argparse.Namespace) -> int:
    services = compose(visiting())
    report = recovery.recover(services, back=timedelta(hours=args.back_hours), now=utc_now(),
                              skip=frozenset(args.skip_site), keep_log=args.keep_log)  # fmt: skip
    print(json.dumps({"attached": report.attached, "rebuilt": report.rebuilt, "foreign": report.foreign,
                      "unreachable": report.unreachable, "evidence_origin": report.origin}))  # fmt: skip
    return 1 if report.unreachable else 0


def open_site(args: argparse.Namespace) -> None:
    services = compose(Settings())
    query = repository.SITES.update().where(repository.SITES.c.id == args.site).values(closed_reason=None)
    with services.db.write() as conn:
        if conn.execute(query).rowcount != 1:
            raise GatewayError(f"there is no site {args.site!r}")
