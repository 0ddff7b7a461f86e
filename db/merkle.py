"""Merkle trees as in RFC 9162, section 2: hashes of leaves and nodes, a tree that grows, and proofs of inclusion."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

SIZE: Final = 32
"""Bytes of a hash."""

EMPTY: Final = sha256().digest()
"""The root of a tree without leaves."""


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """A tree that only grows: the roots of its perfect subtrees, largest first, one for each 1 in the size's bits."""

    __slots__ = ("_nodes", "size")

    def __init__(self, size: int = 0, nodes: Sequence[bytes] = ()) -> None:
        if len(nodes) != size.bit_count() or any(len(node) != SIZE for node in nodes):
            raise ValueError(f"A tree of {size} leaves has {size.bit_count()} perfect subtrees")
        self.size = size
        self._nodes = list(nodes)

    @classmethod
    def from_bytes(cls, size: int, data: bytes) -> Frontier:
        """The tree of which `bytes(frontier)` is `data`. ValueError when that can't be."""
        return cls(size, [data[at : at + SIZE] for at in range(0, len(data), SIZE)])

    def __bytes__(self) -> bytes:
        return b"".join(self._nodes)

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Append leaves, by their hashes."""
        nodes, size = self._nodes, self.size
        for leaf in leaves:
            node, carried = leaf, size
            while carried & 1:
                node = sha256(b"\x01" + nodes.pop() + node).digest()
                carried >>= 1
            nodes.append(node)
            size += 1
        self.size = size

    def root(self) -> bytes:
        """The Merkle tree hash over all leaves."""
        if not self._nodes:
            return EMPTY
        root = self._nodes[-1]
        for node in self._nodes[-2::-1]:
            root = node_hash(node, root)
        return root


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The Merkle tree hash over leaves given by their hashes."""
    tree = Frontier()
    tree.extend(leaves)
    return tree.root()


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The proof that leaf `index` is in the tree over all `leaves` (their hashes): RFC 9162, section 2.1.3.1."""
    if not 0 <= index < len(leaves):
        raise ValueError(f"There is no leaf {index} among {len(leaves)}")
    if len(leaves) == 1:
        return []
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    if index < split:
        return [*inclusion_proof(leaves[:split], index), root_of(leaves[split:])]
    return [*inclusion_proof(leaves[split:], index - split), root_of(leaves[:split])]


def root_from_proof(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes | None:
    """The root that the proof leads to, to be compared with the known one; None when its length is wrong: 2.1.3.2."""
    if not 0 <= index < size:
        return None
    node, last = index, size - 1
    found = leaf
    for other in proof:
        if last == 0:
            return None
        if node & 1 or node == last:
            found = node_hash(other, found)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            found = node_hash(found, other)
        node, last = node >> 1, last >> 1
    return found if last == 0 else None


class Levels:
    """All inner nodes over the first leaves, kept, so that many proofs cost little each.

    Memory: two hashes a leaf.
    """

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self._levels: list[list[bytes]] = [list(leaves)]
        while len(self._levels[-1]) > 1:
            below = self._levels[-1]
            pairs = zip(below[::2], below[1::2], strict=False)
            self._levels.append([node_hash(left, right) for left, right in pairs])
            if len(below) & 1:
                self._levels[-1].append(below[-1])

    @property
    def root(self) -> bytes:
        """The Merkle tree hash."""
        return self._levels[-1][0] if self._levels[0] else EMPTY

    def proof(self, index: int) -> list[bytes]:
        """The same as `inclusion_proof`."""
        if not 0 <= index < len(self._levels[0]):
            raise ValueError(f"There is no leaf {index} among {len(self._levels[0])}")
        path = []
        for level in self._levels[:-1]:
            sibling = index ^ 1
            if sibling < len(level):
                path.append(level[sibling])
            index >>= 1
        return path
