"""spend, invoices, dispute, month."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from penstock.api import Client
from penstock.cli import report
from penstock.cli.disputes import charge_option, evidence_option, show_disputes, shown_files
from penstock.cli.recon import show_statements
from penstock.cli.shared import (
    client,
    days_of,
    emit,
    fetched,
    hours,
    json_option,
    local_time,
    month_in,
    month_span,
    month_that_begins,
    table,
)
from penstock.cli.texts import said, tr

_KEYS = ("project", "user", "site", "queue", "state", "kind", "day", "month")
_BAR = 24


@click.command()
@click.option("--by", multiple=True, type=click.Choice(_KEYS), default=("project",), show_default=True)
@click.option("--month", help="Like 2026-11; default: the month that runs")
@click.option("--since", help="Work that ended from then on, like 2026-11-01T00:00:00+08:00")
@click.option("--until", help="Work that ended before then")
@click.option("--zone", default="Asia/Shanghai", show_default=True, help="Whose days and months")
@click.option("--project", "projects", multiple=True)
@click.option("--site", "sites", multiple=True)
@click.option("--user", "users", multiple=True)
@click.option("--as-of", help="As it was known then: 2026-11-01T00:00:00Z")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Write an SVG")
@click.option("--csv", "csv_file", type=click.Path(dir_okay=False, path_type=Path), help="Write a table")
@json_option
def spend(
    by: tuple[str, ...], month: str | None, since: str | None, until: str | None, zone: str,
    projects: tuple[str, ...], sites: tuple[str, ...], users: tuple[str, ...], as_of: str | None, plot: Path | None,
    csv_file: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """What was spent: of your projects if you own them, else of your own work."""
    if (since is None) != (until is None):
        raise click.UsageError(tr("Say --since and --until, or --month."))
    if month is not None:
        month_span(month, zone)
    question = {"by": list(by), "month": month, "start": since, "end": until, "zone": zone, "project": list(projects),
                "site": list(sites), "user": list(users), "as_of": as_of}  # fmt: skip
    with client() as api:
        found = api.ask("billing/reports", **question)
        for file, kind in ((plot, "svg"), (csv_file, "csv")):
            if file is not None:
                fetched(api, "billing/reports", file, **question, format=kind)
    if as_json:
        emit(found)
    else:
        _show_spent(found, zone)
    return report.OK


def _show_spent(found: dict[str, Any], zone: str) -> None:
    top = max((abs(float(r["amount"])) for r in found["rows"]), default=0.0) or 1.0
    ordered = any(r["orders"] for r in found["rows"])  # a column of its own where there is something in it
    rows = [
        (*(_key(k, r["keys"][k]) for k in found["by"]), str(r["runs"]), hours(r["core_seconds"]),
         *([r["ordered"]] if ordered else []), r["amount"], r["currency"],
         "█" * round(_BAR * max(0.0, float(r["amount"])) / top))
        for r in found["rows"]
    ]  # fmt: skip
    keys = [k.upper() for k in found["by"]]
    table(rows, (*keys, "RUNS", "CORE-HOURS", *(["ORDERED"] if ordered else []), "AMOUNT", "IN", ""))
    for total in found["totals"]:
        waits = (
            tr(", of which {amount} provisional", amount=total["provisional"]) if float(total["provisional"]) else ""
        )
        if total["orders"]:
            waits += tr(", of which {amount} for {orders} order(s)", amount=total["ordered"], orders=total["orders"])
        click.echo(tr("Total {amount} {currency}{waits} · {runs} runs · {hours} core-hours", amount=total["amount"],
                      currency=total["currency"], waits=waits, runs=total["runs"],
                      hours=hours(total["core_seconds"])))  # fmt: skip
    if not found["totals"]:
        click.echo(tr("Nothing was spent."))
    span = days_of(found["start"], found["end"], zone)
    known = tr(", as it was known on {day}", day=local_time(found["as_of"])) if found["as_of"] else ""
    click.echo(tr("Work that ended {span}{known}", span=span, known=known))


def _key(name: str, value: str) -> str:
    return tr(value) if name == "kind" else value or "–"


@click.command()
@click.argument("number", required=False)
@click.option("--project")
@click.option("--why", type=int, metavar="LINE", help="The runs on a line, with the arithmetic")
@click.option("--pdf", type=click.Path(dir_okay=False, path_type=Path), help="Write it as PDF")
@click.option("--csv", "csv_file", type=click.Path(dir_okay=False, path_type=Path), help="Write its lines as a table")
@click.option("--lang", type=click.Choice(("en", "zh")))
@json_option
def invoices(
    number: str | None, project: str | None, why: int | None, pdf: Path | None, csv_file: Path | None,
    lang: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Invoices and credit notes of your projects; with NUMBER one of them, line by line."""
    with client() as api:
        if number is None:
            found: Any = api.ask("billing/invoices", project=project)["items"]
        elif why is not None:
            found = _all(api, f"billing/invoices/{number}/lines/{why}/charges")
            bought = None if found else _bought(api, number, why)
        else:
            found = api.get(f"billing/invoices/{number}")
        for file, kind in ((pdf, "pdf"), (csv_file, "csv")):
            if file is not None and number is not None:
                fetched(api, f"billing/invoices/{number}/{kind}", file, lang=lang)
    if as_json:
        emit(found)
    elif number is None:
        rows = [(d["number"], d["kind"].replace("_", " "), d["project"], d["payer"],
                 month_that_begins(d["period_start"]), d["gross"], d["currency"], d["open"] or "–",
                 local_time(d["due_at"])[:10]) for d in found]  # fmt: skip
        table(rows, ("NUMBER", "KIND", "PROJECT", "PAYER", "MONTH", "GROSS", "IN", "OPEN", "DUE"))
    elif why is not None and bought:
        click.echo(bought)
    elif why is not None:
        _show_why(found)
    else:
        _show(found)
    return report.OK


