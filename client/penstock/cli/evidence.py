"""evidence, settlement: fetch what the independent verifier checks; for a centre, look and sign."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import click

from penstock.cli import report
from penstock.cli.shared import (
    amount_of,
    client,
    emit,
    fetched,
    hours,
    json_option,
    local_time,
    month_span,
    span_of,
    table,
)
from penstock.cli.texts import said as in_words
from penstock.cli.texts import tr

_ZONE = "Asia/Shanghai"
_LABELS = {"carried_before": "from before", "carried": "carried on", "opening": "owed before", "paid": "paid of that",
           "closing": "owed now"}  # fmt: skip
# From what was earned to what is paid; the last of them are in the currency of payment.
_AMOUNTS = ("earned", "tax", "centre_share", "fees", "withheld", "net", "carried_before", "carried")
_PAID = ("pay", "opening", "paid", "closing")


@click.group()
def evidence() -> None:
    """The log of the books: checkpoints, and bundles for the independent verifier."""


@evidence.command("status")
@json_option
def status(as_json: bool) -> int:
    """How far the log is, and the keys to check it and settlements with."""
    with client() as api:
        found = api.get("evidence/log")
        keys = [] if as_json else api.get("evidence/keys")["items"]
    if as_json:
        emit(found)
    else:
        more = {"checkpoint": found["checkpoint"] or 0, "key": found["vkey"] or "–"}
        click.echo(tr("{origin}: {size} leaves, {checkpoint} signed, {waiting} waiting\nkey {key}", **found | more))
        for key in keys:
            if key["purpose"] == "statement" and key["valid_to"] is None:
                click.echo(tr("settlements are signed by {owner}={key}", owner=key["owner"], key=key["public"]))
    return report.OK


@evidence.command("checkpoint")
@click.option("--size", type=int, help="The checkpoint of this many leaves; without it the newest")
def checkpoint(size: int | None) -> int:
    """The signed checkpoint with its cosignatures; keep it, the next bundle can lead on from it."""
    with client() as api:
        click.echo(api.text("evidence/checkpoint" + (f"?size={size}" if size is not None else "")), nl=False)
    return report.OK


@evidence.command("bundle")
@click.option("--project")
@click.option("--site")
@click.option("--payer", help="The invoices and credit notes of a payer, for that time")
@click.option("--invoice", help="One invoice by its number, with its credit notes; no time is needed")
@click.option("--since", help="2026-11-01T00:00:00Z")
@click.option("--until", help="Runs that ended before this")
@click.option("--seen", type=int, help="The size of a checkpoint that you have kept")
@click.option("--disclose", is_flag=True, help="With the names in it")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True)
def bundle(output: Path, **asked: Any) -> int:
    """Everything that the verifier needs about a period. Then: python penstock_verify.py FILE --log-key KEY"""
    if not asked["invoice"] and not (asked["since"] and asked["until"]):
        raise click.UsageError(tr("Say --since and --until, or --invoice."))
    with client() as api:
        return fetched(api, "evidence/bundle", output, **{k: v for k, v in asked.items() if v not in (None, False)})


@click.group()
def settlement() -> None:
    """What a centre is paid: look, download, check, sign."""


@settlement.command("list")
@json_option
def list_settlements(as_json: bool) -> int:
    """The statements that I may see, newest first."""
    with client() as api:
        found = api.get("billing/settlements")["items"]
    if as_json:
        for one in found:
            emit(one)
        return report.OK
    rows = [(s["id"], s["centre_name"] or s["centre"], span_of(s["from"], s["to"], s["zone"]), s["state"],
             f"{s['pay']} {s['pay_currency']}", s["paid"], ", ".join(s["signed_by"])) for s in found]  # fmt: skip
    table(rows, ("ID", "CENTRE", "PERIOD", "STATE", "PAY", "PAID", "SIGNED BY"))
    return report.OK


@settlement.command("draw")
@click.argument("centre")
@click.argument("month", metavar="YYYY-MM")
@click.option("--zone", default=_ZONE, show_default=True, help="Whose month")
@click.option("--disputed", multiple=True, metavar="ENTRY=REASON", help="Not now: the next one takes it up again")
@json_option
def draw(centre: str, month: str, zone: str, disputed: tuple[str, ...], as_json: bool) -> int:
    """Draw what CENTRE is paid for a month; the centre signs it then (operator)."""
    since, until = month_span(month, zone)
    held = [{"entry": entry.strip(), "reason": why.strip()} for entry, _, why in (d.partition("=") for d in disputed)]
    if not all(one["entry"] and one["reason"] for one in held):
        raise click.UsageError(tr("Write --disputed like charge:12=why"))
    with client() as api:
        made = api.post("billing/settlements", {"centre": centre, "since": since, "until": until, "disputed": held})
    if as_json:
        emit(made)
    else:
        click.echo(tr("{id}: {pay} {pay_currency} to {centre}, {state}", **made))
    return report.OK


@settlement.command()
@click.argument("base")
@click.argument("quoted", metavar="QUOTE")
@click.argument("day", metavar="YYYY-MM-DD")
@click.argument("number", metavar="RATE")
@click.option("--source", required=True, help="Who published it")
@json_option
def rate(base: str, quoted: str, day: str, number: str, source: str, as_json: bool) -> int:
    """Keep the RATE of a day: so many QUOTE for one BASE, like 0.128413 or 700/5451 (operator)."""
    try:
        exact = Fraction(number)
    except (ValueError, ZeroDivisionError) as exc:
        raise click.UsageError(tr("Write the rate like 0.128413 or 700/5451.")) from exc
    body = {"base": base, "quote": quoted, "day": day, "num": exact.numerator, "den": exact.denominator,
            "source": source}  # fmt: skip
    with client() as api:
        made = api.post("billing/fx-rates", body)
    if as_json:
        emit(made)
    else:
        click.echo(tr("{num}/{den} {quote} for one {base} on {day}, by {source}", **made))
    return report.OK


@settlement.command("show")
@json_option
@click.argument("settlement_id")
def show(settlement_id: str, as_json: bool) -> int:
    """One statement, from what was earned to what is paid."""
    with client() as api:
        found = api.get(f"billing/settlements/{settlement_id}")
    if as_json:
        emit(found)
        return report.OK
    said = found["statement"]
    state = f"{found['state']} ({found['reason']})" if found["reason"] else found["state"]
    centre = found["centre_name"] or found["centre"]
    click.echo(tr("{centre}, {span}, revision {revision} of {at}: {state}", centre=centre,
                  span=span_of(found["from"], found["to"], found["zone"]), revision=found["revision"], state=state,
                  at=local_time(found["drawn_at"])))  # fmt: skip
    for name, title in (("grades", "in the period"), ("corrections_of_earlier_periods", "corrections of earlier ones")):
        for line in said[name]:
            click.echo(tr("  {title}, {grade}: {entries} entries, {hours} core-hours", title=tr(title),
                          grade=line["grade"] or tr("no grade"), entries=line["entries"],
                          hours=hours(int(line["core_seconds"]))))  # fmt: skip
    # As the statement has them, so that they add up: `paid` of the answer is what came of this one since.
    amounts = found | {"paid": amount_of(found["pay_currency"], int(said["paid"]))[0]}
    for name in (*_AMOUNTS, *_PAID):
        currency = found["pay_currency" if name in _PAID else "currency"]
        label = tr(_LABELS.get(name, name.replace("_", " ")))
        click.echo(f"  {label:13} {amounts[name]:>24} {currency}")
    for held in said["disputed"]:
        amount = amount_of(found["currency"], int(held["centre"]))[0]
        click.echo(tr("  in dispute, carried forward: {amount} {currency} of {entry} ({reason})", amount=amount,
                      currency=found["currency"], entry=held["entry"], reason=in_words(held["reason"])))  # fmt: skip
    if found["state"] == "agreed":
        click.echo(tr("  paid of this statement: {paid} of {pay} {pay_currency}", **found))
    click.echo(tr("  signed by {sides}; sha256 {hash}", sides=", ".join(found["signed_by"]), hash=found["sha256"]))
    if found["state"] == "drawn":
        told = tr("To agree: penstock settlement sign {id} --key FILE --key-id NAME; "
                  "to refuse: penstock settlement object {id} REASON", id=found["id"])  # fmt: skip
        click.echo(told)
    return report.OK


@settlement.command("download")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=Path(), show_default=True)
@click.argument("settlement_id")
def download(settlement_id: str, output: Path) -> int:
    """The statement (what is signed, byte for byte) and its bundle (for the verifier), as two files."""
    output.mkdir(parents=True, exist_ok=True)
    with client() as api:
        for what, suffix in (("statement", "json"), ("bundle", "jsonl")):
            fetched(api, f"billing/settlements/{settlement_id}/{what}", output / f"{settlement_id}.{suffix}")
    return report.OK


@settlement.command("sign")
@click.argument("settlement_id")
@click.argument("jws", type=click.File("r"), required=False)
@click.option(
    "--key", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The centre's private key (PEM)"
)
@click.option("--key-id", help="The name under which the operator knows this key")
@json_option
def sign(settlement_id: str, jws: Any, key: Path | None, key_id: str | None, as_json: bool) -> int:
    """Sign a statement with --key and --key-id (openssl does it, the key stays here), or hand in a JWS."""
    if (key is None) == (jws is None) or (key is None) != (key_id is None):
        raise click.UsageError(tr("Give --key and --key-id, or a file with the JWS (- reads standard input)."))
    with client() as api:
        if key is not None and key_id is not None:
            from penstock.signing import settlement_jws

            made = settlement_jws(api.text(f"billing/settlements/{settlement_id}/statement").encode(), key, key_id)
        else:
            made = jws.read().strip()
        done = api.post(f"billing/settlements/{settlement_id}/sign", {"jws": made})
    if as_json:
        emit(done)
    else:
        click.echo(tr("{state}: {pay} {pay_currency} will be paid", **done))
    return report.OK


@settlement.command("paid")
@click.argument("settlement_id")
@click.argument("amount")
@click.option("--reference", required=True, help="The bank's own key of the payment")
@click.option("--at", "paid_at", help="When, RFC 3339; without it: now")
@click.option("--cost", help="In the statement's currency, where it was paid in another")
@json_option
def paid(settlement_id: str, amount: str, reference: str, paid_at: str | None, cost: str | None, as_json: bool) -> int:
    """Record that AMOUNT was paid to the centre for a settlement that both sides signed (operator)."""
    body = {"amount": amount, "reference": reference, "paid_at": paid_at, "cost": cost}
    with client() as api:
        made = api.post(f"billing/settlements/{settlement_id}/payments",
                        {name: value for name, value in body.items() if value is not None})  # fmt: skip
    if as_json:
        emit(made)
    else:
        click.echo(tr("{paid} of {pay} {pay_currency} is paid", **made))
    return report.OK


@settlement.command("object")
@click.argument("settlement_id")
@click.argument("reason")
@json_option
def refuse(settlement_id: str, reason: str, as_json: bool) -> int:
    """Refuse a statement with a REASON; the operator draws another one."""
    with client() as api:
        done = api.post(f"billing/settlements/{settlement_id}/withdraw", {"reason": reason})
    if as_json:
        emit(done)
    else:
        click.echo(f"{done['state']}: {done['reason']}")
    return report.OK
