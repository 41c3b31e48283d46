"""orders: what was ordered, what of it is opened at which centre, what ran under it and what that cost."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from penstock.cli import report
from penstock.cli.shared import amount_of, client, emit, json_option, local_time, table
from penstock.cli.texts import tr


@click.group()
def orders() -> None:
    """Orders and their openings at the centres."""


@orders.command("list")
@click.argument("project")
@json_option
def list_(project: str, as_json: bool) -> int:
    """What is opened, or asked for, at the centres for PROJECT."""
    with client() as api:
        found = api.get("openings", project=project)
    if as_json:
        emit(found)
        return report.OK
    rows = [[o["id"], o["site"], o["kind"], _state(o), _what(o), local_time(o["valid_until"]), o["detail"]]
            for o in found["items"]]  # fmt: skip
    table(rows, ("OPENING", "SITE", "KIND", "STATE", "WHAT", "UNTIL", "DETAIL"))
    return report.OK


@orders.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> int:
    """From an order (o…) or an opening (op…) to the jobs under it and their charges."""
    path = "openings" if name.startswith("op") else "orders"
    with client() as api:
        found = api.get(f"{path}/{quote(name, safe='')}")
    if as_json:
        emit(found)
        return report.OK
    if path == "orders":
        amount, unit = amount_of(found["commodity"], found["amount"])
        click.echo(tr("{id}  {kind} of {amount} {commodity} for {project}", **found | {
            "kind": tr(found["kind"].replace("_", " ")), "amount": amount, "commodity": unit,
            "project": found["project_name"]}))  # fmt: skip
        click.echo(tr("  allocations: {ids}", ids=" ".join(found["allocations"]) or tr("none")))
        for price in found["prices"]:
            _show_price(price)
    for opening in found["openings"] if path == "orders" else [found]:
        _show(opening)
    return report.OK


# What people order, as the books count it.
COUNTED_IN = {"core-hours": ("core-seconds", 3600), "gpu-hours": ("gpu-seconds", 3600),
               "gib-months": ("storage-mib-hours", 1024 * 730)}  # fmt: skip


@orders.command()
@click.argument("project")
@click.argument("kind", type=click.Choice(["block", "subscription", "trial", "as-used"]))
@click.argument("amount")
@click.option("--payer", required=True, help="For whom it is ordered")
@click.option("--price", default="0", help="Of a block, or of each month of a subscription", show_default=True)
@click.option("--from", "starts", help="When it begins, RFC 3339; without it: now")
@click.option("--until", help="When it ends, RFC 3339")
@click.option(
    "--of",
    "commodity",
    default="core-hours",
    show_default=True,
    help="core-hours, gpu-hours, gib-months (of storage), or a unit's name, as shots",
)
@click.option("--site", help="Also open an account with these core-hours there")
@click.option("--agreement", help="Whose terms divide the price, and at whose sites it pays for runs")
@json_option
def place(
    project: str, kind: str, amount: str, payer: str, price: str, starts: str | None, until: str | None,
    commodity: str, site: str | None, agreement: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Order AMOUNT core-hours, or what --of says, for PROJECT (of as-used: the credit line, in money) (operator)."""
    if not amount.isdigit():
        raise click.UsageError(tr("Write the amount as a whole number."))
    name, unit = COUNTED_IN.get(commodity.lower(), (commodity, 1))
    unit = 1_000_000 if kind == "as-used" else unit
    body: dict[str, Any] = {"project": project, "payer": payer, "kind": kind.replace("-", "_"), "price": price,
                            "commodity": name, "amount": int(amount) * unit, "starts_at": starts, "ends_at": until,
                            "site": site, "agreement": agreement}  # fmt: skip
    with client() as api:
        made = api.post("orders", {name: value for name, value in body.items() if value is not None})
    if as_json:
        emit(made)
    else:
        click.echo(made["id"])
    return report.OK


@orders.command()
@click.argument("project")
@json_option
def placed(project: str, as_json: bool) -> int:
    """What was ordered for PROJECT, and what became of it."""
    with client() as api:
        found = api.get("orders", project=project)
    if as_json:
        emit(found)
        return report.OK
    rows = [(o["id"], tr(o["kind"].replace("_", " ")), *amount_of(o["commodity"], o["amount"]), o["price"],
             o["currency"], o["site"] or "–", local_time(o["starts_at"])[:10], local_time(o["ends_at"])[:10],
             tr(o["state"])) for o in found["items"]]  # fmt: skip
    table(rows, ("ORDER", "KIND", "AMOUNT", "OF", "PRICE", "IN", "SITE", "FROM", "UNTIL", "STATE"))
    return report.OK


@orders.command()
@click.argument("order")
@click.option("--reason", required=True, help="Why")
@json_option
def cancel(order: str, reason: str, as_json: bool) -> int:
    """Cancel what is left of ORDER, as far as its agreement says (operator); of a large one a second one decides."""
    with client() as api:
        made = api.post(f"orders/{quote(order, safe='')}/cancel", {"reason": reason})
    if as_json:
        emit(made)
    else:
        click.echo(tr("{id}: {state}", **made))
    return report.OK


