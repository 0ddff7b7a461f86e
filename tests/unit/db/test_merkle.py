"""The Merkle tree is RFC 9162's: by the RFC's recursive definition, and the vectors of Certificate Transparency."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db import merkle

# Leaves and roots of the reference implementation of Certificate Transparency: RFC 6962's tree is RFC 9162's.
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
LEAVES = [merkle.leaf_hash(bytes.fromhex(text)) for text in INPUTS]


def by_definition(leaves: list[bytes]) -> bytes:
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return merkle.node_hash(by_definition(leaves[:split]), by_definition(leaves[split:]))


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_those_of_certificate_transparency(size: int) -> None:
    assert merkle.root_of(LEAVES[:size]).hex() == ROOTS[size - 1]


def test_the_empty_tree_has_the_hash_of_nothing() -> None:
    assert merkle.Frontier().root() == sha256(b"").digest() == merkle.Levels([]).root


def some_leaves(count: int) -> list[bytes]:
    return [merkle.leaf_hash(str(number).encode()) for number in range(count)]


@given(st.lists(st.integers(0, 70), max_size=6))
def test_a_tree_that_grows_by_pieces_has_the_root_of_the_whole(pieces: list[int]) -> None:
    leaves = some_leaves(sum(pieces))
    tree, at = merkle.Frontier(), 0
    for piece in pieces:
        tree = merkle.Frontier.from_bytes(tree.size, bytes(tree))
        tree.extend(leaves[at : at + piece])
        at += piece
        assert (tree.size, tree.root()) == (at, by_definition(leaves[:at]))


def test_a_large_tree_has_the_root_by_definition() -> None:
    leaves = some_leaves(12_293)
    tree = merkle.Frontier()
    tree.extend(leaves[:3])
    tree.extend(leaves[3:])
    assert tree.root() == by_definition(leaves) == merkle.Levels(leaves).root


@given(st.data())
def test_a_proof_leads_to_the_root_and_no_other_leaf_place_or_size_does(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 40))
    index = data.draw(st.integers(0, size - 1))
    leaves = some_leaves(size)
    root = merkle.root_of(leaves)
    proof = merkle.inclusion_proof(leaves, index)
    assert proof == merkle.Levels(leaves).proof(index)
    assert merkle.root_from_proof(leaves[index], index, size, proof) == root
    assert merkle.root_from_proof(merkle.leaf_hash(b"other"), index, size, proof) != root
    other = data.draw(st.integers(-1, size))
    if other != index:
        assert merkle.root_from_proof(leaves[index], other, size, proof) != root
    assert merkle.root_from_proof(leaves[index], index, size, [*proof, root]) != root
    if proof:
        assert merkle.root_from_proof(leaves[index], index, size, proof[:-1]) != root


def test_what_can_be_no_tree_is_refused() -> None:
    with pytest.raises(ValueError, match="perfect subtrees"):
        merkle.Frontier.from_bytes(3, b"\x00" * 32)
    with pytest.raises(ValueError, match="no leaf"):
        merkle.inclusion_proof(LEAVES, 8)
    with pytest.raises(ValueError, match="no leaf"):
        merkle.Levels(LEAVES).proof(8)
