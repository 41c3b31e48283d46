"""The Merkle tree of RFC 6962, kept as tiles of 256 hashes, so that any proof reads a few tiles only.

Only the hashes at every eighth level are stored: level 0 are the leaves, one of level 1 covers 256 of them, one of
level 2 covers 65,536 (C2SP tlog-tiles). A hash is stored when its subtree is full, and never changes then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

WIDTH = 256

# tile(level, index) -> the stored hashes of that tile, from its left; fewer than 256 at the tree's right edge.
Tile = Callable[[int, int], Sequence[bytes]]

EMPTY_ROOT = hashlib.sha256(b"").digest()


class BadProof(ValueError):
    """A proof that does not lead from what is claimed to the root."""


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def grown(size: int, added: Sequence[bytes], tile: Tile) -> list[tuple[int, int, bytes]]:
    """(level, index, hash) of what becomes full above the leaves when `added` follow the first `size`."""
    made: list[tuple[int, int, bytes]] = []
    level, begin, new = 0, size, list(added)
    while new:
        rest = begin % WIDTH
        row = [*tile(level, begin // WIDTH)[:rest], *new] if rest else new
        first = begin // WIDTH
        new = [_fold(row[at : at + WIDTH]) for at in range(0, len(row) - WIDTH + 1, WIDTH)]
        level, begin = level + 1, first
        made += [(level, first + offset, value) for offset, value in enumerate(new)]
    return made


def root(size: int, tile: Tile) -> bytes:
    """The root of the first `size` leaves, whatever came after them."""
    return subtree(0, size, tile) if size else EMPTY_ROOT


def subtree(low: int, high: int, tile: Tile) -> bytes:
    """The hash over leaves [low, high) of a subtree as RFC 6962 cuts them (`low` is a multiple of its full width)."""
    count = high - low
    if count & (count - 1) == 0:
        level = (count.bit_length() - 1) // 8
        unit = WIDTH**level
        first = low // unit
        return _fold(tile(level, first // WIDTH)[first % WIDTH : first % WIDTH + count // unit])
    middle = low + _split(count)
    return node_hash(subtree(low, middle, tile), subtree(middle, high, tile))


def over(leaves: Sequence[bytes]) -> Tile:
    """The tiles of a tree whose leaf hashes are all here."""
    made = {(level, index): value for level, index, value in grown(0, leaves, lambda _level, _index: ())}

    def tile(level: int, index: int) -> Sequence[bytes]:
        inside = range(index * WIDTH, index * WIDTH + WIDTH)
        if level == 0:
            return leaves[inside.start : inside.stop]
        return [made[level, i] for i in inside if (level, i) in made]

    return tile


def inclusion(index: int, size: int, tile: Tile) -> list[bytes]:
    """PATH(index, D[size]) of RFC 6962, section 2.1.1, from the leaf upwards."""
    if not 0 <= index < size:
        raise IndexError(f"leaf {index} is not among the first {size}")
    path, low, high = [], 0, size
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(subtree(middle, high, tile))
            high = middle
        else:
            path.append(subtree(low, middle, tile))
            low = middle
    return path[::-1]


def consistency(old: int, new: int, tile: Tile) -> list[bytes]:
    """PROOF(old, D[new]) of RFC 6962, section 2.1.2; nothing is needed from the empty tree, or to the same one."""
    if not 0 <= old <= new:
        raise IndexError(f"a tree of {old} leaves is no beginning of one of {new}")
    if old in (0, new):
        return []
    proof, low, high, whole = [], 0, new, True
    while old != high:
        middle = low + _split(high - low)
        if old <= middle:
            proof.append(subtree(middle, high, tile))
            high = middle
        else:
            proof.append(subtree(low, middle, tile))
            low, whole = middle, False
    if not whole:
        proof.append(subtree(low, high, tile))
    return proof[::-1]


def gaps(indices: Sequence[int], size: int, tile: Tile) -> Iterator[bytes]:
    """What a verifier needs beside the leaves `indices` (ascending) to get the root: subtrees from left to right."""
    if any(a >= b for a, b in pairwise(indices)) or (indices and not 0 <= indices[0] <= indices[-1] < size):
        raise IndexError("indices ascend within the tree")
    yield from _gaps(0, size, indices, 0, len(indices), tile) if size else ()


def _gaps(low: int, high: int, indices: Sequence[int], first: int, last: int, tile: Tile) -> Iterator[bytes]:
    wanted = last - first
    if wanted == 0:
        yield subtree(low, high, tile)
    elif wanted < high - low:
        middle = low + _split(high - low)
        cut = _first_at_least(indices, middle, first, last)
        yield from _gaps(low, middle, indices, first, cut, tile)
        yield from _gaps(middle, high, indices, cut, last, tile)


def _first_at_least(indices: Sequence[int], bound: int, first: int, last: int) -> int:
    while first < last:
        middle = (first + last) // 2
        if indices[middle] < bound:
            first = middle + 1
        else:
            last = middle
    return first


def check_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], expected: bytes) -> None:
    """RFC 9162, section 2.1.3.2; raises `BadProof`."""
    if not 0 <= index < size:
        raise BadProof(f"leaf {index} is not in a tree of {size}")
    fn, sn, value = index, size - 1, leaf
    for step in path:
        if sn == 0:
            raise BadProof("the path is too long")
        if fn & 1 or fn == sn:
            value = node_hash(step, value)
            while fn & 1 == 0 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            value = node_hash(value, step)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0 or value != expected:
        raise BadProof("the path does not lead to the root")


def check_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """RFC 9162, section 2.1.4.2; raises `BadProof`."""
    if old > new or old < 0:
        raise BadProof(f"a log of {new} leaves cannot follow one of {old}")
    if old in (0, new):
        same = old_root == (EMPTY_ROOT if old == 0 else new_root)
        if proof or not same:
            raise BadProof("another root of the same size" if not same else "a proof where none is needed")
        return
    steps = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not steps:
        raise BadProof("an empty proof")
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    first = second = steps[0]
    for step in steps[1:]:
        if sn == 0:
            raise BadProof("the proof is too long")
        if fn & 1 or fn == sn:
            first, second = node_hash(step, first), node_hash(step, second)
            while fn & 1 == 0 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            second = node_hash(second, step)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0 or first != old_root or second != new_root:
        raise BadProof("the older tree is not the beginning of the newer one")


def _split(count: int) -> int:
    """The largest power of two smaller than `count`."""
    return 1 << (count - 1).bit_length() - 1


def _fold(row: Sequence[bytes]) -> bytes:
    """The root over a power of two of hashes."""
    sha256 = hashlib.sha256
    while len(row) > 1:
        row = [sha256(b"\x01" + row[i] + row[i + 1]).digest() for i in range(0, len(row), 2)]
    return row[0]
