"""Ids of our own things: time-ordered, so that pages walk the primary key."""

from __future__ import annotations

import secrets
from datetime import datetime

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(prefix: str, now: datetime) -> str:
    """A time-ordered id (ULID layout: 48 bits of milliseconds, 80 random bits) behind a letter."""
    return encode(prefix, int(now.timestamp() * 1000), secrets.randbits(80))


def first_id(prefix: str, at: datetime) -> str:
    """The smallest id that can be made at a moment."""
    return encode(prefix, max(0, int(at.timestamp() * 1000)), 0)


def encode(prefix: str, milliseconds: int, rest: int) -> str:
    value = (milliseconds << 80) | rest
    return prefix + "".join(_CROCKFORD[(value >> shift) & 31] for shift in range(125, -1, -5))
