from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.log.merkle import (
    MAX_SIZE,
    BadProof,
    Frontier,
    check_consistency,
    check_inclusion,
    consistency_spans,
    fold,
    inclusion_spans,
    leaf_hash,
    node_hash,
    subtrees,
)

# The classic leaves and roots of certificate-transparency's reference tests.
LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
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
HASHES = [leaf_hash(bytes.fromhex(leaf)) for leaf in LEAVES]
EMPTY = hashlib.sha256(b"").digest()
OTHER = hashlib.sha256(b"some other hash").digest()

# (position, size) -> the proof, and (first, second) -> the proof, as the reference implementations give them.
INCLUSION = {
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
CONSISTENCY = {
    (1, 1): [],
    (1, 8): INCLUSION[(0, 8)],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
    (6, 7): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
}


def tree_hash(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962, 2.1, word for word."""
    if not leaves:
        return EMPTY
    if len(leaves) == 1:
        return leaves[0]
    half = 1
    while 2 * half < len(leaves):
        half *= 2
    return node_hash(tree_hash(leaves[:half]), tree_hash(leaves[half:]))


def hashes_of(leaves: Sequence[bytes], spans: Sequence[tuple[int, int]]) -> list[bytes]:
    return [tree_hash(leaves[start:end]) for start, end in spans]


@pytest.mark.parametrize("size", range(1, 9))
def test_the_classic_leaves_have_their_known_roots(size: int) -> None:
    """L3."""
    frontier = Frontier()
    for leaf in HASHES[:size]:
        frontier.add(leaf)
    assert frontier.root().hex() == tree_hash(HASHES[:size]).hex() == ROOTS[size - 1]


def test_the_root_of_nothing_is_the_hash_of_nothing() -> None:
    assert Frontier().root() == fold([]) == EMPTY


@pytest.mark.parametrize(("position", "size"), INCLUSION)
def test_known_inclusion_proofs(position: int, size: int) -> None:
    """L4."""
    proof = hashes_of(HASHES, inclusion_spans(position, size))
    assert [one.hex() for one in proof] == INCLUSION[(position, size)]
    check_inclusion(HASHES[position], position, size, proof, bytes.fromhex(ROOTS[size - 1]))


@pytest.mark.parametrize(("first", "second"), CONSISTENCY)
def test_known_consistency_proofs(first: int, second: int) -> None:
    """L4."""
    proof = hashes_of(HASHES, consistency_spans(first, second))
    assert [one.hex() for one in proof] == CONSISTENCY[(first, second)]
    check_consistency(first, bytes.fromhex(ROOTS[first - 1]), second, bytes.fromhex(ROOTS[second - 1]), proof)


@dataclass(frozen=True)
class Inclusion:
    """What a verifier is given."""

    position: int
    size: int
    leaf: bytes
    root: bytes
    proof: list[bytes]

    def check(self) -> None:
        check_inclusion(self.leaf, self.position, self.size, self.proof, self.root)


@dataclass(frozen=True)
class Consistency:
    """What a verifier is given."""

    first: int
    second: int
    first_root: bytes
    second_root: bytes
    proof: list[bytes]

    def check(self) -> None:
        check_consistency(self.first, self.first_root, self.second, self.second_root, self.proof)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def broken_proofs(proof: list[bytes], *others: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """The ways in which a list of hashes can be wrong; `others` are hashes of the same tree."""
    for name, one in (("garbage", b""), ("a short hash", b"short"), ("a foreign hash", OTHER)):
        yield f"{name} behind", [*proof, one]
        yield f"{name} before", [one, *proof]
    for number, one in enumerate(others):
        yield f"root {number} behind", [*proof, one]
        yield f"root {number} before", [one, *proof]
    for place, one in enumerate(proof):
        yield f"bit 3 of hash {place}", [*proof[:place], flipped(one, 3), *proof[place + 1 :]]
        yield f"last bit of hash {place}", [*proof[:place], flipped(one, 255), *proof[place + 1 :]]
        yield f"hash {place} cut", [*proof[:place], one[:-1], *proof[place + 1 :]]
    if proof:
        yield "the last hash is missing", proof[:-1]
        yield "the first hash is missing", proof[1:]
        yield "nothing", []
        yield "the first hash twice", [proof[0], *proof]
    if len(proof) > 1:
        yield "swapped", [proof[1], proof[0], *proof[2:]]
        yield "a hash in between", [proof[0], OTHER, *proof[1:]]


def broken_inclusions() -> Iterator[object]:
    for position, size in INCLUSION:
        right = Inclusion(
            position,
            size,
            HASHES[position],
            bytes.fromhex(ROOTS[size - 1]),
            hashes_of(HASHES, inclusion_spans(position, size)),
        )
        wrong = {
            "the position before": replace(right, position=position - 1),
            "the position behind": replace(right, position=position + 1),
            "another position": replace(right, position=position ^ 2),
            "a position beyond the end": replace(right, position=size),
            "twice the size": replace(right, size=size * 2),
            "half the size": replace(right, size=size // 2),
            "size 0": replace(right, size=0),
            "another leaf": replace(right, leaf=OTHER),
            "the entry for its hash": replace(right, leaf=bytes.fromhex(LEAVES[position])),
            "no leaf": replace(right, leaf=b""),
            "the leaf for the root": replace(right, root=right.leaf, proof=right.proof or [OTHER]),
            "the empty root": replace(right, root=EMPTY),
            "another root": replace(right, root=OTHER),
            "no root": replace(right, root=b""),
        } | {name: replace(right, proof=proof) for name, proof in broken_proofs(right.proof, right.root)}
        yield from (pytest.param(one, id=f"{position} in {size}: {name}") for name, one in wrong.items())


def broken_consistencies() -> Iterator[object]:
    for first, second in CONSISTENCY:
        right = Consistency(
            first,
            second,
            bytes.fromhex(ROOTS[first - 1]),
            bytes.fromhex(ROOTS[second - 1]),
            hashes_of(HASHES, consistency_spans(first, second)),
        )
        wrong = {
            "first - 1": replace(right, first=first - 1),
            "first + 1": replace(right, first=first + 1),
            "first ^ 2": replace(right, first=first ^ 2),
            "size 0": replace(right, first=0),
            "both sizes 0": replace(right, first=0, second=0, first_root=EMPTY, second_root=EMPTY, proof=[]),
            "twice the second size": replace(right, second=second * 2),
            "half the second size": replace(right, second=second // 2),
            "another first root": replace(right, first_root=OTHER),
            "another second root": replace(right, second_root=OTHER),
            "no first root": replace(right, first_root=b"WrongRoot"),
            "the empty root": replace(right, first_root=EMPTY),
        } | {
            name: replace(right, proof=proof)
            for name, proof in broken_proofs(right.proof, right.first_root, right.second_root)
        }
        if first != second:
            wrong["swapped roots"] = replace(right, first_root=right.second_root, second_root=right.first_root)
            wrong["back in time"] = replace(right, first=second, second=first)
            wrong["one root for both"] = replace(right, second_root=right.first_root)
        yield from (pytest.param(one, id=f"{first} to {second}: {name}") for name, one in wrong.items())


WRONG_INCLUSIONS, WRONG_CONSISTENCIES = list(broken_inclusions()), list(broken_consistencies())


def test_there_are_as_many_vectors_as_the_public_ones() -> None:
    assert len(WRONG_INCLUSIONS) + len(INCLUSION) >= 98
    assert len(WRONG_CONSISTENCIES) + len(CONSISTENCY) >= 98


@pytest.mark.parametrize("wrong", WRONG_INCLUSIONS)
def test_a_broken_inclusion_proof_is_refused(wrong: Inclusion) -> None:
    """L4."""
    with pytest.raises(BadProof):
        wrong.check()


@pytest.mark.parametrize("wrong", WRONG_CONSISTENCIES)
def test_a_broken_consistency_proof_is_refused(wrong: Consistency) -> None:
    """L4."""
    with pytest.raises(BadProof):
        wrong.check()


def leaves_of(count: int) -> list[bytes]:
    return [leaf_hash(number.to_bytes(8, "big")) for number in range(count)]


@given(st.data(), st.integers(1, 300))
def test_every_inclusion_proof_holds_and_no_bit_of_it_can_change(data: st.DataObject, size: int) -> None:
    leaves = leaves_of(size)
    position = data.draw(st.integers(0, size - 1))
    right = Inclusion(
        position, size, leaves[position], tree_hash(leaves), hashes_of(leaves, inclusion_spans(position, size))
    )
    right.check()
    bit = data.draw(st.integers(0, 255))
    wrong = [replace(right, leaf=flipped(right.leaf, bit)), replace(right, root=flipped(right.root, bit))]
    for place, one in enumerate(right.proof):
        wrong.append(replace(right, proof=[*right.proof[:place], flipped(one, bit), *right.proof[place + 1 :]]))
    if size > 1:
        other = data.draw(st.integers(0, size - 1).filter(lambda one: one != position))
        wrong.append(replace(right, position=other))
    for one in wrong:
        with pytest.raises(BadProof):
            one.check()


@given(st.data(), st.integers(1, 300))
def test_every_consistency_proof_holds_and_no_bit_of_it_can_change(data: st.DataObject, second: int) -> None:
    leaves = leaves_of(second)
    first = data.draw(st.integers(1, second))
    proof = hashes_of(leaves, consistency_spans(first, second))
    right = Consistency(first, second, tree_hash(leaves[:first]), tree_hash(leaves), proof)
    right.check()
    bit = data.draw(st.integers(0, 255))
    wrong = [
        replace(right, first_root=flipped(right.first_root, bit)),
        replace(right, second_root=flipped(right.second_root, bit)),
    ]
    for place, one in enumerate(right.proof):
        wrong.append(replace(right, proof=[*right.proof[:place], flipped(one, bit), *right.proof[place + 1 :]]))
    for one in wrong:
        with pytest.raises(BadProof):
            one.check()


@given(st.data(), st.integers(2, 200))
def test_a_tree_with_another_past_is_no_continuation(data: st.DataObject, second: int) -> None:
    """However its proof is made."""
    leaves = leaves_of(second)
    first = data.draw(st.integers(1, second - 1))
    forked = list(leaves)
    forked[data.draw(st.integers(0, first - 1))] = OTHER
    for source in (leaves, forked):
        proof = hashes_of(source, consistency_spans(first, second))
        with pytest.raises(BadProof):
            check_consistency(first, tree_hash(leaves[:first]), second, tree_hash(forked), proof)


@given(st.integers(0, 400))
def test_a_frontier_holds_the_subtrees_of_its_size_and_completes_each_once(size: int) -> None:
    frontier, leaves, completed = Frontier(), leaves_of(size), {}
    for position, leaf in enumerate(leaves):
        for level, one in enumerate(frontier.add(leaf)):
            completed[(level, position >> level)] = one
    assert frontier.hashes == [completed[one] for one in subtrees((0, size))]
    assert frontier.root() == tree_hash(leaves)
    assert all(tree_hash(leaves[i << level : (i + 1) << level]) == one for (level, i), one in completed.items())


def test_proofs_of_the_largest_log_are_short() -> None:
    assert len(inclusion_spans(MAX_SIZE - 1, MAX_SIZE)) <= 54
    assert len(consistency_spans(2**52 + 1, MAX_SIZE)) <= 54
    with pytest.raises(BadProof):
        inclusion_spans(0, MAX_SIZE + 1)


def test_a_byte_cannot_move_from_one_hash_to_its_neighbour() -> None:
    """L4: joined, they would be the same bytes."""
    first, second = HASHES[:2]
    root = node_hash(first, second)
    check_inclusion(first, 0, 2, [second], root)
    with pytest.raises(BadProof):
        check_inclusion(first[:-1], 0, 2, [first[-1:] + second], root)
    with pytest.raises(BadProof):
        check_inclusion(first + second[:1], 0, 2, [second[1:]], root)
    with pytest.raises(BadProof):
        check_consistency(1, first[:-1], 2, root, [first[-1:] + second])
