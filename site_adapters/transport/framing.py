"""Frame commands for a remote shell: what lies outside the marks (banners, profile noise) is not the answer.

Every command of a program is wrapped in marks with a fresh nonce, on stdout and on stderr. A missing end mark means
that the end of the command was not seen, whatever the connection says.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from site_adapters.command import Command, Output
from site_adapters.errors import CommandFailed, OutcomeUnknown, Refused, SiteError, SiteUnreachable
from site_adapters.quoting import quote, quote_all

T = TypeVar("T")

STDERR_BYTES_MAX = 1024 * 1024
NOT_WHOLE = 93  # exit code of a loader that got less than the whole program, and ran none of it
_NOISE_BYTES_MAX = 600


@dataclass(frozen=True, slots=True)
class Program:
    """A shell program for one round trip: `loader` is what the login shell is asked to run, `text` goes to its stdin.

    The loader runs the text only if its first and its last line are there: a program that was cut, or part of which a
    login profile has swallowed, does nothing.
    """

    loader: str
    text: bytes
    nonce: str
    stdout_limits: tuple[int, ...]

    @property
    def count(self) -> int:
        return len(self.stdout_limits)


def program(commands: Sequence[Command[Any]], *, environment: Mapping[str, str]) -> Program:
    """One program that runs all commands in order, each with its own stdin, and marks every begin and end.

    Raises `ValueError` for words that no shell can be given.
    """
    nonce, whole = secrets.token_hex(12), secrets.token_hex(12)  # two: the loader's is seen by everybody in `ps`
    lines = [_first(whole)]
    lines += [f"export {name}={quote(value)}\n".encode() for name, value in environment.items()]
    for number, command in enumerate(commands):
        lines += _framed(command, number, nonce)
    lines.append(_last(whole))
    return Program(_loader(whole), b"".join(lines), nonce, tuple(c.stdout_bytes_max for c in commands))


def _framed(command: Command[Any], number: int, nonce: str) -> Iterator[bytes]:
    # `env` and not `VAR=x cmd`: its words are quoted like any others.
    prefix = ("env", *(f"{name}={value}" for name, value in command.env)) if command.env else ()
    call = quote_all((*prefix, *command.argv) if command.argv else ()).encode("utf-8", "surrogateescape")
    # A shell whose reader has gone starts nothing more.
    yield f"{_mark('BEGIN', nonce, number)}' || exit 74; {_mark('BEGIN', nonce, number)}' >&2\n".encode()
    yield _with_stdin(call, command.stdin, nonce)
    end = _mark("END", nonce, number)
    yield f's=$?; {end} \'"$s"; {end} \'"$s" >&2\n'.encode()


def _mark(kind: str, nonce: str, number: int) -> str:
    """A line of its own, whatever was printed last; the closing quote is the caller's."""
    return f"printf '\\n%s\\n' '{kind}-{nonce} {number}"


def _with_stdin(call: bytes, data: bytes, nonce: str) -> bytes:
    """Every command has an stdin of its own, byte for byte, so that none can swallow the rest of the program."""
    if not data:
        return call + b" </dev/null\n"
    letter = _begins_no_line(data)
    if data.endswith(b"\n") and b"\0" not in data and letter:
        end = letter + b"OF-" + nonce.encode()
        return call + b" <<'" + end + b"'\n" + data + end + b"\n"
    # A here-document can neither end without a newline nor hold a NUL.
    text = data.replace(b"\\", b"\\\\").replace(b"%", b"%%").replace(b"\0", b"\\000").replace(b"'", b"'\"'\"'")
    if text.startswith(b"-"):
        text = b"\\055" + text[1:]  # no option of printf
    return b"printf '" + text + b"' 2>/dev/null | " + call + b"\n"


def _begins_no_line(data: bytes) -> bytes:
    """A letter for the end word. dash 0.5.12 loses the second byte of a line that begins as the end word does where
    that byte is not ASCII: `E一` came out without its first byte. Empty where every letter begins some line.
    """
    lines = b"\n" + data
    letters = (bytes((code,)) for code in b"EXYZABCDFGHIJKLMNOPQRSTUVW")
    return next((letter for letter in letters if b"\n" + letter not in lines), b"")


def _first(whole: str) -> bytes:
    return f"# BEGIN-{whole}\n".encode()


def _last(whole: str) -> bytes:
    return f"# END-{whole}\n".encode()


def _loader(whole: str) -> str:
    """Words that mean the same to sh, bash, zsh, csh and fish: no newline, no `!`, no single quote inside."""
    whole_only = f'case $p in "# BEGIN-{whole}"*"# END-{whole}") eval "$p";; *) exit {NOT_WHOLE};; esac'
    run = f"LC_ALL=C; export LC_ALL; p=$(cat); {whole_only}"
    return quote_all(("/bin/sh", "-c", run))


