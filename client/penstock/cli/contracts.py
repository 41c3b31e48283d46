"""contracts: agreements and tariffs, who signed them, and the bytes to sign."""

from __future__ import annotations

import base64
from typing import Any

import click

from penstock.cli import report
from penstock.cli.shared import client, emit, json_of, json_option, table
from penstock.cli.texts import tr

_PATHS = {"agreement": "agreements", "tariff": "tariffs/versions"}
_KIND = click.Choice(list(_PATHS))


@click.group()
def contracts() -> None:
    """Agreements and tariffs: propose, show the bytes to sign, hand in a signature."""


@contracts.command("list")
@click.argument("kind", type=_KIND)
@json_option
def list_(kind: str, as_json: bool) -> int:
    """Every version that you may see, and who signed it."""
    with client() as api:
        found = api.get(_PATHS[kind])
    if as_json:
        emit(found)
        return report.OK
    rows = []
    for d in found["items"]:
        by = " ".join(s["party"] for s in d["signatures"]) or tr("nobody")
        rows.append((d["id"], str(d["version"]), d["sha256"][:16], by))
    table(rows, ("ID", "VERSION", "SHA-256", "SIGNED BY"))
    return report.OK


@contracts.command()
@click.argument("kind", type=_KIND)
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@json_option
def propose(kind: str, file: str, as_json: bool) -> int:
    """Propose the version in FILE (JSON) for both sides to sign (operator)."""
    document = json_of(file)
    with client() as api:
        made = api.post(_PATHS[kind], {"document": document})
    if as_json:
        emit(made)
    else:
        click.echo(f"{made['id']}/{made['version']} {made['sha256']}")
    return report.OK


@contracts.command()
@click.argument("kind", type=_KIND)
@click.argument("name")
@click.argument("version", type=int)
@click.argument("out", type=click.File("wb"), default="-")
def payload(kind: str, name: str, version: int, out: Any) -> int:
    """Write the very bytes that a signature covers."""
    out.write(base64.b64decode(_find(kind, name, version)["payload"]))
    return report.OK


@contracts.command()
@click.argument("kind", type=_KIND)
@click.argument("name")
@click.argument("version", type=int)
@click.option("--party", required=True)
@click.option("--key-id", required=True)
@click.option("--signature-file", type=click.File("rb"), required=True, help="Raw bytes of an Ed25519 signature")
@json_option
def sign(kind: str, name: str, version: int, party: str, key_id: str, signature_file: Any, as_json: bool) -> int:
    """Hand in PARTY's signature; your private key stays with you."""
    body = {"party": party, "key_id": key_id, "signature": base64.b64encode(signature_file.read()).decode()}
    with client() as api:
        made = api.post(f"{_PATHS[kind]}/{name}/{version}/signatures", body)
    if as_json:
        emit(made)
    else:
        by = " ".join(s["party"] for s in made["signatures"])
        click.echo(tr("{document} is signed by {parties}", document=f"{name}/{version}", parties=by))
    return report.OK


def _find(kind: str, name: str, version: int) -> dict[str, Any]:
    with client() as api:
        items = api.get(_PATHS[kind])["items"]
    for document in items:
        if (document["id"], document["version"]) == (name, version):
            found: dict[str, Any] = document
            return found
    raise click.UsageError(
        tr("There is no version {version} of {kind} {name} that you may see.", version=version, kind=kind, name=name)
    )
