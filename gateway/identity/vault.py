"""What raw records say of a person, sealed under a key of that person; erasing somebody is forgetting the key."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Connection, Table, insert, select, update

from accounting.evidence import personal
from accounting.tables.evidence import PersonKeyRow
from accounting.usage import UsageRecord
from gateway.identity.keys import MasterKey, load_or_create
from gateway.services import Services

PERSON_KEYS = cast(Table, PersonKeyRow.__table__)


def keys_of(services: Services, conn: Connection, persons: Iterable[str], now: datetime) -> dict[str, bytes | None]:
    """The data keys of persons, made where there is none; None for those who were erased. In a write transaction."""
    wanted = sorted(set(persons))
    master = load_or_create(services.settings.effective_master_key_file)
    found = known_keys(services, conn, wanted)
    made = {person: os.urandom(personal.KEY_BYTES) for person in wanted if person not in found}
    if made:
        conn.execute(insert(PERSON_KEYS), [
            {"person": person, "sealed": master.seal(key.hex(), owner=person), "made_at": now}
            for person, key in made.items()
        ])  # fmt: skip
    return found | made


def known_keys(services: Services, conn: Connection, persons: Iterable[str]) -> dict[str, bytes | None]:
    """The data keys of persons who have one; None for those who were erased."""
    master = load_or_create(services.settings.effective_master_key_file)
    rows = conn.execute(select(PERSON_KEYS).where(PERSON_KEYS.c.person.in_(sorted(set(persons))))).all()
    return {r.person: _opened(master, r) for r in rows}


def key_of(services: Services, conn: Connection, person: str) -> bytes | None:
    """The data key of a person; None where there is none, or it was erased."""
    row = conn.execute(select(PERSON_KEYS).where(PERSON_KEYS.c.person == person)).one_or_none()
    return None if row is None else _opened(load_or_create(services.settings.effective_master_key_file), row)


def seal_record(record: UsageRecord, *, person: str, key: bytes | None) -> UsageRecord:
    """The reading as it is stored: of an erased person nothing personal is kept, and the login is a pseudonym."""
    raw = seal_raw(record.raw, person=person, key=key, ref=ref_of(record))
    return record.sealed(raw, username=personal.pseudonym(record.username, key))


def ref_of(record: UsageRecord) -> str:
    """By what the sealed part of a reading names it."""
    return f"{record.site_id}/{record.run_key}/{record.meter.value}"


def seal_raw(
    raw: Mapping[str, Any], *, person: str, key: bytes | None, ref: str, also: Collection[str] = ()
) -> dict[str, Any]:
    """What is kept of raw fields: the personal ones (and those in `also`) sealed; none of an erased person's."""
    if key is None:
        return personal.public(raw, also)
    return personal.seal(raw, person=person, key=key, ref=ref, also=also)


class Opener:
    """Opens stored raw records as they came from the centre; of an erased person only what is not personal."""

    def __init__(self, services: Services, conn: Connection) -> None:
        self._services, self._conn = services, conn
        self._keys: dict[str, bytes | None] = {}

    def key(self, person: str) -> bytes | None:
        if person not in self._keys:
            self._keys[person] = key_of(self._services, self._conn, person)
        return self._keys[person]

    def __call__(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        sealed = raw.get(personal.SEALED)
        try:
            return dict(raw) if sealed is None else personal.whole(raw, key=self.key(sealed["person"]))
        except personal.Erased:
            return {name: value for name, value in raw.items() if name != personal.SEALED}


def erase(conn: Connection, person: str, *, now: datetime) -> bool:
    """Forget a person's data key: nobody can read any more what raw records said of them. Every proof still holds."""
    query = update(PERSON_KEYS).where(PERSON_KEYS.c.person == person, PERSON_KEYS.c.sealed.is_not(None))
    return conn.execute(query.values(sealed=None, erased_at=now)).rowcount == 1


def reseal(conn: Connection, old: MasterKey, new: MasterKey) -> int:
    """Seal every person's key anew under another master key; how many."""
    rows = conn.execute(select(PERSON_KEYS).where(PERSON_KEYS.c.sealed.is_not(None))).all()
    for row in rows:
        sealed = new.seal(old.open(row.sealed, owner=row.person), owner=row.person)
        conn.execute(update(PERSON_KEYS).where(PERSON_KEYS.c.person == row.person).values(sealed=sealed))
    return len(rows)


def _opened(master: MasterKey, row: Any) -> bytes | None:
    return None if row.sealed is None else bytes.fromhex(master.open(row.sealed, owner=row.person))
