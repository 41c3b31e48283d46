"""Tick: make leaves of what was booked, sign a checkpoint; and the keys for that, sealed by the master key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import cast

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import Connection, Table, insert, select, update

from accounting.evidence import log as evidence
from accounting.evidence import note
from accounting.evidence.outbox import put
from accounting.tables.evidence import SigningKeyRow
from accounting.tables.origins import LogOriginRow
from gateway.identity.keys import MasterKey, load_or_create
from gateway.ids import new_id
from gateway.jobs import standby
from gateway.services import Lease, Services

log = structlog.get_logger()

KEYS = cast(Table, SigningKeyRow.__table__)
ORIGINS = cast(Table, LogOriginRow.__table__)

OPERATOR = "operator"
_BATCH = 2000  # about 50 ms of a write transaction: submissions go on between two of them
_BATCHES = 100


def append(services: Services, _lease: Lease | None, now: datetime) -> int:
    """Append what waits, batch by batch, and sign the tree as it is then. Any process may run it at any time.

    A gateway that was restored signs nothing before `recover` has decided under which name.
    """
    if not standby.accepting(services.db):
        return 0
    appended = 0
    for _ in range(_BATCHES):
        with services.db.read() as conn:
            if not evidence.waiting(conn):
                break
        with services.db.write() as conn:
            appended += evidence.append_waiting(conn, limit=_BATCH)
    with services.db.read() as conn:
        newest, size = evidence.checkpoint(conn), evidence.tree_size(conn)
    if size and (newest is None or newest.size != size):
        with services.db.write() as conn:
            made = evidence.make_checkpoint(conn, log_signer(services, conn, now), now=now)
        if made is not None:
            log.info("checkpoint_signed", size=made.size)
    return appended


def origin(services: Services, conn: Connection) -> str:
    """The name of this gateway's log: that of its last recovery, else the settings', else by the gateway's id."""
    restarted = conn.scalar(select(ORIGINS.c.name).order_by(ORIGINS.c.started_at.desc()).limit(1))
    return str(restarted) if restarted is not None else _first_origin(services)


def _first_origin(services: Services) -> str:
    """A URL without scheme, or a name of our own."""
    return services.settings.evidence_origin or f"penstock.local/{services.gateway_id}"


def restart_log(services: Services, conn: Connection, *, reason: str, now: datetime) -> str:
    """Go on under a new name and key from the leaves that are here: more may have been signed under the old one.

    A copy of the books cannot know what was signed after it was made. To sign other leaves under the same name would be
    two histories of one log, which every witness refuses, rightly. The first new leaf says what was before.
    """
    before, size = origin(services, conn), evidence.tree_size(conn)
    name = f"{_first_origin(services)}/{now:%Y%m%dT%H%M%SZ}"
    conn.execute(insert(ORIGINS), [
        {"started_at": now, "name": name, "before": before, "size": size, "reason": reason[:200]}
    ])  # fmt: skip
    put(conn, "origin", name, {"v": 1, "before": before, "size": str(size), "reason": reason})
    log.warning("evidence_log_restarted", origin=name, before=before, size=size)
    return name


def log_signer(services: Services, conn: Connection, now: datetime) -> Callable[[int, bytes], str]:
    name = origin(services, conn)
    key = operator_key(services, conn, "log", name, now)
    return lambda size, root: note.sign(name, size, root, key.private)


# ---------------------------------------------------------------- keys


@dataclass(frozen=True, slots=True)
class OwnKey:
    """A private key of the operator; it never prints."""

    id: str
    name: str
    private: Ed25519PrivateKey

    @property
    def public(self) -> bytes:
        return note.public_bytes(self.private)

    def __repr__(self) -> str:
        return f"OwnKey({self.id!r})"


def operator_key(services: Services, conn: Connection, purpose: str, name: str, now: datetime) -> OwnKey:
    """The operator's key for a purpose, made at first use (in a write transaction)."""
    master = _master(services)
    live = (KEYS.c.owner == OPERATOR, KEYS.c.purpose == purpose, KEYS.c.name == name, KEYS.c.valid_to.is_(None))
    row = conn.execute(select(KEYS).where(*live).order_by(KEYS.c.id)).first()
    if row is not None:
        raw = bytes.fromhex(master.open(row.sealed, owner=row.id))
        return OwnKey(row.id, row.name, Ed25519PrivateKey.from_private_bytes(raw))
    private = Ed25519PrivateKey.generate()
    key_id = new_id("k", now)
    raw = private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    conn.execute(insert(KEYS), [{
        "id": key_id, "owner": OPERATOR, "purpose": purpose, "name": name, "did": "",
        "public": note.public_bytes(private), "sealed": master.seal(raw.hex(), owner=key_id), "valid_from": now,
    }])  # fmt: skip
    log.info("signing_key_made", key=key_id, purpose=purpose, name=name)
    return OwnKey(key_id, name, private)


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A public key with whose it is; `owner` is `operator` or a site's id."""

    id: str
    owner: str
    purpose: str
    name: str
    did: str
    public: bytes
    valid_from: datetime
    valid_to: datetime | None

    @property
    def verifier(self) -> note.Verifier:
        return note.Verifier(self.name, note.COSIGNATURE if self.purpose == "witness" else note.LOG, self.public)


def known_keys(conn: Connection, *, owner: str | None = None, purpose: str | None = None) -> list[KnownKey]:
    """Every key ever known, also those that have ended: what they signed stays signed."""
    query = select(KEYS).order_by(KEYS.c.id)
    if owner is not None:
        query = query.where(KEYS.c.owner == owner)
    if purpose is not None:
        query = query.where(KEYS.c.purpose == purpose)
    return [
        KnownKey(r.id, r.owner, r.purpose, r.name, r.did, r.public, r.valid_from, r.valid_to)
        for r in conn.execute(query)
    ]


def register_key(
    conn: Connection, *, owner: str, purpose: str, name: str, public: bytes, did: str, now: datetime
) -> str:
    """Learn an organisation's public key; its id."""
    key_id = new_id("k", now)
    conn.execute(insert(KEYS), [{
        "id": key_id, "owner": owner, "purpose": purpose, "name": name, "did": did, "public": public, "sealed": None,
        "valid_from": now,
    }])  # fmt: skip
    return key_id


def end_key(conn: Connection, key_id: str, *, now: datetime) -> bool:
    """Take no new signature of a key from now on."""
    query = update(KEYS).where(KEYS.c.id == key_id, KEYS.c.valid_to.is_(None))
    return conn.execute(query.values(valid_to=now)).rowcount == 1


def reseal(conn: Connection, old: MasterKey, new: MasterKey) -> int:
    """Seal every private key of the log and the statements anew; how many."""
    rows = conn.execute(select(KEYS.c.id, KEYS.c.sealed).where(KEYS.c.sealed.is_not(None))).all()
    for row in rows:
        sealed = new.seal(old.open(row.sealed, owner=row.id), owner=row.id)
        conn.execute(update(KEYS).where(KEYS.c.id == row.id).values(sealed=sealed))
    return len(rows)


def _master(services: Services) -> MasterKey:
    return load_or_create(services.settings.effective_master_key_file)
