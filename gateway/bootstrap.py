"""The composition root: settings become services. The app, the workers, the admin commands and the tests start here."""

from __future__ import annotations

import fcntl
import secrets
import string
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from sqlalchemy import Connection, select

from accounting.tables import assert_append_only
from gateway.db import Database, table_of
from gateway.errors import Refused
from gateway.hub import Hub, relayed
from gateway.identity.keys import MasterKey, load_or_create
from gateway.identity.service import key_source
from gateway.jobs import repository
from gateway.jobs.tables import GatewayRow
from gateway.migrations import schema
from gateway.notices.webhook import load_or_create_secret
from gateway.pace import Paces
from gateway.services import Services, Sites
from gateway.settings import Settings
from site_adapters.config import load_sites
from site_adapters.interfaces import SiteAdapter
from site_adapters.registry import AgentChannels, build

_GATEWAY = table_of(GatewayRow)


class AlreadyRunning(Refused):
    """Another process serves this SQLite database."""


def utc_now() -> datetime:
    return datetime.now(UTC)


def open_database(settings: Settings) -> Database:
    """The database at the newest schema, with its triggers in place."""
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)  # the database names people and what they owe
    db = Database(settings.effective_database_url)
    schema.upgrade(db)
    with db.read() as conn:
        assert_append_only(conn)
    return db


def compose(
    settings: Settings,
    *,
    db: Database | None = None,
    clock: Callable[[], datetime] = utc_now,
    wake: Callable[[str], None] = lambda _site_id: None,
) -> Services:
    """Everything wired; sites that cannot be built are there, closed, with their reason."""
    db = db or open_database(settings)
    master = load_or_create(settings.effective_master_key_file)
    if settings.webhook_url is not None:  # made, or found wanting, at the start: the receiver needs it too
        load_or_create_secret(settings.effective_webhook_secret_file)
    hub = Hub()
    agents = hub.channel if settings.hub_url is None else relayed(settings.hub_url)
    paces = Paces(clock)
    sites = load_adapters(settings.effective_sites_dir, db, master, agents, paces)
    with db.write() as conn:
        gateway_id = ensure_gateway(conn)
        for site_id in sites:
            repository.ensure_site(conn, site_id)
    return Services(settings, db, gateway_id, sites, clock, wake, hub, paces)


def load_adapters(
    folder: Path, db: Database, master: MasterKey, agents: AgentChannels | None = None, paces: Paces | None = None
) -> dict[str, SiteAdapter]:
    """The docked centres of a folder of site files."""
    adapters = Sites(paces or Paces())
    for config in load_sites(folder):
        adapter = build(config, keys=key_source(db, master, config.site), agents=agents)
        adapters[adapter.site_id] = adapter
    return adapters


def ensure_gateway(conn: Connection) -> str:
    """This gateway's id, made once: four characters that every tag bears."""
    found = conn.scalar(select(_GATEWAY.c.gateway_id).where(_GATEWAY.c.id == 1))
    if found is not None:
        return str(found)
    alphabet = string.ascii_lowercase + string.digits
    made = "".join(secrets.choice(alphabet) for _ in range(4))
    conn.execute(repository.upsert(conn, _GATEWAY).values(id=1, gateway_id=made).on_conflict_do_nothing())
    return str(conn.scalar(select(_GATEWAY.c.gateway_id).where(_GATEWAY.c.id == 1)))


def lock_home(home: Path) -> TextIO:
    """Refuse a second process on one SQLite: two schedulers on one store would both fire. Keep the result open."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = (home / "gateway.lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise AlreadyRunning(f"another gateway runs in {home}") from None
    return file
