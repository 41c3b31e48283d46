"""Settle with centres: draw and sign a statement, take their signature, pay. Nothing is booked before both signed."""

from __future__ import annotations

import binascii
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Connection

from accounting.agreement import Agreement
from accounting.errors import AccountingError
from accounting.evidence.about import About
from accounting.invoicing.dispute_store import disputes, entries_in_dispute
from accounting.money import format_micro
from accounting.parties import SigningKey
from accounting.signing import BadSignature, key_id_of, sign_jws, verify_jws
from accounting.store import contracts, drawing, settlements
from accounting.store.drawing import Added
from accounting.store.settlements import Settlement
from gateway.billing import evidence, proofs
from gateway.billing.cycles import no_search_for_cycles
from gateway.errors import Conflict, Forbidden, Invalid, NotFound, Problem
from gateway.identity.access import Person, Verb, can
from gateway.ids import new_id
from gateway.services import Services

log = structlog.get_logger()

KIND = "penstock-settlement"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement that is added up, and the disputes of payers that it was added up with."""

    added: Added
    disputes: tuple[str, ...]


@no_search_for_cycles()
def prepare(
    services: Services, *, centre_id: str, start: datetime, end: datetime, disputed: Mapping[str, str], now: datetime
) -> Prepared:
    """Put what a centre's statement settles on it, and add it up: nobody waits for longer than one part takes.

    What payers dispute is held back by itself, beside what `disputed` names; the next statement takes it up again.
    """
    try:
        with services.db.read() as conn:
            agreement = _agreement(conn, centre_id, end)
            live = _live_disputes(conn, agreement)
            by_payers = entries_in_dispute(conn, agreement.site_ids)
            waiting = drawing.still_open(conn, centre_id, agreement.currency, end, by_payers.keys())
            disputed = {key: why for key, why in by_payers.items() if key in waiting} | dict(disputed)
            chosen = drawing.choose(conn, agreement, settlement_id=new_id("s", now), start=start, end=end,
                                    disputed=disputed)  # fmt: skip
        for part in chosen.parts:
            with services.db.write() as conn:
                drawing.take(conn, chosen, part)
        with services.db.read() as conn:
            return Prepared(drawing.add_up(conn, chosen), live)
    except AccountingError as exc:
        raise Conflict(str(exc)) from exc


def draw(services: Services, conn: Connection, prepared: Prepared, *, now: datetime) -> Settlement:
    """Keep a statement that was added up and sign it for the operator; in a write transaction, which it holds shortly.

    Raises `Conflict` where a dispute, the agreement or another statement came in between: it is to be drawn again.
    """
    chosen = prepared.added.chosen
    agreement, centre_id = chosen.agreement, chosen.agreement.centre_id
    now_agreed = _agreement(conn, centre_id, chosen.end)
    if now_agreed != agreement or _live_disputes(conn, agreement) != prepared.disputes:
        raise Conflict("A dispute or the agreement changed while this was added up.", remedy="Draw it again.")
    try:
        drawn = drawing.complete(conn, prepared.added, now=now)
    except AccountingError as exc:
        raise Conflict(str(exc), remedy="Draw it again." if isinstance(exc, drawing.Changed) else "") from exc
    key = evidence.operator_key(services, conn, "statement", agreement.operator_id, now)
    contracts.add_key(conn, agreement.operator_id, SigningKey(key.id, "Ed25519", key.public, now))
    jws = sign_jws(drawn.statement.encode(), private=key.private.private_bytes_raw(), key_id=key.id, kind=KIND)
    settlements.add_signature(conn, drawn.id, "operator", key_id=key.id, jws=jws, now=now)
    log.info("settlement_drawn", settlement=drawn.id, centre=centre_id, net=drawn.said["net"])
    return settlements.one(conn, drawn.id)


def _live_disputes(conn: Connection, agreement: Agreement) -> tuple[str, ...]:
    """What payers dispute of the work of the agreement's sites."""
    return tuple(d.id for site in agreement.site_ids for d in disputes(conn, site_id=site) if d.live)


def _agreement(conn: Connection, centre_id: str, end: datetime) -> Agreement:
    last = end - timedelta(microseconds=1)
    found = [i.agreement for i in contracts.in_force(conn) if i.agreement.centre_id == centre_id and i.at(last)]
    if not found:
        raise NotFound(f"No signed agreement with {centre_id!r} holds at the end of that period.")
    return found[-1]


def countersign(
    services: Services, conn: Connection, person: Person, settlement_id: str, jws: str, now: datetime
) -> Settlement:
    """Take the centre's signature over the very same bytes; with it the statement is agreed, booked and logged."""
    found = visible(conn, person, settlement_id)
    if not _signs_for(person, found):
        raise Forbidden("Only the centre's own staff signs for it.", remedy="Use a token with the submit scope.")
    try:
        key_id = key_id_of(jws)
        key = next(
            (k for k in contracts.keys_of(conn, found.centre_id) if k.key_id == key_id and k.valid_at(now)), None
        )
        if key is None:
            raise BadSignature(f"no live key {key_id!r} speaks for {found.centre_id}")
        verify_jws(jws, public=key.public, payload=found.statement.encode(), kind=KIND)
    except (BadSignature, binascii.Error) as exc:
        problem = Problem("/jws", str(exc), "invalid", "Sign GET …/statement, byte for byte, with a key of the centre.")
        raise Invalid(f"The signature is not good: {exc}", problems=(problem,)) from exc
    if found.state != "drawn":
        raise Conflict(f"This statement is {found.state}.")
    settlements.add_signature(conn, found.id, "centre", key_id=key_id, jws=jws, now=now)
    agreed = settlements.agree(conn, found.id, by=person.user_id, now=now)
    log.info("settlement_agreed", settlement=found.id, centre=found.centre_id, entry=agreed.entry_id)
    return agreed


