"""The tree against RFC 6962's own definition and known roots; notes against the examples of C2SP."""
# ruff: noqa: E501 - the notes are quoted as they are

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting.evidence import merkle, note, witness
from accounting.evidence.canonical import NotCanonical, canonical

# The eight inputs and roots of the reference implementation of RFC 6962 (google/certificate-transparency).
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def mth(data: Sequence[bytes]) -> bytes:
    """MTH(D[n]), word by word from RFC 6962, section 2.1."""
    if not data:
        return hashlib.sha256(b"").digest()
    if len(data) == 1:
        return hashlib.sha256(b"\x00" + data[0]).digest()
    k = 1
    while k * 2 < len(data):
        k *= 2
    return hashlib.sha256(b"\x01" + mth(data[:k]) + mth(data[k:])).digest()


class Tree:
    """A tree in memory that grows in batches."""

    def __init__(self, *batches: Sequence[bytes]) -> None:
        self.leaves: list[bytes] = []
        self.nodes: dict[tuple[int, int], bytes] = {}
        for batch in batches:
            self.append(batch)

    def append(self, batch: Sequence[bytes]) -> None:
        hashes = [merkle.leaf_hash(data) for data in batch]
        for level, index, value in merkle.grown(len(self.leaves), hashes, self.tile):
            assert (level, index) not in self.nodes
            self.nodes[level, index] = value
        self.leaves += hashes

    def tile(self, level: int, index: int) -> list[bytes]:
        first = index * 256
        if level == 0:
            return self.leaves[first : first + 256]
        return [self.nodes[level, i] for i in range(first, first + 256) if (level, i) in self.nodes]


def data(count: int) -> list[bytes]:
    return [f"leaf {n}".encode() for n in range(count)]


def test_the_known_roots_of_the_reference_implementation() -> None:
    inputs = [bytes.fromhex(text) for text in INPUTS]
    assert merkle.root(0, Tree().tile) == merkle.EMPTY_ROOT == mth([])
    for count, expected in enumerate(ROOTS, 1):
        tree = Tree(inputs[:count])
        assert merkle.root(count, tree.tile).hex() == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 700), min_size=1, max_size=5), st.data())
def test_any_batches_make_the_tree_of_the_rfc(sizes: list[int], draw: st.DataObject) -> None:
    everything = data(sum(sizes))
    tree, done = Tree(), 0
    for size in sizes:
        tree.append(everything[done : done + size])
        done += size
    now = draw.draw(st.integers(1, done))
    root = merkle.root(now, tree.tile)
    assert root == mth(everything[:now])
    index = draw.draw(st.integers(0, now - 1))
    path = merkle.inclusion(index, now, tree.tile)
    merkle.check_inclusion(tree.leaves[index], index, now, path, root)
    before = draw.draw(st.integers(0, now))
    proof = merkle.consistency(before, now, tree.tile)
    merkle.check_consistency(before, now, mth(everything[:before]), root, proof)


def test_a_tree_of_more_than_two_levels_of_tiles() -> None:
    everything = data(66_000)
    tree = Tree(everything[:65_000], everything[65_000:])
    assert (2, 0) in tree.nodes
    root = merkle.root(66_000, tree.tile)
    assert root == mth(everything)
    for index in (0, 255, 256, 65_535, 65_536, 65_999):
        path = merkle.inclusion(index, 66_000, tree.tile)
        merkle.check_inclusion(tree.leaves[index], index, 66_000, path, root)
    for old in (1, 256, 65_535, 65_536, 65_537):
        proof = merkle.consistency(old, 66_000, tree.tile)
        merkle.check_consistency(old, 66_000, mth(everything[:old]), root, proof)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 600), st.data())
