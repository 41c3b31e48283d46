"""Runs, prices and contracts with defaults: a test names only what matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from accounting import store as books
from accounting.agreement import Agreement, Model, Share, Shares
from accounting.parties import Party, Role, Signature, SigningKey
from accounting.store import contracts, drawing
from accounting.store.settlements import Settlement
from accounting.tariff import PriceRule, Scope, Tariff
from accounting.usage import Kind, Meter, UsageRecord
from gateway.db import Database

PROJECT = "r1"
T0 = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
NOW = datetime(2026, 11, 25, tzinfo=UTC)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
HERE = Scope("CNY", "alpha", "cpu")


def run(key: str = "1", *, cores: int = 4, elapsed: int = 100, start: datetime = T0, **more: Any) -> UsageRecord:
    """A run of `cores` for `elapsed` seconds that the centre metered."""
    values: dict[str, Any] = {
        "site_id": "alpha", "run_key": key, "meter": Meter.CENTRE, "kind": Kind.RUN, "native_id": key,
        "state": "COMPLETED", "username": "alice", "cores": cores, "nodes": 1, "elapsed_s": elapsed,
        "core_seconds": cores * elapsed, "node_seconds": elapsed, "queue": "cpu", "start_time": start,
        "end_time": start + timedelta(seconds=elapsed + more.get("suspended_s", 0)), "raw": {"key": key},
    }  # fmt: skip
    return UsageRecord(**values | more)


def rule(id_: int = 1, micro: int = 360_000, **more: Any) -> PriceRule:
    """A price per core-hour from long ago: 100 micro-units a core-second."""
    return PriceRule(**{"id": id_, "currency": "CNY", "price_micro": micro, "valid_from": LONG_AGO} | more)


def assigned(record: UsageRecord, job_id: str | None = None, **more: Any) -> books.Assigned:
    values = {"project_id": PROJECT, "user_id": "u1", "currency": "CNY"} | more
    return books.Assigned(record, job_id or f"j{record.run_key}", **values)


def add_rules(db: Database, *rules: PriceRule) -> None:
    with db.write() as conn:
        for item in rules:
            books.add_tariff(conn, item, now=LONG_AGO)


def charge(db: Database, *records: UsageRecord, now: datetime = NOW, job_id: str | None = None, **more: Any) -> int:
    """Book readings in one transaction; how many were charged."""
    with db.write() as conn:
        items = [assigned(r, job_id, **more) for r in records]
        return books.record_and_book(conn, items, now=now).charged


def owed(db: Database, project_id: str = PROJECT, commodity: str = "CNY") -> int:
    """What a project used by its balance, after the books were checked."""
    with db.read() as conn:
        assert books.check_books(conn) == []
        return next(e.settled for e in books.exposure(conn, project_id) if e.commodity == commodity)


def standing(db: Database, code: str, commodity: str = "CNY", **when: Any) -> int:
    """What stands on one account."""
    with db.read() as conn:
        return books.balances(conn, code=code, **when).get((code, commodity), 0)


def agreement(**more: Any) -> Agreement:
    """The operator keeps 30 %, the centre gets 70 % and the remainder."""
    shares = Shares(100, (Share("op", 30), Share("centre", 70)), remainder_to="centre")
    values: dict[str, Any] = {
        "id": "a1", "version": 1, "operator_id": "op", "centre_id": "centre", "site_ids": ("alpha",),
        "model": Model.AGENCY, "seller_of_record": "centre", "brand": "Penstock", "collector": "op",
        "currency": "CNY", "shares": shares, "valid_from": LONG_AGO,
    }  # fmt: skip
    return Agreement(**values | more)


def _by_name(key: SigningKey, payload: bytes, signature: bytes) -> bool:
    """A signature for tests: the key's own bytes before the document's."""
    return signature == key.public + payload


def sign_both(conn: Connection, document: Agreement | Tariff, *, at: datetime = LONG_AGO) -> None:
    for party_id in ("op", "centre"):
        sign_one(conn, document, party_id, at=at)


def sign_one(conn: Connection, document: Agreement | Tariff, party_id: str, *, at: datetime = LONG_AGO) -> None:
    key = SigningKey(f"{party_id}#1", "test", party_id.encode(), LONG_AGO)
    contracts.save_party(
        conn, Party(party_id, Role.CENTRE if party_id == "centre" else Role.OPERATOR, party_id), now=at
    )
    contracts.add_key(conn, party_id, key)
    signature = Signature(party_id, key.key_id, key.public + document.payload, at)
    contracts.sign(conn, document.sha256, signature, _by_name)


def agree(db: Database, document: Agreement | None = None) -> Agreement:
    """An agreement in force."""
    wanted = document or agreement()
    with db.write() as conn:
        contracts.save_agreement(conn, wanted, now=wanted.valid_from)
        sign_both(conn, wanted, at=wanted.valid_from)
    return wanted


def kinds(db: Database) -> Sequence[str]:
    """The kinds of all entries, in order."""
    with db.read() as conn:
        seen = dict.fromkeys((row.entry_id, row.kind) for row in conn.execute(books.posting_lines()))
    return [kind for _, kind in seen]


def draw(
    conn: Connection, agreement: Agreement, *, settlement_id: str, start: datetime, end: datetime,
    disputed: Mapping[str, str], now: datetime,
) -> Settlement:  # fmt: skip
    """A settlement's statement, all steps in one transaction."""
    chosen = drawing.choose(conn, agreement, settlement_id=settlement_id, start=start, end=end, disputed=disputed)
    for part in chosen.parts:
        drawing.take(conn, chosen, part)
    return drawing.complete(conn, drawing.add_up(conn, chosen), now=now)
