"""Whether a signature is its party's: under an agreement or a tariff Ed25519 over the canonical bytes, under a centre's
statement a JWS over the very bytes, or over their hash."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from accounting.evidence.canonical import canonical
from accounting.evidence.outbox import sha256_bytes
from accounting.parties import SigningKey
from accounting.reconciling.statement import Signed, Verify
from accounting.signing import BadSignature, key_id_of, kind_of, verify_jws

ALGORITHM = "Ed25519"
STATEMENT = "penstock-statement"
# Over {"sha256": hash of the bytes}: who has not the statement itself can check this one.
STATEMENT_HASH = "penstock-statement-hash"


def verify(key: SigningKey, payload: bytes, signature: bytes) -> bool:
    """True where the private half of `key` signed these very bytes."""
    if key.algorithm != ALGORITHM:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(signature, payload)
    except (InvalidSignature, ValueError):
        return False
    return True


def by_keys_of(party_id: str, keys: Iterable[SigningKey], *, now: datetime) -> Verify:
    """Check a centre's signature under its statement against the keys that speak for it now.

    What is kept of it leaves out the statement's own bytes, which are kept nowhere."""
    live = {key.key_id: key for key in keys if key.valid_at(now) and key.algorithm == ALGORITHM}

    def check(document: bytes, signature: bytes) -> Signed:
        try:
            jws = signature.decode("ascii").strip()
            key_id = key_id_of(jws)
            if key_id not in live:
                raise BadSignature(f"no live key {key_id!r} speaks for {party_id or 'the centre: it has no agreement'}")
            public = live[key_id].public
            head, _, tail = jws.split(".")
            if kind_of(jws) == STATEMENT_HASH:
                payload = canonical({"sha256": sha256_bytes(document)})
                verify_jws(jws, public=public, payload=payload, kind=STATEMENT_HASH)
                body = base64.urlsafe_b64encode(payload).rstrip(b"=").decode()
                return Signed(party_id, key_id=key_id, jws=f"{head}.{body}.{tail}", public=public)
            verify_jws(jws, public=public, payload=document, kind=STATEMENT)
        except ValueError as exc:
            return Signed(refused=str(exc))
        return Signed(party_id, key_id=key_id, jws=f"{head}..{tail}", public=public)

    return check
