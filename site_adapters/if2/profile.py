"""What a docked centre tells about itself and its docking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from site_adapters.policy import Policy

# Both sides name the versions that they speak; the highest that both know is used. A version is a whole vocabulary.
VERSIONS = (1,)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 key of one side: `x` as in RFC 8037. `until`: not good after this (a key that is being replaced)."""

    kid: str
    x: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Profile:
    """A centre as it describes itself. `rendering` is its site file without credentials, enough to render a script."""

    site: str
    title: str
    scheduler: str
    versions: tuple[int, ...]
    software: str
    policy: Policy
    capabilities: frozenset[str]
    rendering: str
    keys: tuple[PublicKey, ...]
    told_at: datetime


@dataclass(frozen=True, slots=True)
class PersonLoad:
    """One person's part of the load."""

    person: str
    jobs: int
    cores: int


@dataclass(frozen=True, slots=True)
class LoadReport:
    """The load that we cause at a centre now, beside what its policy allows; the share used in core-seconds."""

    at: datetime
    jobs: int
    places: int
    cores: int
    nodes: int
    submits_last_minute: int
    calls_last_minute: int
    calls_by_verb_last_hour: Mapping[str, int]
    people: tuple[PersonLoad, ...]
    share_used_core_seconds: int
    share_core_seconds: int | None
    refused_last_hour: Mapping[str, int]
    stopped: str | None
    policy: Policy


class Docking(Protocol):
    """The docking itself."""

    def describe(self) -> Profile:
        """Who the centre is, what it allows, which keys it signs with."""
        ...

    def load(self) -> LoadReport:
        """The load that we cause there."""
        ...

    def trust(self, key: PublicKey) -> tuple[PublicKey, ...]:
        """Take a new key of the gateway that signs this call; its older keys are good for a day more."""
        ...
