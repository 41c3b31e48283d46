"""Everything that a verifier needs about a bill, in one stream of JSON lines, in bounded memory.

bundle      what it is about, the log's key, the witnesses, the size of the tree
checkpoint  the signed note with its cosignatures; `older`: one that the reader has kept, with the proof to this one
leaf        a document (tariff, agreement with its signatures, order, invoice, settlement …) with its leaf
entry       a journal entry with its leaf, its charges and their raw records, as the books have them now
received, signed, confirmed, runs, between      what makes readings evidence of both sides (confirmations.py)
gaps        the hashes between the leaves, from left to right, with which the root can be computed
seal        a signed note by the log's key: for this very question (the first line) these are all the leaves
bill        the lines and totals that the charges must sum to; where documents were issued, these are the bill, and
items       says which charges stand on which of their lines
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from types import MappingProxyType
from typing import Any, TypeVar

from sqlalchemy import Connection, Select, String, cast, func, select

from accounting.evidence import billed, confirmations, log, merkle, ordered
from accounting.evidence.about import About, NothingToShow
from accounting.evidence.canonical import canonical
from accounting.evidence.documents import stamp
from accounting.evidence.leaves import Charged, entries
from accounting.evidence.note import Verifier
from accounting.evidence.outbox import ENTRY
from accounting.evidence.terms import Named, terms
from accounting.ledger import DIFFERENCE
from accounting.signing import key_id_of
from accounting.store.contracts import in_force
from accounting.store.schema import CHARGES, ENTRIES, REVERSALS, USAGE
from accounting.store.settlement_sums import ITEMS
from accounting.store.settlements import one

# The first line of what is signed of a bundle: no origin of a log, so that it is taken for no checkpoint.
SEAL = "penstock bundle 1"
_BATCH = 1000
_T = TypeVar("_T")

# What may be shown of a person: their fields and the salt, or None.
Shown = Callable[[Charged], Mapping[str, Any] | None]


def bundle(
    conn: Connection, about: About, *, log_key: Verifier, witnesses: Sequence[Verifier] = (), seen: int | None = None,
    shown: Shown = lambda _charged: None, signers: Mapping[str, bytes] = MappingProxyType({}),
    seal: Callable[[str], str],
) -> Iterator[str]:  # fmt: skip
    """The lines. `seen`: the size of a checkpoint that the reader has kept; `signers`: public keys by their id, of
    those who signed a settlement; `seal`: a text as a note signed by the log's key. Raises `NothingToShow`."""
    checkpoint = log.checkpoint(conn)
    if checkpoint is None:
        raise NothingToShow("no checkpoint is signed yet")
    issued = billed.documents(conn, about, checkpoint.size) if about.billed else []
    if issued:
        start, end = billed.span(issued)
        about = replace(about, start=start, end=end, payer_id=issued[0][0].payer_id)
    entry_ids = _entry_ids(conn, about, checkpoint.size)
    named, projects = _terms(conn, about, checkpoint.size)
    paying = ordered.paying(conn, named, projects, about.end)
    named |= ordered.agreements(conn, paying)
    documents = [*terms(conn, checkpoint.size, named, projects)]
    head = {
        "t": "bundle", "v": 1, "log": log_key.vkey, "witnesses": [w.vkey for w in witnesses], "size": checkpoint.size,
        "about": {"project": about.project_id, "site": about.site_id, "settlement": about.settlement_id,
                  "payer": about.payer_id, "document": about.document,
                  "from": stamp(about.start), "to": stamp(about.end)},
    }  # fmt: skip
    yield _line(head)
    yield _line({"t": "checkpoint", "note": checkpoint.note})
    if seen is not None:
        yield _older(conn, seen, checkpoint.size)
    if about.settlement_id is not None:
        documents.append(_statement(conn, about.settlement_id, checkpoint.size, signers))
    documents += billed.lines(conn, issued)
    documents += ordered.orders(conn, checkpoint.size, _ordered_by(about), paying)
    yield from (_line(document) for document in documents)
    indices = [document["seq"] for document in documents if "leaf" in document]
    for wanted in _batches(entry_ids):
        yield from _entries(conn, dict(wanted), shown)
        indices += [seq for _, seq in wanted]
    for line in confirmations.lines(conn, [entry_id for entry_id, _ in entry_ids], checkpoint.size):
        yield _line(line)
        indices += [line["seq"]] if "leaf" in line else []
    indices.sort()
    gaps = merkle.gaps(indices, checkpoint.size, log.tiles(conn))
    for hashes in _batches(gaps):
        yield _line({"t": "gaps", "hashes": [base64.b64encode(h).decode() for h in hashes]})
    if about.settlement_id is None and not about.billed:
        yield _line(_bill(conn, about, checkpoint.size))
    yield _line({"t": "seal", "note": seal(sealed_text(log_key.name, head, indices))})


