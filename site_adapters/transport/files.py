"""Read a piece of a file through a command: one round trip, binary safe, with the file's size."""

from __future__ import annotations

from site_adapters.command import Command, Output
from site_adapters.errors import CommandFailed, NotFound, Refused
from site_adapters.transport import FileChunk

_NOT_FOUND, _NOT_READABLE = 44, 45
_SCRIPT = """case $1 in "~/"*) f=$HOME/${1#"~/"};; *) f=$1;; esac
[ -f "$f" ] || { [ -e "$f" ] && exit 45; exit 44; }
[ -r "$f" ] || exit 45
wc -c <"$f" && tail -c +"$(($2 + 1))" -- "$f" 2>/dev/null | head -c "$3" """


def read_chunk(path: str, *, offset: int, limit: int) -> Command[FileChunk]:
    """Up to `limit` bytes from `offset`; raises `NotFound`, or `Refused` for what is no readable file."""

    def parse(output: Output) -> FileChunk:
        if output.exit_code == _NOT_FOUND:
            raise NotFound(f"there is no file {path}")
        if output.exit_code == _NOT_READABLE:
            raise Refused(f"{path} is no file that this account can read", code="permission")
        size, newline, data = output.stdout.partition(b"\n")
        if output.exit_code != 0 or not newline or not size.strip().isdigit():
            raise CommandFailed(f"{path} could not be read", native_text=output.error_text)
        return FileChunk(data, min(offset, int(size)), int(size))

    argv = ("/bin/sh", "-c", _SCRIPT, "read_chunk", path, str(offset), str(limit))
    return Command(argv, parse, deadline_s=20.0, stdout_bytes_max=limit + 64)
