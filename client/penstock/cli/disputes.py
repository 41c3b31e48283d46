"""disputes: what payers do not agree with, line by line, and what each side does about it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from penstock.cli import report
from penstock.cli.shared import client, emit, json_option, local_time, table
from penstock.cli.texts import tr

_STATES = ("open", "with_centre", "credited", "rejected", "withdrawn")
_text = click.option("--text", default="", help="What is said with it")
_why = click.option("--text", required=True, help="Why")
charge_option = click.option(
    "--charge", "charges", multiple=True, type=click.IntRange(1),
    help="Which run of the line: its charge, shown by `penstock invoices NUMBER --why LINE`; default: all",
)  # fmt: skip
evidence_option = click.option(
    "--evidence", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file that shows it: its name and SHA-256 are kept, the file stays with you",
)  # fmt: skip


@click.group()
def disputes() -> None:
    """Disputes of lines: look, comment, pass on to the centre, answer, credit, reject, withdraw."""


@disputes.command("list")
@click.option("--project")
@click.option("--site")
@click.option("--state", type=click.Choice(_STATES))
@json_option
def list_(project: str | None, site: str | None, state: str | None, as_json: bool) -> int:
    """Disputes of my projects' invoices, or of my centre's work; the oldest first."""
    with client() as api:
        found = api.ask("billing/disputes", project=project, site=site, state=state)["items"]
    if as_json:
        emit(found)
    else:
        show_disputes(found)
    return report.OK


@disputes.command()
@click.argument("dispute")
@json_option
def show(dispute: str, as_json: bool) -> int:
    """One dispute with every step, what was shown, and by when who owes an answer."""
    with client() as api:
        found = api.get(f"billing/disputes/{quote(dispute, safe='')}")
    if as_json:
        emit(found)
    else:
        _show(found)
    return report.OK


@disputes.command()
@click.argument("dispute")
@_text
@evidence_option
@json_option
def comment(dispute: str, text: str, evidence: tuple[Path, ...], as_json: bool) -> int:
    """Say more, or show more, as any side that is part of it."""
    return _take(dispute, "comment", text, evidence, as_json)


@disputes.command("pass-on")
@click.argument("dispute")
@_text
@evidence_option
@json_option
def pass_on(dispute: str, text: str, evidence: tuple[Path, ...], as_json: bool) -> int:
    """Ask the centre about it (operator)."""
    return _take(dispute, "pass_on", text, evidence, as_json)


@disputes.command()
@click.argument("dispute")
@_why
@evidence_option
@json_option
def answer(dispute: str, text: str, evidence: tuple[Path, ...], as_json: bool) -> int:
    """What the centre says to it (the centre's staff, or the operator for it)."""
    return _take(dispute, "centre_answer", text, evidence, as_json)


@disputes.command()
@click.argument("dispute")
@click.option("--net", help="So much of it, without tax; default: all that is left")
@charge_option
@_text
@evidence_option
@json_option
def credit(
    dispute: str, net: str | None, charges: tuple[int, ...], text: str, evidence: tuple[Path, ...], as_json: bool
) -> int:
    """The payer is right: end it with a credit note (operator)."""
    more = ({} if net is None else {"net": net}) | ({"charges": list(charges)} if charges else {})
    return _take(dispute, "credit", text, evidence, as_json, more)


@disputes.command()
@click.argument("dispute")
@_why
@evidence_option
@json_option
def reject(dispute: str, text: str, evidence: tuple[Path, ...], as_json: bool) -> int:
    """The bill stands (operator)."""
    return _take(dispute, "reject", text, evidence, as_json)


@disputes.command()
@click.argument("dispute")
@_text
@json_option
def withdraw(dispute: str, text: str, as_json: bool) -> int:
    """Take a dispute back (whose bill it is)."""
    return _take(dispute, "withdraw", text, (), as_json)


def _take(
    dispute: str, step: str, text: str, evidence: tuple[Path, ...], as_json: bool, more: Mapping[str, Any] | None = None
) -> int:  # fmt: skip
    body: dict[str, Any] = {"text": text, "evidence": shown_files(evidence), **(more or {})}
    with client() as api:
        found = api.post(f"billing/disputes/{quote(dispute, safe='')}/{step}", body)
    if as_json:
        emit(found)
    else:
        _show(found)
    return report.OK


def shown_files(files: tuple[Path, ...]) -> list[dict[str, str]]:
    """Evidence as the gateway keeps it: a name and what the file's bytes hash to."""
    return [{"name": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()} for file in files]


def show_disputes(found: list[dict[str, Any]]) -> None:
    """Disputes as a table; `penstock dispute` has it too."""
    rows = [(d["id"], d["invoice"], str(d["line"]), d["site"], d["amount"], d["currency"], _words(d["state"]),
             _answer_by(d)) for d in found]  # fmt: skip
    table(rows, ("ID", "INVOICE", "LINE", "SITE", "AMOUNT", "IN", "STATE", "ANSWER BY"))


def _answer_by(d: dict[str, Any]) -> str:
    """The day by which somebody owes an answer; nobody does once it is decided."""
    if d["state"] in ("credited", "rejected", "withdrawn"):
        return "–"
    return tr("OVERDUE") if d["overdue"] else local_time(d["due_at"])[:10]


def _show(found: dict[str, Any]) -> None:
    show_disputes([found])
    for event in found["events"]:
        note = tr(", credit note {number}", number=event["credit_note"]) if event["credit_note"] else ""
        told = tr("  {at}  {step} by {by} ({side}){note}", at=local_time(event["at"]), step=_words(event["step"]),
                  by=event["by"], side=tr(event["side"]), note=note)  # fmt: skip
        click.echo(f"{told}: {event['text']}" if event["text"] else told)
        for shown in event["evidence"]:
            click.echo(f"    {shown['name']}  sha256 {shown['sha256']}")


def _words(name: str) -> str:
    return tr(name.replace("_", " "))
