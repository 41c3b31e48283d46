"""An organisation that signs and issues invoices is described once."""

from __future__ import annotations

from dataclasses import replace

from accounting import organisations
from accounting.invoicing import legal_entities
from accounting.parties import Party, Role
from accounting.store import contracts
from gateway.db import Database
from tests.unit.accounting.invoicing import NOW, OPERATOR, T0


def test_whichever_is_saved_the_other_says_the_same(db: Database) -> None:
    with db.write() as conn:
        organisations.save_entity(conn, OPERATOR, tax_code="vat", now=T0)
        assert contracts.parties(conn) == {}
        organisations.save_party(conn, Party("op", Role.OPERATOR, "Penstock Group", "9131", "SG"), now=NOW)
        entity, tax_code = legal_entities.entity(conn, "op") or (OPERATOR, "")
        assert entity == replace(OPERATOR, legal_name="Penstock Group", tax_id="9131", country="SG")
        assert tax_code == "vat"
        organisations.save_entity(conn, replace(entity, country="CN"), tax_code="vat", now=NOW)
        assert contracts.parties(conn)["op"] == Party("op", Role.OPERATOR, "Penstock Group", "9131", "CN")
