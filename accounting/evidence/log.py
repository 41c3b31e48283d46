"""The log in the database: append what waits in the outbox, prove, keep checkpoints. Nothing here commits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Connection, String, Table, delete, func, insert, select, text
from sqlalchemy import cast as cast_to

from accounting.evidence import merkle
from accounting.evidence.leaves import entries
from accounting.evidence.note import parse
from accounting.evidence.outbox import ENTRY, OUTBOX
from accounting.store.schema import ENTRIES, among, insert_all
from accounting.tables.evidence import CheckpointRow, CosignatureRow, LeafRow, NodeRow

LEAVES = cast(Table, LeafRow.__table__)
NODES = cast(Table, NodeRow.__table__)
CHECKPOINTS = cast(Table, CheckpointRow.__table__)
COSIGNATURES = cast(Table, CosignatureRow.__table__)

# One writer at a time: leaves are numbered without gaps. SQLite has one writer anyway.
_LOCK = "SELECT pg_advisory_xact_lock(5785297)"


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf as it was hashed."""

    seq: int
    kind: str
    ref: str
    payload: str
    leaf_hash: bytes


def append_waiting(conn: Connection, *, limit: int = 2000) -> int:
    """Make leaves of what waits in the outbox, oldest first; how many were taken out. Run again until it says 0."""
    if conn.dialect.name == "postgresql":
        conn.execute(text(_LOCK))
    waiting = conn.execute(select(OUTBOX).order_by(OUTBOX.c.id).limit(limit)).all()
    if not waiting:
        return 0
    made = {str(leaf.entry_id): leaf.payload.decode() for leaf in entries(conn, _ids(waiting))}
    size = tree_size(conn)
    rows: list[dict[str, Any]] = []
    known = _standing(conn, waiting)
    for item in waiting:
        payload = made[item.ref] if item.body is None else item.body
        if item.body is not None:
            if known.get((item.kind, item.ref)) == payload:
                continue  # the very same document, put twice: one leaf is its evidence, and the log goes on
            known[item.kind, item.ref] = payload
        digest = merkle.leaf_hash(payload.encode())
        rows.append({"seq": size + len(rows), "kind": item.kind, "ref": item.ref, "payload": payload,
                     "leaf_hash": digest})  # fmt: skip
    _append(conn, size, rows)
    # By id, not up to an id: on PostgreSQL a smaller one may be committed later.
    conn.execute(delete(OUTBOX).where(OUTBOX.c.id.in_([item.id for item in waiting])))
    return len(waiting)


def _standing(conn: Connection, waiting: Sequence[Any]) -> dict[tuple[str, str], str]:
    """The texts of the documents among these that are leaves already."""
    documents = [item for item in waiting if item.body is not None]
    if not documents:
        return {}
    of_kind = among(conn, LEAVES.c.kind, {item.kind for item in documents})
    named = among(conn, LEAVES.c.ref, {item.ref for item in documents})
    query = select(LEAVES.c.kind, LEAVES.c.ref, LEAVES.c.payload).where(of_kind, named)
    return {(row.kind, row.ref): row.payload for row in conn.execute(query)}


def _ids(waiting: Sequence[object]) -> list[int]:
    return [int(item.ref) for item in waiting if item.kind == ENTRY and item.body is None]  # type: ignore[attr-defined]


def _append(conn: Connection, size: int, rows: Sequence[dict[str, Any]]) -> None:
    hashes = [row["leaf_hash"] for row in rows]
    nodes = [{"level": lv, "idx": i, "hash": h} for lv, i, h in merkle.grown(size, hashes, tiles(conn))]
    insert_all(conn, LEAVES, rows)
    insert_all(conn, NODES, nodes)


def waiting(conn: Connection) -> int:
    return int(conn.scalar(select(func.count()).select_from(OUTBOX)) or 0)


def tree_size(conn: Connection) -> int:
    return int(conn.scalar(select(func.coalesce(func.max(LEAVES.c.seq) + 1, 0))) or 0)


def tiles(conn: Connection) -> merkle.Tile:
    """Stored hashes by tile, each read once."""
    known: dict[tuple[int, int], list[bytes]] = {}

    def tile(level: int, index: int) -> Sequence[bytes]:
        found = known.get((level, index))
        if found is None:
            first = index * merkle.WIDTH
            if level == 0:
                query = select(LEAVES.c.leaf_hash).where(LEAVES.c.seq.between(first, first + merkle.WIDTH - 1))
                query = query.order_by(LEAVES.c.seq)
            else:
                inside = NODES.c.idx.between(first, first + merkle.WIDTH - 1)
                query = select(NODES.c.hash).where(NODES.c.level == level, inside).order_by(NODES.c.idx)
            found = list(conn.scalars(query))
            if len(known) >= 64:  # proofs walk left to right: what was read long ago is not asked for again
                known.clear()
            known[level, index] = found
        return found

    return tile


def find(conn: Connection, kind: str, ref: str) -> Leaf | None:
    """The leaf of a thing, or None while it waits."""
    row = conn.execute(select(LEAVES).where(LEAVES.c.kind == kind, LEAVES.c.ref == ref)).one_or_none()
    return None if row is None else Leaf(row.seq, row.kind, row.ref, row.payload, row.leaf_hash)


# ---------------------------------------------------------------- checkpoints


