"""A month of the operator's: its legal entities, payers and taxes, its bills, and how far it is closed."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from penstock.cli import report
from penstock.cli.shared import client, days_of, emit, fetched, json_of, json_option, local_time, month_in, table
from penstock.cli.texts import tr

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@json_option
def periods(as_json: bool) -> int:
    """The months and how far they are closed (operator)."""
    with client() as api:
        found = api.get("billing/periods")
    if as_json:
        emit(found)
        return report.OK
    rows = [(month_in(p["starts_at"], p["zone"]), days_of(p["starts_at"], p["ends_at"], p["zone"]), tr(p["state"]),
             local_time(p["closed_at"]), p["seal"] or "–") for p in found["items"]]  # fmt: skip
    table(rows, ("MONTH", "FROM – TO", "STATE", "CLOSED", "SEAL"))
    return report.OK


@click.command()
@click.argument("month", metavar="YYYY-MM")
@click.argument("step", type=click.Choice(["open", "closing", "close"]))
@click.option("--zone", default="Asia/Shanghai", show_default=True)
@click.option(
    "--leave-unbilled", is_flag=True, help="Close it though runs are not billed: the next month takes them up"
)
@json_option
def period(month: str, step: str, zone: str, leave_unbilled: bool, as_json: bool) -> int:
    """Open a month, cut it off, or close it for ever (operator)."""
    year, _, number = month.partition("-")
    if not (year.isdigit() and number.isdigit()):
        raise click.UsageError(tr("Write the month like 2026-11."))
    with client() as api:
        if step == "open":
            made = api.post("billing/periods", {"year": int(year), "month": int(number), "zone": zone})
        else:
            query = "?leave_unbilled=true" if leave_unbilled and step == "close" else ""
            made = api.post(f"billing/periods/{int(year)}/{int(number)}/{step}{query}", {})
    if as_json:
        emit(made)
    else:
        span = days_of(made["starts_at"], made["ends_at"], made["zone"])
        click.echo(tr("{month}, {span}: {state}", month=month, span=span, state=tr(made["state"])))
    return report.OK


@click.command()
@click.argument("month", metavar="YYYY-MM")
@click.option("--project", help="Of one project only")
@json_option
def bill(month: str, project: str | None, as_json: bool) -> int:
    """Bill a month that has ended; what is billed is not billed again (operator)."""
    with client() as api:
        done = api.post("billing/invoices", {"month": month} | ({"project": project} if project else {}))
    if as_json:
        emit(done)
        return report.OK
    rows = [(d["number"], tr(d["kind"].replace("_", " ")), d["project"], d["payer"], d["net"], d["tax"], d["gross"],
             d["currency"]) for d in done["made"]]  # fmt: skip
    table(rows, ("NUMBER", "KIND", "PROJECT", "PAYER", "NET", "TAX", "GROSS", "IN"))
    for refused in done["refused"]:
        click.echo(tr("Not billed: {project}: {why}", **refused))
    return report.FAILURE if done["refused"] else report.OK


@click.command()
@click.argument("file", type=_FILE, required=False)
@json_option
def entity(file: Path | None, as_json: bool) -> int:
    """Who issues or pays invoices; FILE (JSON: id, legal_name, …; an issuer has a prefix) adds one (operator)."""
    with client() as api:
        if file is not None:
            api.post("billing/entities", json_of(file))
        found = api.get("billing/entities")
    if as_json:
        emit(found)
        return report.OK
    rows = [(e["id"], e["legal_name"], e["prefix"] or "–", e["country"] or "–", e["tax_code"] or "–",
             str(e["payment_days"])) for e in found["items"]]  # fmt: skip
    table(rows, ("ENTITY", "LEGAL NAME", "ISSUES AS", "COUNTRY", "TAX RULE", "DAYS TO PAY"))
    return report.OK


@click.command("tax-rule")
@click.argument("file", type=_FILE, required=False)
@json_option
def tax_rule(file: Path | None, as_json: bool) -> int:
    """The taxes of invoices; FILE (JSON: code, rate_ppm, valid_from, …) adds one (operator)."""
    with client() as api:
        if file is not None:
            api.post("billing/tax-rules", json_of(file))
        found = api.get("billing/tax-rules")
    if as_json:
        emit(found)
        return report.OK
    rows = [(r["code"], f"{r['rate_ppm'] / 10_000:g} %", tr("yes") if r["inclusive"] else tr("no"),
             local_time(r["valid_from"])[:10]) for r in found["items"]]  # fmt: skip
    table(rows, ("TAX RULE", "RATE", "IN THE PRICE", "FROM"))
    return report.OK


@click.command()
@click.argument("project")
@click.argument("entity")
@json_option
def payer(project: str, entity: str, as_json: bool) -> int:
    """Say that ENTITY pays for PROJECT (operator)."""
    with client() as api:
        made = api.put(f"billing/projects/{quote(project)}/payer", {"payer": entity})
    if as_json:
        emit(made)
    else:
        click.echo(tr("{payer} pays for {project}", **made))
    return report.OK


@click.command()
@click.argument("project")
@click.argument("parts", nargs=-1, required=True, metavar="ENTITY=WEIGHT…")
@click.option("--user-class", default="", help="Of prices that name a class of user")
@click.option("--from", "since", help="From when on, RFC 3339; without it: now")
@json_option
def payers(project: str, parts: tuple[str, ...], user_class: str, since: str | None, as_json: bool) -> int:
    """Share what PROJECT owes by weights, like uni=60 lab=40 (operator); each is billed for its part."""
    weights = [(name, weight) for name, _, weight in (part.rpartition("=") for part in parts)]
    if not all(name and weight.isdigit() for name, weight in weights):
        raise click.UsageError(tr("Write each payer as ENTITY=WEIGHT, like uni=60."))
    body: dict[str, Any] = {"payers": [{"payer": name, "weight": int(weight)} for name, weight in weights],
                            "user_class": user_class}  # fmt: skip
    with client() as api:
        made = api.post(f"projects/{quote(project)}/terms", body | ({"valid_from": since} if since else {}))
    if as_json:
        emit(made)
    else:
        told = ", ".join(f"{name} {weight}" for name, weight in weights)
        click.echo(tr("what {project} owes is shared: {parts}", project=project, parts=told))
    return report.OK


@click.command()
@click.argument("kind", type=click.Choice(["focus", "ogf-ur", "general-ledger"]))
@click.argument("month", metavar="YYYY-MM")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option("--project", help="Of one project only (focus, ogf-ur)")
@click.option("--zone", default="Asia/Shanghai", show_default=True)
@click.option("--format", "form", type=click.Choice(["csv", "balances", "beancount", "hledger"]),
              help="Of the general ledger; csv where nothing is said")  # fmt: skip
def export(kind: str, month: str, output: Path, project: str | None, zone: str, form: str | None) -> int:
    """Write a month as FOCUS (documents issued in it), as usage records, or as the ledger of an auditor."""
    if form is not None and kind != "general-ledger":
        raise click.UsageError(tr("--format is of the general ledger."))
    if project is not None and kind == "general-ledger":
        raise click.UsageError(tr("The general ledger is of all projects."))
    with client() as api:
        return fetched(api, f"billing/exports/{kind}", output, month=month, zone=zone, project=project, format=form)


COMMANDS = (periods, period, bill, entity, tax_rule, payer, payers, export)