def sealed_text(origin: str, head: Mapping[str, Any], indices: Iterable[int]) -> str:
    """What the operator signs of a bundle: its question, and the numbers of all leaves that answer it, ascending."""
    listed = "".join(f"{seq}\n" for seq in indices)
    hashes = (hashlib.sha256(data).digest() for data in (canonical(head), listed.encode()))
    return "".join(f"{text}\n" for text in (SEAL, origin, *(base64.b64encode(h).decode() for h in hashes)))


def _batches(items: Iterable[_T]) -> Iterator[list[_T]]:
    source = iter(items)
    while batch := list(islice(source, _BATCH)):
        yield batch


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"


def _older(conn: Connection, seen: int, size: int) -> str:
    older = log.checkpoint(conn, seen)
    if older is None:
        raise NothingToShow(f"no checkpoint of {seen} leaves was signed")
    proof = merkle.consistency(seen, size, log.tiles(conn))
    hashes = [base64.b64encode(h).decode() for h in proof]
    return _line({"t": "older", "note": older.note, "consistency": hashes})


def _matching(about: About) -> list[Any]:
    found = [USAGE.c.end_time >= about.start, USAGE.c.end_time < about.end]
    if about.project_id is not None:
        found.append(CHARGES.c.project_id == about.project_id)
    if about.site_id is not None:
        found.append(USAGE.c.site_id == about.site_id)
    return found


def _logged(about: About, size: int, *columns: Any) -> Select[Any]:
    """Charges of the period that are in the tree of this size."""
    leaf = (log.LEAVES.c.kind == ENTRY) & (log.LEAVES.c.ref == cast(CHARGES.c.entry_id, String))
    return (
        select(*columns)
        .join(USAGE, USAGE.c.id == CHARGES.c.usage_record_id)
        .join(log.LEAVES, leaf)
        .where(log.LEAVES.c.seq < size, *_matching(about))
    )


def _entry_ids(conn: Connection, about: About, size: int) -> list[tuple[int, int]]:
    """(entry, leaf number), in the order of the log: charges, what of them went beyond a hold, prices of orders."""
    if about.settlement_id is not None:
        return _items(conn, about.settlement_id, size)
    if about.billed:
        return billed.entry_ids(conn, about, size)
    query = _logged(about, size, CHARGES.c.entry_id, log.LEAVES.c.seq).distinct()
    over_leaf = log.LEAVES.alias()
    charged = _logged(about, size, CHARGES.c.entry_id)
    over = (
        select(ENTRIES.c.id, over_leaf.c.seq)
        .join(over_leaf, (over_leaf.c.kind == ENTRY) & (over_leaf.c.ref == cast(ENTRIES.c.id, String)))
        .where(ENTRIES.c.kind == "overage", ENTRIES.c.linked_entry_id.in_(charged), over_leaf.c.seq < size)
    )
    found = {(int(i), int(seq)) for i, seq in (*conn.execute(query), *conn.execute(over))}
    return sorted({*found, *ordered.entries_of(conn, about, size)}, key=lambda p: p[1])


def _items(conn: Connection, settlement_id: str, size: int) -> list[tuple[int, int]]:
    leaf = (log.LEAVES.c.kind == ENTRY) & (log.LEAVES.c.ref == cast(ITEMS.c.entry_id, String))
    query = select(ITEMS.c.entry_id, log.LEAVES.c.seq).outerjoin(log.LEAVES, leaf)
    found = conn.execute(query.where(ITEMS.c.settlement_id == settlement_id).order_by(log.LEAVES.c.seq)).all()
    if any(row.seq is None or row.seq >= size for row in found):
        raise NothingToShow("some entries of this settlement are in no checkpoint yet")
    return [(row.entry_id, row.seq) for row in found]


def _statement(conn: Connection, settlement_id: str, size: int, signers: Mapping[str, bytes]) -> dict[str, Any]:
    """The statement with its signatures; with its leaf once it is agreed and logged."""
    found = one(conn, settlement_id)
    keys = {side: base64.b64encode(signers.get(key_id_of(jws), b"")).decode() for side, jws in found.signatures.items()}
    signatures = [{"side": side, "jws": jws, "key": keys[side]} for side, jws in sorted(found.signatures.items())]
    leaf = log.find(conn, "settlement", settlement_id)
    if leaf is None or leaf.seq >= size:
        return {"t": "statement", "content": found.said, "signatures": signatures}
    return {"t": "leaf", "seq": leaf.seq, "leaf": json.loads(leaf.payload), "content": found.said,
            "signatures": signatures}  # fmt: skip