@click.command()
@click.argument("number", required=False)
@click.argument("line", type=int, required=False)
@click.option("--reason", help="What is wrong with it")
@charge_option
@evidence_option
@click.option("--project")
@json_option
def dispute(
    number: str | None, line: int | None, reason: str | None, charges: tuple[int, ...], evidence: tuple[Path, ...],
    project: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Dispute LINE of invoice NUMBER; without arguments: the disputes, and where they stand."""
    with client() as api:
        if number is None:
            found: Any = api.ask("billing/disputes", project=project)["items"]
        elif line is None or not reason:
            raise click.UsageError(tr("Say which line, and --reason why."))
        else:
            body = {"invoice": number, "line": line, "reason": reason, "evidence": shown_files(evidence)}
            body |= {"charges": list(charges)} if charges else {}
            found = [api.post("billing/disputes", body)]
    if as_json:
        emit(found if number is None else found[0])
    else:
        show_disputes(found)
    return report.OK


@click.command()
@click.argument("name")
@json_option
def month(name: str, as_json: bool) -> int:
    """NAME (like 2026-11) on one page; close it with: penstock billing period NAME close"""
    with client() as api:
        found = api.get(f"billing/months/{name}")
        found["statements"] = api.ask("billing/statements", period=name)["items"]
        periods = api.get("billing/periods")["items"]
        sites = [site["id"] for site in api.sites()]
    if as_json:
        emit(found)
        return report.OK
    _show_month(name, found, periods, sites)
    return report.OK


def _show_month(name: str, found: dict[str, Any], periods: list[dict[str, Any]], sites: list[str]) -> None:
    state = next((p["state"] for p in periods if month_in(p["starts_at"], p["zone"]) == name), "not opened")
    click.echo(tr("{month} (Asia/Shanghai): {state}", month=name, state=tr(state)))
    for key, label in (("charged", "Charged by the centres' meters"), ("provisional", "Provisional, no record yet"),
                       ("not_billed", "Charged and not billed")):  # fmt: skip
        for x in found[key]:
            click.echo(tr("{label}: {amount} {currency} ({runs} runs)", **x | {"label": tr(label)}))
    for key, label in (("orders", "Ordered"), ("adjustments", "Adjusted")):
        for x in found[key]:
            click.echo(tr("{label}: {amount} {currency} ({count}), of which {not_billed} not billed",
                          **x | {"label": tr(label)}))  # fmt: skip
    for x in found["charged_again"]:
        click.echo(tr("Given back by a person and by a record too, charged again once: {amount} {currency} ({count}). "
                      "Two reasons? penstock billing adjustments; then give it back: penstock billing adjust PROJECT "
                      "-AMOUNT --charge N", **x))  # fmt: skip
    for x in found["documents"]:
        kind = tr(x["kind"].replace("_", " "))
        click.echo(tr("{count} {kind}(s): {gross} {currency}", **x | {"kind": kind}))
    for key, label in (("disputed", "In dispute"), ("unallocated", "Received and not matched")):
        for x in found[key]:
            click.echo(f"{tr(label)}: {x['amount']} {x['currency']}")
    if found["disputes_overdue"]:
        click.echo(tr("{count} dispute(s) wait beyond the day of their answer: penstock disputes list",
                      count=found["disputes_overdue"]))  # fmt: skip
    rows = [(x["number"], x["payer"], x["open"], x["currency"], x["disputed"], str(x["days_overdue"]),
             str(x["dunning_level"])) for x in found["open"]]  # fmt: skip
    table(rows, ("OPEN INVOICE", "PAYER", "OPEN", "IN", "DISPUTED", "DAYS OVERDUE", "REMINDER"))
    show_statements(found["statements"])
    missing = sorted(set(sites) - {s["site"] for s in found["statements"]})
    if missing:
        click.echo(tr("No statement yet: {sites}", sites=", ".join(missing)))
    if state != "closed":
        click.echo(tr("Each difference: penstock breaks list --month {month}. Then: penstock billing bill {month}, and "
                      "penstock billing period {month} closing, close", month=name))  # fmt: skip


def _all(api: Client, path: str) -> list[dict[str, Any]]:
    """Every page of a list."""
    items: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = api.ask(path, cursor=cursor, limit=500)
        items += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return items


def _bought(api: Client, number: str, why: int) -> str | None:
    """What was ordered, where a line without runs is the price of it."""
    lines = api.get(f"billing/invoices/{number}")["lines"]
    order = next((line["order"] for line in lines if line["line"] == why and line["order"]), None)
    if order is None:
        return None
    text = next(line["text"] for line in lines if line["line"] == why)
    return tr("{text}\nWhat it gave, and who earns its price: penstock orders show {order}", text=text, order=order)


def _show(found: dict[str, Any]) -> None:
    kind = tr(found["kind"].replace("_", " "))
    corrects = tr(" for {invoice}", invoice=found["corrects"]) if found["corrects"] else ""
    click.echo(f"{found['number']}  {kind}{corrects}  {found['project']}  {found['reason']}".rstrip())
    click.echo(tr("Billed to {payer}", payer=found["payer"]))
    rows = [(str(x["line"]), x["kind"], x["site"], x["user"], month_that_begins(x["service_start"]), str(x["runs"]),
             hours(x["core_seconds"]), x["net"], x["tax"]) for x in found["lines"]]  # fmt: skip
    table(rows, ("LINE", "KIND", "SITE", "USER", "MONTH", "RUNS", "CORE-HOURS", "NET", "TAX"))
    for line in found["lines"]:
        if line["kind"] in ("order", "adjustment"):
            click.echo(f"{line['line']}: {line['text']}")
    c = found["currency"]
    click.echo(tr("Net {net} {currency} + tax {tax} {currency} = {gross} {currency}", **found))
    if found["open"] is not None:
        due = local_time(found["due_at"])[:10]
        click.echo(tr("Open {open} {currency}, due {due}", open=found["open"], currency=c, due=due))
    if found["unbilled"]["runs"]:
        click.echo(tr("{runs} more runs ({amount} {currency}) wait for the centre's record and are not billed.",
                      **found["unbilled"] | {"currency": c}))  # fmt: skip
    click.echo(tr("Why a line: penstock invoices {number} --why LINE", number=found["number"]))


def _show_why(charges: list[dict[str, Any]]) -> None:
    rows = [(str(c["charge"]), c["job"], local_time(c["end"]), c["queue"], c["state"],
             (tr("taken back: ") if c["kind"] == "reversal" else "") + said(c["rule"]), c["amount"])
            for c in charges]  # fmt: skip
    table(rows, ("CHARGE", "JOB", "END", "QUEUE", "STATE", "RULE", "AMOUNT"))
    click.echo(tr("One of them down to the raw record: penstock billing explain CHARGE"))
