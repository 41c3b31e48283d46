"""Sign a document as a JWS (RFC 7515, Ed25519 by RFC 9864): both sides sign the same canonical bytes."""

from __future__ import annotations

import base64
import json

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from accounting.evidence.note import public_bytes

_ALGORITHMS = ["Ed25519"]


class BadSignature(ValueError):
    """No JWS, another payload, or not the signature of this key."""


def sign_jws(payload: bytes, *, private: bytes, key_id: str, kind: str) -> str:
    """A compact JWS; `private` are the 32 bytes of an Ed25519 key, `kind` says what the payload is."""
    public = base64.urlsafe_b64encode(_public_of(private)).rstrip(b"=").decode()
    secret = base64.urlsafe_b64encode(private).rstrip(b"=").decode()
    key = OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": public, "d": secret})
    header = {"alg": "Ed25519", "kid": key_id, "typ": f"{kind}+jws"}
    return jws.serialize_compact(header, payload, key, algorithms=_ALGORITHMS)


def verify_jws(text: str, *, public: bytes, payload: bytes, kind: str) -> None:
    """Raise `BadSignature` unless `text` is this key's signature over exactly this payload.

    The payload may be left out of `text` (RFC 7515, appendix F).
    """
    head, _, rest = text.partition("..")
    if rest:
        text = f"{head}.{base64.urlsafe_b64encode(payload).rstrip(b'=').decode()}.{rest}"
    x = base64.urlsafe_b64encode(public).rstrip(b"=").decode()
    registry = jws.JWSRegistry(algorithms=_ALGORITHMS)
    # A month's statement has many megabytes; what is signed can be no longer than the payload that is here already.
    registry.max_payload_length = max(registry.max_payload_length, 2 * len(payload))
    try:
        key = OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": x})
        found = jws.deserialize_compact(text, key, registry=registry)
    except (JoseError, ValueError) as exc:
        raise BadSignature(f"the signature is not good: {exc}") from exc
    if found.headers().get("typ") != f"{kind}+jws":
        raise BadSignature("it signs another kind of document")
    if found.payload != payload:
        raise BadSignature("it signs another document")


def key_id_of(text: str) -> str:
    """The key that a JWS names; nothing is checked yet."""
    return _said(text, "kid")


def kind_of(text: str) -> str:
    """What a JWS says that it signs; nothing is checked yet."""
    return _said(text, "typ").removesuffix("+jws")


def _said(text: str, name: str) -> str:
    try:
        head = text.split(".")[0]
        said = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
        return str(said[name])
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise BadSignature("no JWS that names its key and its kind") from exc


def _public_of(private: bytes) -> bytes:
    return public_bytes(Ed25519PrivateKey.from_private_bytes(private))
