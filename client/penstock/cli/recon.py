"""statements, breaks: what centres have billed, what does not fit, and what both sides do about it."""

from __future__ import annotations

import base64
import gzip
from pathlib import Path
from typing import Any

import click

from penstock.cli import report
from penstock.cli.shared import client, emit, json_of, json_option, local_time, table
from penstock.cli.texts import said, tr

KINDS = {
    "B01": "not billed by the centre", "B02": "unknown to us", "B03": "quantity", "B04": "price",
    "B05": "exchange rate", "B06": "billed twice", "B07": "month", "B08": "person or account",
    "B09": "who bears a failed run", "B10": "unit", "B11": "tax", "B12": "changed after", "B13": "signature",
    "B14": "its own totals",
}  # fmt: skip
_FORMATS = ("csv", "json", "ogf-ur", "sacct", "pbs-log", "lsb.acct", "condor", "apel", "sunway-report")


@click.group()
def statements() -> None:
    """What centres have billed, and how far it is settled."""


@statements.command("list")
@click.option("--site")
@click.option("--month", help="Like 2026-11")
@json_option
def list_statements(site: str | None, month: str | None, as_json: bool) -> int:
    """Statements, newest first: lines, agreed, open differences with their money and age, late runs."""
    with client() as api:
        found = api.ask("billing/statements", site=site, period=month)["items"]
    if as_json:
        emit(found)
        return report.OK
    show_statements(found)
    return report.OK


@statements.command("send")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--site", required=True)
@click.option("--month", required=True, help="Like 2026-11")
@click.option("--currency", required=True)
@click.option("--format", "form", type=click.Choice(_FORMATS), required=True)
@click.option("--profile", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="How the CSV is written")
@click.option("--signature", type=click.File("r"), help="A JWS over the file by a key of the centre")
@click.option("--number", default="", help="The centre's own number of it")
@click.option("--lines", type=click.IntRange(0), help="How many lines the centre says it has")
@click.option("--core-seconds", type=click.IntRange(0), help="What the centre says they sum to")
@click.option("--amount", help="What the centre says is owed, like 1234.50")
@json_option
def send(
    file: Path,
    site: str,
    month: str,
    currency: str,
    form: str,
    profile: Path | None,
    signature: Any,
    number: str,
    lines: int | None,
    core_seconds: int | None,
    amount: str | None,
    as_json: bool,
) -> int:
    """Hand in a centre's statement of a month; the same bytes again are the same statement."""
    body: dict[str, Any] = {"site": site, "period": month, "currency": currency, "format": form, "packed": "gzip",
                            "content_base64": base64.b64encode(gzip.compress(file.read_bytes(), 6)).decode(),
                            "number": number,
                            "totals": {"lines": lines, "core_seconds": core_seconds, "amount": amount}}  # fmt: skip
    if profile is not None:
        body["profile"] = json_of(profile)
    if signature is not None:
        body["signature"] = signature.read().strip()
    with client() as api:
        made = api.post("billing/statements", body)
    if as_json:
        emit(made)
        return report.OK
    show_statements([made])
    for finding in made["findings"]:
        kind, _, text = finding.partition(": ")
        click.echo(f"{_kind(kind)}: {said(text)}")
    for line in made["unreadable_lines"]:
        click.echo(tr("line {line}: {why}: {raw}", **line))
    return report.OK


@statements.command("compare")
@click.argument("number", type=int)
@json_option
def compare(number: int, as_json: bool) -> int:
    """Compare statement NUMBER with the books by the signed agreement (operator)."""
    with client() as api:
        made = api.post("billing/reconciliations", {"statement": number})
    if as_json:
        emit(made)
    else:
        click.echo(", ".join(f"{_kind(name)}: {count}" for name, count in made["counts"].items()))
    return report.OK


@click.group()
def breaks() -> None:
    """Differences between a centre's statement and the books: look, propose, countersign, dispute."""


@breaks.command("list")
@click.option("--site")
@click.option("--month", help="Like 2026-11")
@click.option("--state", help="Like open, proposed, disputed, posted, gone; without it: all but those that are gone")
@json_option
def list_breaks(site: str | None, month: str | None, state: str | None, as_json: bool) -> int:
    """Differences, oldest first, with their money and age."""
    items: list[dict[str, Any]] = []
    asked: dict[str, Any] = {"site": site, "period": month, "state": state, "limit": 500}
    with client() as api:
        while True:
            page = api.ask("billing/breaks", **asked)
            items += page["items"]
            asked["cursor"] = page["cursor"]
            if page["cursor"] is None:
                break
    if as_json:
        emit(items)
        return report.OK
    items = [b for b in items if state or b["state"] != "gone"]
    rows = [(str(b["id"]), b["site"], b["period"], _kind(b["category"]), b["state"], b["delta_amount"], b["currency"],
             str(b["age_days"]), said(b["explanation"])) for b in items]  # fmt: skip
    table(rows, ("BREAK", "SITE", "MONTH", "KIND", "STATE", "THEIRS-OURS", "IN", "DAYS", "WHY"))
    return report.OK


