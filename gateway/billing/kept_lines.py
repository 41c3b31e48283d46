"""A statement's lines as they are kept: nothing in them names a person of ours but under that person's key.

A login is replaced by its pseudonym; the fields of the raw line that name the person are sealed. What lines say of
somebody is mostly the same few words: under one reference, that of the statement, they are one sealed text. No line is
ever disclosed alone, which is what a salt for each would be for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any

from accounting.evidence import personal
from accounting.evidence.canonical import canonical
from accounting.json_text import json_text

_CACHED = 10_000


class KeptLines:
    """Keeps the lines of one statement (`ref`). `owner` and `keys`: whose a login is, and their keys; None: erased.

    A stranger's line stays as it came.
    """

    def __init__(self, owner: Mapping[str, str], keys: Mapping[str, bytes | None], ref: str) -> None:
        self._owner, self._keys, self._ref = owner, keys, ref
        self._pseudonym = lru_cache(maxsize=_CACHED)(self._named)
        self._sealed = lru_cache(maxsize=_CACHED)(self._seal)
        self._columns = lru_cache(maxsize=4)(_columns)

    def line(self, username: str, raw: Mapping[str, Any]) -> tuple[str, str]:
        """(the login, the raw line as JSON text) as they are kept."""
        person = self._owner.get(username)
        if person is None:
            return username, json_text(raw)
        mentions = [name for name, value in raw.items() if username in str(value)]
        kept, hidden = personal.apart(raw, mentions)
        sealed = self._sealed(person, canonical(hidden)) if hidden else ""
        return self._pseudonym(username), _with(json_text(kept), sealed)

    def lines(
        self, usernames: Sequence[str], names: tuple[str, ...], cells: Sequence[Sequence[str]]
    ) -> tuple[list[str], list[str]]:
        """The same of many lines with the same columns."""
        columns = self._columns(names)
        if columns is None:
            both = [self.line(u, dict(zip(names, row, strict=True))) for u, row in zip(usernames, cells, strict=True)]
            return [login for login, _ in both], [text for _, text in both]
        own = [self._pseudonym(username) for username in usernames]
        return own, [self._text(*line, columns) for line in zip(usernames, cells, strict=True)]

    def _text(self, username: str, cells: Sequence[str], columns: _Columns) -> str:
        person, joined = self._owner.get(username), _BETWEEN.join(cells)
        mentions: tuple[int, ...] = ()
        if person is not None:
            mentions = columns.usual
            # Most often the login stands in one column, the same in all lines.
            if joined.count(username) != 1 or len(mentions) != 1 or cells[mentions[0]] != username:
                columns.usual = mentions = tuple([at for at, cell in enumerate(cells) if username in cell])
        kept = columns.kept(mentions, person is None)
        values = kept.values(cells)
        text = kept.template % values if _is_plain(joined) else json_text(dict(zip(kept.names, values, strict=True)))
        if person is None or not kept.hidden:
            return text
        return _with(text, self._sealed(person, *[part for at, name in kept.hidden for part in (name, cells[at])]))

    def _named(self, username: str) -> str:
        person = self._owner.get(username)
        return username if person is None else personal.pseudonym(username, self._keys[person])

    def _seal(self, person: str, *hidden: Any) -> str:
        """The sealed fields as a member of a JSON object; empty where the person is erased. `hidden`: canonical bytes,
        or name, value, name, value …"""
        key = self._keys[person]
        if key is None:
            return ""
        text = hidden[0] if len(hidden) == 1 else canonical(dict(zip(hidden[::2], hidden[1::2], strict=True)))
        part = personal.sealed_part(text, person=person, key=key, ref=self._ref)
        return json_text({personal.SEALED: part})[1:-1]


def _with(text: str, member: str) -> str:
    """A JSON object with one member more."""
    if not member:
        return text
    return f"{text[:-1]}{'' if text == '{}' else ','}{member}}}"


_BETWEEN = "|"


def _is_plain(text: str) -> bool:
    """Whether JSON writes a text as it is."""
    return text.isascii() and text.isprintable() and '"' not in text and "\\" not in text


@dataclass(frozen=True, slots=True)
class _Kept:
    """Which of a statement's columns are kept: their names, what takes their cells, and the JSON around plain ones;
    and (column, name) of what is hidden."""

    names: tuple[str, ...]
    values: Callable[[Sequence[str]], tuple[str, ...]]
    template: str
    hidden: tuple[tuple[int, str], ...]


class _Columns:
    """The columns of a statement. `usual`: where the login stood in the last line."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.usual: tuple[int, ...] = ()
        self.kept = lru_cache(maxsize=_CACHED)(self._kept)

    def _kept(self, mentions: tuple[int, ...], stranger: bool) -> _Kept:
        """What is kept of a line in which these columns name a person of ours; all of a stranger's."""
        names = self.names
        public = names if stranger else personal.public(dict.fromkeys(names, ""), [names[at] for at in mentions])
        places = [at for at, name in enumerate(names) if name in public]
        members = (json_text(names[at]).replace("%", "%%") + ':"%s"' for at in places)
        hidden = tuple((at, name) for at, name in enumerate(names) if name not in public)
        return _Kept(tuple(names[at] for at in places), _taker(places), f"{{{','.join(members)}}}", hidden)


def _taker(places: Sequence[int]) -> Callable[[Sequence[str]], tuple[str, ...]]:
    if len(places) > 1:
        return itemgetter(*places)
    return lambda cells: tuple(cells[at] for at in places)


def _columns(names: tuple[str, ...]) -> _Columns | None:
    """None: names stand there twice, or whole lines of a scheduler, in which names have to be looked for."""
    return None if len(set(names)) < len(names) or personal.has_lines(names) else _Columns(names)
