"""Private keys sealed under a master key that is not in the database (AES-256-GCM)."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES = 12


class MasterKey:
    """Seals and opens; its bytes never print."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != 32:
            raise ValueError("a master key has 32 bytes")
        self._cipher = AESGCM(secret)

    def __repr__(self) -> str:
        return "MasterKey(…)"

    def seal(self, text: str, *, owner: str) -> bytes:
        """Encrypt for one owner: a sealed key that is moved to another row does not open."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, text.encode(), owner.encode())

    def open(self, sealed: bytes, *, owner: str) -> str:
        """Decrypt; ValueError where the master key or the owner is another one."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], owner.encode()).decode()
        except InvalidTag as exc:
            raise ValueError(f"the key of {owner} does not open with this master key") from exc


def load_or_create(file: Path) -> MasterKey:
    """The master key of a file, made at first use (0600)."""
    if not file.exists():
        keep_once(file, os.urandom(32))
    return MasterKey(file.read_bytes())


def keep_once(file: Path, secret: bytes) -> None:
    """Make a file (0600) that holds a secret, unless it is there by now: of processes that start together the first one
    makes it, and none replaces what another has begun to use."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(secret)
            out.flush()
            os.fsync(out.fileno())
        with suppress(FileExistsError):
            os.link(draft, file)
    finally:
        Path(draft).unlink()


def new_key_pair(comment: str) -> tuple[str, str]:
    """(private key as OpenSSH text, public key line) of a fresh Ed25519 pair."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    return private.decode(), public_line(key, comment)


def public_line(key: Ed25519PrivateKey, comment: str) -> str:
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return f"{public.decode()} {comment}"