@breaks.command("show")
@click.argument("number", type=int)
@json_option
def show(number: int, as_json: bool) -> int:
    """One difference: the arithmetic, and what was done about it."""
    with client() as api:
        found = api.get(f"billing/breaks/{number}")
    if as_json:
        emit(found)
    else:
        _shown(found)
    return report.OK


def _act(number: int, verb: str, note: str, resolution: str | None, as_json: bool) -> int:
    body = {"note": note} | ({"resolution": resolution} if resolution else {})
    with client() as api:
        found = api.post(f"billing/breaks/{number}/{verb}", body)
    if as_json:
        emit(found)
    else:
        _shown(found)
    return report.OK


@breaks.command()
@click.argument("number", type=int)
@click.argument("resolution", type=click.Choice(("post", "waive")))
@click.option("--note", required=True, help="Why")
@json_option
def propose(number: int, resolution: str, note: str, as_json: bool) -> int:
    """Propose to post or to waive a difference; the other side countersigns."""
    return _act(number, "propose", note, resolution, as_json)


@breaks.command()
@click.argument("number", type=int)
@click.option("--note", required=True, help="Why")
@json_option
def countersign(number: int, note: str, as_json: bool) -> int:
    """Agree to what the other side has proposed."""
    return _act(number, "countersign", note, None, as_json)


@breaks.command()
@click.argument("number", type=int)
@click.option("--note", required=True, help="Why")
@json_option
def dispute(number: int, note: str, as_json: bool) -> int:
    """Do not agree: it is carried forward until both do."""
    return _act(number, "dispute", note, None, as_json)


@breaks.command()
@click.argument("number", type=int)
@click.option("--note", required=True, help="Why")
@json_option
def reopen(number: int, note: str, as_json: bool) -> int:
    """Look at a difference anew."""
    return _act(number, "reopen", note, None, as_json)


def show_statements(found: list[dict[str, Any]]) -> None:
    """Statements as a table; the month's page has it too."""
    rows = [(str(s["id"]), s["site"], s["period"], str(s["lines"]), *_found(s), str(s["late"]), _settled(s))
            for s in found]  # fmt: skip
    table(rows, ("STATEMENT", "SITE", "MONTH", "LINES", "AGREED", "OPEN", "THEIRS-OURS", "IN", "OLDEST DAYS",
                 "LATE RUNS", "SETTLED"))  # fmt: skip


def _found(s: dict[str, Any]) -> tuple[str, ...]:
    """What a comparison found; of a statement that nobody has compared yet nothing is known."""
    if _not_compared(s):
        return ("–", "–", "–", s["currency"], "–")
    return str(s["agreed"]), str(s["open_breaks"]), s["open_amount"], s["currency"], str(s["oldest_days"])


def _not_compared(s: dict[str, Any]) -> bool:
    return not (s["signed_off"] or s["replaced"] or s["open_breaks"])


def _settled(statement: dict[str, Any]) -> str:
    if statement["replaced"]:
        return tr("replaced")
    if _not_compared(statement):
        return tr("not compared")
    return tr("yes") if statement["signed_off"] else tr("no")


def _shown(found: dict[str, Any]) -> None:
    kind = _kind(found["category"])
    job = tr(", job {native_id}", **found) if found["native_id"] else ""
    click.echo(f"{found['id']}  {found['site']} {found['period']}  {kind}{job}: {found['state']}")
    for side in ("ours", "theirs"):
        seconds, amount = found[f"{side}_core_seconds"], found[f"{side}_amount"]
        click.echo(tr("  {side}: {seconds} core-seconds, {amount} {currency}", side=tr(side), amount=amount or "–",
                      seconds="–" if seconds is None else seconds, currency=found["currency"]))  # fmt: skip
    if found["explanation"]:
        click.echo(said(found["explanation"]))
    for step in found["history"]:
        act = f"{step['act']} ({step['resolution']})" if step["resolution"] else step["act"]
        told = tr("  {at}  {act} by {by}", at=local_time(step["at"]), act=act, by=step["by"])
        click.echo(f"{told}: {said(step['note'])}" if step["note"] else told)


def _kind(name: str) -> str:
    """A kind of difference by its code, in words beside it; what is no code is a word itself."""
    return f"{name} {tr(KINDS[name])}" if name in KINDS else tr(name.replace("_", " "))
