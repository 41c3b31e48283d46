"""Who serves a site: taking it raises its fencing number, so that rows of an earlier holder are refused."""

from __future__ import annotations

from sqlalchemy import update

from gateway.db import Database
from gateway.jobs.repository import SITES
from gateway.services import Lease


def take(db: Database, site_id: str, worker: str) -> Lease:
    """Serve a site from now on; whoever served it before can write nothing more about it."""
    query = (
        update(SITES)
        .where(SITES.c.id == site_id)
        .values(fencing=SITES.c.fencing + 1, worker=worker)
        .returning(SITES.c.fencing)
    )
    with db.write() as conn:
        return Lease(site_id, int(conn.execute(query).scalar_one()))
