"""One organisation, described once: what a party and a legal entity of the same id both say is kept alike.

A party says who signs and takes part; a legal entity says what stands on an invoice. Name, tax number and country are
of both: whichever is saved, the other gets its next revision with them. Neither makes the other.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection

from accounting.invoicing import legal_entities
from accounting.invoicing.invoice import LegalEntity
from accounting.parties import Party
from accounting.store import contracts


def save_party(conn: Connection, party: Party, *, now: datetime) -> None:
    """Save a party, and tell its legal entity what changed."""
    contracts.save_party(conn, party, now=now)
    found = legal_entities.entity(conn, party.id)
    if found is not None:
        entity, tax_code = found
        alike = replace(entity, legal_name=party.legal_name, tax_id=party.tax_id, country=party.country)
        if alike != entity:
            legal_entities.save_entity(conn, alike, tax_code=tax_code, now=now)


def save_entity(conn: Connection, entity: LegalEntity, *, tax_code: str = "", now: datetime) -> None:
    """Save a legal entity, and tell its party what changed."""
    legal_entities.save_entity(conn, entity, tax_code=tax_code, now=now)
    party = contracts.parties(conn).get(entity.id)
    if party is not None:
        alike = replace(party, legal_name=entity.legal_name, tax_id=entity.tax_id, country=entity.country)
        contracts.save_party(conn, alike, now=now)
