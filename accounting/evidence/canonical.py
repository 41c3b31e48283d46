"""Write a value as the one sequence of bytes that is hashed and signed (RFC 8785, JCS)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

_SAFE = 2**53 - 1  # RFC 8785 numbers are IEEE doubles; beyond this an integer would lose digits
_encode = msgspec.json.Encoder(order="sorted").encode


class NotCanonical(ValueError):
    """A float, an integer of 2^53 or more, a key beyond the Basic Multilingual Plane, or half a surrogate pair."""


def canonical(value: Any) -> bytes:
    """JCS of texts, whole numbers below 2^53, booleans, None, lists and dicts; larger integers are written as strings.

    For such values msgspec's encoder writes what RFC 8785 asks for (a property test compares it with the package
    `rfc8785`, which is a hundred times slower); what would differ is refused.
    """
    _check(value)
    try:
        return _encode(value)
    except UnicodeEncodeError as exc:
        raise NotCanonical(str(exc)) from exc


def row_bytes(values: Sequence[str | int]) -> bytes:
    """The same of texts and small numbers that a database gave back, as a list: nothing in them needs to be refused."""
    return _encode(values)


def sha256_hex(value: Any) -> str:
    """The fingerprint of a value, by which leaves commit to it."""
    return hashlib.sha256(canonical(value)).hexdigest()


def _check(value: Any) -> None:
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return
    if kind is int:
        if not -_SAFE <= value <= _SAFE:
            raise NotCanonical(f"{value} is 2^53 or more: write it as a string")
    elif kind is dict:
        for key, item in value.items():
            # JCS sorts by UTF-16 units, Python by code points: they differ only beyond U+FFFF.
            if type(key) is not str or (not key.isascii() and any(letter > "\uffff" for letter in key)):
                raise NotCanonical(f"{key!r} is no key here")
            if type(item) is not str:
                _check(item)
    elif kind is list or kind is tuple:
        for item in value:
            _check(item)
    else:
        raise NotCanonical(f"{kind.__name__} has no canonical form here")
