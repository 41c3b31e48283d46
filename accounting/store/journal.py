"""Book balanced entries, each once for ever."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any

from msgspec import structs
from sqlalchemy import Connection, select

from accounting.errors import KeyReused
from accounting.evidence.outbox import OUTBOX, rows_of_entries
from accounting.ledger import Entry
from accounting.store.schema import (
    ACCOUNTS,
    ENTRIES,
    PERIODS,
    POSTINGS,
    among,
    insert_new,
    insert_rows,
    lock,
    new_ids,
    upsert,
)

_ENTRY = ("id", "tenant", "idem_key", "content_sha256", "kind", "effective_at", "service_at", "linked_entry_id", "memo",
          "recorded_at")  # fmt: skip
_CLOSED = select(PERIODS.c.tenant, PERIODS.c.starts_at, PERIODS.c.ends_at).where(PERIODS.c.state == "closed")


def book(conn: Connection, entries: Sequence[Entry], *, now: datetime) -> dict[str, int]:
    """Book balanced entries; returns the ids of those that are new, by their key.

    A key that is booked already is left out; with other content it raises `KeyReused`. An entry whose time is in a
    closed period counts now instead, and keeps its time as `service_at`.
    """
    if not entries:
        return {}
    entries = in_open_periods(conn, entries, now=now)
    ids = new_ids(conn, ENTRIES, len(entries))
    rows = [
        (id_, e.tenant, e.idem_key, e.content_sha256, e.kind, e.effective_at, e.service_at, e.linked_entry_id,
         e.memo[:500], now)
        for id_, e in zip(ids, entries, strict=True)
    ]  # fmt: skip
    stored = insert_new(conn, ENTRIES, _ENTRY, rows)
    booked = [(id_, e) for id_, e in zip(ids, entries, strict=True) if id_ in stored]
    fresh = {e.idem_key: id_ for id_, e in booked}
    if len(fresh) < len(entries):
        _assert_same(conn, [(e, id_ in stored) for id_, e in zip(ids, entries, strict=True)])
    accounts = account_ids(conn, {(p.account, p.commodity) for _, e in booked for p in e.postings})
    postings = [
        (id_, line, accounts[p.account, p.commodity], p.amount)
        for id_, e in booked
        for line, p in enumerate(e.postings)
    ]
    insert_rows(conn, POSTINGS, ("entry_id", "line", "account_id", "amount"), postings)
    insert_rows(conn, OUTBOX, ("kind", "ref", "body"), rows_of_entries(fresh.values()))
    return fresh


def in_open_periods(conn: Connection, entries: Sequence[Entry], *, now: datetime) -> Sequence[Entry]:
    """The entries, those of closed periods moved to now (accounting.md, I6). Holds off closing until the commit."""
    lock(conn, {f"period:{e.tenant}" for e in entries}, shared=True)
    closed = [(r.tenant, r.starts_at, r.ends_at) for r in conn.execute(_CLOSED)]
    if not closed:
        return entries
    latest = max(end for _, _, end in closed)

    def moved(entry: Entry) -> Entry:
        at = entry.effective_at
        if at >= latest or not any(t == entry.tenant and a <= at < b for t, a, b in closed):
            return entry
        return structs.replace(entry, effective_at=max(now, latest), service_at=entry.service_at or at)

    return [moved(entry) for entry in entries]


def account_ids(conn: Connection, wanted: Collection[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """The ids of accounts by (code, commodity), opened where they are new."""
    if not wanted:
        return {}
    found = _accounts(conn, wanted)
    missing = sorted(set(wanted) - set(found))
    if missing:
        rows = [{"code": code, "commodity": commodity} for code, commodity in missing]
        conn.execute(upsert(conn, ACCOUNTS).on_conflict_do_nothing(), rows)
        found |= _accounts(conn, missing)
    return found


def _accounts(conn: Connection, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
    query = select(ACCOUNTS.c.id, ACCOUNTS.c.code, ACCOUNTS.c.commodity)
    query = query.where(among(conn, ACCOUNTS.c.code, {code for code, _ in wanted}))
    return {(r.code, r.commodity): r.id for r in conn.execute(query)}


def _assert_same(conn: Connection, entries: Sequence[tuple[Entry, bool]]) -> None:
    """A key that was booked before (or earlier in this call) must have been booked with the same content."""
    keys = {entry.idem_key for entry, fresh in entries if not fresh}
    query = select(ENTRIES.c.idem_key, ENTRIES.c.content_sha256).where(among(conn, ENTRIES.c.idem_key, keys))
    kept = {row.idem_key: row.content_sha256 for row in conn.execute(query)}
    for entry, _ in entries:
        if entry.idem_key in keys and kept[entry.idem_key] != entry.content_sha256:
            raise KeyReused(f"{entry.idem_key} was booked with other content")


def posting_lines() -> Any:
    """Postings with their account and entry, for whoever reads the books."""
    return (
        select(
            ENTRIES.c.id.label("entry_id"), ENTRIES.c.tenant, ENTRIES.c.kind, ENTRIES.c.effective_at,
            ENTRIES.c.service_at, ENTRIES.c.recorded_at, ENTRIES.c.memo, ACCOUNTS.c.code, ACCOUNTS.c.commodity,
            POSTINGS.c.line, POSTINGS.c.amount,
        )
        .join(ENTRIES, ENTRIES.c.id == POSTINGS.c.entry_id)
        .join(ACCOUNTS, ACCOUNTS.c.id == POSTINGS.c.account_id)
        .order_by(ENTRIES.c.id, POSTINGS.c.line)
    )  # fmt: skip
