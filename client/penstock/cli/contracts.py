"""contracts: agreements and tariffs, who signed them, and the bytes to sign."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import click

from penstock.cli import report
from penstock.cli.shared import client, emit, json_of, json_option, table
from penstock.cli.texts import tr
from penstock.signing import ed25519

_PATHS = {"agreement": "agreements", "tariff": "tariffs/versions"}
_KIND = click.Choice(list(_PATHS))


@click.group()
def contracts() -> None:
    """Agreements and tariffs: propose, show the bytes to sign, hand in a signature."""


@contracts.command()
@click.argument("name", required=False)
@click.option("--role", type=click.Choice(["operator", "centre", "payer", "project"]))
@click.option("--legal-name")
@click.option("--country", default="", help="Two letters, like CN")
@click.option("--tax-id", default="")
@click.option("--site", "sites", multiple=True, help="A site that is this centre's; as often as needed")
@click.option("--key", "keys", multiple=True, metavar="KEY_ID=PUBLIC", help="A public key, as `keygen` prints it")
@json_option
def party(
    name: str | None, role: str | None, legal_name: str | None, country: str, tax_id: str, sites: tuple[str, ...],
    keys: tuple[str, ...], as_json: bool,
) -> int:  # fmt: skip
    """Add party NAME, or what changed about it; without NAME the parties and their public keys (operator)."""
    with client() as api:
        if name is not None:
            if role is None or not legal_name or not all("=" in key for key in keys):
                raise click.UsageError(tr("Say --role and --legal-name; a key is KEY_ID=PUBLIC."))
            named = [{"key_id": key_id, "public": public} for key_id, _, public in (key.partition("=") for key in keys)]
            api.post("parties", {"id": name, "role": role, "legal_name": legal_name, "country": country,
                                 "tax_id": tax_id, "sites": list(sites), "keys": named})  # fmt: skip
        found = api.get("parties")
    if as_json:
        emit(found)
        return report.OK
    rows = [(p["id"], tr(p["role"]), p["legal_name"], " ".join(p["sites"]) or "–",
             " ".join(f"{key['key_id']}={key['public']}" for key in p["keys"]) or "–")
            for p in found["items"]]  # fmt: skip
    table(rows, ("PARTY", "ROLE", "LEGAL NAME", "SITES", "KEYS"))
    return report.OK


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
@click.option("--key", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="PARTY's private key (PEM)")
@click.option("--signature-file", type=click.File("rb"), help="Or the raw bytes of an Ed25519 signature made elsewhere")
@json_option
def sign(
    kind: str, name: str, version: int, party: str, key_id: str, key: Path | None, signature_file: Any, as_json: bool
) -> int:
    """Sign as PARTY with --key (openssl does it, the key stays here), or hand in a signature made elsewhere."""
    if (key is None) == (signature_file is None):
        raise click.UsageError(tr("Say --key FILE, or --signature-file FILE."))
    if key is not None:
        signature = ed25519(base64.b64decode(_find(kind, name, version)["payload"]), key)
    else:
        signature = signature_file.read()
    body = {"party": party, "key_id": key_id, "signature": base64.b64encode(signature).decode()}
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
