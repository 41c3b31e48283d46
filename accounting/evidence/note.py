"""Checkpoints as C2SP signed notes: who says that the log has this size and root (signed-note, tlog-checkpoint,
tlog-cosignature at https://c2sp.org)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

LOG = 0x01  # Ed25519 over the note
COSIGNATURE = 0x04  # Ed25519 over a time and the note

_SIGNATURE = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/=]+)\Z")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}\Z")
_MOST_SIGNATURES = 100


class BadNote(ValueError):
    """No note, or one whose signature does not fit."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key with the name under which it signs. Text form (vkey): `name+hex(id)+base64(type ‖ key)`."""

    name: str
    kind: int
    public: bytes

    @property
    def key_id(self) -> bytes:
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.public).digest()[:4]

    @property
    def vkey(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(bytes([self.kind]) + self.public).decode()}"

    @classmethod
    def parse(cls, vkey: str) -> Verifier:
        name, _, rest = vkey.partition("+")
        key_id, _, body = rest.partition("+")
        try:
            raw = base64.b64decode(body, validate=True)
        except binascii.Error as exc:
            raise BadNote(f"{vkey!r} is no verifier key") from exc
        if not name or len(raw) != 33 or raw[0] not in (LOG, COSIGNATURE):
            raise BadNote(f"{vkey!r} is no Ed25519 verifier key")
        found = cls(name, raw[0], raw[1:])
        if found.key_id.hex() != key_id:
            raise BadNote(f"{vkey!r}: the key id does not fit")
        return found


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a note says: this log has `size` leaves under `root`. `signatures`: (name, key id, signature)."""

    origin: str
    size: int
    root: bytes
    body: bytes
    signatures: tuple[tuple[str, bytes, bytes], ...] = ()


def body_of(origin: str, size: int, root: bytes) -> bytes:
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n".encode()


def sign(origin: str, size: int, root: bytes, key: Ed25519PrivateKey) -> str:
    """A checkpoint, signed by the log under its origin as name."""
    body = body_of(origin, size, root)
    return body.decode() + "\n" + _line(Verifier(origin, LOG, public_bytes(key)), key.sign(body))


def sign_text(text: str, *, name: str, key: Ed25519PrivateKey) -> str:
    """Any other text as a signed note. Its first line must never be an origin, so that nobody takes it for a
    checkpoint; `text` ends with a newline."""
    return f"{text}\n{_line(Verifier(name, LOG, public_bytes(key)), key.sign(text.encode()))}"


def cosign(body: bytes, *, name: str, key: Ed25519PrivateKey, timestamp: int) -> str:
    """A witness's line: at this second (POSIX) this was the largest consistent tree it had seen."""
    signature = key.sign(_timed(body, timestamp))
    return _line(Verifier(name, COSIGNATURE, public_bytes(key)), timestamp.to_bytes(8, "big") + signature)


def parse(text: str) -> Checkpoint:
    """Read a note; no signature is checked yet."""
    body, blank, lines = text.rpartition("\n\n")
    head = (body + "\n").split("\n")
    if not blank or not text.endswith("\n") or len(head) < 4 or any(ord(c) < 32 and c != "\n" for c in text):
        raise BadNote("no signed note of at least three lines")
    if not head[0] or not _SIZE.match(head[1]) or "" in head[:-1]:
        raise BadNote("no origin, size and root")
    try:
        root = base64.b64decode(head[2], validate=True)
    except binascii.Error as exc:
        raise BadNote("the root is no base64") from exc
    if len(root) != 32:
        raise BadNote("the root is no SHA-256")
    signatures = tuple(read_line(line) for line in lines.rstrip("\n").split("\n"))
    if len(signatures) > _MOST_SIGNATURES:
        raise BadNote("too many signatures")
    return Checkpoint(head[0], int(head[1]), root, (body + "\n").encode(), signatures)


def read_line(line: str) -> tuple[str, bytes, bytes]:
    """(name, key id, signature) of a signature line."""
    match = _SIGNATURE.match(line)
    if match is None:
        raise BadNote(f"{line!r} is no signature line")
    try:
        raw = base64.b64decode(match[2], validate=True)
    except binascii.Error as exc:
        raise BadNote("a signature is no base64") from exc
    if len(raw) < 5:
        raise BadNote("a signature is too short")
    return match[1], raw[:4], raw[4:]


def signed_by(checkpoint: Checkpoint, verifier: Verifier) -> bool:
    """Whether this key signed; raises `BadNote` where it claims to and did not (a forged note is no note)."""
    claims = [s for name, key_id, s in checkpoint.signatures if (name, key_id) == (verifier.name, verifier.key_id)]
    for signature in claims:
        check_signature(checkpoint.body, verifier, signature)
    return bool(claims)


def check_signature(body: bytes, verifier: Verifier, signature: bytes) -> int | None:
    """Raise `BadNote` where the signature is not of this key; the POSIX time of a cosignature."""
    timestamp = None
    message = body
    if verifier.kind == COSIGNATURE:
        timestamp, signature = int.from_bytes(signature[:8], "big"), signature[8:]
        message = _timed(body, timestamp)
    try:
        Ed25519PublicKey.from_public_bytes(verifier.public).verify(signature, message)
    except InvalidSignature as exc:
        raise BadNote(f"{verifier.name} did not sign this") from exc
    return timestamp


def with_cosignatures(note: str, lines: Sequence[str]) -> str:
    """The note with more signature lines."""
    return note + "".join(line if line.endswith("\n") else line + "\n" for line in lines)


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def _timed(body: bytes, timestamp: int) -> bytes:
    return f"cosignature/v1\ntime {timestamp}\n".encode() + body


def _line(verifier: Verifier, signature: bytes) -> str:
    return f"— {verifier.name} {base64.b64encode(verifier.key_id + signature).decode()}\n"
