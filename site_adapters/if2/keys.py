"""The Ed25519 keys of both sides: one's own with its predecessor, and those of the other side that one trusts."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidKey
from joserfc.jwk import OKPKey

from site_adapters.errors import CredentialRefused
from site_adapters.if2.codec import Malformed, decode, encode
from site_adapters.if2.profile import PublicKey

OVERLAP = timedelta(days=1)
_TEXT = re.compile(r"ed25519:([A-Za-z0-9_-]{43})\Z")


def public_text(key: PublicKey) -> str:
    """A public key as people copy it: `ed25519:<43 characters>`."""
    return f"ed25519:{key.x}"


def read_public(text: str) -> PublicKey:
    """A public key as people give it; raises `ValueError`."""
    match = _TEXT.match(text.strip())
    if match is None:
        raise ValueError("a key is written ed25519: and 43 characters")
    return PublicKey(_kid(match[1]), match[1])


def _kid(x: str) -> str:
    try:
        return str(OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": x}).thumbprint())[:16]
    except (ValueError, InvalidKey) as exc:
        raise ValueError(f"this is no Ed25519 key: {exc}") from exc


def verifier(key: PublicKey) -> OKPKey:
    return OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": key.x})


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One's own key; never prints."""

    public: PublicKey
    _private: OKPKey

    def __repr__(self) -> str:
        return f"SigningKey({self.public.kid})"

    @property
    def private(self) -> OKPKey:
        return self._private


def load_or_create(file: Path) -> SigningKey:
    """The key of a file (JWK, 0600), made at first use."""
    if not file.exists():
        _store(file, OKPKey.generate_key("Ed25519").as_dict(private=True))
    return load(file)


def load(file: Path) -> SigningKey:
    """Raises `CredentialRefused` where there is none."""
    try:
        content = json.loads(file.read_text("utf-8"))
        key = OKPKey.import_key(content)
        return SigningKey(PublicKey(_kid(content["x"]), content["x"]), key)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise CredentialRefused(f"the key file {file.name} cannot be read") from exc


def rotate(file: Path) -> SigningKey:
    """A new key beside the old one (`.next`): it signs once the other side has taken it (`promote`)."""
    following = file.with_suffix(".next")
    if not following.exists():
        _store(following, OKPKey.generate_key("Ed25519").as_dict(private=True))
    return load(following)


def promote(file: Path) -> SigningKey:
    """From now on the new key signs."""
    file.with_suffix(".next").replace(file)
    return load(file)


def _store(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(file.name + ".new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(json.dumps(content))
        out.flush()
        os.fsync(out.fileno())
    draft.replace(file)


class TrustStore:
    """The other side's keys in a file. Read anew when the file changes: another process may revoke them."""

    def __init__(self, file: Path, first: Sequence[PublicKey] = ()) -> None:
        self._file, self._lock = file, threading.Lock()
        self._seen: tuple[int, tuple[PublicKey, ...]] = (-1, ())
        if first and not file.exists():
            self._write(tuple(first))

    def all(self) -> tuple[PublicKey, ...]:
        """All that are in the file, run out or not."""
        try:
            changed = self._file.stat().st_mtime_ns
        except FileNotFoundError:
            return ()
        with self._lock:
            if changed != self._seen[0]:
                try:
                    read = decode(tuple[PublicKey, ...], json.loads(self._file.read_text("utf-8")))
                except (Malformed, ValueError) as exc:
                    raise CredentialRefused(f"{self._file.name} cannot be read: nobody is trusted") from exc
                self._seen = (changed, read)
            return self._seen[1]

    def get(self, kid: str, now: datetime) -> PublicKey | None:
        """The key, while it is good."""
        for key in self.all():
            if key.kid == kid and (key.until is None or now < key.until):
                return key
        return None

    def take(self, key: PublicKey, now: datetime) -> tuple[PublicKey, ...]:
        """Trust a new key; the others are good for a day more at most."""
        with self._lock_file():
            kept = [k for k in self.all() if k.kid != key.kid and (k.until is None or now < k.until)]
            ending = [replace(k, until=min(filter(None, (k.until, now + OVERLAP)))) for k in kept]
            return self._write((replace(key, until=None), *ending))

    def add(self, key: PublicKey) -> None:
        """Trust one more key, by a person's word."""
        with self._lock_file():
            self._write((*(k for k in self.all() if k.kid != key.kid), key))

    def learn(self, keys: Sequence[PublicKey]) -> None:
        """The keys as their owner, already trusted, has just told them."""
        if tuple(keys) != self.all():
            self._write(tuple(keys))

    def revoke_all(self) -> int:
        """Trust nobody; how many keys that were."""
        with self._lock_file():
            count = len(self.all())
            self._write(())
        return count

    def _lock_file(self) -> _FileLock:
        return _FileLock(self._file.with_suffix(".lock"))

    def _write(self, keys: tuple[PublicKey, ...]) -> tuple[PublicKey, ...]:
        _store(self._file, encode(tuple[PublicKey, ...], keys))
        return keys


class _FileLock:
    def __init__(self, file: Path) -> None:
        self._file = file

    def __enter__(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._open = self._file.open("w")
        fcntl.flock(self._open, fcntl.LOCK_EX)

    def __exit__(self, *_exc: object) -> None:
        self._open.close()


def digest(body: bytes) -> str:
    """SHA-256, base64url."""
    return base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()
