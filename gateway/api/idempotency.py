"""`Idempotency-Key`: the same POST again gets the same answer, and makes nothing twice (DESIGN law 13).

The key is kept in the transaction that makes the thing: there is no moment in which one exists without the other, so a
crash leaves nothing in flight. A second request that arrives meanwhile waits for the first one's commit.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from gateway.db import table_of
from gateway.errors import Conflict, IdempotencyInFlight, IdempotencyMismatch
from gateway.identity.access import Person
from gateway.identity.keys import MasterKey
from gateway.jobs import repository
from gateway.jobs.service import IdempotencyKey
from gateway.jobs.tables import IdempotencyRow
from gateway.services import Services

_KEYS = table_of(IdempotencyRow)


def key_of(header: str | None, body: bytes) -> IdempotencyKey | None:
    """The key and the content it stands for; the same JSON in another layout is the same content."""
    if header is None:
        return None
    try:
        content = json.dumps(json.loads(body), sort_keys=True).encode()
    except (ValueError, RecursionError):
        content = body
    return IdempotencyKey(_sha256(header.encode("utf-8", "surrogateescape")), _sha256(content))


def earlier_job(conn: Connection, person: Person, key: IdempotencyKey | None) -> str | None:
    """The job that this key made, if any, before anything is checked: what is refused by now was accepted then."""
    if key is None:
        return None
    # After a restore only the first digits of keys and contents are known, from the jobs' manifests.
    known = (key.key_sha256, f"prefix:{key.key_sha256[:16]}")
    query = select(_KEYS).where(_KEYS.c.user_id == person.user_id, _KEYS.c.key_sha256.in_(known))
    row = conn.execute(query).first()
    if row is None:
        return None
    if row.content_sha256.removeprefix("prefix:") not in (key.content_sha256, key.content_sha256[:16]):
        raise _other_content()
    return str(row.body)


@dataclass(frozen=True, slots=True)
class Once:
    """What makes one POST happen once: who, the key, what the content means (`POST /projects …`)."""

    person: Person
    key: IdempotencyKey | None

    @classmethod
    def of(cls, person: Person, header: str | None, path: str, body: bytes) -> Once:
        key = key_of(header, body)
        if key is not None:
            key = IdempotencyKey(key.key_sha256, _sha256(f"{path}\n{key.content_sha256}".encode()))
        return cls(person, key)

    def made(
        self, services: Services, make: Callable[[Connection], Mapping[str, Any]], *, seal: MasterKey | None = None
    ) -> Mapping[str, Any]:
        """The answer of `make`, called once per key in one write transaction; `seal` where the answer is secret."""
        with services.db.write() as conn:
            if self.key is None:
                return make(conn)
            if (before := self._before(conn, seal)) is not None:
                return before
            answer = make(conn)
            text = json.dumps(answer)
            body = text if seal is None else b64encode(seal.seal(text, owner=self.key.key_sha256)).decode()
            taken = repository.claim_key(
                conn, user_id=self.person.user_id, key_sha256=self.key.key_sha256,
                content_sha256=self.key.content_sha256, status=201, body=body, now=services.clock(),
            )  # fmt: skip
            if taken is not None:  # the other one committed while we made ours: ours is rolled back
                raise IdempotencyInFlight("The same request was answered just now.", remedy="Send it again.")
            return answer

    def known(self, services: Services) -> Mapping[str, Any] | None:
        """The answer that this key was given before, for who would work long for another one."""
        with services.db.read() as conn:
            return self._before(conn, None)

    def _before(self, conn: Connection, seal: MasterKey | None) -> Mapping[str, Any] | None:
        row = None if self.key is None else _row(conn, self.person, self.key)
        if row is None or self.key is None:
            return None
        if row.content_sha256 != self.key.content_sha256:
            raise _other_content()
        answer: Mapping[str, Any] = json.loads(self._opened(row.body, seal))
        return answer

    def _opened(self, body: str, seal: MasterKey | None) -> str:
        assert self.key is not None
        if seal is None:
            return body
        try:
            return seal.open(b64decode(body), owner=self.key.key_sha256)
        except ValueError as exc:  # the master key has been changed since
            raise Conflict("That was done, and its answer cannot be shown again.", remedy="Use a new key.") from exc


def _row(conn: Connection, person: Person, key: IdempotencyKey) -> Any | None:
    query = select(_KEYS).where(_KEYS.c.user_id == person.user_id, _KEYS.c.key_sha256 == key.key_sha256)
    return conn.execute(query).one_or_none()


def _other_content() -> IdempotencyMismatch:
    return IdempotencyMismatch(
        "This Idempotency-Key was used for a different request.", remedy="Use a new key for a new request."
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
