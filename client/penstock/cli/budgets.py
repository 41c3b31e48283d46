"""billing budget, billing alerts: what a project means to spend, and what was told on the way there."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from penstock.cli import report
from penstock.cli.shared import client, emit, json_option, local_time, month_in, percent_of, table
from penstock.cli.texts import tr


@click.command()
@click.argument("project")
@click.option("--set", "amount", help="Watch a new budget of this amount, in the project's currency")
@click.option("--span", type=click.Choice(["month", "total"]), default="month", show_default=True)
@click.option("--alert-at", default="50,80,100", show_default=True, help="Per cent of it at which to tell, with commas")
@click.option("--stop", is_flag=True, help="Submit nothing that would pass it")
@click.option("--close", "ended", metavar="BUDGET", help="Watch this one no more")
@json_option
def budget(
    project: str, amount: str | None, span: str, alert_at: str, stop: bool, ended: str | None, as_json: bool
) -> int:
    """The budgets of PROJECT, what of them is spent and held by jobs, and which alerts have come."""
    if amount is not None:
        if not all(part.strip().isdigit() for part in alert_at.split(",")):
            raise click.UsageError(tr("Write --alert-at like 50,80,100."))
        body = {"project": project, "amount": amount, "span": span, "stop": stop,
                "thresholds": [int(part) for part in alert_at.split(",")]}  # fmt: skip
        with client() as api:
            made = api.post("billing/budgets", body)
        if as_json:
            emit(made)
        else:
            click.echo(tr("{id}: {spent} of {amount} {commodity} spent, {held} held", **made))
        return report.OK
    with client() as api:
        if ended is not None:
            api.delete(f"billing/budgets/{quote(ended, safe='')}")
        found = api.get("billing/budgets", project=project)
    if as_json:
        emit(found)
        return report.OK
    rows = [_row(b) for b in found["items"]]
    table(rows, ("BUDGET", "AMOUNT", "IN", "SPENT", "HELD", "%", "SPAN", "ALERTS AT %", "PASSED", "AT 100 %"))
    return report.OK


@click.command()
@click.argument("project")
@click.option("--limit", type=int, default=50, show_default=True)
@json_option
def alerts(project: str, limit: int, as_json: bool) -> int:
    """What was told of PROJECT's budgets, and whether it went out."""
    with client() as api:
        found = api.get("billing/alerts", project=project, limit=limit)
    if as_json:
        emit(found)
        return report.OK
    rows = [
        (local_time(a["recorded_at"]), a["budget"], str(a["threshold_percent"]), a["spent"], a["held"], a["amount"],
         a["currency"], ", ".join(map(_sent, a["deliveries"])) or "–")
        for a in found["items"]
    ]  # fmt: skip
    table(rows, ("TOLD", "BUDGET", "AT %", "SPENT", "HELD", "AMOUNT", "IN", "SENT"))
    return report.OK


COMMANDS = (budget, alerts)


def _row(b: dict[str, Any]) -> list[str]:
    percent = percent_of(b)
    end = tr("stop") if b["stop"] else tr("go on")
    span = month_in(b["span_start"], b["zone"]) if b["span"] == "month" else tr("all time")
    return [b["id"], b["amount"], b["commodity"], b["spent"], b["held"], f"{percent:.1f}", span,
            ", ".join(map(str, b["thresholds"])), ", ".join(map(str, b["reached"])) or "–", end]  # fmt: skip


def _sent(way: dict[str, Any]) -> str:
    """How far an alert came on one way, and for the operator why no further."""
    said = {"waiting": tr("not sent yet"), "delivered": tr("sent"), "given_up": tr("given up")}
    why = f" ({way['error']})" if way["error"] else ""
    return f"{tr(way['channel'])}: {said.get(way['state'], way['state'])}{why}"
