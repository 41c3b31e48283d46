"""Admin commands about centres' statements: receive one from a file, compare it, see what is open."""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection

from accounting import calendar
from accounting.money import format_micro, parse_amount
from accounting.reconciling import store as recon_store
from accounting.reconciling.breaks import FINAL, Category, Refused
from accounting.reconciling.statement import Header
from accounting.reconciling.statement_formats import RECORD_FORMATS, Profile, Unreadable
from accounting.reconciling.statement_store import statement_row, statements
from accounting.reconciling.terms import Narrower
from accounting.sources.gaps import Hole, holes
from accounting.store import alarms as meter_alarms
from accounting.store import periods
from gateway.admin.texts import said, tr
from gateway.billing import reconcile
from gateway.billing.names import Names
from gateway.billing.recon_rules import rules_for
from gateway.billing.reread import reread as quarantine_reread
from gateway.bootstrap import compose
from gateway.errors import Conflict, Invalid, NotFound
from gateway.services import Services
from gateway.settings import Settings


def receive(args: argparse.Namespace) -> None:
    """A statement from a file; `--profile` is a JSON file with the mapping of its columns."""
    with closing(compose(Settings())) as services:
        if args.site not in services.sites:
            raise NotFound(tr("There is no site {site}.", site=args.site))
        try:
            profile = Profile(**json.loads(Path(args.profile).read_text())) if args.profile else None
            got = reconcile.receive(
                services, Path(args.file).read_bytes(), site_id=args.site, period=args.period, currency=args.currency,
                format_name=args.format, by="admin", profile=profile, totals=_totals(args),
                signature=Path(args.signature).read_bytes() if args.signature else None,
            )  # fmt: skip
        except (Unreadable, ValueError, KeyError, TypeError) as exc:
            raise Invalid(f"{args.file}: {said(str(exc))}") from exc
        told = "statement {number}" if got.new else "statement {number} (received before)"
        print(tr(told, number=got.statement_id))
        for finding in got.findings:
            kind, _, text = finding.partition(": ")
            print(f"! {kind}: {said(text)}")
        for hole in _holes(Path(args.file), args.format) if args.everybody else ():
            print(tr("! no job has an id from {first} to {last}: {missing} are missing", first=hole.first,
                     last=hole.last, missing=hole.missing))  # fmt: skip


def _totals(args: argparse.Namespace) -> Header:
    """What the centre says of the whole, beside the file."""
    amount = None if args.amount is None else parse_amount(args.amount)
    return Header(calendar.month(args.period), args.currency, args.lines, args.core_seconds, amount, args.number)


def _holes(file: Path, format_name: str) -> list[Hole]:
    reader = RECORD_FORMATS.get(format_name)
    return holes(reader(file.read_text(), "").records) if reader is not None else []


def compare(args: argparse.Namespace) -> None:
    """Compare one statement with the books, post what the contract lets stand, and show what is left."""
    with closing(compose(Settings())) as services:
        with services.db.read() as conn:
            row = statement_row(conn, args.statement)
            if row is None:
                raise NotFound(tr("There is no statement {number}.", number=args.statement))
            rules = rules_for(conn, row, Narrower(), now=services.clock())
        try:
            done = reconcile.reconcile(services, row.id, rules=rules, by="admin")
        except Refused as exc:
            raise Conflict(said(str(exc))) from exc
        if args.json:
            print(json.dumps({"reconciliation": done.reconciliation_id, "counts": done.counts, "posted": done.posted}))
            return
        told = "{agreed} of {lines} lines agree; {breaks} differ, {posted} posted by the contract ({version})"
        print(tr(told, agreed=done.counts["agreed"], lines=done.counts["lines"], breaks=done.counts["breaks"],
                 posted=done.posted, version=said(rules.version)))  # fmt: skip


def month(args: argparse.Namespace) -> None:
    """This month at a glance: per centre what agrees, what differs, for how much and since when."""
    with closing(compose(Settings())) as services:
        with services.db.read() as conn:
            rows = statements(conn, period=_month(args.period))
            found = [reconcile.standing(conn, row, now=services.clock()) for row in rows]
            state = _state(conn, args.period)
        if args.json:
            print(json.dumps([asdict(item) for item in found]))
            return
        for item in found:
            _tell_standing(item)
        for site_id in sorted(set(services.sites) - {item.site_id for item in found}):
            print(tr("{site} {period}: no statement yet", site=site_id, period=args.period))
        print(tr("books of {period}: {state}", period=args.period, state=tr(state)))


