"""What the bank's files bring, which invoices it pays, and who owes what for how long."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import click

from penstock.cli import report
from penstock.cli.shared import client, emit, json_of, json_option, local_time, table
from penstock.cli.texts import said, tr

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("import-payments")
@click.argument("file", type=_FILE)
@click.option("--format", "form", type=click.Choice(("csv", "camt.053")), required=True)
@click.option("--profile", type=_FILE, help="How the CSV is written (JSON): what its columns are called")
@click.option("--dry-run", is_flag=True, help="Only say what it holds")
@json_option
def import_payments(file: Path, form: str, profile: Path | None, dry_run: bool, as_json: bool) -> int:
    """Import a bank's FILE, all of it or nothing; the same file again imports nothing (operator)."""
    body: dict[str, Any] = {"format": form, "content_base64": base64.b64encode(file.read_bytes()).decode(),
                            "dry_run": dry_run}  # fmt: skip
    if profile is not None:
        body["profile"] = json_of(profile)
    with client() as api:
        done = api.post("billing/payments-import", body)
    if as_json:
        emit(done)
    else:
        _show_imported(done, dry_run)
    return report.FAILURE if done["problems"] else report.OK


def _show_imported(done: dict[str, Any], dry_run: bool) -> None:
    if done["problems"]:
        for problem in done["problems"]:
            click.echo(f"{said(problem['where'])}: {said(problem['why'])}")
        click.echo(tr("Nothing was imported: {count} problem(s).", count=len(done["problems"])))
        return
    if dry_run:
        click.echo(tr("It holds {new} payments; {left_out} other movements are left out.", **done))
    else:
        click.echo(tr("{new} new payments, {known} known before, {left_out} other movements left out", **done))
        for paid in done["allocated"]:
            click.echo(tr("{amount} {currency} pay invoices", **paid))
        if done["top_ups"]:
            click.echo(tr("{count} are the money of recorded top-ups", count=done["top_ups"]))
        if done["proposed"]:
            click.echo(tr("{count} have the amount of an open invoice, of another payer or one of several: you say",
                          count=done["proposed"]))  # fmt: skip
        if done["unallocated"]:
            click.echo(tr("{count} found no invoice: penstock billing payments --waiting, penstock billing allocate",
                          count=done["unallocated"]))  # fmt: skip
    for line in done["left_out_lines"]:
        click.echo(tr("left out: {where}: {amount} {currency}, {why}: {remittance}",
                      **line | {"where": said(line["where"]), "why": said(line["why"])}))  # fmt: skip
    if (more := done["left_out"] - len(done["left_out_lines"])) > 0:
        click.echo(tr("left out: {more} more", more=more))


@click.command()
@click.argument("payment", type=int)
@click.argument("invoice")
@click.argument("amount")
@click.option("--take-back", is_flag=True, help="It does not pay this invoice: take so much back from it")
@json_option
def allocate(payment: int, invoice: str, amount: str, take_back: bool, as_json: bool) -> int:
    """Let AMOUNT of an imported PAYMENT pay INVOICE (operator)."""
    body = {"invoice": invoice, "amount": f"-{amount}" if take_back else amount}
    with client() as api:
        found = api.post(f"billing/payments/{payment}/allocate", body)
    if as_json:
        emit(found)
        return report.OK
    click.echo(tr("{id}: {unallocated} {currency} of {amount} are left", **found))
    for pays in found["pays"]:
        click.echo(f"  {pays['invoice']}  {pays['amount']}")
    return report.OK


@click.command()
@click.option("--as-of", help="As it was known then: 2026-11-01T00:00:00Z")
@json_option
def ageing(as_of: str | None, as_json: bool) -> int:
    """Who owes what for how long; what is in dispute is not reminded of (operator)."""
    with client() as api:
        found = api.ask("billing/ageing", as_of=as_of)
    if as_json:
        emit(found)
        return report.OK
    rows = [(x["number"], x["payer"], x["open"], x["currency"], x["disputed"], local_time(x["due_at"])[:10],
             str(x["days_overdue"]), str(x["dunning_level"])) for x in found["invoices"]]  # fmt: skip
    table(rows, ("OPEN INVOICE", "PAYER", "OPEN", "IN", "DISPUTED", "DUE", "DAYS OVERDUE", "REMINDER"))
    if found["as_of"]:
        click.echo(tr("As it was known on {day}", day=local_time(found["as_of"])))
    for payer in found["payers"]:
        click.echo(tr("{payer} owes {total} {currency}", payer=payer["payer_name"] or payer["payer"],
                      total=payer["total"], currency=payer["currency"]))  # fmt: skip
    return report.OK


COMMANDS = (import_payments, allocate, ageing)