def _terms(conn: Connection, about: About, size: int) -> tuple[set[Named], set[str]]:
    """The agreements that the charges name, and the projects they are of."""
    columns = (CHARGES.c.agreement_id, CHARGES.c.agreement_version, CHARGES.c.project_id)
    query = _logged(about, size, *columns)
    named: set[Named] = set()
    if about.settlement_id is not None:
        agreement_id, _, version = one(conn, about.settlement_id).said["agreement"].rpartition("/")
        named.add((agreement_id, int(version)))
        items = select(ITEMS.c.entry_id).where(ITEMS.c.settlement_id == about.settlement_id)
        query = select(*columns).where(CHARGES.c.entry_id.in_(items))
        named |= _of_differences(conn, about.settlement_id)
    if about.billed:
        query = select(*columns).where(CHARGES.c.id.in_(billed.charges_of(about)))
    named |= ordered.agreements(conn, _ordered_by(about))
    rows = conn.execute(query.distinct()).all()
    return named | {(r.agreement_id, r.agreement_version) for r in rows if r.agreement_id}, {r.project_id for r in rows}


def _of_differences(conn: Connection, settlement_id: str) -> set[Named]:
    """By which the differences in a settlement may have been divided: every version that the centre signed."""
    agreed = select(ENTRIES.c.id).join(ITEMS, ITEMS.c.entry_id == ENTRIES.c.id)
    if conn.scalar(agreed.where(ITEMS.c.settlement_id == settlement_id, ENTRIES.c.kind == DIFFERENCE).limit(1)) is None:
        return set()
    centre = one(conn, settlement_id).centre_id
    return {(i.agreement.id, i.agreement.version) for i in in_force(conn) if i.agreement.centre_id == centre}


def _ordered_by(about: About) -> Select[Any]:
    """The entries among which prices of orders are."""
    if about.settlement_id is not None:
        return select(ITEMS.c.entry_id).where(ITEMS.c.settlement_id == about.settlement_id)
    return billed.orders_of(about) if about.billed else ordered.within(about)


def _entries(conn: Connection, seqs: Mapping[int, int], shown: Shown) -> Iterator[str]:
    found = {entry.entry_id: entry for entry in entries(conn, list(seqs))}
    for entry_id, seq in seqs.items():
        entry = found[entry_id]
        charges = []
        for charged in entry.charged:
            one: dict[str, Any] = {"charge": charged.charge, "record": charged.record}
            if (told := shown(charged)) is not None:
                one["shown"] = told
            charges.append(one)
        yield _line({"t": "entry", "seq": seq, "leaf": entry.leaf, "charges": charges})


def _bill(conn: Connection, about: About, size: int) -> dict[str, Any]:
    """What the live charges come to, by the books' own sums, and what was ordered."""
    replaced = (
        select(REVERSALS.c.charge_id)
        .join(log.LEAVES, (log.LEAVES.c.kind == ENTRY) & (log.LEAVES.c.ref == cast(REVERSALS.c.entry_id, String)))
        .where(REVERSALS.c.charge_id == CHARGES.c.id, log.LEAVES.c.seq < size)
        .exists()
    )
    group = (USAGE.c.site_id, USAGE.c.queue, CHARGES.c.grade, CHARGES.c.currency)
    names = ("amount", "gross", "borne", "centre", "tax")
    sums = [func.sum(CHARGES.c[f"{name}_micro"]) for name in names]
    query = _logged(about, size, *group, func.sum(CHARGES.c.core_seconds), func.count(), *sums)
    lines, totals = [], dict[str, int]()
    for row in conn.execute(query.where(~replaced).group_by(*group).order_by(*group)):
        site, queue, grade, currency, core_seconds, runs, *values = row
        lines.append({
            "site": site, "queue": queue, "grade": grade, "currency": currency, "core_seconds": str(int(core_seconds)),
            "runs": str(runs), **{name: str(int(v)) for name, v in zip(names, values, strict=True)},
        })  # fmt: skip
        totals[currency] = totals.get(currency, 0) + int(values[0])
    bought = ordered.billed(conn, about, size)
    for price in bought:
        totals[price["currency"]] = totals.get(price["currency"], 0) + int(price["amount"])
    return {"t": "bill", "lines": lines, "orders": bought, "totals": {c: str(a) for c, a in sorted(totals.items())}}