@orders.command()
@json_option
def cancellations(as_json: bool) -> int:
    """Orders that operators cancel (operator); `billing decide` those that wait for a second person."""
    with client() as api:
        found = api.get("cancellations")
    if as_json:
        emit(found)
        return report.OK
    rows = [(c["id"], c["order"], tr(c["state"]), c["requested_by"], c["decided_by"] or "–", c["reason"])
            for c in found["items"]]  # fmt: skip
    table(rows, ("ID", "ORDER", "STATE", "ASKED BY", "DECIDED BY", "REASON"))
    return report.OK


@orders.command("open")
@click.argument("project")
@click.argument("site")
@click.argument("kind", type=click.Choice(["core-hours", "account", "queue-share"]))
@click.argument("what")
@click.option("--order", help="The order that this is for")
@click.option("--person", help="For whom an account is")
@click.option("--queue")
@click.option("--until", help="RFC 3339")
@json_option
def open_(
    project: str, site: str, kind: str, what: str, order: str | None, person: str | None, queue: str | None,
    until: str | None, as_json: bool,
) -> int:  # fmt: skip
    """Ask SITE to open WHAT for PROJECT: so many core-hours, a login, or so many cores at a time (operator)."""
    body: dict[str, Any] = {"project": project, "site": site, "kind": kind.replace("-", "_"), "order": order,
                            "person": person, "queue": queue, "valid_until": until}  # fmt: skip
    match kind:
        case "core-hours":
            body["core_seconds"] = int(what) * 3600
        case "account":
            body["username"] = what
        case _:
            body["cores"] = int(what)
    return _sent("openings", {k: v for k, v in body.items() if v is not None}, as_json)


@orders.command()
@click.argument("opening")
@click.option("--core-hours", type=int)
@click.option("--cores", type=int)
@click.option("--queue")
@json_option
def change(opening: str, core_hours: int | None, cores: int | None, queue: str | None, as_json: bool) -> int:
    """Other terms for OPENING (operator)."""
    body = {"core_seconds": core_hours and core_hours * 3600, "cores": cores, "queue": queue}
    return _sent(
        f"openings/{quote(opening, safe='')}/change", {k: v for k, v in body.items() if v is not None}, as_json
    )


@orders.command()
@click.argument("opening")
@click.argument("until")
@click.option("--core-hours", type=int, help="The new cap in all")
@json_option
def renew(opening: str, until: str, core_hours: int | None, as_json: bool) -> int:
    """Let OPENING end later: UNTIL is RFC 3339 (operator)."""
    body: dict[str, Any] = {"valid_until": until}
    body |= {"core_seconds": core_hours * 3600} if core_hours is not None else {}
    return _sent(f"openings/{quote(opening, safe='')}/renew", body, as_json)


@orders.command()
@click.argument("opening")
@click.option("--reason", default="")
@json_option
def close(opening: str, reason: str, as_json: bool) -> int:
    """Nothing more can be submitted under OPENING (operator)."""
    return _sent(f"openings/{quote(opening, safe='')}/close", {"reason": reason}, as_json)


def _sent(path: str, body: dict[str, Any], as_json: bool) -> int:
    with client() as api:
        made = api.post(path, body)
    if as_json:
        emit(made)
    else:
        click.echo(f"{made['id']}: {_state(made)}")
    return report.OK


def _state(opening: dict[str, Any]) -> str:
    return str(opening["state"]) + (" (not told yet)" if opening["pending"] else "")


def _what(opening: dict[str, Any]) -> str:
    match opening["kind"]:
        case "core_hours":
            return f"{opening['core_seconds'] // 3600} core-hours"
        case "account":
            return str(opening["username"])
        case _:
            return f"{opening['cores']} cores"


def _show_price(price: dict[str, Any]) -> None:
    by = price["agreement"] or tr("no agreement")
    on = " ".join(price["documents"]) or tr("no invoice yet")
    click.echo(tr("  {at}: {amount} {currency} for {allocation} = tax {tax} + centre {centre} + operator {operator} "
                  "({by}; {on})", **price | {"at": local_time(price["booked_at"]), "by": by, "on": on}))  # fmt: skip


def _show(opening: dict[str, Any]) -> None:
    click.echo(
        f"  {opening['id']}  {opening['site']}  {_what(opening)}: {_state(opening)} {opening['detail']}".rstrip()
    )
    for event in opening["events"]:
        click.echo(f"    {local_time(event['at'])}  {event['act']:7} {event['state']:8} {event['detail']}".rstrip())
    for job in opening["jobs"]:
        costs = ", ".join(f"{c['amount']} {c['currency']}" for c in job["charges"]) or tr("not charged yet")
        click.echo(f"    {job['id']}  {job['state']}  {costs}")
