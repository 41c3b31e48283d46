"""Personal tokens: 256 random bits, of which the database keeps the SHA-256; revoked within a second everywhere."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, insert, select, update

from gateway.db import table_of
from gateway.errors import Invalid, Problem, RateLimited, Unauthenticated
from gateway.identity.access import Person
from gateway.identity.tables import CentreStaffRow, MembershipRow, TokenRow, UserRow
from gateway.jobs.ids import new_id
from gateway.services import Services

SCOPES = frozenset({"read", "submit", "admin"})
_PREFIX = "pst_"
# How long a token that was looked up is believed without looking again: the bound on a revocation's delay.
_FRESH_S = 0.8

TOKENS = table_of(TokenRow)
_USERS, _MEMBERS, _STAFF = table_of(UserRow), table_of(MembershipRow), table_of(CentreStaffRow)


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A new token: `secret` is shown this once."""

    id: str
    secret: str
    expires_at: datetime


def issue(
    conn: Connection, *, user_id: str, name: str, scopes: Iterable[str], lifetime: timedelta, now: datetime
) -> IssuedToken:
    """Make a token for a user."""
    wanted = set(scopes)
    if not wanted or not wanted <= SCOPES:
        detail = f"Scopes are read, submit, admin, not {sorted(wanted)}."
        problem = Problem("/scopes", detail, "invalid", "Name one of them.")
        raise Invalid("Unknown scope.", problems=(problem,))
    secret = _PREFIX + secrets.token_urlsafe(32)
    token_id, expires = new_id("t", now), now + lifetime
    conn.execute(
        insert(TOKENS).values(
            id=token_id, user_id=user_id, name=name, sha256=_sha256(secret), scopes=" ".join(sorted(wanted)),
            created_at=now, expires_at=expires,
        )
    )  # fmt: skip
    return IssuedToken(token_id, secret, expires)


def revoke(conn: Connection, *, token_id: str, user_id: str | None, now: datetime) -> bool:
    """End a token now; `user_id` limits it to that person's own."""
    query = update(TOKENS).where(TOKENS.c.id == token_id, TOKENS.c.revoked_at.is_(None))
    if user_id is not None:
        query = query.where(TOKENS.c.user_id == user_id)
    return conn.execute(query.values(revoked_at=now)).rowcount == 1


class Doorkeeper:
    """Who a bearer token is, believed for less than a second; and how often it may ask."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._known: dict[str, tuple[float, Person, datetime]] = {}
        self._buckets: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def person(self, bearer: str | None) -> Person:
        """The person behind `Authorization: Bearer …`; raises `Unauthenticated` or `RateLimited`."""
        if bearer is None or not bearer.startswith(_PREFIX):
            raise Unauthenticated("A bearer token is needed.", remedy="Run `penstock login`, or send Authorization.")
        digest = _sha256(bearer)
        self._spend(digest)
        with self._lock:
            known = self._known.get(digest)
        if known is not None and time.monotonic() - known[0] < _FRESH_S and self._services.clock() < known[2]:
            return known[1]
        with self._services.db.read() as conn:
            found = _look_up(conn, digest, self._services.clock())
        if found is None:
            raise Unauthenticated("This token is unknown, expired or revoked.", remedy="Get a new token.")
        with self._lock:
            if len(self._known) > 10_000:
                self._known.clear()
            self._known[digest] = (time.monotonic(), found[0], found[1])
        return found[0]

    def _spend(self, digest: str) -> None:
        """A token bucket of a minute's requests; unknown tokens share nothing with known ones."""
        per_minute = self._services.settings.requests_per_minute
        if per_minute == 0:
            return
        now = time.monotonic()
        with self._lock:
            level, at = self._buckets.get(digest, (float(per_minute), now))
            level = min(float(per_minute), level + (now - at) * per_minute / 60.0)
            if level < 1.0:
                raise RateLimited("This token asks too often.", retry_after_s=max(1, round(60 / per_minute)))
            if len(self._buckets) > 10_000:
                self._buckets.clear()
            self._buckets[digest] = (level - 1.0, now)


def _look_up(conn: Connection, digest: str, now: datetime) -> tuple[Person, datetime] | None:
    query = (
        select(TOKENS.c.id, TOKENS.c.scopes, TOKENS.c.expires_at, TOKENS.c.last_used_at, _USERS.c.id.label("user_id"),
               _USERS.c.name, _USERS.c.operator_admin)
        .join(_USERS, _USERS.c.id == TOKENS.c.user_id)
        .where(TOKENS.c.sha256 == digest, TOKENS.c.revoked_at.is_(None), _USERS.c.disabled_at.is_(None))
    )  # fmt: skip
    row = conn.execute(query).one_or_none()
    if row is None or row.expires_at <= now:
        return None
    roles = conn.execute(select(_MEMBERS.c.project_id, _MEMBERS.c.role).where(_MEMBERS.c.user_id == row.user_id))
    staff = conn.scalars(select(_STAFF.c.site_id).where(_STAFF.c.user_id == row.user_id))
    person = Person(
        user_id=row.user_id,
        name=row.name,
        operator_admin=row.operator_admin,
        scopes=frozenset(row.scopes.split()),
        staff_of=frozenset(staff),
        roles={r.project_id: r.role for r in roles},
    )
    return person, row.expires_at


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
