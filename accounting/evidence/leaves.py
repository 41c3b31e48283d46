"""What the leaf of a journal entry says: its postings, and by hash its charges, which name their raw records by hash.

    leaf    {v, t: entry, key, kind, at, service_at, link, memo, postings: [[account, commodity, "amount"]], charges}
    charge  {v, record: sha256 of a record, currency, what it comes to, policy, rule, agreement, segments, replaces …}
    record  {v, site, run, meter, revision, fields: {raw}, personal, one_sided, read: {what was read from it}}

Quantities are decimal strings, so that no reader rounds them. `personal` is a commitment to the fields that say who it
was (personal.py). `one_sided`: the centre did not sign the record, we read it there; a reading that was posted from a
line of a statement that the centre signed is not, and of others a later leaf says that the centre has confirmed them
(reconciling/confirmed.py). `replaces`: entries whose charge
this one took the place of, with what they had charged. What these objects hold is fixed by `v`: old leaves are made
from the books again and again, so a later form is version 2 beside this one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from accounting.evidence.canonical import canonical, sha256_hex
from accounting.evidence.documents import plain, stamp
from accounting.evidence.personal import SEALED
from accounting.store.schema import ACCOUNTS, CHARGES, ENTRIES, POSTINGS, REVERSALS, USAGE

_READ = ("core_seconds", "node_seconds", "gpu_seconds", "memory_mib_seconds", "elapsed_s", "suspended_s", "cores",
         "nodes", "threads_per_core")  # fmt: skip
_SAID = ("kind", "state", "account", "queue", "qos", "exclusive")
_SUMS = ("gross", "amount", "borne", "centre", "tax")


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
    query = (
        select(POSTINGS.c.entry_id, ACCOUNTS.c.code, ACCOUNTS.c.commodity, POSTINGS.c.amount)
        .join(ACCOUNTS, ACCOUNTS.c.id == POSTINGS.c.account_id)
        .where(POSTINGS.c.entry_id.in_(wanted))
        .order_by(POSTINGS.c.entry_id, POSTINGS.c.line)
    )
    for entry_id, code, commodity, amount in conn.execute(query):
        postings[entry_id].append([code, commodity, str(amount)])
    charged = _charged(conn, wanted)
    linked = ENTRIES.alias()
    rows = select(ENTRIES, linked.c.idem_key.label("link")).outerjoin(linked, linked.c.id == ENTRIES.c.linked_entry_id)
    for row in conn.execute(rows.where(ENTRIES.c.id.in_(wanted)).order_by(ENTRIES.c.id)):
        of_entry = tuple(charged.get(row.id, ()))
        leaf = {
            "v": 1, "t": "entry", "tenant": row.tenant, "key": row.idem_key, "kind": row.kind,
            "at": stamp(row.effective_at), "service_at": stamp(row.service_at), "link": row.link, "memo": row.memo,
            "postings": postings[row.id], "charges": [sha256_hex(c.charge) for c in of_entry],
        }  # fmt: skip
        yield EntryLeaf(row.id, leaf, of_entry)


def _charged(conn: Connection, entry_ids: Sequence[int]) -> dict[int, list[Charged]]:
    replaced = _replaced(conn, entry_ids)
    query = select(CHARGES, *_USAGE).join(USAGE, USAGE.c.id == CHARGES.c.usage_record_id)
    found: dict[int, list[Charged]] = defaultdict(list)
    rows = conn.execute(query.where(CHARGES.c.entry_id.in_(entry_ids)).order_by(CHARGES.c.id)).mappings()
    for row in map(dict[str, Any], rows):
        record, sealed, person = record_of(row)
        charge = {
            "v": 1, "record": sha256_hex(record), "meter": row["meter"], "currency": row["currency"],
            **{name: str(row[f"{name}_micro"]) for name in _SUMS}, "core_seconds": str(row["core_seconds"]),
            "agreement": _agreement(row), "policy": row["policy_version"], "grade": row["grade"],
            "user_class": row["user_class"], "rule": row["rule"], "reason": row["reason"],
            "payers": plain(row["payers"]), "segments": plain(row["segments"]),
            "replaces": replaced.get((row["entry_id"], row["usage_record_id"]), []),
        }  # fmt: skip
        found[row["entry_id"]].append(Charged(charge, record, sealed, person))
    return found


_USAGE = [column.label(f"usage_{column.name}") for column in USAGE.columns]


def _agreement(row: Mapping[str, Any]) -> str | None:
    return None if row["agreement_id"] is None else f"{row['agreement_id']}/{row['agreement_version']}"


def _replaced(conn: Connection, entry_ids: Sequence[int]) -> dict[tuple[int, int], list[dict[str, str]]]:
    """(entry, reading that replaces) -> what was charged before, and by which entry."""
    query = (
        select(REVERSALS.c.entry_id, REVERSALS.c.by_usage_record_id, CHARGES.c.core_seconds,
               *(CHARGES.c[f"{name}_micro"] for name in _SUMS), ENTRIES.c.idem_key)
        .join(CHARGES, CHARGES.c.id == REVERSALS.c.charge_id)
        .join(ENTRIES, ENTRIES.c.id == CHARGES.c.entry_id)
        .where(REVERSALS.c.entry_id.in_(entry_ids))
        .order_by(CHARGES.c.id)
    )  # fmt: skip
    found: dict[tuple[int, int], list[dict[str, str]]] = defaultdict(list)
    for row in conn.execute(query).mappings():
        sums = {name: str(row[f"{name}_micro"]) for name in _SUMS}
        before = {"entry": row["idem_key"], "core_seconds": str(row["core_seconds"]), **sums}
        found[row["entry_id"], row["by_usage_record_id"]].append(before)
    return found


def record_of(row: Mapping[str, Any]) -> tuple[dict[str, Any], str, str]:
    """(the record object, the sealed personal fields, whose they are) of a row with `usage_…` columns."""
    fields = dict(row["usage_raw"])
    seal = fields.pop(SEALED, None) or {}
    record = {
        "v": 1, "site": row["usage_site_id"], "run": row["usage_run_key"], "meter": row["usage_meter"],
        "revision": row["usage_revision"], "fields": plain(fields), "personal": seal.get("commitment"),
        "one_sided": not row["usage_signed_by"],
        "read": {"start": stamp(row["usage_start_time"]), "end": stamp(row["usage_end_time"]),
                 **{name: row[f"usage_{name}"] for name in _SAID},
                 **{name: str(row[f"usage_{name}"]) for name in _READ},
                 "cpus": plain(row["usage_cpus"]), "units": plain(row["usage_units"]),
                 "requested_cores": plain(row["usage_requested_cores"])},
    }  # fmt: skip
    return record, seal.get("sealed", ""), seal.get("person", "")