@dataclass(frozen=True, slots=True)
class Signed:
    """A checkpoint as it is given out: with every cosignature that came in."""

    size: int
    note: str
    made_at: datetime


def make_checkpoint(conn: Connection, sign: Callable[[int, bytes], str], *, now: datetime) -> Signed | None:
    """Sign the tree as it stands, where it has grown; `sign(size, root)` makes the note."""
    if conn.dialect.name == "postgresql":
        conn.execute(text(_LOCK))  # every site's tick may do it
    size = tree_size(conn)
    newest = conn.scalar(select(func.max(CHECKPOINTS.c.size)))
    if size == 0 or newest == size:
        return None
    note = sign(size, merkle.root(size, tiles(conn)))
    conn.execute(insert(CHECKPOINTS), [{"size": size, "note": note, "made_at": now}])
    return Signed(size, note, now)


def checkpoint(conn: Connection, size: int | None = None) -> Signed | None:
    """The newest checkpoint, or the one of a size."""
    query = select(CHECKPOINTS).order_by(CHECKPOINTS.c.size.desc()).limit(1)
    if size is not None:
        query = query.where(CHECKPOINTS.c.size == size)
    row = conn.execute(query).one_or_none()
    if row is None:
        return None
    lines = conn.scalars(
        select(COSIGNATURES.c.line).where(COSIGNATURES.c.size == row.size).order_by(COSIGNATURES.c.key_id)
    )
    return Signed(row.size, row.note + "".join(lines), row.made_at)


def keep_cosignature(conn: Connection, *, size: int, key_id: str, line: str, now: datetime) -> bool:
    """A witness's line under the checkpoint of a size; False where it has signed that one before."""
    there = (COSIGNATURES.c.size == size) & (COSIGNATURES.c.key_id == key_id)
    if conn.scalar(select(func.count()).select_from(COSIGNATURES).where(there)):
        return False
    row = {"size": size, "key_id": key_id, "line": line, "received_at": now}
    conn.execute(insert(COSIGNATURES), [row])
    return True


# ---------------------------------------------------------------- is it sound?


def check_log(conn: Connection, *, batch: int = 5000) -> list[str]:
    """Every way in which the log, its checkpoints and the books disagree, in words. Reads everything once.

    Keeps 32 bytes of each leaf in memory, and builds the tree anew from the texts.
    """
    found: list[str] = []
    size, tree = tree_size(conn), _Rebuilt()
    for first in range(0, size, batch):
        query = select(LEAVES).where(LEAVES.c.seq.between(first, first + batch - 1)).order_by(LEAVES.c.seq)
        rows = conn.execute(query).all()
        booked = entries(conn, [int(row.ref) for row in rows if row.kind == ENTRY])
        books = {str(entry.entry_id): entry.payload.decode() for entry in booked}
        for row in rows:
            if merkle.leaf_hash(row.payload.encode()) != row.leaf_hash:
                found.append(f"leaf {row.seq}: its text is not what was hashed")
            if row.kind == ENTRY and books.get(row.ref) != row.payload:
                found.append(f"leaf {row.seq}: entry {row.ref} of the books is not what the log has")
        tree.append([merkle.leaf_hash(row.payload.encode()) for row in rows])
    if len(tree.leaves) != size:
        return [*found, f"{size - len(tree.leaves)} leaves are missing"]
    kept = {(row.level, row.idx): row.hash for row in conn.execute(select(NODES))}
    found += [f"hash {level}/{index} is not that of its leaves" for level, index in sorted(_differ(kept, tree.nodes))]
    for row in conn.execute(select(CHECKPOINTS).order_by(CHECKPOINTS.c.size)):
        signed = parse(row.note)
        if signed.size != row.size or signed.size > size or signed.root != merkle.root(signed.size, tree.tile):
            found.append(f"checkpoint {row.size}: the leaves have another root")
    return found + _without_leaf(conn)


class _Rebuilt:
    """The tree as the texts of the leaves make it."""

    def __init__(self) -> None:
        self.leaves: list[bytes] = []
        self.nodes: dict[tuple[int, int], bytes] = {}

    def append(self, hashes: Sequence[bytes]) -> None:
        self.nodes |= {(level, i): h for level, i, h in merkle.grown(len(self.leaves), hashes, self.tile)}
        self.leaves += hashes

    def tile(self, level: int, index: int) -> Sequence[bytes]:
        first = index * merkle.WIDTH
        if level == 0:
            return self.leaves[first : first + merkle.WIDTH]
        inside = range(first, first + merkle.WIDTH)
        return [self.nodes[level, i] for i in inside if (level, i) in self.nodes]


def _differ(kept: Mapping[tuple[int, int], bytes], made: Mapping[tuple[int, int], bytes]) -> set[tuple[int, int]]:
    return {key for key in kept.keys() | made.keys() if kept.get(key) != made.get(key)}


def _without_leaf(conn: Connection) -> list[str]:
    ref = cast_to(ENTRIES.c.id, String)
    leaf = select(LEAVES.c.seq).where(LEAVES.c.kind == ENTRY, LEAVES.c.ref == ref).exists()
    queued = select(OUTBOX.c.id).where(OUTBOX.c.kind == ENTRY, OUTBOX.c.ref == ref).exists()
    missing = conn.scalars(select(ENTRIES.c.id).where(~leaf, ~queued).order_by(ENTRIES.c.id))
    return [f"entry {entry_id}: neither a leaf nor on its way to be one" for entry_id in missing]
