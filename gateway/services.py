"""What every tick and every route is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from gateway.db import Database
from gateway.settings import Settings
from site_adapters.interfaces import SiteAdapter


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to serve one site: `fencing` is the number the site row had when it was taken."""

    site_id: str
    fencing: int


@dataclass(frozen=True, slots=True)
class Services:
    """The composed gateway. `wake(site_id)` tells whoever runs the ticks that there is work; it never blocks."""

    settings: Settings
    db: Database
    gateway_id: str
    sites: Mapping[str, SiteAdapter]
    clock: Callable[[], datetime]
    wake: Callable[[str], None]

    def close(self) -> None:
        """Give back the connections to the sites and to the database."""
        for adapter in self.sites.values():
            adapter.close()
        self.db.dispose()
