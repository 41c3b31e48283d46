"""Damage answers of known content: what a parser makes of them is counted exactly.

A campaign makes rows whose values are known, damages some of them within the row, puts them together and reads the
answer. Two things must hold of each answer: rows read + problems (+ rows that are no run by their own word) are
exactly the rows that it has by the format's own marks, and every row that was not touched has its known value. Where
damage made marks of its own (a line break in a format of lines), `pieces` counts the marks that are there.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Found:
    """What a parser made of an answer: values of rows read, problems, rows passed over; `refused`: all of it, aloud."""

    values: tuple[Hashable, ...] = ()
    problems: int = 0
    passed: int = 0
    refused: bool = False

    @property
    def rows(self) -> int:
        return len(self.values) + self.problems + self.passed


BANNERS = (b"Last login: Wed Nov 25 14:00:00 2026 from 10.0.0.1\n", b"*** the machine is closed on Friday ***\n",
           "系统将于周五维护\n".encode(), b"warning: cannot change locale\n")  # fmt: skip
# What each of these is put into a row as: separators of every format, huge numbers, NUL, bad UTF-8.
_SHARDS = (b"\x00", b"\xff\xfe", b"\xc3", b"\x1f", b"\x1f\x1f", b"|", b";", b";;", b"=", b"<", b">", b'"', b"\\", b"\t",
           b"\r", b",", b"9" * 30, b"9" * 5000, b"-1", b"1e400", b"\xd9\xa3", b"\xc2\xb2", b"1_[0-5]", b"\x1b[31m",
           b"NaN", b"null", b"{}", b"[]")  # fmt: skip


def damaged(r: random.Random, row: bytes) -> bytes:
    """One to four of: a byte flipped, some lost, some doubled, the rest cut off, garbage or a shard put in."""
    data = bytearray(row)
    for _ in range(r.randint(1, 4)):
        place = r.randrange(len(data)) if data else 0
        match r.randrange(7):
            case 0 if data:
                data[place] = r.randrange(256)
            case 1:
                del data[place : place + r.randint(1, 60)]
            case 2:
                data[place:place] = data[place : place + r.randint(1, 40)]
            case 3:
                del data[place:]
            case 4:
                data[place:place] = bytes(r.randrange(256) for _ in range(r.randint(1, 20)))
            case _:
                data[place:place] = r.choice(_SHARDS)
    return bytes(data)


_ODD = (None, True, [], {}, {"a": 1}, [[1], "x"], "", "\x00", "9" * 30, 10**40, -1, 1e300, "٣", "2026-13-45 99:99:99",
        "0001-01-01 00:00:00", "9999-12-31 23:59:59", "\ud800", "x" * 5000, float("nan"))  # fmt: skip


def damaged_json(r: random.Random, row: bytes) -> bytes:
    """Mostly what leaves the document one: values of other kinds, members lost, a row that is no object; else bytes."""
    if r.random() < 0.2:
        return damaged(r, row)
    member = row.startswith(b'"')  # `"name": {…}` of an object, or an element of a list
    name, value = next(iter(json.loads(b"{" + row + b"}").items())) if member else ("", json.loads(row))
    for _ in range(r.randint(1, 3)):
        key = r.choice(list(value) or ["new"])
        match r.randrange(4):
            case 0:
                value.pop(key, None)
            case 1:
                value[f"{key}{r.randrange(9)}"] = r.choice(_ODD)
            case _:
                value[key] = r.choice(_ODD)
    whole = r.choice(_ODD) if r.random() < 0.1 else value
    name = r.choice((name, name, f"{name}\n", "x", "", f"9{name}", f"{name[:2]}[{name}"))
    return (f"{json.dumps(name)}:" if member else "").encode() + json.dumps(whole).encode()


@dataclass(frozen=True, slots=True)
class Format:
    """One command's answers. `row` gives a row's text without its end mark, and the value that it must be read as.

    `refusable`: whether damage may make the parser refuse the whole answer (one document; no row is lost, since nothing
    is believed). `banner`: whether foreign lines may stand between its rows.
    """

    row: Callable[[random.Random, int], tuple[str, Hashable]]
    whole: Callable[[list[bytes]], bytes]
    read: Callable[[bytes], Found]
    pieces: Callable[[str], int]
    refusable: bool = False
    banner: bool = True
    damage: Callable[[random.Random, bytes], bytes] = damaged


def campaign(form: Format, answers: int, seed: int) -> int:
    """Read so many damaged answers; how many rows were damaged. Raises AssertionError with the answer that failed."""
    r, touched = random.Random(seed), 0
    for _ in range(answers):
        numbers = r.sample(range(100_000, 900_000, 1117), r.randint(2, 6))
        rows = [form.row(r, n) for n in numbers]
        hit = {i for i in range(len(rows)) if r.random() < 0.4} or {r.randrange(len(rows))}
        touched += len(hit)
        bodies: list[bytes] = []
        for i, (text, _) in enumerate(rows):
            body = form.damage(r, text.encode()) if i in hit else text.encode()
            if form.banner and r.random() < 0.15:
                body = r.choice(BANNERS) + body
            bodies.append(body)
        _judge(form, form.whole(bodies), [value for i, (_, value) in enumerate(rows) if i not in hit])
    return touched


def torn(form: Format, answers: int, seed: int) -> None:
    """The same with damage anywhere, at end marks too: rows are counted by the marks that are left."""
    r = random.Random(seed)
    for _ in range(answers):
        rows = [form.row(r, n)[0].encode() for n in r.sample(range(100_000, 900_000, 1117), r.randint(1, 5))]
        _judge(form, damaged(r, form.whole(rows)), [])


def _judge(form: Format, answer: bytes, untouched: list[Hashable]) -> None:
    found = form.read(answer)
    if found.refused and (form.refusable or not answer.strip()):  # saying nothing is no answer
        return
    assert not found.refused, answer
    pieces = form.pieces(answer.decode("utf-8", "replace"))
    assert found.rows == pieces, (found, pieces, answer)
    lost = Counter(untouched) - Counter(found.values)
    assert not lost, (lost, found, answer)
