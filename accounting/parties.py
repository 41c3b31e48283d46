"""Parties: who takes part in the money, and by which keys they are known."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol


class Role(StrEnum):
    """What a party is in the chain."""

    OPERATOR = "operator"  # runs Penstock
    CENTRE = "centre"  # sells its machine's time
    PAYER = "payer"  # pays for projects: an institute, a grant
    PROJECT = "project"  # uses; its id is the project's id


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A public key that speaks for a party in [valid_from, valid_to)."""

    key_id: str
    algorithm: str  # as in JWS: `Ed25519`
    public: bytes
    valid_from: datetime
    valid_to: datetime | None = None

    def valid_at(self, at: datetime) -> bool:
        return self.valid_from <= at and (self.valid_to is None or at < self.valid_to)


@dataclass(frozen=True, slots=True)
class Party:
    """A legal entity (or a project), with the `did` it may be known by outside."""

    id: str
    role: Role
    legal_name: str
    tax_id: str = ""
    country: str = ""  # ISO 3166-1 alpha-2
    did: str = ""
    site_ids: tuple[str, ...] = ()  # of a centre


@dataclass(frozen=True, slots=True)
class Signature:
    """`signature` of a party over the canonical bytes of a document, by its key `key_id`."""

    party_id: str
    key_id: str
    signature: bytes
    signed_at: datetime


class Verify(Protocol):
    """Whether `signature` over `payload` was made by the private half of `key`."""

    def __call__(self, key: SigningKey, payload: bytes, signature: bytes) -> bool: ...
