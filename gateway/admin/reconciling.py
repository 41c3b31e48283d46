"""Admin commands about centres' statements: receive one from a file, compare it, see what is open."""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accounting.money import format_micro
from accounting.reconciling import store as recon_store
from accounting.reconciling.breaks import FINAL, Category
from accounting.reconciling.statement_formats import RECORD_FORMATS, Profile, Unreadable
from accounting.reconciling.statement_store import statement_row, statements
from accounting.reconciling.terms import Narrower
from accounting.sources.gaps import Hole, holes
from accounting.store import alarms as meter_alarms
from gateway.billing import reconcile
from gateway.billing.names import Names
from gateway.billing.recon_rules import rules_for
from gateway.bootstrap import compose
from gateway.errors import GatewayError
from gateway.services import Services
from gateway.settings import Settings


def receive(args: argparse.Namespace) -> None:
    """A statement from a file; `--profile` is a JSON file with the mapping of its columns."""
    with closing(compose(Settings())) as services:
        if args.site not in services.sites:
            raise GatewayError(f"there is no site {args.site!r}")
        try:
            profile = Profile(**json.loads(Path(args.profile).read_text())) if args.profile else None
            got = reconcile.receive(
                services, Path(args.file).read_bytes(), site_id=args.site, period=args.period, currency=args.currency,
                format_name=args.format, by="admin", profile=profile,
                signature=Path(args.signature).read_bytes() if args.signature else None,
            )  # fmt: skip
        except (Unreadable, ValueError, KeyError, TypeError) as exc:
            raise GatewayError(f"{args.file}: {exc}") from exc
        print(f"statement {got.statement_id}{'' if got.new else ' (received before)'}")
        for finding in got.findings:
            print(f"! {finding}")
        for hole in _holes(Path(args.file), args.format) if args.everybody else ():
            print(f"! no job has an id from {hole.first} to {hole.last}: {hole.missing} are missing")


def _holes(file: Path, format_name: str) -> list[Hole]:
    reader = RECORD_FORMATS.get(format_name)
    return holes(reader(file.read_text(), "").records) if reader is not None else []


def compare(args: argparse.Namespace) -> None:
    """Compare one statement with the books, post what the contract lets stand, and show what is left."""
    with closing(compose(Settings())) as services:
        with services.db.read() as conn:
            row = statement_row(conn, args.statement)
            if row is None:
                raise GatewayError(f"there is no statement {args.statement}")
            rules = rules_for(conn, row, Narrower(), now=services.clock())
        done = reconcile.reconcile(services, row.id, rules=rules, by="admin")
        if args.json:
            print(json.dumps({"reconciliation": done.reconciliation_id, "counts": done.counts, "posted": done.posted}))
            return
        print(f"{done.counts['agreed']} of {done.counts['lines']} lines agree; {done.counts['breaks']} differ, "
              f"{done.posted} posted by the contract ({rules.version})")  # fmt: skip


def month(args: argparse.Namespace) -> None:
    """This month at a glance: per centre what agrees, what differs, for how much and since when."""
    with closing(compose(Settings())) as services:
        with services.db.read() as conn:
            found = [
                reconcile.standing(conn, row, now=services.clock()) for row in statements(conn, period=args.period)
            ]
        if args.json:
            print(json.dumps([asdict(item) for item in found]))
            return
        for item in found:
            kinds = ", ".join(f"{n} {Category(c).name.lower()}" for c, n in sorted(item.by_category.items()))
            money = f"{format_micro(item.open_micro)} {item.currency}"
            left = f"{item.open_breaks} open ({kinds}), {money}, oldest {item.oldest_days} days"
            state = "signed off" if item.signed_off else left if kinds else "not compared"
            print(f"{item.site_id} {item.period}: {item.agreed} of {item.lines} lines agree; {state}")
            if item.late or item.quarantined:
                print(f"  {item.late} runs without the centre's record, {item.quarantined} records in quarantine")
        waiting = _without_statement(services, args.period, {item.site_id for item in found})
        for site_id in waiting:
            print(f"{site_id} {args.period}: no statement yet")


def breaks(args: argparse.Namespace) -> None:
    """What is not settled, oldest first."""
    with closing(compose(Settings())) as services:
        with services.db.read() as conn:
            sites = [args.site] if args.site else None
            found = [b for b in recon_store.breaks(conn, site_ids=sites, period=args.period) if b.state not in FINAL]
            names = Names(services, conn, None)
        if args.json:
            print(json.dumps([_json(services, names, item) for item in found]))
            return
        for item in found:
            row = item.row
            print(f"{row.id} {row.category} {item.state} {item.age_days(services.clock())} d "
                  f"{format_micro(reconcile.delta_micro(item))} {row.currency} {row.site_id} {row.native_id}: "
                  f"{names.shown(row.explanation)}")  # fmt: skip


def alarms(args: argparse.Namespace) -> None:
    """What stands of the meters' alarms, the newest day first."""
    with closing(compose(Settings())) as services:
        with services.db.read() as conn:
            found = meter_alarms.alarms(conn)
        if args.json:
            print(json.dumps([asdict(a) | {"since": a.since.isoformat()} for a in found]))
            return
        for a in found:
            print(f"{a.site_id} {a.kind} {a.day or '-'}: {a.text} (since {a.since.isoformat()})")


def _json(services: Services, names: Names, item: recon_store.BreakNow) -> dict[str, Any]:
    row = item.row
    return {"id": row.id, "category": row.category, "state": item.state.value, "site": row.site_id,
            "period": row.period, "native_id": row.native_id, "delta": format_micro(reconcile.delta_micro(item)),
            "currency": row.currency, "age_days": item.age_days(services.clock()),
            "causes": row.causes, "explanation": names.shown(row.explanation)}  # fmt: skip


def _without_statement(services: Services, period: str, have: set[str]) -> list[str]:
    return sorted(set(services.sites) - have) if period else []
