"""Post a notice to the operator's receiver, signed as the Standard Webhooks specification 1.0 says.

Headers `webhook-id`, `webhook-timestamp` (seconds) and `webhook-signature`: `v1,` and the base64 of the HMAC-SHA256 of
`id.timestamp.body`. Receivers verify them with any of that specification's libraries.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from datetime import datetime
from pathlib import Path

import httpx

from gateway.errors import Refused
from gateway.identity.keys import keep_once

_PREFIX = "whsec_"


class NotDelivered(Exception):
    """It was not taken; the text says why, without what the receiver wrote."""


def load_or_create_secret(file: Path) -> bytes:
    """The secret that both sides know, made at first use (0600). Raises `Refused` for a file that holds none."""
    if not file.exists():
        keep_once(file, f"{_PREFIX}{base64.b64encode(os.urandom(32)).decode()}\n".encode())
    try:
        secret = base64.b64decode(file.read_text().strip().removeprefix(_PREFIX), validate=True)
    except (binascii.Error, UnicodeDecodeError, OSError) as exc:
        raise Refused(f"{file} holds no webhook secret like {_PREFIX}<base64> that can be read") from exc
    if not 24 <= len(secret) <= 64:  # the specification's bounds
        raise Refused(f"the webhook secret in {file} has {len(secret)} bytes, not 24 to 64")
    return secret


def signature(secret: bytes, message_id: str, timestamp_s: int, body: bytes) -> str:
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()


def post(url: str, secret: bytes, message_id: str, body: bytes, *, now: datetime, timeout_s: float) -> None:
    """Raises `NotDelivered` for all but a 2xx answer; a redirect is none, and no body is read."""
    timestamp_s = int(now.timestamp())
    headers = {
        "content-type": "application/json", "user-agent": "penstock", "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": signature(secret, message_id, timestamp_s, body),
    }  # fmt: skip
    try:
        with httpx.stream("POST", url, content=body, headers=headers, timeout=timeout_s) as answer:
            status = answer.status_code
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise NotDelivered(f"{type(exc).__name__}: {exc}") from exc
    if not 200 <= status < 300:
        raise NotDelivered(f"the receiver answered {status}")
