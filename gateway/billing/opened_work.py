"""Which jobs ran under an opening, and what the books say they cost."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, func, select

from accounting.money import format_micro
from accounting.store.schema import CHARGES, REVERSALS
from gateway.identity.access import Person, Verb, can
from gateway.jobs.repository import ACCOUNTS, JOBS

_MOST = 200


def jobs_under(conn: Connection, person: Person, opening: Any) -> list[dict[str, Any]]:
    """The project's jobs at that centre (of that login, for an account) while it was open; newest first, 200 at most.

    Only those that this person may see.
    """
    if opening.opened_at is None:
        return []
    query = select(JOBS.c.id, JOBS.c.user_id, JOBS.c.project_id, JOBS.c.site_id, JOBS.c.state, JOBS.c.native_id).where(
        JOBS.c.project_id == opening.project_id, JOBS.c.site_id == opening.site_id,
        JOBS.c.submitted_at >= opening.opened_at,
    )  # fmt: skip
    if opening.closed_at is not None:
        query = query.where(JOBS.c.submitted_at < opening.closed_at)
    if opening.kind == "account":
        mine = select(ACCOUNTS.c.id).where(
            ACCOUNTS.c.site_id == opening.site_id, ACCOUNTS.c.username == opening.native_username
        )
        query = query.where(JOBS.c.site_account_id.in_(mine))
    rows = [row for row in conn.execute(query.order_by(JOBS.c.id.desc()).limit(_MOST))
            if can(person, Verb.SEE_JOB, ("job", row))]  # fmt: skip
    costs = _costs(conn, [row.id for row in rows])
    return [{"id": row.id, "state": row.state, "native_job_id": row.native_id, "charges": costs.get(row.id, [])}
            for row in rows]  # fmt: skip


def _costs(conn: Connection, jobs: list[str]) -> dict[str, list[dict[str, Any]]]:
    query = (
        select(CHARGES.c.job_id, CHARGES.c.currency, func.sum(CHARGES.c.amount_micro).label("micro"),
               func.sum(CHARGES.c.core_seconds).label("core_seconds"))
        .outerjoin(REVERSALS, REVERSALS.c.charge_id == CHARGES.c.id)
        .where(CHARGES.c.job_id.in_(jobs), REVERSALS.c.charge_id.is_(None))
        .group_by(CHARGES.c.job_id, CHARGES.c.currency)
    )  # fmt: skip
    found: dict[str, list[dict[str, Any]]] = {}
    for row in conn.execute(query):
        line = {"amount": format_micro(int(row.micro)), "currency": row.currency, "core_seconds": int(row.core_seconds)}
        found.setdefault(row.job_id, []).append(line)
    return found
