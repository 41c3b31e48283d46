"""billing: what is given off and given back: discounts, credit notes, core-hours that go to another project."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import click

from penstock.cli import report
from penstock.cli.orders import COUNTED_IN
from penstock.cli.shared import client, emit, json_option, local_time, table
from penstock.cli.texts import tr


def _sent(path: str, body: dict[str, Any], as_json: bool) -> dict[str, Any]:
    with client() as api:
        made = api.post(path, {name: value for name, value in body.items() if value is not None})
    if as_json:
        emit(made)
    return made


@click.command()
@click.argument("project")
@click.argument("ratio")
@click.option("--site", help="Only there")
@click.option("--grade", help="Only for this service grade")
@click.option("--of", "resource", help="Only for this resource, as core_seconds or unit:shots")
@click.option("--from", "starts", help="When it begins, RFC 3339; without it: now")
@click.option("--until", help="When it ends, RFC 3339")
@click.option("--reason", required=True, help="Why")
@json_option
def discount(
    project: str, ratio: str, site: str | None, grade: str | None, resource: str | None, starts: str | None,
    until: str | None, reason: str, as_json: bool,
) -> int:  # fmt: skip
    """Let PROJECT pay RATIO of the prices, like 4/5; at your cost, unless the agreement says otherwise (operator)."""
    match = re.fullmatch(r"(\d{1,7})/(\d{1,7})", ratio)
    if match is None:
        raise click.UsageError(tr("Write the ratio like 4/5: so much of the price is paid."))
    body = {"project": project, "numerator": int(match[1]), "denominator": int(match[2]), "site": site, "grade": grade,
            "resource": resource, "valid_from": starts, "valid_to": until, "reason": reason}  # fmt: skip
    made = _sent("discounts", body, as_json)
    if not as_json:
        click.echo(made["id"])
    return report.OK


@click.command()
@click.option("--project", help="Only those of this project")
@json_option
def discounts(project: str | None, as_json: bool) -> int:
    """What projects pay of the prices: the operator sees all, a centre's staff those at their sites."""
    with client() as api:
        found = api.get("discounts", project=project)
    if as_json:
        emit(found)
        return report.OK
    rows = [(d["id"], d["project"], f"{d['numerator']}/{d['denominator']}", d["site"] or "–", d["grade"] or "–",
             d["resource"] or "–", local_time(d["valid_from"])[:10], local_time(d["valid_to"])[:10], d["reason"])
            for d in found["items"]]  # fmt: skip
    table(rows, ("ID", "PROJECT", "PAYS", "SITE", "GRADE", "OF", "FROM", "UNTIL", "REASON"))
    return report.OK


@click.command()
@click.argument("allocation")
@click.argument("project")
@click.argument("amount")
@click.option("--of", "commodity", default="core-hours", show_default=True,
              help="core-hours, gpu-hours, gib-months (of storage), or a unit's name, as shots")  # fmt: skip
@json_option
def transfer(allocation: str, project: str, amount: str, commodity: str, as_json: bool) -> int:
    """Move AMOUNT of what is left of ALLOCATION to PROJECT (an owner of both, or the operator)."""
    if not amount.isdigit():
        raise click.UsageError(tr("Write the amount as a whole number."))
    name, unit = COUNTED_IN.get(commodity.lower(), (commodity, 1))
    body = {"to_project": project, "amount": int(amount) * unit, "commodity": name}
    _sent(f"allocations/{quote(allocation, safe='')}/transfer", body, as_json)
    if not as_json:
        click.echo(tr("{amount} {commodity} of {allocation} are {project}'s now.", amount=amount, commodity=commodity,
                      allocation=allocation, project=project))  # fmt: skip
    return report.OK


@click.command()
@click.argument("invoice")
@click.argument("line", type=int)
@click.argument("net")
@click.option("--reason", required=True, help="Why")
@json_option
def credit(invoice: str, line: int, net: str, reason: str, as_json: bool) -> int:
    """Give NET back of a LINE of INVOICE by a credit note (operator); of much a second operator decides."""
    body = {"invoice": invoice, "reason": reason, "credits": [{"line": line, "net": net}]}
    made = _sent("billing/credit-notes", body, as_json)
    if not as_json:
        click.echo(
            tr("{id}: {state} {number}", id=made["id"], state=tr(made["state"]), number=made.get("number") or "")
        )
    return report.OK


@click.command()
@json_option
def credits(as_json: bool) -> int:
    """Credit notes that operators asked for (operator); `decide` those that wait for a second person."""
    with client() as api:
        found = api.get("billing/credit-notes")
    if as_json:
        emit(found)
        return report.OK
    rows = [(c["id"], c["invoice"], c["dispute"] or "–", c["amount"], c["currency"], tr(c["state"]),
             c["credit_note"] or "–", c["reason"]) for c in found["items"]]  # fmt: skip
    table(rows, ("ID", "INVOICE", "DISPUTE", "AMOUNT", "", "STATE", "NUMBER", "REASON"))
    return report.OK


COMMANDS = (discount, discounts, transfer, credit, credits)
