"""The Merkle tree of RFC 6962, section 2.1 (L3): hashes, proofs, and their verification. Pure; nothing is stored here.

A tree of `size` leaves is named by its root. A subtree is `(level, index)`: the complete tree over the 2**level leaves
from index * 2**level on. A span is the half-open range of leaves under one node, complete or not. A proof is a list of
the hashes of spans; which spans they are follows from the numbers alone, so a proof of another length is none, and
each hash has its side before it is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Final

from registry.errors import BadData

HASH_BYTES: Final = 32
MAX_SIZE: Final = 2**53 - 1  # what every JSON reader keeps exact; a proof then has at most 54 hashes

Subtree = tuple[int, int]
Span = tuple[int, int]
Proof = Sequence[bytes]


class BadProof(BadData):
    """The proof does not show what it is said to show."""


def leaf_hash(entry: bytes) -> bytes:
    """The hash of a leaf; the 0x00 keeps it apart from every inner node (RFC 6962, 2.1)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node (RFC 6962, 2.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def fold(hashes: Sequence[bytes]) -> bytes:
    """The root over neighbouring complete subtrees, the largest first; of no leaf at all, the hash of nothing."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    return reduce(lambda right, left: node_hash(left, right), reversed(hashes))


def subtrees(span: Span) -> list[Subtree]:
    """The complete subtrees that a span consists of, the largest first: the binary digits of its length."""
    start, end = span
    found = []
    while start < end:
        level = (end - start).bit_length() - 1
        found.append((level, start >> level))
        start += 1 << level
    return found


@dataclass
class Frontier:
    """The complete subtrees of a growing tree, the largest first: all that is needed to go on."""

    size: int = 0
    hashes: list[bytes] = field(default_factory=list)

    def add(self, leaf: bytes) -> list[bytes]:
        """Append the hash of a leaf; returns the hashes of the subtrees that it completes, itself first."""
        completed, ones = [leaf], self.size
        while ones & 1:
            completed.append(node_hash(self.hashes.pop(), completed[-1]))
            ones >>= 1
        self.hashes.append(completed[-1])
        self.size += 1
        return completed

    def root(self) -> bytes:
        """The root of the tree so far."""
        return fold(self.hashes)


def inclusion_spans(position: int, size: int) -> list[Span]:
    """The spans whose hashes prove that a leaf is at a position, the nearest first: PATH of RFC 6962, 2.1.1."""
    if not 0 <= position < size <= MAX_SIZE:
        raise BadProof(f"there is no leaf {position} among {size}")
    return [sibling for _, sibling in _descent(position, (0, size))][::-1]


def consistency_spans(first: int, second: int) -> list[Span]:
    """The spans whose hashes prove that one tree is the beginning of another: PROOF of RFC 6962, 2.1.2.

    The first of them ends at `first`, unless the first tree is itself a node of the second.
    """
    if not 0 < first <= second <= MAX_SIZE:
        raise BadProof(f"a tree of {first} leaves is no beginning of one of {second}")
    here, spans = (0, second), list[Span]()
    for below, sibling in _descent(first - 1, here):
        if here[1] == first:
            break
        here = below
        spans.append(sibling)
    return ([here] if here[0] else []) + spans[::-1]


def check_inclusion(leaf: bytes, position: int, size: int, proof: Proof, root: bytes) -> None:
    """Raise BadProof unless `proof` shows that the leaf with this hash is at a position of the tree (RFC 6962, 2.1.1).

    The size only counts as far as it shapes the path: it must come from where the root comes from, a checkpoint.
    """
    spans = inclusion_spans(position, size)
    _check_hashes(proof, len(spans), (leaf, root))
    here = leaf
    for (_, end), sibling in zip(spans, proof, strict=True):
        here = node_hash(sibling, here) if end <= position else node_hash(here, sibling)
    if here != root:
        raise BadProof(f"the proof leads from the leaf {position} to another root")


def check_consistency(first: int, first_root: bytes, second: int, second_root: bytes, proof: Proof) -> None:
    """Raise BadProof unless `proof` shows that the first tree is the beginning of the second (RFC 6962, 2.1.2)."""
    spans = consistency_spans(first, second)
    _check_hashes(proof, len(spans), (first_root, second_root))
    if spans and spans[0][1] == first:
        (old, *rest), spans = proof, spans[1:]
    else:
        old, rest = first_root, list(proof)
    new = old
    for (_, end), sibling in zip(spans, rest, strict=True):
        if end <= first:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
        else:
            new = node_hash(new, sibling)
    if (old, new) != (first_root, second_root):
        raise BadProof(f"the tree of {first} leaves is not the beginning of the tree of {second}")


def _check_hashes(proof: Proof, wanted: int, others: tuple[bytes, bytes]) -> None:
    """Every hash whole, and as many as there are spans (L4)."""
    if len(proof) != wanted:
        raise BadProof(f"the proof has {len(proof)} hashes; here it has {wanted}")
    if any(len(one) != HASH_BYTES for one in (*proof, *others)):
        raise BadProof(f"a hash has {HASH_BYTES} bytes")


def _descent(position: int, span: Span) -> Iterator[tuple[Span, Span]]:
    """From the root to a leaf: each node on the way below the root, with its sibling."""
    start, end = span
    while end - start > 1:
        middle = start + (1 << (end - start - 1).bit_length() - 1)  # the largest power of two below the length
        left, right = (start, middle), (middle, end)
        (start, end), sibling = (left, right) if position < middle else (right, left)
        yield (start, end), sibling
