"""The admin commands: each parses its words, calls a service, prints one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

from accounting import store as books
from accounting.errors import AccountingError
from accounting.ledger import CORE_SECONDS
from accounting.money import MICRO, format_micro, parse_amount
from accounting.tariff import PriceRule
from gateway import backup as copies
from gateway.admin import checking, docking, keeping, reconciling, serving
from gateway.admin.docking import visiting
from gateway.admin.texts import said, tr
from gateway.bootstrap import AlreadyRunning, compose, utc_now
from gateway.errors import GatewayError, Invalid, NotFound
from gateway.identity import service, tokens
from gateway.identity.keys import load_or_create
from gateway.ids import new_id
from gateway.jobs import repository
from gateway.settings import Settings

Run = Callable[[argparse.Namespace], int | None]
Argument = tuple[str, dict[str, Any]]

_FLAG: dict[str, Any] = {"action": "store_true"}
# What a word of a command is, where the command does not say it itself.
HELPS = {
    "name": "The name", "project": "A project's name or id", "user": "A person's name or id", "site": "The site's name",
    "period": "The month, like 2026-11", "file": "A file", "--json": "Machine-readable output",
    "--currency": "Like CNY; default: the gateway's own", "--site": "Of one site only",
}  # fmt: skip


def add_to(subs: Any) -> None:
    """Every command with its arguments."""
    _add(subs, "serve", serving.serve, "Serve HTTP (and, by default, run the ticks)")
    _add(subs, "worker", serving.work, "Run the ticks only (PostgreSQL)")
    admin = _add_group(subs, "admin", "Look after the gateway")
    _add_people(admin)
    _add_sites(admin)
    _add_books(admin)
    _add_copies(admin)


def _add_people(admin: Any) -> None:
    _add(admin, "init", init, "The first admin and a token", ("name", {}))
    _add(admin, "user", user, "A new person", ("name", {}),
         ("--admin", _FLAG | {"help": "May do what the operator may"}))  # fmt: skip
    _add(admin, "project", project, "A new project", ("name", {}), ("--currency", {"default": None}),
         ("--owner", {"default": None, "help": "A person who sees and pays its bills"}))  # fmt: skip
    _add(admin, "member", member, "Let a person work for a project", ("project", {}), ("user", {}),
         ("--role", {"default": "researcher", "help": "researcher or owner"}))  # fmt: skip
    _add(admin, "staff", staff, "Let a person speak for a centre", ("site", {}), ("user", {}),
         ("--remove", _FLAG | {"help": "No more"}))  # fmt: skip
    _add(admin, "token", token, "A token for a person", ("user", {}),
         ("--scopes", {"default": "read,submit", "help": "Of read, submit, admin, with commas"}),
         ("--days", {"type": int, "default": 30, "help": "How long it is good"}))  # fmt: skip
    _add(admin, "account", account, "Link and verify a login at a site", ("user", {}), ("site", {}),
         ("login", {"help": "The person's login there"}),
         ("--key-file", {"default": None, "help": "A private key that logs in as it"}))  # fmt: skip
    _add(admin, "erase", keeping.erase, "Forget what raw records say of a person", ("user", {}),
         ("--yes", _FLAG | {"help": "It cannot be undone"}))  # fmt: skip


def _add_sites(admin: Any) -> None:
    _add(admin, "dock", docking.dock, "Dock a centre that runs penstock-site", ("site", {}),
         ("key", {"help": "The centre's key, as `penstock-site key` prints it"}),
         ("--url", {"default": "", "help": "Where its service answers; without one the centre dials in"}),
         ("--ca", {"default": "", "help": "The CA of its certificate, a PEM file"}))  # fmt: skip
    _add(admin, "dock-rotate", docking.dock_rotate, "A new docking key towards a centre", ("site", {}))
    _add(admin, "open-site", keeping.open_site, "Lift the reason for which a site was closed", ("site", {}))
    _add(admin, "check", checking.check, "Probe every site and check the books")


def _add_books(admin: Any) -> None:
    _add(admin, "credit", credit, "Grant credit", ("project", {}),
         ("amount", {"help": "Money in the project's currency, or core-hours"}),
         ("--core-hours", _FLAG | {"help": "The amount is core-hours"}),
         ("--key", {"default": None, "help": "A word of yours: the same again is the same grant"}))  # fmt: skip
    _add(admin, "tariff", tariff, "A price per core-hour", ("price", {"help": "Of one core-hour, like 0.10"}),
         ("--currency", {"default": None}), ("--site", {"default": None}),
         ("--queue", {"default": None, "help": "Of one queue only"}))  # fmt: skip
    _add(admin, "statement", reconciling.receive, "Receive a centre's statement from a file", ("site", {}),
         ("period", {}), ("file", {}), ("--currency", {"default": "CNY"}),
         ("--format", {"default": "csv", "help": "csv, json, ogf-ur, sacct, pbs-log and others"}),
         ("--profile", {"default": None, "help": "How a CSV is written: a JSON file"}),
         ("--signature", {"default": "", "help": "A file with the centre's JWS"}),
         ("--everybody", _FLAG | {"help": "All people's jobs: tell holes in ids"}))  # fmt: skip
    _add(admin, "reconcile", reconciling.compare, "Compare a statement with the books",
         ("statement", {"type": int, "help": "The statement's number"}), ("--json", _FLAG))  # fmt: skip
    _add(admin, "month", reconciling.month, "Matched, late, breaks with money and age", ("period", {}),
         ("--json", _FLAG))  # fmt: skip
    _add(admin, "breaks", reconciling.breaks, "Differences that are not settled", ("--site", {"default": ""}),
         ("--period", {"default": "", "help": "Of one month only, like 2026-11"}), ("--json", _FLAG))  # fmt: skip
    _add(admin, "alarms", reconciling.alarms, "What is wrong with centres' meters", ("--json", _FLAG))


def _add_copies(admin: Any) -> None:
    _add(admin, "rotate-keys", keeping.rotate_keys, "A new master key; every stored key is sealed anew")
    _add(admin, "backup", keeping.backup, "Copy the database while it is used",
         ("file", {"help": "The copy; a manifest is written beside it"}))  # fmt: skip
    _add(admin, "restore", keeping.restore, "Put a copy back", ("file", {"help": "The copy"}),
         ("--force", _FLAG | {"help": "In place of a database that is there"}))  # fmt: skip
    _add(admin, "recover", keeping.recover, "After a restore: ask every site, then accept writes",
         ("--back-hours", {"type": int, "default": 48, "help": "How long ago the copy may have been made"}),
         ("--skip-site", {"action": "append", "default": [], "help": "Do not ask this site; it stays closed"}),
         ("--keep-log", _FLAG | {"help": "Nothing was signed after the copy: the same evidence log"}))  # fmt: skip


def _add_group(subs: Any, name: str, text: str) -> Any:
    made = subs.add_parser(name, help=tr(text), description=tr(text))
    return made.add_subparsers(required=True, metavar=tr("COMMAND"))


def _add(subs: Any, name: str, run: Run, text: str, *arguments: Argument) -> None:
    parser = subs.add_parser(name, help=tr(text), description=tr(text))
    for flag, options in arguments:
        parser.add_argument(flag, **options | {"help": tr(options.get("help") or HELPS[flag])})
    parser.set_defaults(run=_told(run))


def _told(run: Run) -> Run:
    """Errors as one line for people, with what to do about it; exit code 1."""

    def wrapped(args: argparse.Namespace) -> int | None:
        try:
            return run(args)
        except GatewayError as exc:
            told = [(exc.detail, exc.remedy), *((p.detail, p.remedy) for p in exc.problems)]
            words = (said(text) for pair in told for text in pair if text)
            print(f"gateway: {' '.join(words)}", file=sys.stderr)
        except (copies.BackupRefused, AccountingError, AlreadyRunning, OSError) as exc:
            print(f"gateway: {said(str(exc))}", file=sys.stderr)
        return 1

    return wrapped


# ---------------------------------------------------------------- people and projects


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
        service.add_member(conn, project_id=_project(conn, args.project), user_id=service.user_id_of(conn, args.user),
                           role=args.role, now=utc_now())  # fmt: skip


def staff(args: argparse.Namespace) -> None:
    """They see what the centre may see: its jobs, its statements, what it will be paid."""
    with closing(compose(Settings())) as services:
        if args.site not in services.sites and not args.remove:
            raise NotFound(tr("There is no site {site}.", site=args.site))
        with services.db.write() as conn:
            change = service.remove_staff if args.remove else service.add_staff
            change(conn, site_id=args.site, user_id=service.user_id_of(conn, args.user))
    told = "{user} does not work for {site} any more" if args.remove else "{user} works for {site}"
    print(tr(told, user=args.user, site=args.site))


def credit(args: argparse.Namespace) -> None:
    with closing(compose(Settings())) as services:
        now = utc_now()
        with services.db.write() as conn:
            project_id = _project(conn, args.project)
            currency = repository.project_currency(conn, project_id)
            micro = _amount(args.amount)
            if args.core_hours and micro * 3600 % MICRO:
                raise Invalid(tr("{amount} core-hours are no whole number of core-seconds.", amount=args.amount))
            amount = micro * 3600 // MICRO if args.core_hours else micro
            commodity = CORE_SECONDS if args.core_hours else currency
            key = f"grant:admin:{args.key or new_id('g', now)}"
            booked = books.grant_credit(conn, project_id=project_id, commodity=commodity, amount=amount, idem_key=key,
                                        now=now)  # fmt: skip
        told = "{project} may use {amount} {unit} more" if booked else "granted before: {project} {amount} {unit}"
        unit = tr("core-hours") if args.core_hours else currency
        print(tr(told, project=args.project, amount=format_micro(micro), unit=unit))


def tariff(args: argparse.Namespace) -> None:
    with closing(compose(Settings())) as services:
        now = utc_now()
        currency = args.currency or services.settings.currency
        price = _amount(args.price)
        with services.db.write() as conn:
            made = books.add_tariff(conn, PriceRule(0, currency, price, now, None, args.site, args.queue), now=now)
        where = ", ".join(filter(None, (args.site, args.queue))) or tr("everywhere")
        print(tr("price {number}: {price} {currency} per core-hour, {where}, from {since} on", number=made,
                 price=format_micro(price), currency=currency, where=where,
                 since=f"{now:%Y-%m-%d %H:%M} UTC"))  # fmt: skip


def _amount(text: str) -> int:
    """Micro-units of what was typed."""
    try:
        return parse_amount(text)
    except ValueError as exc:
        raise Invalid(tr("{text} is no amount; write it like 0.10, with at most six decimals.", text=text)) from exc


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


def _project(conn: Any, name: str) -> str:
    found = repository.project_id(conn, name)
    if found is None:
        raise NotFound(tr("There is no project {project}.", project=name))
    return found
