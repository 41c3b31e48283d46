"""Short-lived signed tokens (JWT, RFC 7519, Ed25519): who speaks to whom, about which call, with which bytes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jws import extract_compact

from site_adapters.errors import CredentialRefused
from site_adapters.if2.keys import SigningKey, TrustStore, digest, verifier
from site_adapters.if2.profile import PublicKey

LIFE_S = 60
SKEW_S = 30
_ALGORITHMS = ["Ed25519"]


@dataclass(frozen=True, slots=True)
class Claims:
    """What a good token says."""

    issuer: str
    audience: str
    about: str
    kid: str


def sign(key: SigningKey, *, issuer: str, audience: str, about: str, body: bytes, now: float | None = None) -> str:
    """A token for one message: `about` is its call's id, the body is bound by its digest."""
    issued = int(time.time() if now is None else now)
    claims = {"iss": issuer, "aud": audience, "jti": about, "iat": issued, "exp": issued + LIFE_S, "bh": digest(body)}
    header = {"alg": "Ed25519", "kid": key.public.kid}
    return jwt.encode(header, claims, key.private, algorithms=_ALGORITHMS)


def verify(token: str, trust: TrustStore, *, audience: str, body: bytes, now: float | None = None) -> Claims:
    """What the token says; raises `CredentialRefused` with the reason, which tells nothing that is secret."""
    at = time.time() if now is None else now
    kid = _kid(token)
    key = trust.get(kid, datetime.fromtimestamp(at, UTC))
    if key is None:
        raise CredentialRefused(f"the key {kid[:16]!r} is not trusted here")
    return verify_with(token, key, audience=audience, body=body, now=now)


def verify_with(token: str, key: PublicKey, *, audience: str, body: bytes, now: float | None = None) -> Claims:
    """As `verify`, for one key that is known to be good."""
    at = time.time() if now is None else now
    try:
        claims: dict[str, Any] = jwt.decode(token, verifier(key), algorithms=_ALGORITHMS).claims
    except (JoseError, ValueError, TypeError) as exc:
        raise CredentialRefused("the token's signature is not good") from exc
    issued, expires = claims.get("iat"), claims.get("exp")
    if not isinstance(issued, int) or not isinstance(expires, int) or expires - issued > 10 * LIFE_S:
        raise CredentialRefused("the token has no short life")
    if not issued - SKEW_S <= at < expires + SKEW_S:
        raise CredentialRefused(
            f"the token is not good at this time: it is {at - issued:.0f} s old; look at the clocks"
        )
    if claims.get("aud") != audience:
        raise CredentialRefused("the token is for somebody else")
    if claims.get("bh") != digest(body):
        raise CredentialRefused("the token is for another message")
    return Claims(str(claims.get("iss", "")), audience, str(claims.get("jti", "")), key.kid)


def _kid(token: str) -> str:
    try:
        return str(extract_compact(token.encode("ascii")).protected.get("kid", ""))
    except (JoseError, ValueError, TypeError) as exc:
        raise CredentialRefused("this is no token") from exc
