"""Frame commands for a remote shell: what lies outside the marks (banners, profile noise) is not the answer.

Every command of a program is wrapped in marks with a fresh nonce, on stdout and on stderr. A missing end mark means
that the end of the command was not seen, whatever the connection says.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from site_adapters.command import Command, Output
from site_adapters.quoting import quote, quote_all


@dataclass(frozen=True, slots=True)
class Program:
    """A shell program for one round trip, and the nonce of its marks."""

    text: bytes
    nonce: str
    count: int


def program(commands: Sequence[Command[Any]], *, environment: Mapping[str, str]) -> Program:
    """One program that runs all commands in order, each with its own stdin, and marks every begin and end.

    It is handed to `loader`, which runs it only if its last line arrived: a program that was cut does nothing.
    """
    nonce = secrets.token_hex(12)
    lines = [f"export {name}={quote(value)}\n".encode() for name, value in environment.items()]
    for number, command in enumerate(commands):
        words = dict(command.env)
        # `env` and not `VAR=x cmd`: a shell that is not POSIX would read the latter differently.
        prefix = ("env", *(f"{name}={value}" for name, value in words.items())) if words else ()
        lines.append(_mark("BEGIN", nonce, str(number)).encode())
        lines.append(quote_all((*prefix, *command.argv)).encode("utf-8", "surrogateescape"))
        lines.append(_stdin(command.stdin, nonce))
        lines.append(b"s=$?\n" + _mark("END", nonce, f'{number} \'"$s"').encode())
    lines.append(_whole(nonce).encode())
    return Program(b"".join(lines), nonce, len(commands))


def loader(sent: Program) -> str:
    """What a login shell of any kind is asked to run, with the program on its stdin."""
    check = f'p=$(cat); case $p in *"{_whole(sent.nonce)}") eval "$p";; esac'
    return quote_all(("env", "LC_ALL=C", "/bin/sh", "-c", check))


def _whole(nonce: str) -> str:
    return f"# WHOLE-{nonce}"


def _stdin(data: bytes, nonce: str) -> bytes:
    """stdin by here-document, so that no program can swallow the rest; a missing last newline is added."""
    if not data:
        return b" </dev/null\n"
    if b"\0" in data:
        raise ValueError("a NUL byte cannot be handed to a shell")
    end = b"" if data.endswith(b"\n") else b"\n"
    return b" <<'EOF-" + nonce.encode() + b"'\n" + data + end + b"EOF-" + nonce.encode() + b"\n"


def _mark(kind: str, nonce: str, rest: str) -> str:
    """A line of its own on both streams, whatever the program printed last."""
    text = f"printf '\\n%s\\n' '{kind}-{nonce} {rest}" + ("" if rest.endswith('"') else "'")
    return f"{text}; {text} >&2\n"


def answers(sent: Program, stdout: bytes, stderr: bytes) -> list[Output | None]:
    """What each command printed, None where its end was not seen on both streams."""
    out, err = _sections(sent, stdout), _sections(sent, stderr)
    found: list[Output | None] = []
    for number in range(sent.count):
        first, second = out.get(number), err.get(number)
        if first is None or second is None or first[1] != second[1]:
            found.append(None)
        else:
            found.append(Output(first[0], second[0], first[1]))
    return found


def _sections(sent: Program, stream: bytes) -> dict[int, tuple[bytes, int]]:
    """(bytes, exit code) of each command whose begin and end marks are both there and whole."""
    nonce = sent.nonce.encode()
    found: dict[int, tuple[bytes, int]] = {}
    position = 0
    for number in range(sent.count):
        begin_mark = b"\nBEGIN-" + nonce + b" " + str(number).encode() + b"\n"
        begin = stream.find(begin_mark, position)
        if begin < 0:
            break
        end_mark = b"\nEND-" + nonce + b" " + str(number).encode() + b" "
        begin += len(begin_mark)
        end = stream.find(end_mark, begin - 1)
        if end < 0:
            break
        code, newline, _ = stream[end + len(end_mark) : end + len(end_mark) + 8].partition(b"\n")
        if not newline or not code.isdigit():
            break
        found[number] = (stream[begin:end] if end >= begin else b"", int(code))
        position = end
    return found
