"""Parties, and what they signed: agreements and tariffs take effect with both signatures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select

from accounting.agreement import Agreement, agreement_of
from accounting.errors import AccountingError, KeyReused, NotSigned
from accounting.evidence.documents import project_terms
from accounting.evidence.outbox import put
from accounting.parties import Party, Role, Signature, SigningKey, Verify
from accounting.store.prices import insert_rule
from accounting.store.schema import AGREEMENTS, KEYS, PARTIES, SIGNATURES, TARIFFS, TERMS, upsert
from accounting.tariff import Scope, Tariff, problems, tariff_of
from accounting.terms import agreement_problems, tariff_problems


def save_party(conn: Connection, party: Party, *, now: datetime) -> None:
    """Add a party, or its next revision where something changed."""
    before = parties(conn).get(party.id)
    if before == party:
        return
    newest = conn.scalar(select(func.max(PARTIES.c.revision)).where(PARTIES.c.id == party.id)) or 0
    conn.execute(
        insert(PARTIES).values(
            id=party.id, revision=newest + 1, role=party.role.value, legal_name=party.legal_name, tax_id=party.tax_id,
            country=party.country, did=party.did, site_ids=list(party.site_ids), recorded_at=now,
        )
    )  # fmt: skip


def parties(conn: Connection) -> dict[str, Party]:
    """The newest revision of every party, by id."""
    rows = conn.execute(select(PARTIES).order_by(PARTIES.c.revision))
    return {r.id: Party(r.id, Role(r.role), r.legal_name, r.tax_id, r.country, r.did, tuple(r.site_ids)) for r in rows}


def add_key(conn: Connection, party_id: str, key: SigningKey) -> None:
    """Let a key speak for a party; the same key again changes nothing."""
    row = {"party_id": party_id, "key_id": key.key_id, "algorithm": key.algorithm, "public": key.public,
           "valid_from": key.valid_from, "valid_to": key.valid_to}  # fmt: skip
    conn.execute(upsert(conn, KEYS).on_conflict_do_nothing(), [row])


def keys_of(conn: Connection, party_id: str) -> list[SigningKey]:
    """A party's keys, also those that speak no longer."""
    rows = conn.execute(select(KEYS).where(KEYS.c.party_id == party_id).order_by(KEYS.c.valid_from))
    return [SigningKey(r.key_id, r.algorithm, r.public, r.valid_from, r.valid_to) for r in rows]


def save_agreement(conn: Connection, agreement: Agreement, *, now: datetime) -> None:
    """Keep a version as it will be signed; the same version with other content is refused."""
    if wrong := agreement_problems(agreement):
        raise AccountingError("; ".join(wrong))
    row = {"id": agreement.id, "version": agreement.version, "operator_id": agreement.operator_id,
           "centre_id": agreement.centre_id, "valid_from": agreement.valid_from, "payload": agreement.payload,
           "sha256": agreement.sha256, "recorded_at": now}  # fmt: skip
    earlier = conn.execute(select(AGREEMENTS).where(AGREEMENTS.c.id == agreement.id)).first()
    if earlier is not None and (earlier.operator_id, earlier.centre_id) != (row["operator_id"], row["centre_id"]):
        raise AccountingError(f"agreement {agreement.id} is between other parties")
    if _save(conn, AGREEMENTS, row):
        put(conn, "agreement", f"{agreement.id}/{agreement.version}", agreement.payload, centre=agreement.centre_id)


def save_tariff(conn: Connection, tariff: Tariff, *, now: datetime) -> None:
    """Keep a version with its rules; they price nothing until both sides signed it."""
    if wrong := tariff_problems(tariff) or problems(tariff.rules):
        raise AccountingError("; ".join(wrong))
    if conn.scalar(select(AGREEMENTS.c.id).where(AGREEMENTS.c.id == tariff.agreement_id).limit(1)) is None:
        raise AccountingError(f"there is no agreement {tariff.agreement_id!r}")
    row = {"id": tariff.id, "version": tariff.version, "agreement_id": tariff.agreement_id,
           "valid_from": tariff.valid_from, "payload": tariff.payload, "sha256": tariff.sha256,
           "recorded_at": now}  # fmt: skip
    if _save(conn, TARIFFS, row):
        put(conn, "tariff", f"{tariff.id}/{tariff.version}", tariff.payload, agreement=tariff.agreement_id)
        for rule in tariff.rules:
            insert_rule(conn, rule, tariff_sha256=tariff.sha256, now=now)


