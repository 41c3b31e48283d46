"""Whether a signature under an agreement or a tariff is its party's: Ed25519 over the document's canonical bytes."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from accounting.parties import SigningKey

ALGORITHM = "Ed25519"


def verify(key: SigningKey, payload: bytes, signature: bytes) -> bool:
    """True where the private half of `key` signed these very bytes."""
    if key.algorithm != ALGORITHM:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(signature, payload)
    except (InvalidSignature, ValueError):
        return False
    return True
