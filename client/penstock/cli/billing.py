"""billing: what projects spent and why, allocations, budgets; for operators months, payments, adjustments."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import quote

import click

from penstock.cli import bank, budgets, given, months, report
from penstock.cli.shared import amount_of, at_place, client, emit, json_option, local_time, table
from penstock.cli.texts import said, tr


@click.group()
def billing() -> None:
    """What was spent and why; months, payments and adjustments for operators."""


for _command in (*months.COMMANDS, *bank.COMMANDS, *budgets.COMMANDS, *given.COMMANDS):
    billing.add_command(_command)


def _get(path: str, **params: Any) -> dict[str, Any]:
    with client() as api:
        return api.get(path, **params)


def _post(path: str, body: dict[str, Any], as_json: bool, told: str, **more: str) -> int:
    with client() as api:
        made = api.post(path, {k: v for k, v in body.items() if v is not None})
    if as_json:
        emit(made)
    else:
        click.echo(tr(told, **made | more))
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
        "id": "CHARGE", "job": "JOB", "site": "SITE", "core_seconds": "CORE-S", "amount": "AMOUNT", "currency": "IN",
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
        click.echo(said(step))
    if found["evidence"]["sides"] == 2:
        click.echo(tr("confirmed by {signed_by} in its signed statement {statement}", **found["evidence"]))
    click.echo(f"{found['amount']} {found['currency']}" + (tr(" (replaced since)") if found["replaced"] else ""))
    return report.OK


@billing.command()
@click.argument("project")
@json_option
def allocations(project: str, as_json: bool) -> int:
    """What PROJECT was given, and what of it is left."""
    found = _get(f"projects/{quote(project)}/allocations")
    if as_json:
        emit(found)
        return report.OK
    rows = []
    for a in found["items"]:
        amount, unit = amount_of(a["commodity"], a["amount"])
        left = tr("lapsed") if a["remaining"] is None else amount_of(a["commodity"], a["remaining"])[0]
        rows.append((a["id"], amount, left, unit + at_place(a), a["source"], _cell(a["expires_at"])))
    table(rows, ("ALLOCATION", "AMOUNT", "LEFT", "IN", "FROM", "EXPIRES"))
    return report.OK


@billing.command()
@click.argument("code")
@click.argument("amount")
@click.option("--currency", default="CNY", show_default=True)
@click.option("--core-hours", is_flag=True, help="The amount is core-hours")
@click.option("--until", help="Until when it can be used, and what it gave is good, RFC 3339")
@json_option
def voucher(code: str, amount: str, currency: str, core_hours: bool, until: str | None, as_json: bool) -> int:
    """A voucher CODE of 8 signs or more that is worth AMOUNT once (operator); `clear` lets money of it pay a bill."""
    unit = 3600 if core_hours else 1_000_000
    try:
        whole = Decimal(amount) * unit
    except InvalidOperation:
        whole = Decimal("NaN")
    if not whole.is_finite() or whole <= 0 or whole != whole.to_integral_value():
        raise click.UsageError(tr("Write the amount as a number, like 50 or 12.50."))
    body: dict[str, Any] = {"code": code, "amount": int(whole), "commodity": "core-seconds" if core_hours else currency}
    shown = amount_of(body["commodity"], body["amount"])
    return _post("vouchers", body | ({"expires_at": until} if until else {}), as_json, "{code}: {worth} {unit}",
                 code=code, worth=shown[0], unit=shown[1])  # fmt: skip


@billing.command()
@click.argument("code")
@click.argument("project")
@json_option
def redeem(code: str, project: str, as_json: bool) -> int:
    """Use a voucher CODE for PROJECT."""
    return _post("vouchers/redeem", {"code": code, "project": project}, as_json, "{id}")


@billing.command()
@click.option("--site", help="Of one centre only")
@click.option("--over", is_flag=True, help="Also those that are over")
@json_option
def alarms(site: str | None, over: bool, as_json: bool) -> int:
    """What is wrong with the centres' meters: not read, gaps, totals that differ."""
    found = _get("billing/alarms", site=site, over=over)
    if as_json:
        emit(found)
        return report.OK
    rows = [(a["site"], a["kind"], a["day"] or "–", a["state"], local_time(a["since"]), said(a["text"]))
            for a in found["items"]]  # fmt: skip
    table(rows, ("SITE", "KIND", "DAY", "STATE", "SINCE", "WHAT IS WRONG"))
    return report.OK


@billing.command()
@click.argument("site")
@json_option
def meters(site: str, as_json: bool) -> int:
    """What Penstock saw end at SITE and what the centre metered of it, day by day."""
    return _list(_get(f"billing/meters/{quote(site)}"), as_json, {
        "day": "DAY", "jobs": "JOBS", "missing": "MISSING", "gateway_core_seconds": "SEEN CORE-S",
        "centre_core_seconds": "METERED CORE-S", "agrees": "AGREES",
    })  # fmt: skip


@billing.command()
@click.argument("site")
@json_option
def reread(site: str, as_json: bool) -> int:
    """Read SITE's records in quarantine again, whatever their age, and book what can be read (operator)."""
    return _post(f"billing/meters/{quote(site)}/reread", {}, as_json, "{booked} booked")


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
    """What the bank's files brought, and which recorded top-ups or open invoices it may be (operator)."""
    return _list(_get("billing/payments", unallocated=waiting), as_json, {
        "id": "PAYMENT", "booked_on": "DAY", "bank_ref": "REFERENCE", "amount": "AMOUNT", "currency": "IN",
        "unallocated": "LEFT", "payer_name": "PAYER", "perhaps_top_ups": "PERHAPS TOP-UP",
        "perhaps_invoices": "PERHAPS INVOICE",
    })  # fmt: skip


