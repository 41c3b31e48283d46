"""Where people want to be told, as they said it themselves; and who is told of a project's budgets: its owners."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, delete, select

from gateway.db import table_of
from gateway.identity.service import MEMBERS, USERS
from gateway.jobs.repository import upsert
from gateway.notices.tables import MailAddressRow

ADDRESSES = table_of(MailAddressRow)


def set_address(conn: Connection, user_id: str, address: str, *, now: datetime) -> None:
    insert = upsert(conn, ADDRESSES).values(user_id=user_id, address=address, set_at=now)
    conn.execute(insert.on_conflict_do_update(index_elements=["user_id"], set_={"address": address, "set_at": now}))


def forget_address(conn: Connection, user_id: str) -> None:
    conn.execute(delete(ADDRESSES).where(ADDRESSES.c.user_id == user_id))


def address_of(conn: Connection, user_id: str) -> str | None:
    """None where the person has none, or was shut out."""
    query = select(ADDRESSES.c.address).join(USERS, USERS.c.id == ADDRESSES.c.user_id)
    return conn.scalar(query.where(ADDRESSES.c.user_id == user_id, USERS.c.disabled_at.is_(None)))


def owners_with_address(conn: Connection, project_id: str) -> list[str]:
    """User ids."""
    query = (
        select(MEMBERS.c.user_id)
        .join(ADDRESSES, ADDRESSES.c.user_id == MEMBERS.c.user_id)
        .join(USERS, USERS.c.id == MEMBERS.c.user_id)
        .where(MEMBERS.c.project_id == project_id, MEMBERS.c.role == "owner", USERS.c.disabled_at.is_(None))
    )
    return list(conn.scalars(query.order_by(MEMBERS.c.user_id)))