def sign(conn: Connection, document_sha256: str, signature: Signature, verify: Verify) -> None:
    """Add a party's signature, once it is checked against a key that is the party's at that time."""
    payload, between = _document(conn, document_sha256)
    if signature.party_id not in between:
        raise NotSigned(f"{signature.party_id} is no party of this document")
    keys = [k for k in keys_of(conn, signature.party_id) if k.key_id == signature.key_id]
    if not any(key.valid_at(signature.signed_at) and verify(key, payload, signature.signature) for key in keys):
        raise NotSigned(f"no key {signature.key_id!r} of {signature.party_id} confirms this signature")
    row = {"document_sha256": document_sha256, "party_id": signature.party_id, "key_id": signature.key_id,
           "signature": signature.signature, "signed_at": signature.signed_at}  # fmt: skip
    query = upsert(conn, SIGNATURES).on_conflict_do_nothing().returning(SIGNATURES.c.party_id)
    if conn.execute(query, [row]).all():
        put(conn, "signature", f"{document_sha256}/{signature.party_id}", signature.signature, key=signature.key_id,
            at=signature.signed_at.isoformat())  # fmt: skip


def signatures(conn: Connection, document_sha256: str) -> list[Signature]:
    """Who signed a document."""
    query = select(SIGNATURES).where(SIGNATURES.c.document_sha256 == document_sha256).order_by(SIGNATURES.c.signed_at)
    return [Signature(r.party_id, r.key_id, r.signature, r.signed_at) for r in conn.execute(query)]


_EVER = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class InForce:
    """A signed version of an agreement and when it holds; None: until further notice."""

    agreement: Agreement
    since: datetime
    until: datetime | None

    def at(self, moment: datetime) -> bool:
        return self.since <= moment and (self.until is None or moment < self.until)


class Contracts:
    """Signed agreements and projects' terms, looked up for many runs."""

    def __init__(self, in_force: Sequence[InForce], terms: Sequence[Terms]) -> None:
        self._by_site: dict[str, list[InForce]] = {}
        for item in reversed(in_force):
            for site_id in item.agreement.site_ids:
                self._by_site.setdefault(site_id, []).append(item)
        self._terms: dict[str, list[Terms]] = {}
        for t in sorted(terms, key=lambda t: t.valid_from, reverse=True):
            self._terms.setdefault(t.project_id, []).append(t)
        self._scopes: dict[tuple[str | bool, ...], Scope] = {}

    def agreement(self, site_id: str, at: datetime | None) -> Agreement | None:
        """The agreement with the centre of a site at a moment; the newest where two hold."""
        if at is not None:
            for item in self._by_site.get(site_id, ()):
                if item.at(at):
                    return item.agreement
        return None

    def terms(self, project_id: str, at: datetime | None) -> Terms:
        """A project's terms at a moment."""
        if at is not None:
            for dated in self._terms.get(project_id, ()):
                if dated.valid_from <= at:
                    return dated
        return Terms(project_id)

    def scope(
        self, *, site_id: str, queue: str, qos: str, currency: str, project_id: str, at: datetime | None,
        grade: str = "",
    ) -> Scope:  # fmt: skip
        """Where and for whom a run is priced: the grade that was ordered, else the agreement's, and the user class."""
        return self.where(self.agreement(site_id, at), self.terms(project_id, at), site_id=site_id, queue=queue,
                          qos=qos, currency=currency, grade=grade)  # fmt: skip

    def where(
        self, agreement: Agreement | None, terms: Terms, *, site_id: str, queue: str, qos: str, currency: str,
        grade: str,
    ) -> Scope:  # fmt: skip
        """The same under an agreement and terms that are known."""
        served = grade or ("" if agreement is None else agreement.grade_of(queue))
        place = (currency, site_id, queue, qos, served, terms.user_class, terms.project_id, agreement is not None)
        found = self._scopes.get(place)
        if found is None:
            found = self._scopes[place] = Scope(*place)
        return found


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a project buys: its class of user, and who pays in which parts (none: the project itself)."""

    project_id: str
    valid_from: datetime = _EVER
    user_class: str = ""
    payers: tuple[tuple[str, int], ...] = ()


def contracts(conn: Connection, project_id: str | None = None) -> Contracts:
    """What is signed, and every project's terms (or those of one)."""
    query = select(TERMS).order_by(TERMS.c.valid_from)
    if project_id is not None:
        query = query.where(TERMS.c.project_id == project_id)
    dated = [
        Terms(r.project_id, r.valid_from, r.user_class, tuple((p, int(w)) for p, w in r.payers))
        for r in conn.execute(query)
    ]
    return Contracts(in_force(conn), dated)


