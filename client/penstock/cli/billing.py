"""billing: what projects spent and why, allocations, budgets; for operators months, payments, adjustments."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from penstock.cli import report
from penstock.cli.shared import client, emit, json_option, local_time, month_that_begins, table
from penstock.cli.texts import tr


@click.group()
def billing() -> None:
    """What was spent and why; months, payments and adjustments for operators."""


def _get(path: str, **params: Any) -> dict[str, Any]:
    with client() as api:
        return api.get(path, **params)


def _post(path: str, body: dict[str, Any], as_json: bool, told: str) -> int:
    with client() as api:
        made = api.post(path, {k: v for k, v in body.items() if v is not None})
    if as_json:
        emit(made)
    else:
        click.echo(tr(told, **made))
    return report.OK


def _list(found: dict[str, Any], as_json: bool, columns: dict[str, str]) -> int:
    if as_json:
        emit(found)
        return report.OK
    rows = [[_cell(item[name]) for name in columns] for item in found["items"]]
    table(rows, tuple(columns.values()))
    return report.OK


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return tr("yes") if value else tr("no")
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return local_time(text) if text[4:5] == "-" and "T" in text else text


@billing.command()
@click.argument("project")
@click.option("--limit", type=int, default=50, show_default=True)
@json_option
def charges(project: str, limit: int, as_json: bool) -> int:
    """The newest charges of PROJECT."""
    return _list(_get("billing/charges", project=project, limit=limit), as_json, {
        "id": "CHARGE", "job": "JOB", "site": "SITE", "core_seconds": "CORE-S", "amount": "AMOUNT", "currency": "",
        "meter": "METER", "end": "END", "replaced": "REPLACED",
    })  # fmt: skip


@billing.command()
@click.argument("charge", type=int)
@json_option
def explain(charge: int, as_json: bool) -> int:
    """Why CHARGE is what it is, down to the raw record."""
    found = _get(f"billing/charges/{charge}")
    if as_json:
        emit(found)
        return report.OK
    for step in found["steps"]:
        click.echo(step)
    if found["evidence"]["sides"] == 2:
        click.echo(tr("confirmed by {signed_by} in its signed statement {statement}", **found["evidence"]))
    click.echo(f"{found['amount']} {found['currency']}" + (tr(" (replaced since)") if found["replaced"] else ""))
    return report.OK


@billing.command()
@click.argument("project")
@json_option
def allocations(project: str, as_json: bool) -> int:
    """What PROJECT was given, and what of it is left."""
    return _list(_get(f"projects/{quote(project)}/allocations"), as_json, {
        "id": "ALLOCATION", "commodity": "OF", "amount": "AMOUNT", "remaining": "LEFT", "source": "FROM",
        "expires_at": "EXPIRES",
    })  # fmt: skip


@billing.command()
@click.argument("project")
@click.option("--set", "amount", help="Watch a new budget of this amount")
@click.option("--span", type=click.Choice(["month", "total"]), default="month", show_default=True)
@click.option("--stop", is_flag=True, help="Submit nothing more when it is spent")
@click.option("--close", metavar="BUDGET", help="Watch BUDGET no more")
@json_option
def budget(project: str, amount: str | None, span: str, stop: bool, close: str | None, as_json: bool) -> int:
    """The budgets of PROJECT, what of them is spent, and which of their warnings (in per cent) that has reached."""
    if close is not None:
        with client() as api:
            api.delete(f"billing/budgets/{quote(close, safe='')}")
        return report.OK
    if amount is not None:
        body = {"project": project, "amount": amount, "span": span, "stop": stop}
        return _post("billing/budgets", body, as_json, "{id}: {spent} of {amount} spent")
    return _list(_get("billing/budgets", project=project), as_json, {
        "id": "BUDGET", "amount": "AMOUNT", "spent": "SPENT", "reached": "REACHED %", "span": "SPAN",
        "stop": "STOP",
    })  # fmt: skip


@billing.command()
@click.argument("code")
@click.argument("project")
@json_option
def redeem(code: str, project: str, as_json: bool) -> int:
    """Use a voucher CODE for PROJECT."""
    return _post("vouchers/redeem", {"code": code, "project": project}, as_json, "{id}")


@billing.command()
@json_option
def periods(as_json: bool) -> int:
    """The months and how far they are closed (operator)."""
    found = _get("billing/periods")
    if not as_json:
        found = {"items": [item | {"month": month_that_begins(item["starts_at"])} for item in found["items"]]}
    return _list(found, as_json, {
        "month": "MONTH", "starts_at": "FROM", "ends_at": "UNTIL", "zone": "ZONE", "state": "STATE", "seal": "SEAL",
    })  # fmt: skip


@billing.command()
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
    told = "{starts_at} to {ends_at}: {state}"
    if step == "open":
        return _post("billing/periods", {"year": int(year), "month": int(number), "zone": zone}, as_json, told)
    query = "?leave_unbilled=true" if leave_unbilled and step == "close" else ""
    return _post(f"billing/periods/{int(year)}/{int(number)}/{step}{query}", {}, as_json, told)


@billing.command()
@click.option("--site", help="Of one centre only")
@click.option("--over", is_flag=True, help="Also those that are over")
@json_option
def alarms(site: str | None, over: bool, as_json: bool) -> int:
    """What is wrong with the centres' meters: not read, gaps, totals that differ."""
    return _list(_get("billing/alarms", site=site, over=over), as_json, {
        "site": "SITE", "kind": "KIND", "day": "DAY", "state": "STATE", "since": "SINCE", "text": "",
    })  # fmt: skip


