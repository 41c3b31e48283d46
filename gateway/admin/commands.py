"""The admin commands and their words; what a command does is imported when it is run, so that help is instant."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from accounting.errors import AccountingError
from gateway.admin.texts import said, tr
from gateway.errors import GatewayError, Refused

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
    _add(subs, "serve", "serving.serve", "Serve HTTP (and, by default, run the ticks)")
    _add(subs, "worker", "serving.work", "Run the ticks only (PostgreSQL)")
    admin = _add_group(subs, "admin", "Look after the gateway")
    _add_people(admin)
    _add_sites(admin)
    _add_books(admin)
    _add_copies(admin)


def _add_people(admin: Any) -> None:
    _add(admin, "init", "people.init", "The first admin and a token", ("name", {}))
    _add(admin, "user", "people.user", "A new person", ("name", {}),
         ("--admin", _FLAG | {"help": "May do what the operator may"}))  # fmt: skip
    _add(admin, "project", "people.project", "A new project", ("name", {}), ("--currency", {"default": None}),
         ("--owner", {"default": None, "help": "A person who sees and pays its bills"}))  # fmt: skip
    _add(admin, "member", "people.member", "Let a person work for a project", ("project", {}), ("user", {}),
         ("--role", {"default": "researcher", "help": "researcher or owner"}))  # fmt: skip
    _add(admin, "staff", "people.staff", "Let a person speak for a centre", ("site", {}), ("user", {}),
         ("--remove", _FLAG | {"help": "No more"}))  # fmt: skip
    _add(admin, "token", "people.token", "A token for a person", ("user", {}),
         ("--scopes", {"default": "read,submit", "help": "Of read, submit, admin, with commas"}),
         ("--days", {"type": int, "default": 30, "help": "How long it is good"}))  # fmt: skip
    _add(admin, "account", "people.account", "Link and verify a login at a site", ("user", {}), ("site", {}),
         ("login", {"help": "The person's login there"}),
         ("--key-file", {"default": None, "help": "A private key that logs in as it"}))  # fmt: skip
    _add(admin, "erase", "keeping.erase", "Forget what raw records say of a person", ("user", {}),
         ("--yes", _FLAG | {"help": "It cannot be undone"}))  # fmt: skip


def _add_sites(admin: Any) -> None:
    _add(admin, "dock", "docking.dock", "Dock a centre that runs penstock-site", ("site", {}),
         ("key", {"help": "The centre's key, as `penstock-site key` prints it"}),
         ("--url", {"default": "", "help": "Where its service answers; without one the centre dials in"}),
         ("--ca", {"default": "", "help": "The CA of its certificate, a PEM file"}))  # fmt: skip
    _add(admin, "dock-rotate", "docking.dock_rotate", "A new docking key towards a centre", ("site", {}))
    _add(admin, "open-site", "keeping.open_site", "Lift the reason for which a site was closed", ("site", {}))
    _add(admin, "check", "checking.check", "Probe every site and check the books")


def _add_books(admin: Any) -> None:
    _add(admin, "credit", "granting.credit", "Grant credit", ("project", {}),
         ("amount", {"help": "Money in the project's currency, or core-hours"}),
         ("--core-hours", _FLAG | {"help": "The amount is core-hours"}),
         ("--key", {"default": None, "help": "A word of yours: the same again is the same grant"}))  # fmt: skip
    _add(admin, "tariff", "granting.tariff", "A price per core-hour",
         ("price", {"help": "Of one core-hour, like 0.10"}),
         ("--currency", {"default": None}), ("--site", {"default": None}),
         ("--queue", {"default": None, "help": "Of one queue only"}))  # fmt: skip
    _add(admin, "statement", "reconciling.receive", "Receive a centre's statement from a file", ("site", {}),
         ("period", {}), ("file", {}), ("--currency", {"default": "CNY"}),
         ("--format", {"default": "csv", "help": "csv, json, ogf-ur, sacct, pbs-log and others"}),
         ("--profile", {"default": None, "help": "How a CSV is written: a JSON file"}),
         ("--signature", {"default": "", "help": "A file with the centre's JWS"}),
         ("--number", {"default": "", "help": "The centre's own number of it"}),
         ("--lines", {"type": int, "help": "How many lines the centre says it has"}),
         ("--core-seconds", {"type": int, "help": "What the centre says they sum to"}),
         ("--amount", {"help": "What the centre says is owed, like 1234.50"}),
         ("--everybody", _FLAG | {"help": "All people's jobs: tell holes in ids"}))  # fmt: skip
    _add(admin, "reconcile", "reconciling.compare", "Compare a statement with the books",
         ("statement", {"type": int, "help": "The statement's number"}), ("--json", _FLAG))  # fmt: skip
    _add(admin, "month", "reconciling.month", "Matched, late, breaks with money and age", ("period", {}),
         ("--json", _FLAG))  # fmt: skip
    _add(admin, "breaks", "reconciling.breaks", "Differences that are not settled", ("--site", {"default": ""}),
         ("--period", {"default": "", "help": "Of one month only, like 2026-11"}), ("--json", _FLAG))  # fmt: skip
    _add(admin, "reread", "reconciling.reread", "Read records in quarantine again, whatever their age", ("site", {}))
    _add(admin, "alarms", "reconciling.alarms", "What is wrong with centres' meters", ("--json", _FLAG))


def _add_copies(admin: Any) -> None:
    _add(admin, "rotate-keys", "keeping.rotate_keys", "A new master key; every stored key is sealed anew")
    _add(admin, "backup", "keeping.backup", "Copy the database while it is used",
         ("file", {"help": "The copy; a manifest is written beside it"}))  # fmt: skip
    _add(admin, "restore", "keeping.restore", "Put a copy back", ("file", {"help": "The copy"}),
         ("--force", _FLAG | {"help": "In place of a database that is there"}))  # fmt: skip
    _add(admin, "recover", "keeping.recover", "After a restore: ask every site, then accept writes",
         ("--back-hours", {"type": int, "default": 48, "help": "How long ago the copy may have been made"}),
         ("--skip-site", {"action": "append", "default": [], "help": "Do not ask this site; it stays closed"}),
         ("--keep-log", _FLAG | {"help": "Nothing was signed after the copy: the same evidence log"}))  # fmt: skip


def _add_group(subs: Any, name: str, text: str) -> Any:
    made = subs.add_parser(name, help=tr(text), description=tr(text))
    return made.add_subparsers(required=True, metavar=tr("COMMAND"))


def _add(subs: Any, name: str, run: str, text: str, *arguments: Argument) -> None:
    """A command; `run` is the module of this package and its function that do it."""
    parser = subs.add_parser(name, help=tr(text), description=tr(text))
    for flag, options in arguments:
        parser.add_argument(flag, **options | {"help": tr(options.get("help") or HELPS[flag])})
    parser.set_defaults(run=partial(_run, run))


def _run(place: str, args: argparse.Namespace) -> int | None:
    """Do it; errors as one line for people, with what to do about it, and exit code 1."""
    try:
        return command(place)(args)
    except GatewayError as exc:
        told = [(exc.detail, exc.remedy), *((p.detail, p.remedy) for p in exc.problems)]
        words = (said(text) for pair in told for text in pair if text)
        print(f"gateway: {' '.join(words)}", file=sys.stderr)
    except (Refused, AccountingError, OSError) as exc:
        print(f"gateway: {said(str(exc))}", file=sys.stderr)
    return 1


def command(place: str) -> Callable[[argparse.Namespace], int | None]:
    """The function that `module.function` of this package names."""
    module, _, name = place.partition(".")
    found: Callable[[argparse.Namespace], int | None] = getattr(import_module(f"gateway.admin.{module}"), name)
    return found