@billing.command("unmatch-top-up")
@click.argument("top_up")
@click.option("--reason", required=True)
@json_option
def unmatch_top_up(top_up: str, reason: str, as_json: bool) -> int:
    """Take the match of TOP_UP with imported money back (operator); of much money a second operator decides."""
    return _post(f"billing/top-ups/{quote(top_up, safe='')}/unmatch", {"reason": reason}, as_json, "{id}: {state}")


@billing.command()
@json_option
def unmatches(as_json: bool) -> int:
    """Matches of top-ups that operators take back (operator); `decide` those that wait for a second person."""
    return _list(_get("billing/unmatches"), as_json, {
        "id": "ID", "top_up": "TOP-UP", "payment": "PAYMENT", "amount": "AMOUNT", "currency": "", "state": "STATE",
        "reason": "REASON",
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
    """Pay AMOUNT back that PROJECT has not used (operator); of much a second operator decides."""
    body = {"project": project, "amount": amount, "reason": reason}
    return _post("billing/refunds", body, as_json, "{id}: {amount} {currency}, {state}")


@billing.command()
@json_option
def refunds(as_json: bool) -> int:
    """Deposits that are paid back (operator); `decide` those that wait for a second person."""
    return _list(_get("billing/refunds"), as_json, {
        "id": "ID", "project": "PROJECT", "amount": "AMOUNT", "currency": "", "state": "STATE", "reason": "REASON",
    })  # fmt: skip


@billing.command(context_settings={"ignore_unknown_options": True})  # -0.50 is an amount
@click.argument("project")
@click.argument("amount")
@click.option("--reason", required=True)
@click.option("--write-off", is_flag=True, help="A debt that will not be paid, of what is not billed yet")
@click.option("--charge", type=int, help="The charge that it is about")
@json_option
def adjust(project: str, amount: str, reason: str, write_off: bool, charge: int | None, as_json: bool) -> int:
    """Let PROJECT owe AMOUNT more, or less with a minus sign, on its next bill (operator)."""
    kind = "write_off" if write_off else "adjustment"
    body = {"project": project, "kind": kind, "amount": amount, "reason": reason, "charge": charge}
    return _post("billing/adjustments", body, as_json, "{id}: {state}")


@billing.command()
@click.argument("invoice")
@click.argument("kind", type=click.Choice(("write-off", "deposit", "voucher", "set-off", "refund")))
@click.option("--amount", help="All that can be, if left out; of a write-off a negative one takes it back")
@click.option("--source", help="Of a set-off: the document whose credit pays INVOICE")
@click.option("--reason", required=True)
@json_option
def clear(invoice: str, kind: str, amount: str | None, source: str | None, reason: str, as_json: bool) -> int:
    """Clear what is open of INVOICE without money of the bank (operator); of much a second operator decides."""
    body = {"invoice": invoice, "kind": kind.replace("-", "_"), "amount": amount, "source": source, "reason": reason}
    return _post("billing/clearings", body, as_json, "{id}: {state}")


@billing.command()
@click.option("--invoice", help="Only those of this document")
@json_option
def clearings(invoice: str | None, as_json: bool) -> int:
    """What was written off, paid by deposits and vouchers, set off and paid back (operator)."""
    return _list(_get("billing/clearings", invoice=invoice), as_json, {
        "id": "ID", "invoice": "INVOICE", "kind": "KIND", "amount": "AMOUNT", "currency": "", "source": "SOURCE",
        "state": "STATE", "reason": "REASON",
    })  # fmt: skip


@billing.command()
@click.option("--project", help="Of a project; all: the operator")
@json_option
def adjustments(project: str | None, as_json: bool) -> int:
    """What projects owe more or less by decision; `books`: given back twice, and charged again once."""
    return _list(_get("billing/adjustments", project=project), as_json, {
        "id": "ID", "project": "PROJECT", "amount": "AMOUNT", "currency": "", "charge": "CHARGE", "state": "STATE",
        "requested_by": "ASKED BY", "reason": "REASON",
    })  # fmt: skip


@billing.command()
@click.argument("asked")
@click.option("--approve/--refuse", required=True)
@json_option
def decide(asked: str, approve: bool, as_json: bool) -> int:
    """Post or refuse what another operator ASKED for: adjustment, credit note, clearing, refund, what is taken back."""
    what = {"u": "billing/unmatches", "k": "cancellations", "w": "billing/clearings", "q": "billing/refunds",
            "n": "billing/credit-notes"}  # fmt: skip
    where = what.get(asked[:1], "billing/adjustments")
    return _post(f"{where}/{quote(asked, safe='')}/decide", {"approve": approve}, as_json, "{id}: {state}")


@billing.command()
@click.option("--known-at", help="As the books knew it then, like 2026-10-31T16:00:00Z")
@click.option("--before", help="Only what counts before a moment")
@click.option("--account", default="", help="Accounts whose name begins so")
@json_option
def balances(known_at: str | None, before: str | None, account: str, as_json: bool) -> int:
    """What stands on each account (operator)."""
    found = _get("billing/balances", known_at=known_at, before=before, account=account or None)
    if as_json:
        emit(found)
        return report.OK
    table([(b["account"], *amount_of(b["commodity"], int(b["amount"]))) for b in found["items"]],
          ("ACCOUNT", "AMOUNT", "IN"))  # fmt: skip
    return report.OK