@billing.command()
@click.argument("site")
@json_option
def meters(site: str, as_json: bool) -> int:
    """What Penstock saw end at SITE and what the centre metered of it, day by day."""
    return _list(_get(f"billing/meters/{quote(site)}"), as_json, {
        "day": "DAY", "jobs": "JOBS", "missing": "MISSING", "gateway_core_seconds": "SEEN CORE-S",
        "centre_core_seconds": "METERED CORE-S", "agrees": "AGREES",
    })  # fmt: skip


@billing.command("top-up")
@click.argument("project")
@click.argument("amount")
@click.option("--payer", required=True)
@click.option("--reference", required=True, help="The bank's own key of the payment")
@click.option("--received", required=True, help="When, like 2026-11-25T00:00:00Z")
@click.option("--payment", type=int, help="The imported payment that it is part of (see `payments`)")
@click.option("--separate", is_flag=True, help="It is none of the imported payments that it may be")
@json_option
def top_up(
    project: str, amount: str, payer: str, reference: str, received: str, payment: int | None, separate: bool,
    as_json: bool,
) -> int:  # fmt: skip
    """Let PROJECT spend AMOUNT that came in for it (operator); the same reference again is the same money."""
    body = {"project": project, "payer": payer, "amount": amount, "reference": reference, "received_at": received,
            "transaction": payment, "separate": separate or None}  # fmt: skip
    return _post("billing/top-ups", body, as_json, "{id}: {amount} {currency}")


@billing.command()
@click.option("--waiting", is_flag=True, help="Only what is not matched to the last coin")
@json_option
def payments(waiting: bool, as_json: bool) -> int:
    """What the bank's files brought, and which recorded top-ups it may be (operator)."""
    return _list(_get("billing/payments", unallocated=waiting), as_json, {
        "id": "PAYMENT", "booked_on": "DAY", "bank_ref": "REFERENCE", "amount": "AMOUNT", "currency": "",
        "unallocated": "LEFT", "payer_name": "PAYER", "perhaps_top_ups": "PERHAPS TOP-UP",
    })  # fmt: skip


@billing.command("match-top-up")
@click.argument("payment", type=int)
@click.argument("top_up")
@json_option
def match_top_up(payment: int, top_up: str, as_json: bool) -> int:
    """Say that an imported PAYMENT is the money of TOP_UP, which was recorded by hand (operator)."""
    told = "{id}: {unallocated} {currency} of {amount} are left"
    return _post(f"billing/payments/{payment}/top-up", {"top_up": top_up}, as_json, told)


@billing.command()
@click.argument("project")
@click.argument("amount")
@click.option("--reason", required=True)
@json_option
def refund(project: str, amount: str, reason: str, as_json: bool) -> int:
    """Pay AMOUNT back that PROJECT has not used (operator)."""
    body = {"project": project, "amount": amount, "reason": reason}
    return _post("billing/refunds", body, as_json, "{id}: {amount} {currency}")


@billing.command()
@click.argument("project")
@click.argument("amount")
@click.option("--reason", required=True)
@click.option("--write-off", is_flag=True, help="A debt that will not be paid")
@click.option("--charge", type=int, help="The charge that it is about")
@json_option
def adjust(project: str, amount: str, reason: str, write_off: bool, charge: int | None, as_json: bool) -> int:
    """Let PROJECT owe AMOUNT more, or less with a minus sign (operator)."""
    kind = "write_off" if write_off else "adjustment"
    body = {"project": project, "kind": kind, "amount": amount, "reason": reason, "charge": charge}
    return _post("billing/adjustments", body, as_json, "{id}: {state}")


@billing.command()
@click.argument("adjustment")
@click.option("--approve/--refuse", required=True)
@json_option
def decide(adjustment: str, approve: bool, as_json: bool) -> int:
    """Post or refuse what another operator asked for."""
    return _post(f"billing/adjustments/{adjustment}/decide", {"approve": approve}, as_json, "{id}: {state}")


@billing.command()
@click.option("--known-at", help="As the books knew it then, like 2026-10-31T16:00:00Z")
@click.option("--before", help="Only what counts before a moment")
@click.option("--account", default="", help="Accounts whose name begins so")
@json_option
def balances(known_at: str | None, before: str | None, account: str, as_json: bool) -> int:
    """What stands on each account (operator)."""
    found = _get("billing/balances", known_at=known_at, before=before, account=account or None)
    if not as_json:
        found = {"items": [item | {"amount": _in_units(item)} for item in found["items"]]}
    return _list(found, as_json, {"account": "ACCOUNT", "commodity": "OF", "amount": "AMOUNT"})


def _in_units(balance: Any) -> str:
    """Money as people write it: the API counts micro-units of a currency, and whole units of all else."""
    amount, of = int(balance["amount"]), str(balance["commodity"])
    if not (len(of) == 3 and of.isupper()):
        return str(amount)
    whole, micro = divmod(abs(amount), 1_000_000)
    digits = f"{micro:06}".rstrip("0").ljust(2, "0")
    return f"{'-' if amount < 0 else ''}{whole}.{digits}"
