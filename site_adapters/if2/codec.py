"""Frozen values as JSON and back, by their types alone: total over what crosses the five interfaces.

A dataclass is an object with its fields; in a union it bears its name under `$`. Bytes are base64, times ISO 8601 with
an offset, sets and tuples lists. Reading is strict: a wrong type, a missing or an unknown word raises `Malformed` with
the place, because a site that overlooks a word it does not know may do the wrong thing.
"""

from __future__ import annotations

import base64
import binascii
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from datetime import datetime
from enum import Enum
from functools import cache
from typing import Any

TAG = "$"


class Malformed(ValueError):
    """What arrived is not a value of the type; the message begins with the place."""


@dataclass(frozen=True, slots=True)
class Codec:
    """Both directions for one type. `read` is given the place, for its error."""

    write: Callable[[Any], Any]
    read: Callable[[Any, str], Any]


def encode(kind: Any, value: Any) -> Any:
    """The value as what `json` can write."""
    return codec(kind).write(value)


def decode(kind: Any, value: Any, place: str = "") -> Any:
    """The value that `encode` was given; raises `Malformed`."""
    return codec(kind).read(value, place)


@cache
def codec(kind: Any) -> Codec:
    """The codec of a type; TypeError for a type that has none, so that no verb can be added that does not travel."""
    if kind in _PLAIN:
        return _plain(kind)
    if kind is type(None):
        return Codec(lambda _value: None, _read_none)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _union(inner)
    if origin in (list, tuple, frozenset, Sequence):
        return _row(origin, inner)
    if origin in (dict, Mapping):
        return _mapping(inner)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _enum(kind)
    if is_dataclass(kind):
        return _dataclass(kind)
    raise TypeError(f"{kind!r} does not cross the wire")


_PLAIN = (bool, int, float, str, bytes, datetime)


def _read_none(value: Any, place: str) -> None:
    if value is not None:
        raise Malformed(f"{place}: null expected")


def _plain(kind: type) -> Codec:
    if kind is bytes:
        return Codec(lambda v: base64.b64encode(v).decode("ascii"), _read_bytes)
    if kind is datetime:
        return Codec(lambda v: v.isoformat(), _read_time)
    accepted = (int, float) if kind is float else (kind,)

    def read(value: Any, place: str) -> Any:
        if type(value) not in accepted:  # bool is an int to isinstance, and none to us
            raise Malformed(f"{place}: {kind.__name__} expected")
        return kind(value)

    return Codec(lambda v: v, read)


def _read_bytes(value: Any, place: str) -> bytes:
    if not isinstance(value, str):
        raise Malformed(f"{place}: base64 expected")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise Malformed(f"{place}: base64 expected") from exc


def _read_time(value: Any, place: str) -> datetime:
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError) as exc:
        raise Malformed(f"{place}: a time in ISO 8601 expected") from exc
    if found.utcoffset() is None:
        raise Malformed(f"{place}: the time lacks its offset")
    return found


def _row(origin: Any, inner: tuple[Any, ...]) -> Codec:
    made: Callable[[list[Any]], Any] = frozenset if origin is frozenset else tuple if origin is tuple else list
    fixed = None
    if origin is tuple and not (len(inner) == 2 and inner[1] is Ellipsis):
        fixed = tuple(codec(kind) for kind in inner)
    each = codec(inner[0])

    def write(value: Any) -> list[Any]:
        if fixed is not None:
            return [one.write(part) for one, part in zip(fixed, value, strict=True)]
        return [each.write(part) for part in (sorted(value) if origin is frozenset else value)]

    def read(value: Any, place: str) -> Any:
        if not isinstance(value, list):
            raise Malformed(f"{place}: a list expected")
        if fixed is not None and len(value) != len(fixed):
            raise Malformed(f"{place}: {len(fixed)} values expected")
        readers = fixed or (each,) * len(value)
        return made([one.read(part, f"{place}/{i}") for i, (one, part) in enumerate(zip(readers, value, strict=True))])

    return Codec(write, read)


def _mapping(inner: tuple[Any, ...]) -> Codec:
    if inner[0] is not str:
        raise TypeError("only mappings of texts cross the wire")
    each = codec(inner[1])

    def read(value: Any, place: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Malformed(f"{place}: an object expected")
        return {key: each.read(part, f"{place}/{key}") for key, part in value.items()}

    return Codec(lambda value: {key: each.write(part) for key, part in value.items()}, read)


def _enum(kind: type[Enum]) -> Codec:
    def read(value: Any, place: str) -> Enum:
        try:
            return kind(value)
        except ValueError as exc:
            raise Malformed(f"{place}: no {kind.__name__} is called {value!r}") from exc

    return Codec(lambda value: value.value, read)


def _dataclass(kind: Any) -> Codec:
    hints = typing.get_type_hints(kind)
    parts = {f.name: codec(hints[f.name]) for f in fields(kind)}
    needed = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}

    def write(value: Any) -> dict[str, Any]:
        return {name: part.write(getattr(value, name)) for name, part in parts.items()}

    def read(value: Any, place: str) -> Any:
        if not isinstance(value, dict):
            raise Malformed(f"{place}: {kind.__name__} expected")
        if unknown := value.keys() - parts.keys():
            raise Malformed(f"{place}: {kind.__name__} has no {sorted(unknown)[0]!r}")
        if missing := needed - value.keys():
            raise Malformed(f"{place}: {kind.__name__} lacks {sorted(missing)[0]!r}")
        return kind(**{name: parts[name].read(part, f"{place}/{name}") for name, part in value.items()})

    return Codec(write, read)


def _union(inner: tuple[Any, ...]) -> Codec:
    optional = type(None) in inner
    rest = tuple(kind for kind in inner if kind is not type(None))
    one = codec(rest[0]) if len(rest) == 1 else _named(rest)

    def write(value: Any) -> Any:
        return None if value is None else one.write(value)

    def read(value: Any, place: str) -> Any:
        return None if value is None and optional else one.read(value, place)

    return Codec(write, read)


def _named(kinds: tuple[Any, ...]) -> Codec:
    if not all(is_dataclass(kind) for kind in kinds):
        raise TypeError("a union that crosses the wire is one of dataclasses, or of one type and None")
    parts = {kind.__name__: codec(kind) for kind in kinds}

    def write(value: Any) -> dict[str, Any]:
        name = type(value).__name__
        return {TAG: name, **parts[name].write(value)}

    def read(value: Any, place: str) -> Any:
        if not isinstance(value, dict) or not isinstance(value.get(TAG), str) or value[TAG] not in parts:
            raise Malformed(f"{place}: one of {', '.join(parts)} expected")
        return parts[value[TAG]].read({k: v for k, v in value.items() if k != TAG}, place)

    return Codec(write, read)
