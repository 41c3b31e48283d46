"""A report that a centre can publish: every result, signed with the centre's key, verified by anybody who has it."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click
from joserfc import jws
from joserfc.errors import JoseError

from site_adapters.centre.conformance.run import Found
from site_adapters.centre.home import software
from site_adapters.centre.texts import said, tr
from site_adapters.if2 import keys
from site_adapters.if2.keys import SigningKey

_ALGORITHMS = ["Ed25519"]


def write(file: Path, found: Found, *, site: str, key: SigningKey) -> None:
    """The results and, beside them, the signature over exactly their bytes (JWS, RFC 7515)."""
    content = {
        "kind": "penstock-conformance/1", "site": site, "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "software": software(), "python": platform.python_version(), "summary": found.summary,
        "passed": found.count("passed"), "failed": found.count("failed"), "skipped": found.count("skipped"),
        "results": [asdict(r) for r in found.results],
    }  # fmt: skip
    payload = json.dumps(content, ensure_ascii=False, sort_keys=True)
    header = {"alg": "Ed25519", "kid": key.public.kid}
    signature = jws.serialize_compact(header, payload.encode(), key.private, algorithms=_ALGORITHMS)
    report = {"report": content, "key": keys.public_text(key.public), "signature": signature}
    file.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", "utf-8")


def verified(file: Path, centre_key: str = "") -> str:
    """A sentence about a report whose signature is good; raises `ClickException` otherwise."""
    try:
        report = json.loads(file.read_text("utf-8"))
        public = keys.read_public(report["key"])
        if centre_key and keys.read_public(centre_key).x != public.x:
            raise click.ClickException(tr("the report is signed by another key"))
        signed = jws.deserialize_compact(report["signature"], keys.verifier(public), algorithms=_ALGORITHMS)
        content = json.loads(signed.payload)
    except (OSError, ValueError, KeyError, TypeError, JoseError) as exc:
        raise click.ClickException(tr("the report is not good: {error}", error=exc)) from exc
    if content != report["report"]:
        raise click.ClickException(tr("the results were changed after they were signed"))
    return tr("good: {site} at {time}: {summary} (signed by {key})", site=content["site"], time=content["made_at"],
              summary=said(content["summary"]), key=report["key"])  # fmt: skip