class Answers:
    """Reads the answer of a program as it comes, in pieces of any size, and holds no more than what is allowed."""

    def __init__(self, sent: Program) -> None:
        self._out = _Stream(sent.nonce, sent.stdout_limits, keep_head=False)
        self._err = _Stream(sent.nonce, (STDERR_BYTES_MAX,) * sent.count, keep_head=True)

    def feed(self, *, stdout: bytes = b"", stderr: bytes = b"") -> None:
        self._out.feed(stdout)
        self._err.feed(stderr)

    @property
    def complete(self) -> bool:
        """The end of the last command was seen."""
        return self._out.complete and self._err.complete

    @property
    def overflow(self) -> int | None:
        """The command that printed more than it may: nothing after it can be read."""
        return self._out.overflow

    @property
    def begun(self) -> bool:
        """Some command was started."""
        return self._out.begun or self._err.begun

    @property
    def noise(self) -> str:
        """The last words outside of the marks: what a site says that runs no commands."""
        text = self._out.noise + b" " + self._err.noise
        return " ".join(text.decode("utf-8", "replace").split())

    def outputs(self) -> list[Output | None]:
        """What each command printed, None where its end was not seen on both streams."""
        return [
            Output(out[0], err[0], out[1]) if out is not None and err is not None and out[1] == err[1] else None
            for out, err in zip(self._out.sections(), self._err.sections(), strict=True)
        ]


class _Stream:
    """One stream of a program: cut into sections at the marks."""

    def __init__(self, nonce: str, limits: Sequence[int], *, keep_head: bool) -> None:
        self._nonce, self._limits, self._keep_head = nonce.encode(), limits, keep_head
        self._found: list[tuple[bytes, int]] = []
        self._buffer = bytearray()
        self._searched = 0  # before this no mark begins
        self._inside = False
        self.overflow: int | None = None
        self.begun = False
        self._noise = b""

    @property
    def noise(self) -> bytes:
        return (self._noise + (b"" if self.begun else self._buffer))[-_NOISE_BYTES_MAX:]

    @property
    def complete(self) -> bool:
        return len(self._found) == len(self._limits)

    def sections(self) -> list[tuple[bytes, int] | None]:
        return [*self._found, *[None] * (len(self._limits) - len(self._found))]

    def feed(self, data: bytes) -> None:
        if self.overflow is not None or self.complete:
            return
        self._buffer += data
        while not self.complete and (self._end() if self._inside else self._begin()):
            pass

    def _begin(self) -> bool:
        mark = b"\nBEGIN-%s %d\n" % (self._nonce, len(self._found))
        at = self._buffer.find(mark)
        noise_end = at if at >= 0 else max(0, len(self._buffer) - len(mark) + 1)
        if not self.begun:
            self._noise = (self._noise + self._buffer[:noise_end])[-_NOISE_BYTES_MAX:]
        del self._buffer[: at + len(mark) if at >= 0 else noise_end]
        self._inside, self._searched = at >= 0, 0
        self.begun = self.begun or self._inside
        return self._inside

    def _end(self) -> bool:
        number = len(self._found)
        mark = b"\nEND-%s %d " % (self._nonce, number)
        at = self._buffer.find(mark, self._searched)
        newline = self._buffer.find(b"\n", at + len(mark)) if at >= 0 else -1
        self._searched = at if at >= 0 else max(0, len(self._buffer) - len(mark) + 1)
        if self._searched > self._limits[number] and not self._shorten(number):
            return False
        if newline < 0:
            return False
        at = self._searched
        code = bytes(self._buffer[at + len(mark) : self._buffer.find(b"\n", at + len(mark))])
        if not code.isdigit():
            # Only a stream that was tampered with has this; no later mark of it can be trusted.
            self.overflow = number
            return False
        self._found.append((bytes(self._buffer[:at]), int(code)))
        del self._buffer[: self._buffer.find(b"\n", at + len(mark))]  # the newline may begin the next mark
        self._inside, self._searched = False, 0
        return True

    def _shorten(self, number: int) -> bool:
        """Too long: drop what is over the limit where the head is enough, else give up."""
        if not self._keep_head:
            self.overflow = number
            return False
        del self._buffer[self._limits[number] : self._searched]
        self._searched = self._limits[number]
        return True


def result_of(command: Command[T], output: Output | None, overflowed: bool, broken: str) -> T | SiteError:
    """What the caller gets for one command of a program that ended or broke off."""
    name = command.argv[0]
    if output is None:
        what = f"{name}: {broken or 'its end was not seen'}"
        if command.write:
            return OutcomeUnknown(what)
        return CommandFailed(what) if overflowed else SiteUnreachable(what)
    try:
        return command.parse(output)
    except SiteError as exc:
        return exc
    except (ValueError, LookupError, TypeError) as exc:
        # Its parser stumbled: the others' results must not be lost with it.
        what = f"{name} gave an answer that we do not understand ({exc}): {output.error_text[:200]}"
        return OutcomeUnknown(what) if command.write else CommandFailed(what, native_text=output.error_text)


def refusal_of(command: Command[Any]) -> Refused | None:
    """Why a command cannot be put into a program, if so."""
    try:
        for _ in _framed(command, 0, ""):
            pass
    except ValueError as exc:
        return Refused(f"this command cannot be given to a shell: {exc}", code="invalid")
    return None
