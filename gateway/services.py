"""What every tick and every route is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from gateway.db import Database
from gateway.hub import Hub
from gateway.pace import Paces, paced
from gateway.settings import Settings
from site_adapters.interfaces import SiteAdapter


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to serve one site: `fencing` is the number the site row had when it was taken."""

    site_id: str
    fencing: int


class Sites(dict[str, SiteAdapter]):
    """The docked centres by id, each as its own service last described it, and under its calls a minute."""

    def __init__(self, paces: Paces) -> None:
        super().__init__()
        self._paces = paces

    def __getitem__(self, site_id: str) -> SiteAdapter:
        return paced(super().__getitem__(site_id).as_told(), self._paces.of(site_id))

    def get(self, site_id: str, default: Any = None) -> Any:
        found = super().get(site_id)
        return default if found is None else self[site_id]

    def items(self) -> Any:
        return [(site_id, self[site_id]) for site_id in self]

    def values(self) -> Any:
        return [self[site_id] for site_id in self]


@dataclass(frozen=True, slots=True)
class Services:
    """The composed gateway. `wake(site_id)` tells whoever runs the ticks that there is work; it never blocks."""

    settings: Settings
    db: Database
    gateway_id: str
    sites: Mapping[str, SiteAdapter]
    clock: Callable[[], datetime]
    wake: Callable[[str], None]
    hub: Hub = field(default_factory=Hub)
    paces: Paces = field(default_factory=Paces)

    def close(self) -> None:
        """Give back the connections to the sites and to the database."""
        for adapter in self.sites.values():
            adapter.close()
        self.db.dispose()
