"""Personal tokens: 256 random bits, of which the database keeps the SHA-256; revoked within a second everywhere."""

from __future__ import annotations

import hashlib
import math
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, insert, select, update

from gateway.db import table_of
from gateway.errors import Invalid, Problem, RateLimited, Unauthenticated
from gateway.identity.access import Person
from gateway.identity.tables import CentreStaffRow, MembershipRow, TokenRow, UserRow
from gateway.ids import new_id
from gateway.services import Services

SCOPES = frozenset({"read", "submit", "admin"})
_PREFIX = "pst_"
_FORM = re.compile(r"pst_[A-Za-z0-9_-]{43}\Z")
# How long a token that was looked up is believed without looking again: the bound on a revocation's delay.
_FRESH_S = 0.8
_KNOWN_MAX = 10_000
# Wrong tokens from one address before it must wait: 256 bits are not guessed, but each guess costs a query.
_FAILURES_PER_MINUTE = 30

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


def revoke_all(conn: Connection, *, user_id: str, now: datetime) -> int:
    """End every live token of a person now, whoever made them; how many."""
    live = (TOKENS.c.user_id == user_id) & TOKENS.c.revoked_at.is_(None) & (TOKENS.c.expires_at > now)
    return conn.execute(update(TOKENS).where(live).values(revoked_at=now)).rowcount


class Doorkeeper:
    """Who a bearer token is, believed for less than a second; how often it may ask, and how often an address may fail.

    The limits are those of one process: behind n processes a token may ask n times as often.
    """

    def __init__(self, services: Services, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._services = services
        self._monotonic = monotonic
        self._known: dict[str, tuple[float, Person, datetime]] = {}
        self._requests = _Buckets(services.settings.requests_per_minute)
        self._failures = _Buckets(_FAILURES_PER_MINUTE)
        self._lock = threading.Lock()

    def recognise(self, bearer: str | None) -> Person | None:
        """The person, if the token was looked up a moment ago: no query. Raises `RateLimited`."""
        if bearer is None:
            return None
        digest = _sha256(bearer)
        with self._lock:
            known = self._known.get(digest)
            if known is None or self._monotonic() - known[0] >= _FRESH_S or self._services.clock() >= known[2]:
                return None
            self._spend(digest)
        return known[1]

    def person(self, bearer: str | None, *, address: str = "") -> Person:
        """The person behind `Authorization: Bearer …`; raises `Unauthenticated` or `RateLimited`."""
        if bearer is None:
            raise Unauthenticated("A bearer token is needed.", remedy="Run `penstock login`, or send Authorization.")
        if (known := self.recognise(bearer)) is not None:
            return known
        digest = _sha256(bearer)
        with self._lock:
            wait_s = 0.0 if digest in self._known else self._failures.wait_s(address, self._monotonic())
        if wait_s > 0:
            raise RateLimited("Too many unknown tokens came from your address.", retry_after_s=math.ceil(wait_s))
        found = self._looked_up(bearer, digest)
        with self._lock:
            if found is None:
                self._known.pop(digest, None)
                self._failures.spend(address, self._monotonic())
                raise Unauthenticated("This token is unknown, expired or revoked.", remedy="Get a new token.")
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            self._known[digest] = (self._monotonic(), *found)
            self._spend(digest)
        return found[0]

    def still_valid(self, bearers: Iterable[str]) -> set[str]:
        """Those of the tokens that still open the door, by one query: for streams, which outlive their first look."""
        digests = {_sha256(bearer): bearer for bearer in bearers}
        query = (
            select(TOKENS.c.sha256)
            .join(_USERS, _USERS.c.id == TOKENS.c.user_id)
            .where(
                TOKENS.c.sha256.in_(sorted(digests)), TOKENS.c.revoked_at.is_(None), _USERS.c.disabled_at.is_(None),
                TOKENS.c.expires_at > self._services.clock(),
            )
        )  # fmt: skip
        with self._services.db.read() as conn:
            return {digests[digest] for digest in conn.scalars(query)}

    def _looked_up(self, bearer: str, digest: str) -> tuple[Person, datetime] | None:
        if not _FORM.match(bearer):
            return None
        with self._services.db.read() as conn:
            return _look_up(conn, digest, self._services.clock())

    def _spend(self, digest: str) -> None:
        wait_s = self._requests.spend(digest, self._monotonic())
        if wait_s > 0:
            raise RateLimited("This token asks too often.", retry_after_s=math.ceil(wait_s))


class _Buckets:
    """Token buckets that hold a minute's worth; 0 per minute means no limit. The caller holds the lock."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = float(per_minute)
        self._levels: dict[str, tuple[float, float]] = {}

    def spend(self, key: str, now: float) -> float:
        """Take one out; the seconds to wait where there is none (then nothing is taken)."""
        wait_s = self.wait_s(key, now)
        if self._per_minute and wait_s == 0:
            if len(self._levels) >= _KNOWN_MAX:
                self._forget_full(now)
            self._levels[key] = (self._level(key, now) - 1.0, now)
        return wait_s

    def wait_s(self, key: str, now: float) -> float:
        """How long until one can be taken out."""
        missing = 1.0 - self._level(key, now) if self._per_minute else 0.0
        return missing * 60.0 / self._per_minute if missing > 0 else 0.0

    def _level(self, key: str, now: float) -> float:
        level, at = self._levels.get(key, (self._per_minute, now))
        return min(self._per_minute, level + (now - at) * self._per_minute / 60.0)

    def _forget_full(self, now: float) -> None:
        """A bucket that has filled up again says nothing; should none have, all start anew."""
        self._levels = {k: v for k, v in self._levels.items() if self._level(k, now) < self._per_minute}
        if len(self._levels) >= _KNOWN_MAX:
            self._levels.clear()


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
        scopes=_with_implied(row.scopes.split()),
        staff_of=frozenset(staff),
        roles={r.project_id: r.role for r in roles},
    )
    return person, row.expires_at


def _with_implied(scopes: Iterable[str]) -> frozenset[str]:
    """Who may submit may see what became of it."""
    given = frozenset(scopes)
    return given | {"read"} if "submit" in given else given


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