def in_force(conn: Connection) -> list[InForce]:
    """Every version that both sides signed, oldest first; a version holds until the next one of its agreement does."""
    found: list[InForce] = []
    signed: dict[str, dict[str, datetime]] = {}
    for s in conn.execute(select(SIGNATURES)):
        signed.setdefault(s.document_sha256, {})[s.party_id] = s.signed_at
    rows = conn.execute(select(AGREEMENTS).order_by(AGREEMENTS.c.id, AGREEMENTS.c.version)).all()
    effective = []
    for row in rows:
        by = signed.get(row.sha256, {})
        if row.operator_id in by and row.centre_id in by:
            agreement = agreement_of(row.payload)
            effective.append((agreement, max(agreement.valid_from, by[row.operator_id], by[row.centre_id])))
    for i, (agreement, since) in enumerate(effective):
        later = [s for a, s in effective[i + 1 :] if a.id == agreement.id]
        until = min([*later, *([agreement.valid_to] if agreement.valid_to else [])], default=None)
        found.append(InForce(agreement, since, until))
    return sorted(found, key=lambda item: item.since)


def set_terms(conn: Connection, terms: Terms, *, now: datetime) -> None:
    """A project's terms from a moment on; what holds already is not changed backwards."""
    if any(weight <= 0 for _, weight in terms.payers):
        raise AccountingError("each payer's weight is more than nothing")
    newest = conn.scalar(select(func.max(TERMS.c.valid_from)).where(TERMS.c.project_id == terms.project_id))
    if newest is not None and newest >= terms.valid_from:
        raise AccountingError(f"terms from {newest.isoformat()} on are set already")
    row = {"project_id": terms.project_id, "valid_from": terms.valid_from, "user_class": terms.user_class,
           "payers": [list(p) for p in terms.payers]}  # fmt: skip
    conn.execute(insert(TERMS).values(**row, recorded_at=now))
    ref = f"{terms.project_id}/{terms.valid_from.isoformat()}"
    put(conn, "project_terms", ref, project_terms(row), project=terms.project_id)


def agreements(conn: Connection) -> list[tuple[Agreement, list[Signature]]]:
    """Every version with who signed it."""
    rows = conn.execute(select(AGREEMENTS).order_by(AGREEMENTS.c.id, AGREEMENTS.c.version))
    return [(agreement_of(r.payload), signatures(conn, r.sha256)) for r in rows.all()]


def tariff_versions(conn: Connection) -> list[tuple[Tariff, list[Signature]]]:
    """Every version of a tariff with who signed it."""
    rows = conn.execute(select(TARIFFS).order_by(TARIFFS.c.id, TARIFFS.c.version))
    return [(tariff_of(r.payload), signatures(conn, r.sha256)) for r in rows.all()]


def _save(conn: Connection, table: Any, row: dict[str, Any]) -> bool:
    stored = conn.execute(upsert(conn, table).on_conflict_do_nothing().returning(table.c.id), [row]).all()
    if stored:
        return True
    kept = conn.scalar(select(table.c.sha256).where(table.c.id == row["id"], table.c.version == row["version"]))
    if kept != row["sha256"]:
        raise KeyReused(f"version {row['version']} of {row['id']} is kept with other content")
    return False


def _document(conn: Connection, sha256: str) -> tuple[bytes, set[str]]:
    """The bytes to be signed, and by whom."""
    row = conn.execute(select(AGREEMENTS).where(AGREEMENTS.c.sha256 == sha256)).one_or_none()
    if row is not None:
        return row.payload, {row.operator_id, row.centre_id}
    tariff = conn.execute(select(TARIFFS).where(TARIFFS.c.sha256 == sha256)).one_or_none()
    if tariff is None:
        raise AccountingError(f"there is no document {sha256}")
    row = conn.execute(select(AGREEMENTS).where(AGREEMENTS.c.id == tariff.agreement_id)).first()
    assert row is not None
    return tariff.payload, {row.operator_id, row.centre_id}
