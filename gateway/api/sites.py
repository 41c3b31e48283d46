"""Sites: what is docked, how it stands, what waits for it; and the gateway's own health."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from sqlalchemy import Connection, func, select
from starlette.responses import Response

from gateway.api.context import Svc, Who, json_bytes
from gateway.errors import NotFound
from gateway.identity.access import Person
from gateway.jobs import views
from gateway.jobs.repository import ACCOUNTS, JOBS, SITES
from gateway.recovery import accepting
from gateway.services import Services
from site_adapters.interfaces import SiteAdapter

router = APIRouter(tags=["sites"])
open_router = APIRouter(tags=["health"])


@router.get("/sites")
def list_sites(services: Svc, person: Who) -> Response:
    """Every docked centre."""
    with services.db.read() as conn:
        items = [site_json(services, conn, person, a) for _, a in sorted(services.sites.items())]
    return Response(json_bytes({"items": items}), media_type="application/json")


@router.get("/sites/{site_id}")
def show_site(services: Svc, person: Who, site_id: str) -> Response:
    """One centre: queues, policy, our waiting line there."""
    adapter = services.sites.get(site_id)
    if adapter is None:
        raise NotFound(f"There is no site {site_id!r}.")
    with services.db.read() as conn:
        return Response(json_bytes(site_json(services, conn, person, adapter)), media_type="application/json")


@open_router.get("/healthz")
def healthz(services: Svc) -> Response:
    """Whether this process serves: the database answers. Sites that are down do not make it unhealthy."""
    body = {"ok": True, "accepting": accepting(services.db)}
    return Response(json_bytes(body), media_type="application/json")


@open_router.get("/metrics")
def metrics(services: Svc) -> Response:
    """Gauges in the Prometheus text format."""
    with services.db.read() as conn:
        grouped = select(JOBS.c.site_id, JOBS.c.state, func.count()).group_by(JOBS.c.site_id, JOBS.c.state)
        jobs = conn.execute(grouped.where(JOBS.c.phase != "ended")).all()
        stale = conn.execute(select(SITES.c.id, SITES.c.stale_since)).all()
    lines = ["# TYPE penstock_jobs_live gauge"]
    lines += [f'penstock_jobs_live{{site="{r[0]}",state="{r[1]}"}} {r[2]}' for r in jobs]
    lines += ["# TYPE penstock_site_stale gauge"]
    lines += [f'penstock_site_stale{{site="{r.id}"}} {int(r.stale_since is not None)}' for r in stale]
    return Response("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")


def site_json(services: Services, conn: Connection, person: Person, adapter: SiteAdapter) -> dict[str, Any]:
    """A site as people see it; `waiting` is the gateway's own line there, in all and one's own."""
    row = conn.execute(select(SITES).where(SITES.c.id == adapter.site_id)).one()
    closed = adapter.closed_reason or row.closed_reason
    line = select(func.count()).where(JOBS.c.site_id == adapter.site_id, JOBS.c.phase == "waiting")
    account = conn.execute(
        select(ACCOUNTS.c.username, ACCOUNTS.c.status).where(
            ACCOUNTS.c.site_id == adapter.site_id, ACCOUNTS.c.user_id == person.user_id
        )
    ).first()
    policy = asdict(adapter.policy)
    return {
        "id": adapter.site_id, "title": adapter.title, "scheduler": adapter.scheduler, "open": closed is None,
        "closed_reason": closed, "stale_since": views.stamp(row.stale_since),
        "last_good_at": views.stamp(row.last_good_at), "queues": (row.facts or {}).get("queues", []),
        "capacity": (row.facts or {}).get("capacity"), "facts_at": views.stamp(row.facts_at),
        "policy": {k: v for k, v in policy.items() if v not in (None, ())},
        "capabilities": sorted(adapter.capabilities),
        "waiting": {"total": conn.scalar(line), "mine": conn.scalar(line.where(JOBS.c.user_id == person.user_id))},
        "account": None if account is None else {"username": account.username, "status": account.status},
    }  # fmt: skip
