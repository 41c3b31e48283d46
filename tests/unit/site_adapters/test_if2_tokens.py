"""Who may speak: a token is good for one message, one site, one minute, and only with a key that is trusted now."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from site_adapters.errors import CredentialRefused
from site_adapters.if2 import keys, tokens
from site_adapters.if2.keys import TrustStore

NOW = 1_800_000_000.0


@pytest.fixture
def store(tmp_path: Path) -> TrustStore:
    return TrustStore(tmp_path / "trusted.json", (keys.load_or_create(tmp_path / "a.key").public,))


def signed(tmp_path: Path, *, name: str = "a.key", body: bytes = b"hello", now: float = NOW) -> str:
    key = keys.load_or_create(tmp_path / name)
    return tokens.sign(key, issuer="gw", audience="site", about="call-0001", body=body, now=now)


def test_a_good_token_says_who_and_what(tmp_path: Path, store: TrustStore) -> None:
    claims = tokens.verify(signed(tmp_path), store, audience="site", body=b"hello", now=NOW)
    assert (claims.issuer, claims.about) == ("gw", "call-0001")


@pytest.mark.parametrize(
    ("audience", "body", "later"),
    [("other", b"hello", 0), ("site", b"hullo", 0), ("site", b"hello", 120), ("site", b"hello", -120)],
)
def test_a_token_is_good_for_nothing_else(
    tmp_path: Path, store: TrustStore, audience: str, body: bytes, later: int
) -> None:
    with pytest.raises(CredentialRefused):
        tokens.verify(signed(tmp_path), store, audience=audience, body=body, now=NOW + later)


def test_another_key_is_not_trusted(tmp_path: Path, store: TrustStore) -> None:
    with pytest.raises(CredentialRefused, match="not trusted"):
        tokens.verify(signed(tmp_path, name="b.key"), store, audience="site", body=b"hello", now=NOW)


@pytest.mark.parametrize("position", range(0, 240, 17))
def test_a_changed_token_is_refused(tmp_path: Path, store: TrustStore, position: int) -> None:
    token = signed(tmp_path)
    changed = token[:position] + ("A" if token[position] != "A" else "B") + token[position + 1 :]
    with pytest.raises(CredentialRefused):
        tokens.verify(changed, store, audience="site", body=b"hello", now=NOW)


@pytest.mark.parametrize("noise", ["", ".", "..", "a.b.c", "é.é.é", "eyJhbGciOiJub25lIn0.e30.", "x" * 5000])
def test_noise_is_refused(store: TrustStore, noise: str) -> None:
    with pytest.raises(CredentialRefused):
        tokens.verify(noise, store, audience="site", body=b"", now=NOW)


def test_rotation_overlaps_for_a_day_and_no_longer(tmp_path: Path, store: TrustStore) -> None:
    file, now = tmp_path / "a.key", datetime.fromtimestamp(NOW, UTC)
    old = keys.load(file).public
    following = keys.rotate(file)
    store.take(following.public, now)
    assert keys.load(file).public == old  # the old one signs until the new one is promoted

    tokens.verify(signed(tmp_path), store, audience="site", body=b"hello", now=NOW)
    keys.promote(file)
    tokens.verify(signed(tmp_path), store, audience="site", body=b"hello", now=NOW)
    assert store.get(old.kid, now + timedelta(hours=25)) is None
    assert store.get(following.public.kid, now + timedelta(days=400)) is not None


def test_revoked_keys_are_refused_at_once_in_every_process(tmp_path: Path, store: TrustStore) -> None:
    other = TrustStore(tmp_path / "trusted.json")
    assert other.all()

    store.revoke_all()

    with pytest.raises(CredentialRefused):
        tokens.verify(signed(tmp_path), other, audience="site", body=b"hello", now=NOW)


def test_keys_are_private_and_do_not_print(tmp_path: Path) -> None:
    key = keys.load_or_create(tmp_path / "k.key")
    assert (tmp_path / "k.key").stat().st_mode & 0o077 == 0
    assert str(key.private.as_dict(private=True)["d"]) not in repr(key)
    with pytest.raises(ValueError, match="43"):
        keys.read_public("ed25519:short")
