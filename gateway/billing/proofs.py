"""Give out proofs, take in what witnesses sign. Hashes are for everybody with a token; what leaves say is not."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from accounting.evidence import log, merkle, note, personal
from accounting.evidence.about import About, NothingToShow
from accounting.evidence.bundle import bundle
from accounting.evidence.documents import stamp
from accounting.evidence.leaves import Charged
from accounting.evidence.outbox import ENTRY
from accounting.store import contracts, settlements
from accounting.store.schema import CHARGES, USAGE
from gateway.billing.evidence import KnownKey, known_keys, operator_key, origin
from gateway.billing.invoices import document_row
from gateway.errors import Conflict, Forbidden, Invalid, NotFound, NotReady, Problem
from gateway.identity import vault
from gateway.identity.access import Person, Verb, can
from gateway.jobs import standby
from gateway.services import Services

_TILE = re.compile(r"(\d{1,2})/((?:x\d{3}/)*\d{3})(?:\.p/(\d{1,3}))?\Z")


def newest(conn: Connection, size: int | None = None) -> log.Signed:
    """The newest checkpoint, or that of a size."""
    found = log.checkpoint(conn, size)
    if found is None:
        what = "No checkpoint is signed yet." if size is None else f"No checkpoint of {size} leaves was signed."
        raise NotFound(what, remedy="Ask again in a minute." if size is None else "GET /evidence/checkpoint has one.")
    return found


def consistency(conn: Connection, old: int, new: int | None) -> dict[str, Any]:
    """The proof that the tree of `old` leaves is the beginning of the one of `new` (the newest checkpoint's)."""
    size = newest(conn).size if new is None else new
    if not 0 <= old <= size <= log.tree_size(conn):
        problem = Problem("/old", f"The log has {log.tree_size(conn)} leaves, and old is not after new.")
        raise Invalid("There is no such proof.", problems=(problem,))
    hashes = merkle.consistency(old, size, log.tiles(conn))
    return {"old": old, "new": size, "hashes": [_b64(h) for h in hashes]}


def inclusion(conn: Connection, person: Person, kind: str, ref: str, size: int | None) -> dict[str, Any]:
    """A leaf that this person may see, with its path to a checkpoint's root."""
    leaf = log.find(conn, kind, ref)
    if leaf is None or not _may_see(conn, person, leaf):
        raise NotFound(
            f"There is no leaf for {kind} {ref!r} that you may see.", remedy="It may wait for the next tick."
        )
    checkpoint = newest(conn, size)
    if leaf.seq >= checkpoint.size:
        raise Conflict("That checkpoint is older than the leaf.", remedy="Ask for a newer one.")
    path = merkle.inclusion(leaf.seq, checkpoint.size, log.tiles(conn))
    return {
        "kind": kind, "ref": ref, "seq": leaf.seq, "size": checkpoint.size, "leaf": leaf.payload,
        "leaf_hash": _b64(leaf.leaf_hash), "path": [_b64(h) for h in path],
    }  # fmt: skip


def _may_see(conn: Connection, person: Person, leaf: log.Leaf) -> bool:
    if can(person, Verb.OPERATE):
        return True
    said = json.loads(leaf.payload)
    if leaf.kind != ENTRY:
        site, project = said.get("site"), said.get("project")
        return bool(
            (site and can(person, Verb.SEE_SITE, ("site", site)))
            or (project and can(person, Verb.SEE_BILL, ("project", project)))
        )
    projects = {account.split(":")[1] for account, _, _ in said["postings"] if account.startswith("project:")}
    if projects and all(can(person, Verb.SEE_BILL, ("project", p)) for p in projects):
        return True
    runs = conn.execute(
        select(USAGE.c.site_id, USAGE.c.user_id).join(CHARGES, CHARGES.c.usage_record_id == USAGE.c.id)
        .where(CHARGES.c.entry_id == int(leaf.ref))
    ).all()  # fmt: skip
    theirs = all(r.user_id == person.user_id for r in runs)
    if runs and theirs and all(can(person, Verb.SEE_PROJECT, ("project", p)) for p in projects):
        return True
    return bool(runs) and all(can(person, Verb.SEE_SITE, ("site", r.site_id)) for r in runs)


def tile(conn: Connection, path: str) -> bytes:
    """Hashes of a tile by its C2SP path: `<level>/<index in groups of three digits>[.p/<width>]`."""
    match = _TILE.match(path)
    if match is None:
        raise NotFound(f"{path!r} names no tile.", remedy="tile/<L>/<N>[.p/<W>], see c2sp.org/tlog-tiles.")
    level, index = int(match[1]), int(match[2].replace("x", "").replace("/", ""))
    width = merkle.WIDTH if match[3] is None else int(match[3])
    if index > 2**40 or not 1 <= width <= merkle.WIDTH:
        raise NotFound(f"There is no tile {path!r}.")
    hashes = list(log.tiles(conn)(level, index))
    if len(hashes) < width:
        raise NotFound(f"That tile has {len(hashes)} hashes yet.")
    return b"".join(hashes[:width])


# ---------------------------------------------------------------- witnesses


def keep_cosignature(services: Services, person: Person, size: int, line: str, now: datetime) -> log.Signed:
    """Keep a witness's line under a checkpoint: its key must be known, live, and of a centre of this person."""
    try:
        name, key_id, signature = note.read_line(line.rstrip("\n"))
    except note.BadNote as exc:
        raise _bad_line(str(exc)) from exc
    with services.db.write() as conn:
        signed = newest(conn, size)
        keys = [k for k in known_keys(conn, purpose="witness") if (k.name, k.verifier.key_id) == (name, key_id)]
        key = next((k for k in keys if k.valid_to is None or now < k.valid_to), None)
        if key is None:
            raise NotFound(f"No live witness key {name!r} with this id is known.", remedy="Ask the operator to add it.")
        if not (can(person, Verb.OPERATE) or can(person, Verb.SIGN_SETTLEMENT, ("site", key.owner))):
            raise Forbidden(f"You do not work for {key.owner}.")
        try:
            note.check_signature(note.parse(signed.note).body, key.verifier, signature)
        except note.BadNote as exc:
            raise _bad_line(str(exc)) from exc
        log.keep_cosignature(conn, size=size, key_id=key_id.hex(), line=line.rstrip("\n") + "\n", now=now)
        return newest(conn, size)


def _bad_line(why: str) -> Invalid:
    problem = Problem("/line", why, "invalid", "Send the line that the witness made for this very checkpoint.")
    return Invalid(f"The cosignature is not good: {why}", problems=(problem,))


# ---------------------------------------------------------------- bundles


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a bundle is asked for; `disclose`: with the names in it, where the reader may know them."""

    about: About
    seen: int | None = None
    disclose: bool = False


def assert_may_have(services: Services, person: Person, wanted: Wanted) -> None:
    """A project's owner sees it all; a centre's staff what ran at their centre; the operator everything.

    Who only works for a project sees no bundle: others' work is in it.
    """
    about = wanted.about
    if about.document is not None:
        with services.db.read() as conn:
            document_row(conn, person, about.document)  # raises where it is not theirs to see
        return
    if about.project_id is None and about.site_id is None and not can(person, Verb.OPERATE):
        raise Forbidden("Only the operator may have everything.", remedy="Name a project or a site.")
    mine = about.project_id is not None and can(person, Verb.SEE_BILL, ("project", about.project_id))
    ours = about.site_id is not None and not about.billed and can(person, Verb.SEE_SITE, ("site", about.site_id))
    if not (mine or ours or can(person, Verb.OPERATE)):
        raise NotFound("There is no such project or site that you may see.")


def lines(services: Services, wanted: Wanted, now: datetime) -> Iterator[str]:
    """The lines of a bundle; the first is made before this returns, so that what cannot be given is refused."""
    if not standby.accepting(services.db):
        raise NotReady("This gateway was restored and signs nothing yet.", remedy="Try again later.")
    made = _lines(services, wanted, now)
    try:
        first = next(made)
    except NothingToShow as exc:
        text = str(exc)  # it may begin with the number of a document, which is no word to be made small
        raise Conflict(f"{text[:1].upper()}{text[1:]}.", remedy="Wait for the next checkpoint.") from exc

    def rest() -> Iterator[str]:
        yield first
        yield from made

    return rest()


def _lines(services: Services, wanted: Wanted, now: datetime) -> Iterator[str]:
    with services.db.read() as conn:
        name, newest_one = origin(services, conn), log.checkpoint(conn)
        if newest_one is None or note.parse(newest_one.note).origin != name:
            raise NothingToShow("no checkpoint is signed yet")
        key = operator_key(services, conn, "log", name, now)  # it is there: it has signed that checkpoint
        log_key = note.Verifier(key.name, note.LOG, key.public)
        witnesses = [k.verifier for k in known_keys(conn, purpose="witness")]
        teller = _Teller(services, conn) if wanted.disclose else None
        yield from bundle(
            conn, wanted.about, log_key=log_key, witnesses=witnesses, seen=wanted.seen,
            shown=teller.shown if teller is not None else lambda _charged: None, signers=_signers(conn, wanted.about),
            seal=lambda text: note.sign_text(text, name=key.name, key=key.private),
        )  # fmt: skip


def _signers(conn: Connection, about: About) -> dict[str, bytes]:
    """The public keys of both sides of a settlement, by their id."""
    if about.settlement_id is None:
        return {}
    said = settlements.one(conn, about.settlement_id).said
    return {k.key_id: k.public for party in (said["operator"], said["centre"]) for k in contracts.keys_of(conn, party)}


class _Teller:
    """Opens what raw records say of persons; of an erased one nothing is told."""

    def __init__(self, services: Services, conn: Connection) -> None:
        self._opener = vault.Opener(services, conn)

    def shown(self, charged: Charged) -> Mapping[str, Any] | None:
        if not charged.sealed:
            return None
        person, record = charged.person, charged.record
        ref = f"{record['site']}/{record['run']}/{record['meter']}"
        raw = {personal.SEALED: {"person": person, "sealed": charged.sealed, "ref": ref}}
        try:
            told = personal.disclose(raw, key=self._opener.key(person))
        except personal.Erased:
            return None
        return None if told is None else {"fields": dict(told.fields), "salt": told.salt}


def key_json(key: KnownKey) -> dict[str, Any]:
    return {
        "id": key.id, "owner": key.owner, "purpose": key.purpose, "name": key.name, "did": key.did,
        "public": _b64(key.public), "vkey": key.verifier.vkey if key.purpose != "statement" else None,
        "valid_from": stamp(key.valid_from), "valid_to": stamp(key.valid_to),
    }  # fmt: skip


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
