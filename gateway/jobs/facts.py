"""Tick: learn a site's queues and capacity, for checks before submit and for people."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

import structlog
from pydantic import TypeAdapter
from sqlalchemy import select, update

from gateway.jobs import repository
from gateway.jobs.maintenance import kept
from gateway.jobs.repository import SITES
from gateway.services import Lease, Services
from site_adapters.errors import CredentialRefused, SiteError, Unsupported
from site_adapters.interfaces import SiteAdapter
from site_adapters.types import Queue

log = structlog.get_logger()

_QUEUES: TypeAdapter[list[Queue]] = TypeAdapter(list[Queue])


def facts(services: Services, lease: Lease, now: datetime) -> None:
    """Queues and capacity as the site tells them; a site that does not answer keeps its older facts."""
    adapter = services.sites[lease.site_id]
    if adapter.closed_reason is not None:
        return
    try:
        queues = _queues(services, adapter)
    except SiteError as exc:
        log.warning("facts_not_read", site=lease.site_id, error=str(exc))
        return
    try:
        capacity = asdict(adapter.resource.capacity())
    except SiteError as exc:
        capacity = {"error": str(exc)}
    stored = {"queues": _QUEUES.dump_python(queues, mode="json"), "capacity": capacity}
    try:
        stored["maintenance"] = kept(adapter.resource.reservations())
    except Unsupported:
        stored["maintenance"] = []
    except SiteError as exc:  # what was known of it stands
        log.warning("reservations_not_read", site=lease.site_id, error=str(exc))
        with services.db.read() as conn:
            known = conn.scalar(select(SITES.c.facts).where(SITES.c.id == lease.site_id)) or {}
        stored["maintenance"] = known.get("maintenance", [])
    with services.db.write() as conn:
        repository.assert_served_by(conn, lease)
        conn.execute(update(SITES).where(SITES.c.id == lease.site_id).values(facts=stored, facts_at=now))


def _queues(services: Services, adapter: SiteAdapter) -> list[Queue]:
    """Where the gateway has no login of its own, the first person's who can log in will do."""
    try:
        return adapter.resource.queues()
    except CredentialRefused as exc:
        with services.db.read() as conn:
            accounts = repository.all_site_accounts(conn, adapter.site_id)
        for account in accounts:
            try:
                adapter.auth.probe(account.username)
            except CredentialRefused:
                continue
            return adapter.resource.queues()
        raise exc
