"""Read and write files through commands: one round trip each, binary safe."""

from __future__ import annotations

import secrets

from site_adapters.command import Command, Output
from site_adapters.errors import CommandFailed, NotFound, Refused
from site_adapters.transport import FileChunk

_NOT_FOUND, _NOT_ALLOWED = 44, 45
_HOME = """case $1 in "~/"*) f=$HOME/${1#"~/"};; *) f=$1;; esac
"""
# The words of the shell tell a folder that we may not enter from a file that is not there.
_READ = (
    _HOME
    + """if ! [ -f "$f" ]; then
  [ -e "$f" ] && exit 45
  case $( { : <"$f"; } 2>&1) in *"ermission denied"*) exit 45;; esac
  exit 44
fi
[ -r "$f" ] || exit 45
wc -c <"$f" && tail -c +"$2" -- "$f" 2>/dev/null | head -c "$3" """
)
_WRITE = (
    _HOME
    + """t=$f.$3
d=${f%/*}
[ -d "${d:-/}" ] || exit 44
[ -w "${d:-/}" ] && ! [ -d "$f" ] || exit 45
umask 077
trap 'rm -f -- "$t"' EXIT
cat >"$t" && [ "$(wc -c <"$t")" -eq "$4" ] && chmod -- "$2" "$t" && mv -f -- "$t" "$f" """
)


def read_chunk(path: str, *, offset: int, limit: int) -> Command[FileChunk]:
    """Up to `limit` bytes from `offset`; raises `NotFound`, or `Refused` for what is no readable file."""

    def parse(output: Output) -> FileChunk:
        _raise_for(output, path)
        size, newline, data = output.stdout.partition(b"\n")
        if output.exit_code != 0 or not newline or not size.strip().isdigit():
            raise CommandFailed(f"{path} could not be read", native_text=output.error_text)
        return FileChunk(data, min(offset, int(size)), int(size))

    argv = ("/bin/sh", "-c", _READ, "read_chunk", path, str(offset + 1), str(limit))
    return Command(argv, parse, deadline_s=20.0, stdout_bytes_max=limit + 64)


def write_whole(path: str, content: bytes, *, mode: int = 0o600) -> Command[None]:
    """Put a file in place at once: whoever looks sees the old one or the new one. Its folder must exist."""

    def parse(output: Output) -> None:
        _raise_for(output, path)
        if output.exit_code != 0:
            raise CommandFailed(f"{path} could not be written", native_text=output.error_text)

    words = (path if "/" in path else f"./{path}", f"{mode:o}", f"{secrets.token_hex(6)}.part", str(len(content)))
    return Command(("/bin/sh", "-c", _WRITE, "write_whole", *words), parse, content, write=True)


def _raise_for(output: Output, path: str) -> None:
    if output.exit_code == _NOT_FOUND:
        raise NotFound(f"there is no file {path}")
    if output.exit_code == _NOT_ALLOWED:
        raise Refused(f"{path} is no file that this account may use so", code="permission")
