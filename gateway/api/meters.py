"""Both meters side by side: control totals of each day, the alarms that stand, and quarantine read again."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from accounting.store import alarms
from gateway.api import describe
from gateway.api import recon_schemas as schemas
from gateway.api.context import Admin, Svc, Who, Word, answer
from gateway.billing.meters import day_totals
from gateway.billing.reread import reread
from gateway.errors import NotFound
from gateway.identity.access import Person, Verb, can
from gateway.jobs.views import stamp
from gateway.services import Services

router = APIRouter(tags=["billing"], prefix="/billing")


@router.get("/alarms", **describe.route(schemas.MeterAlarms, refuses=(404,)))
def list_alarms(services: Svc, person: Who, site: Word | None = None, over: bool = False) -> Response:
    """What is wrong with centres' meters (operator: all; centre staff: their own); `over`: also what is no more."""
    with services.db.read() as conn:
        found = alarms.alarms(conn, site_ids=_sites(services, person, site), over=over)
    items = [
        {"site": a.site_id, "kind": a.kind, "day": a.day or None, "state": a.state, "text": a.text,
         "figures": {name: str(value) for name, value in a.figures.items()}, "since": stamp(a.since)}
        for a in found
    ]  # fmt: skip
    return answer({"items": items})


@router.get("/meters/{site}", **describe.route(schemas.ControlTotals, refuses=(404,)))
def show_meters(services: Svc, person: Who, site: Word) -> Response:
    """What the gateway saw end at a centre and what the centre metered of it, day by day (UTC), the newest first."""
    _sites(services, person, site)
    with services.db.read() as conn:
        found = day_totals(services, conn, site, services.clock())
    items = [
        {"day": d.day, "jobs": d.jobs, "missing": d.missing, "gateway_core_seconds": d.gateway_core_seconds,
         "centre_core_seconds": d.centre_core_seconds, "slack": d.slack, "agrees": d.agrees}
        for d in reversed(found)
    ]  # fmt: skip
    return answer({"items": items})


@router.post("/meters/{site}/reread", **describe.route(schemas.Reread, refuses=(403, 404)))
def reread_quarantine(services: Svc, admin: Admin, site: Word) -> Response:
    """Read a centre's records in quarantine again, whatever their age, and book what can be read now (operator)."""
    _sites(services, admin, site)
    done = reread(services, site, by=admin.user_id, now=services.clock())
    still = [{"why": why, "count": count} for why, count in sorted(done.still.items(), key=lambda item: -item[1])]
    return answer({"booked": done.booked, "known": done.known, "nobody": done.nobody, "no_run": done.no_run,
                   "still": still[:100]})  # fmt: skip


def _sites(services: Services, person: Person, site: str | None) -> list[str]:
    """The sites that a person may see, or the one that is asked for."""
    known = sorted(services.sites) if site is None else [site]
    seen = [s for s in known if s in services.sites
            and (can(person, Verb.OPERATE) or can(person, Verb.BILL_SITE, ("site", s)))]  # fmt: skip
    if site is not None and not seen:
        raise NotFound(f"There is no site {site!r} whose meters you may see.")
    return seen
