"""Sites: what is docked, how it stands, what waits for it; and the gateway's own health."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Any

import structlog
from fastapi import APIRouter
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response

from gateway.api import answers, describe
from gateway.api.context import Svc, Who, Word, answer
from gateway.errors import NotFound
from gateway.identity.access import Person
from gateway.jobs import views
from gateway.jobs.lifecycle import FINAL, Phase, State
from gateway.jobs.repository import ACCOUNTS, JOBS, SITES
from gateway.jobs.standby import accepting
from gateway.services import Services
from site_adapters.interfaces import SiteAdapter

log = structlog.get_logger()

router = APIRouter(tags=["sites"])
open_router = APIRouter(tags=["health"])


@router.get("/sites", **describe.route(answers.Sites))
def list_sites(services: Svc, person: Who) -> Response:
    """Every docked centre."""
    with services.db.read() as conn:
        items = [site_json(services, conn, person, a) for _, a in sorted(services.sites.items())]
    return answer({"items": items})


@router.get("/sites/{site_id}", **describe.route(answers.Site, refuses=(404,)))
def show_site(services: Svc, person: Who, site_id: Word) -> Response:
    """One centre: queues, policy, our waiting line there."""
    adapter = services.sites.get(site_id)
    if adapter is None:
        raise NotFound(f"There is no site {site_id!r}.")
    with services.db.read() as conn:
        return answer(site_json(services, conn, person, adapter))


@open_router.get("/healthz", **describe.route(answers.Health))
def healthz(services: Svc) -> Response:
    """Whether this process serves: the database answers. Sites that are down do not make it unhealthy."""
    try:
        return answer({"ok": True, "accepting": accepting(services.db)})
    except SQLAlchemyError:
        log.exception("database_away")
        return answer({"ok": False, "accepting": False}, 503)


@open_router.get("/metrics", **describe.route("text/plain"))
def metrics(services: Svc) -> Response:
    """Gauges in the Prometheus text format: live jobs, the waiting line, and how the sites stand."""
    live = [state.value for state in State if state not in FINAL]
    by_state = select(JOBS.c.site_id, JOBS.c.state, func.count()).where(JOBS.c.state.in_(live))
    line = select(JOBS.c.site_id, func.count()).where(
        JOBS.c.site_id.in_(sorted(services.sites)), JOBS.c.phase == Phase.WAITING.value
    )
    with services.db.read() as conn:
        jobs = conn.execute(by_state.group_by(JOBS.c.site_id, JOBS.c.state)).all()
        waiting = conn.execute(line.group_by(JOBS.c.site_id)).all()
        sites = conn.execute(select(SITES)).all()
    now = services.clock()
    ages = (("watch", "last_good_at"), ("collect", "collected_until"), ("facts", "facts_at"))
    parts = [
        _gauge("jobs_live", "Jobs that have not ended", (({"site": r[0], "state": r[1]}, r[2]) for r in jobs)),
        _gauge("jobs_waiting", "Jobs in the gateway's own line", (({"site": r[0]}, r[1]) for r in waiting)),
        _gauge("site_open", "1 while jobs are handed over", (({"site": r.id}, _open(services, r)) for r in sites)),
        _gauge("site_stale", "1 while it does not answer", (({"site": r.id}, int(bool(r.stale_since))) for r in sites)),
        *(_gauge(f"site_{tick}_age_seconds", f"Since the last good {tick} tick",
                 (({"site": r.id}, _age(at, now)) for r in sites if (at := r._mapping[column]) is not None))
          for tick, column in ages),
    ]  # fmt: skip
    return Response("".join(parts), media_type="text/plain; version=0.0.4")


def site_json(services: Services, conn: Connection, person: Person, adapter: SiteAdapter) -> dict[str, Any]:
    """A site as people see it; `waiting` is the gateway's own line there, in all and one's own."""
    row = conn.execute(select(SITES).where(SITES.c.id == adapter.site_id)).one()
    closed = adapter.closed_reason or row.closed_reason
    line = select(func.count()).where(JOBS.c.site_id == adapter.site_id, JOBS.c.phase == Phase.WAITING.value)
    account = conn.execute(
        select(ACCOUNTS.c.username, ACCOUNTS.c.status).where(
            ACCOUNTS.c.site_id == adapter.site_id, ACCOUNTS.c.user_id == person.user_id
        )
    ).first()
    policy = asdict(adapter.policy)
    return {
        "id": adapter.site_id, "title": adapter.title, "scheduler": adapter.scheduler, "open": closed is None,
        "closed_reason": closed, "health": _health(closed, row), "stale_since": views.stamp(row.stale_since),
        "last_good_at": views.stamp(row.last_good_at), "queues": (row.facts or {}).get("queues", []),
        "capacity": (row.facts or {}).get("capacity"), "facts_at": views.stamp(row.facts_at),
        "policy": {k: v for k, v in policy.items() if v not in (None, ())},
        "capabilities": sorted(adapter.capabilities),
        "waiting": {"total": conn.scalar(line), "mine": conn.scalar(line.where(JOBS.c.user_id == person.user_id))},
        "account": None if account is None else {"username": account.username, "status": account.status},
    }  # fmt: skip


# ---------------------------------------------------------------- parts


def _health(closed: str | None, row: Any) -> str:
    if closed is not None:
        return "closed"
    if row.stale_since is not None:
        return "stale"
    return "good" if row.last_good_at is not None or row.facts_at is not None else "not_asked_yet"


def _open(services: Services, row: Any) -> int:
    adapter = services.sites.get(row.id)
    return int(adapter is not None and adapter.closed_reason is None and row.closed_reason is None)


def _age(at: datetime, now: datetime) -> int:
    return max(0, int((now - at).total_seconds()))


def _gauge(name: str, means: str, values: Iterable[tuple[dict[str, str], int]]) -> str:
    lines = [f"# HELP penstock_{name} {means}", f"# TYPE penstock_{name} gauge"]
    for labels, value in values:
        shown = ",".join(f'{key}="{text}"' for key, text in labels.items())
        lines.append(f"penstock_{name}{{{shown}}} {value}")
    return "\n".join(lines) + "\n"
