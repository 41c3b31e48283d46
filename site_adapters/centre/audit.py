"""Every call in a local log that only grows: JSON lines, each bearing the hash of the one before it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

GENESIS = "0" * 64
_TAIL_BYTES = 1 << 17


@dataclass(frozen=True, slots=True)
class Broken:
    """Where a log was changed, cut or reordered."""

    line: int
    why: str


class AuditLog:
    """Appends under a lock of the file, so that the service and the commands of staff share one chain."""

    def __init__(self, file: Path) -> None:
        self._file = file
        file.parent.mkdir(parents=True, exist_ok=True)

    def append(self, kind: str, *, sync: bool = False, **facts: Any) -> None:
        """Add one line; `sync`: it is on disk before this returns (before anything is changed at the site)."""
        with os.fdopen(os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640), "r+b") as log:
            fcntl.flock(log, fcntl.LOCK_EX)
            number, before = self._last(log)
            entry = {"n": number + 1, "at": datetime.now(UTC).isoformat(timespec="milliseconds"), "kind": kind, **facts}
            entry["prev"] = before
            entry["hash"] = _hash(entry)
            log.seek(0, os.SEEK_END)
            log.write(_line(entry))
            log.flush()
            if sync:
                os.fsync(log.fileno())

    def entries(self) -> Iterator[dict[str, Any]]:
        if self._file.exists():
            with self._file.open("rb") as log:
                for line in log:
                    yield json.loads(line)

    def verify(self) -> tuple[int, str, Broken | None]:
        """(lines, hash of the last, where the chain is broken)."""
        before, number = GENESIS, 0
        if self._file.exists():
            with self._file.open("rb") as log:
                for number, line in enumerate(log, 1):
                    broken = _wrong(line, number, before)
                    if broken:
                        return number, before, Broken(number, broken)
                    before = json.loads(line)["hash"]
        return number, before, None

    @staticmethod
    def _last(log: Any) -> tuple[int, str]:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(0, size - _TAIL_BYTES))
        tail = log.read()
        if size and not tail.endswith(
            b"\n"
        ):  # a line that was cut by a crash: it stays, and the chain goes on after it
            log.write(b"\n")
            tail += b"\n"
        for line in reversed(tail.splitlines()):
            try:
                entry = json.loads(line)
                return int(entry["n"]), str(entry["hash"])
            except (ValueError, KeyError, TypeError):
                continue
        return 0, GENESIS


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, separators=(",", ":"), sort_keys=True).encode() + b"\n"


def _hash(entry: dict[str, Any]) -> str:
    content = {k: v for k, v in entry.items() if k != "hash"}
    return hashlib.sha256(json.dumps(content, separators=(",", ":"), sort_keys=True).encode()).hexdigest()


def _wrong(line: bytes, number: int, before: str) -> str:
    try:
        entry = json.loads(line)
    except ValueError:
        return "it is no JSON"
    if entry.get("hash") != _hash(entry):
        return "its content does not fit its hash"
    if entry.get("prev") != before:
        return "a line before it is missing or was changed"
    return "" if entry.get("n") == number else "its number is wrong"


# ---------------------------------------------------------------- export


def as_jsonl(entry: dict[str, Any]) -> str:
    return json.dumps(entry, sort_keys=True)


def as_cef(entry: dict[str, Any]) -> str:
    """ArcSight Common Event Format 0, which most SIEMs read."""
    outcome = str(entry.get("outcome", ""))
    severity = 3 if outcome in ("", "ok") else 6
    name = _cef_head(str(entry.get("verb", entry["kind"])))
    parts = {
        "externalId": entry["n"], "rt": entry["at"], "act": entry.get("verb", entry["kind"]), "outcome": outcome,
        "suser": " ".join(entry.get("people", ())), "duser": " ".join(entry.get("accounts", ())),
        "shost": entry.get("gateway", ""), "cs1Label": "hash", "cs1": entry["hash"], "msg": entry.get("detail", ""),
    }  # fmt: skip
    extension = " ".join(f"{k}={_cef_value(str(v))}" for k, v in parts.items() if v != "")
    return f"CEF:0|Penstock|penstock-site|1|{_cef_head(entry['kind'])}|{name}|{severity}|{extension}"


def as_syslog(entry: dict[str, Any]) -> str:
    """RFC 5424, facility 13 (log audit), the entry as message."""
    level = 6 if entry.get("outcome", "ok") == "ok" else 4
    return f"<{13 * 8 + level}>1 {entry['at']} - penstock-site - {entry['kind']} - {as_jsonl(entry)}"


FORMATS = {"jsonl": as_jsonl, "cef": as_cef, "syslog": as_syslog}


def _cef_head(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def _cef_value(text: str) -> str:
    return text.replace("\\", "\\\\").replace("=", "\\=").replace("\n", "\\n")
