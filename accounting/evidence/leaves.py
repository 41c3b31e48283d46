"""What the leaf of a journal entry says: its postings, and by hash its charges, which name their raw records by hash.

    leaf    {v, t: entry, key, kind, at, postings: [[account, commodity, "amount"]], charges: [sha256 of a charge]}
    charge  {v, record: sha256 of a record, currency, amount, core_seconds, policy, rule, segments, replaces}
    record  {v, site, run, meter, revision, fields: {raw}, personal, one_sided, read: {what was read from it}}

Quantities are decimal strings, so that no reader rounds them. `personal` is a commitment to the fields that say who it
was (personal.py). `one_sided`: the centre did not sign the record, we read it there. `replaces`: entries whose charge
this one took the place of, with what they had charged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from accounting.evidence.canonical import canonical, sha256_hex
from accounting.evidence.personal import SEALED
from accounting.store import CHARGES, ENTRIES, POSTINGS, REVERSALS, USAGE

_READ = ("core_seconds", "node_seconds", "gpu_seconds", "memory_mib_seconds", "elapsed_s", "suspended_s")


@dataclass(frozen=True, slots=True)
class Charged:
    """A charge with the record it was made from, as the leaf commits to them."""

    charge: Mapping[str, Any]
    record: Mapping[str, Any]
    sealed: str = ""  # the personal fields, encrypted; no part of what is hashed
    person: str = ""


@dataclass(frozen=True, slots=True)
class EntryLeaf:
    """An entry as the log knows it."""

    entry_id: int
    leaf: Mapping[str, Any]
    charged: tuple[Charged, ...]

    @property
    def payload(self) -> bytes:
        return canonical(self.leaf)


def entries(conn: Connection, entry_ids: Sequence[int]) -> Iterator[EntryLeaf]:
    """The leaves of these entries as the books have them now, by id."""
    wanted = sorted(entry_ids)
    postings: dict[int, list[list[str]]] = defaultdict(list)
    query = select(POSTINGS).where(POSTINGS.c.entry_id.in_(wanted)).order_by(POSTINGS.c.entry_id, POSTINGS.c.line)
    for row in conn.execute(query):
        postings[row.entry_id].append([row.account, row.commodity, str(row.amount)])
    charged = _charged(conn, wanted)
    for row in conn.execute(select(ENTRIES).where(ENTRIES.c.id.in_(wanted)).order_by(ENTRIES.c.id)):
        of_entry = tuple(charged.get(row.id, ()))
        leaf = {
            "v": 1, "t": "entry", "key": row.idem_key, "kind": row.kind, "at": stamp(row.effective_at),
            "memo": row.memo, "postings": postings[row.id], "charges": [sha256_hex(c.charge) for c in of_entry],
        }  # fmt: skip
        yield EntryLeaf(row.id, leaf, of_entry)


def _charged(conn: Connection, entry_ids: Sequence[int]) -> dict[int, list[Charged]]:
    replaced = _replaced(conn, entry_ids)
    records = {name: USAGE.c[name] for name in USAGE.c.keys()}  # noqa: SIM118 - a column collection
    columns = [*(CHARGES.c), *(column.label(f"usage_{name}") for name, column in records.items())]
    query = select(*columns).join(USAGE, USAGE.c.id == CHARGES.c.usage_record_id)
    query = query.where(CHARGES.c.entry_id.in_(entry_ids))
    found: dict[int, list[Charged]] = defaultdict(list)
    for row in conn.execute(query.order_by(CHARGES.c.id)).mappings():
        record, sealed, person = record_of({name: row[f"usage_{name}"] for name in records})
        charge = {
            "v": 1, "record": sha256_hex(record), "currency": row["currency"], "amount": str(row["amount_micro"]),
            "core_seconds": str(row["core_seconds"]), "policy": row["policy_version"], "rule": row["rule"],
            "segments": [plain(segment) for segment in row["segments"]],
            "replaces": replaced.get((row["entry_id"], row["usage_record_id"]), []),
        }  # fmt: skip
        found[row["entry_id"]].append(Charged(charge, record, sealed, person))
    return found


def _replaced(conn: Connection, entry_ids: Sequence[int]) -> dict[tuple[int, int], list[dict[str, str]]]:
    """(entry, reading that replaces) -> what was charged before, and by which entry."""
    query = (
        select(REVERSALS.c.entry_id, REVERSALS.c.by_usage_record_id, CHARGES.c.amount_micro, CHARGES.c.core_seconds,
               ENTRIES.c.idem_key)
        .join(CHARGES, CHARGES.c.id == REVERSALS.c.charge_id)
        .join(ENTRIES, ENTRIES.c.id == CHARGES.c.entry_id)
        .where(REVERSALS.c.entry_id.in_(entry_ids))
        .order_by(CHARGES.c.id)
    )  # fmt: skip
    found: dict[tuple[int, int], list[dict[str, str]]] = defaultdict(list)
    for row in conn.execute(query):
        before = {"entry": row.idem_key, "amount": str(row.amount_micro), "core_seconds": str(row.core_seconds)}
        found[row.entry_id, row.by_usage_record_id].append(before)
    return found


def record_of(row: Mapping[str, Any]) -> tuple[dict[str, Any], str, str]:
    """(the record object, the sealed personal fields, whose they are) of a row of `usage_record`."""
    fields = dict(row["raw"])
    seal = fields.pop(SEALED, None) or {}
    record = {
        "v": 1, "site": row["site_id"], "run": row["run_key"], "meter": row["meter"], "revision": row["revision"],
        "fields": plain(fields), "personal": seal.get("commitment"), "one_sided": True,
        "read": {"kind": row["kind"], "state": row["state"], "queue": row["queue"], "cores": row["cores"],
                 "nodes": row["nodes"], "start": stamp(row["start_time"]), "end": stamp(row["end_time"]),
                 **{name: str(row[name]) for name in _READ}},
    }  # fmt: skip
    return record, seal.get("sealed", ""), seal.get("person", "")


def plain(value: Any) -> Any:
    """A JSON value of the books as canonical JSON takes it: every integer as a string."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} is nothing that evidence holds")


def stamp(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