def test_a_changed_proof_leads_nowhere(size: int, draw: st.DataObject) -> None:
    tree = Tree(data(size))
    root = merkle.root(size, tree.tile)
    index = draw.draw(st.integers(0, size - 1))
    path = merkle.inclusion(index, size, tree.tile)
    at, bit = draw.draw(st.integers(0, len(path) - 1)), draw.draw(st.integers(0, 255))
    wrong = bytearray(path[at])
    wrong[bit // 8] ^= 1 << bit % 8
    with pytest.raises(merkle.BadProof):
        merkle.check_inclusion(tree.leaves[index], index, size, [*path[:at], bytes(wrong), *path[at + 1 :]], root)
    with pytest.raises(merkle.BadProof):
        merkle.check_inclusion(tree.leaves[index], index, size, path[:-1], root)
    with pytest.raises(merkle.BadProof):
        merkle.check_inclusion(tree.leaves[(index + 1) % size], index, size, path, root)


def test_history_that_was_changed_is_inconsistent() -> None:
    honest, forged = Tree(data(300)), Tree([b"another", *data(900)[1:]])
    proof = merkle.consistency(300, 900, forged.tile)
    with pytest.raises(merkle.BadProof):
        merkle.check_consistency(300, 900, merkle.root(300, honest.tile), merkle.root(900, forged.tile), proof)


# ---------------------------------------------------------------- notes

EXAMPLE = """example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
"""


def test_the_checkpoint_of_the_specification_is_read() -> None:
    checkpoint = note.parse(EXAMPLE)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    (_, _, log_signature), (name, key_id, cosignature) = checkpoint.signatures
    assert len(log_signature) == 64
    assert (name, key_id.hex(), len(cosignature)) == ("witness.example.com/w1", "8d66cf3f", 72)
    assert int.from_bytes(cosignature[:8], "big") == 1679315147  # the time that the specification names


def test_a_verifier_key_has_the_id_that_go_gives_it() -> None:
    # The example of golang.org/x/mod/sumdb/note, and sum.golang.org's own key.
    for vkey in ("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
                 "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"):  # fmt: skip
        assert note.Verifier.parse(vkey).vkey == vkey
    text = (
        "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
        "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
    )
    body, _, line = text.rpartition("\n\n")
    peter = note.Verifier.parse("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    name, key_id, signature = note.read_line(line.rstrip("\n"))
    assert (name, key_id) == (peter.name, peter.key_id)
    assert note.check_signature((body + "\n").encode(), peter, signature) is None


def test_a_witness_cosigns_only_what_follows_from_what_it_saw() -> None:
    log_key, centre_key = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    log = note.Verifier("gw.example/log", note.LOG, note.public_bytes(log_key))
    centre = note.Verifier("centre.example", note.COSIGNATURE, note.public_bytes(centre_key))
    now = datetime(2026, 11, 25, tzinfo=UTC)
    tree, forged = Tree(data(300)), Tree([b"another", *data(900)[1:]])
    first = note.sign(log.name, 300, merkle.root(300, tree.tile), log_key)
    seen, line = witness.look(None, first, [], log=log, name=centre.name, key=centre_key, now=now)
    signed = note.parse(note.with_cosignatures(first, [line]))
    assert note.signed_by(signed, centre)
    assert note.signed_by(signed, log)
    tree.append(data(900)[300:])
    second = note.sign(log.name, 900, merkle.root(900, tree.tile), log_key)
    proof = merkle.consistency(300, 900, tree.tile)
    later, _ = witness.look(seen, second, proof, log=log, name=centre.name, key=centre_key, now=now)
    assert later.size == 900
    lie = note.sign(log.name, 900, merkle.root(900, forged.tile), log_key)
    with pytest.raises(merkle.BadProof):
        witness.look(seen, lie, merkle.consistency(300, 900, forged.tile), log=log, name=centre.name, key=centre_key,
                     now=now)  # fmt: skip
    with pytest.raises(merkle.BadProof):  # a log that became shorter
        witness.look(later, first, [], log=log, name=centre.name, key=centre_key, now=now)
    with pytest.raises(note.BadNote):
        witness.look(None, first.replace("300", "301", 1), [], log=log, name=centre.name, key=centre_key, now=now)


# ---------------------------------------------------------------- canonical JSON

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(max_codepoint=0xD7FF), max_size=6), inner, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=500, deadline=None)
@given(_VALUES)
def test_canonical_bytes_are_those_of_rfc_8785(value: object) -> None:
    assert canonical(value) == rfc8785.dumps(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0.5, 2**53 + 1, {"\U00010000": 1}, {1: 2}, "\ud800", b"x", {"a": {1, 2}}])
def test_what_two_readers_could_write_differently_is_refused(value: object) -> None:
    with pytest.raises(NotCanonical):
        canonical(value)