def withdraw(conn: Connection, person: Person, settlement_id: str, reason: str, now: datetime) -> Settlement:
    """The operator takes a statement back, or the centre objects to it; its entries are open again."""
    found = visible(conn, person, settlement_id)
    if not (can(person, Verb.OPERATE) or _signs_for(person, found)):
        raise Forbidden("Only the operator and the centre may do this.")
    try:
        return settlements.withdraw(conn, settlement_id, by=person.user_id, reason=reason, now=now)
    except AccountingError as exc:
        raise Conflict(str(exc)) from exc


def pay(
    conn: Connection, settlement_id: str, *, amount: int, cost: int | None, reference: str, paid_at: datetime,
    now: datetime,
) -> Settlement:  # fmt: skip
    """Record a payment to the centre; `cost` is what the bank took in the settlement's own currency."""
    found = _one(conn, settlement_id)
    exchanged = found.said["pay_currency"] != found.currency
    if exchanged and cost is None:
        problem = Problem("/cost", f"Say what the bank took in {found.currency}.", "required")
        raise Invalid("What did it cost?", problems=(problem,))
    try:
        return settlements.pay(conn, settlement_id, amount=amount, cost=amount if cost is None else cost,
                               reference=reference, paid_at=paid_at, now=now)  # fmt: skip
    except AccountingError as exc:
        raise Conflict(str(exc)) from exc


# ---------------------------------------------------------------- looking


def visible(conn: Connection, person: Person, settlement_id: str) -> Settlement:
    """A statement that this person may see: the operator, and the staff of one of the centre's sites."""
    found = _one(conn, settlement_id)
    if not _sees(person, found):
        raise NotFound(f"There is no settlement {settlement_id!r} that you may see.")
    return found


def listed(conn: Connection, person: Person) -> list[Settlement]:
    """Every statement that this person may see, newest first."""
    return [s for s in reversed(settlements.every(conn)) if _sees(person, s)]


def _one(conn: Connection, settlement_id: str) -> Settlement:
    try:
        return settlements.one(conn, settlement_id)
    except AccountingError as exc:
        raise NotFound(f"There is no settlement {settlement_id!r} that you may see.") from exc


def _sees(person: Person, found: Settlement) -> bool:
    return can(person, Verb.OPERATE) or any(can(person, Verb.SEE_SITE, ("site", s)) for s in found.said["sites"])


def _signs_for(person: Person, found: Settlement) -> bool:
    return any(can(person, Verb.SIGN_SETTLEMENT, ("site", site)) for site in found.said["sites"])


def lines(services: Services, found: Settlement, seen: int | None, now: datetime) -> Iterator[str]:
    """The bundle of a statement, for the independent verifier."""
    about = About(found.start, found.end, settlement_id=found.id)
    return proofs.lines(services, proofs.Wanted(about, seen, disclose=True), now)


def settlement_json(found: Settlement) -> dict[str, Any]:
    """A statement as people see it: amounts as decimal strings; what was signed is under /statement."""
    said = found.said
    return {
        "id": found.id, "centre": found.centre_id, "state": found.state, "reason": found.reason,
        "revision": found.revision, "from": said["from"], "to": said["to"], "zone": said["zone"],
        "currency": found.currency,
        "earned": _shown(said["earned"]), "centre_share": _shown(said["centre_share"]), "tax": _shown(said["tax"]),
        "fees": _shown(str(sum(int(fee["amount"]) for fee in said["fees"]))),
        "withheld": _shown(said["withheld"]["amount"]), "net": _shown(said["net"]),
        "carried_before": _shown(said["carried_before"]), "carried": _shown(said["carried"]),
        "pay": _shown(said["pay"]), "pay_currency": said["pay_currency"], "opening": _shown(said["opening"]),
        "closing": _shown(said["closing"]),
        "paid": format_micro(found.paid), "disputed": len(said["disputed"]), "entries": int(said["entries"]),
        "sha256": found.sha256, "signed_by": sorted(found.signatures), "drawn_at": said["drawn_at"],
    }  # fmt: skip


def statement_json(found: Settlement) -> dict[str, Any]:
    return {"statement": found.said, "sha256": found.sha256, "signatures": dict(found.signatures)}


def signers(conn: Connection, found: Settlement) -> dict[str, str]:
    """The public keys of both sides by their id, in base64."""
    keys = [*contracts.keys_of(conn, found.centre_id), *contracts.keys_of(conn, found.said["operator"])]
    return {key.key_id: b64encode(key.public).decode() for key in keys}


def _shown(micro: str) -> str:
    return format_micro(int(micro))
