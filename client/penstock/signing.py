"""Sign with a key that stays on this machine: `openssl` (3.0 or later) does it, so that no library for it is needed."""

from __future__ import annotations

import base64
import json
import subprocess
import tempfile
from pathlib import Path

from penstock.errors import PenstockError


class CannotSign(PenstockError):
    """openssl is missing, or the key is none that it can sign with."""


def settlement_jws(statement: bytes, key: Path, key_id: str) -> str:
    """A JWS (RFC 7515, Ed25519) over the very bytes of a settlement's statement."""
    header = {"alg": "Ed25519", "kid": key_id, "typ": "penstock-settlement+jws"}
    message = f"{_url64(json.dumps(header, separators=(',', ':')).encode())}.{_url64(statement)}"
    return f"{message}.{_url64(ed25519(message.encode(), key))}"


def ed25519(message: bytes, key: Path) -> bytes:
    """The signature of a PEM key over a message."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(message)
        file.flush()
        argv = ["openssl", "pkeyutl", "-sign", "-inkey", str(key), "-rawin", "-in", file.name]
        try:
            done = subprocess.run(argv, capture_output=True, check=False)
        except OSError as exc:
            raise CannotSign(f"openssl cannot be run: {exc}") from exc
    if done.returncode or len(done.stdout) != 64:
        why = done.stderr.decode(errors="replace").strip() or "it is no Ed25519 key"
        raise CannotSign(f"{key} cannot sign: {why}")
    return done.stdout


def _url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