def _month(period: str) -> str:
    """The month as it was typed; raises `Invalid` for what is none."""
    try:
        return calendar.month(period).name
    except ValueError as exc:
        raise Invalid(tr("{period} is no month; write it like 2026-11.", period=period)) from exc


def _state(conn: Connection, period: str) -> str:
    """How far the operator's books of a month are closed."""
    begun = {p.starts_at.astimezone(ZoneInfo(p.zone)).strftime("%Y-%m"): p.state for p in periods.periods(conn)}
    return begun.get(period, "not opened: nothing is closed")


def _tell_standing(item: reconcile.Standing) -> None:
    kinds = ", ".join(f"{n} {tr(Category(c).name.lower())}" for c, n in sorted(item.by_category.items()))
    left = tr("{count} open ({kinds}), {amount} {currency}, oldest {days} days", count=item.open_breaks, kinds=kinds,
              amount=format_micro(item.open_micro), currency=item.currency, days=item.oldest_days)  # fmt: skip
    compared = left if kinds else tr("replaced") if item.replaced else tr("not compared")
    state = tr("signed off") if item.signed_off else compared
    told = "{site} {period}: {agreed} of {lines} lines agree; {state}"
    print(tr(told, site=item.site_id, period=item.period, agreed=item.agreed, lines=item.lines, state=state))
    if item.late or item.quarantined:
        print(tr("  {late} runs without the centre's record, {kept} records in quarantine", late=item.late,
                 kept=item.quarantined))  # fmt: skip


def breaks(args: argparse.Namespace) -> None:
    """What is not settled, oldest first."""
    period = _month(args.period) if args.period else ""
    with closing(compose(Settings())) as services:
        if args.site and args.site not in services.sites:
            raise NotFound(tr("There is no site {site}.", site=args.site))
        with services.db.read() as conn:
            sites = [args.site] if args.site else None
            found = [b for b in recon_store.breaks(conn, site_ids=sites, period=period) if b.state not in FINAL]
            names = Names(services, conn, None)
        if args.json:
            print(json.dumps([_json(services, names, item) for item in found]))
            return
        for item in found:
            row = item.row
            kind = tr(Category(row.category).name.lower())
            told = "{id} {site} {period} {kind}, {state} for {days} days, theirs − ours {amount} {currency}: job {job}"
            line = tr(told, id=row.id, site=row.site_id, period=row.period, kind=kind, state=item.state.value,
                      days=item.age_days(services.clock()), amount=format_micro(reconcile.delta_micro(item)),
                      currency=row.currency, job=row.native_id or "–")  # fmt: skip
            print(f"{line}. {names.shown(row.explanation)}".rstrip(" ."))
        if not found:
            print(tr("No difference is open."))


def alarms(args: argparse.Namespace) -> None:
    """What stands of the meters' alarms, the newest day first."""
    with closing(compose(Settings())) as services:
        with services.db.read() as conn:
            found = meter_alarms.alarms(conn)
        if args.json:
            print(json.dumps([asdict(a) | {"since": a.since.isoformat()} for a in found]))
            return
        for a in found:
            told = "{site} {day} {kind}: {text} (since {since})" if a.day else "{site} {kind}: {text} (since {since})"
            print(tr(told, site=a.site_id, day=a.day, kind=tr(a.kind), text=said(a.text),
                     since=f"{a.since:%Y-%m-%d %H:%M} UTC"))  # fmt: skip
        if not found:
            print(tr("No meter is wrong."))


def reread(args: argparse.Namespace) -> None:
    """Read a site's records in quarantine again, whatever their age."""
    with closing(compose(Settings())) as services:
        if args.site not in services.sites:
            raise NotFound(tr("There is no site {site}.", site=args.site))
        done = quarantine_reread(services, args.site, by="admin", now=services.clock())
    print(tr("{booked} booked; {known} told by the centre since, {nobody} of nobody here, {no_run} no run",
             booked=done.booked, known=done.known, nobody=done.nobody, no_run=done.no_run))  # fmt: skip
    for why, count in sorted(done.still.items(), key=lambda item: -item[1]):
        print(tr("{count} cannot be read: {why}", count=count, why=said(why)))


def _json(services: Services, names: Names, item: recon_store.BreakNow) -> dict[str, Any]:
    row = item.row
    return {"id": row.id, "category": row.category, "state": item.state.value, "site": row.site_id,
            "period": row.period, "native_id": row.native_id, "delta": format_micro(reconcile.delta_micro(item)),
            "currency": row.currency, "age_days": item.age_days(services.clock()),
            "causes": row.causes, "explanation": names.shown(row.explanation)}  # fmt: skip
