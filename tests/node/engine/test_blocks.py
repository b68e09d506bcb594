"""The books of the cache: who holds what, what is shared, what is forgotten."""

from __future__ import annotations

import pytest

from node.engine.blocks import BlockManager
from node.engine.prefixes import PrefixTree
from node.engine.sequence import Sequence
from tests.node.engine.rows import SIZE, row

# Python's hash of an integer is its remainder modulo this prime: 0 and it have one hash, and so have tuples of them.
PRIME = 2**61 - 1
LONG = tuple(range(10, 10 + 3 * SIZE + 1))  # three full blocks and one token


def pool(blocks: int = 8) -> BlockManager:
    return BlockManager(blocks, SIZE)


def compute(blocks: BlockManager, sequence: Sequence) -> None:
    assert blocks.admit(sequence)
    blocks.commit(sequence, sequence.pending)
    blocks.check_integrity()


def counts(blocks: BlockManager) -> tuple[int, int, int]:
    blocks.check_integrity()
    return blocks.free, blocks.cached, blocks.used


def test_an_equal_prefix_is_found_while_it_is_used_and_after() -> None:
    blocks, first, second, third = pool(), row(LONG), row((*LONG[:-1], 99, 98)), row(LONG)
    assert blocks.match(first) == 0
    compute(blocks, first)
    assert counts(blocks) == (4, 0, 4)
    compute(blocks, second)
    assert first.blocks[:3] == second.blocks[:3]
    assert counts(blocks) == (3, 0, 5)
    blocks.release(first)
    blocks.release(second)
    assert counts(blocks) == (5, 3, 0)
    assert blocks.match(third) == 3 * SIZE


def test_the_last_token_is_always_run() -> None:
    blocks, first, second = pool(), row(LONG[:-1]), row(LONG[:-1])
    compute(blocks, first)
    assert blocks.match(second) == 2 * SIZE


def test_prompt_logits_take_nothing_from_the_cache_but_give_to_it() -> None:
    blocks, first, second = pool(), row(LONG), row(LONG)
    first.prompt_logits = second.prompt_logits = True
    compute(blocks, first)
    assert blocks.match(second) == 0
    assert blocks.match(row(LONG)) == 3 * SIZE
    second.output.append(1)  # all logits of the prompt were given out: the rest may be shared
    assert blocks.match(second) == 3 * SIZE


def test_another_namespace_finds_nothing() -> None:
    blocks, stranger = pool(), row(LONG, namespace=b"b")
    compute(blocks, row(LONG))
    assert blocks.match(stranger) == 0
    compute(blocks, stranger)
    assert counts(blocks) == (0, 0, 8)


def test_equal_tokens_below_another_prefix_are_another_prefix() -> None:
    blocks = pool()
    compute(blocks, row((*LONG[:SIZE], *LONG[SIZE:])))
    assert blocks.match(row((*LONG[SIZE : 2 * SIZE], *LONG[SIZE:]))) == 0


def test_tokens_are_compared_where_hashes_collide() -> None:
    blocks, zeros, primes = pool(), (0,) * (SIZE + 1), (PRIME,) * (SIZE + 1)
    assert hash((b"a", zeros[:SIZE])) == hash((b"a", primes[:SIZE]))
    compute(blocks, row(zeros))
    assert blocks.match(row(primes)) == 0
    assert blocks.match(row(zeros)) == SIZE


def test_the_least_recently_used_prefix_goes_first_and_from_its_end() -> None:
    blocks, old, new = pool(8), row(LONG), row(tuple(range(50, 50 + 3 * SIZE + 1)))
    for sequence in (old, new):
        compute(blocks, sequence)
    blocks.release(old)
    blocks.release(new)
    assert counts(blocks) == (2, 6, 0)
    large = row(tuple(range(100, 100 + 4 * SIZE)))
    compute(blocks, large)
    assert counts(blocks) == (0, 4, 4)
    assert (blocks.match(old), blocks.match(new)) == (SIZE, 3 * SIZE)


def test_what_is_used_again_is_kept_longer() -> None:
    blocks, old, new = pool(8), row(LONG), row(tuple(range(50, 50 + 3 * SIZE + 1)))
    for sequence in (old, new):
        compute(blocks, sequence)
        blocks.release(sequence)
    compute(blocks, old)
    blocks.release(old)
    compute(blocks, row(tuple(range(100, 100 + 4 * SIZE))))
    assert (blocks.match(old), blocks.match(new)) == (3 * SIZE, SIZE)


def test_what_comes_after_a_forgotten_entry_does_not_answer_for_it() -> None:
    """A block that was given to another prefix must not lead to what stood below the first."""
    blocks, first = pool(4), row(LONG)
    compute(blocks, first)
    blocks.release(first)
    other = row((99,) * SIZE + LONG[SIZE:])
    compute(blocks, other)
    blocks.release(other)
    assert blocks.match(row(LONG)) == 0
    assert blocks.match(other) == 3 * SIZE


def test_an_entry_in_the_block_of_another_does_not_inherit_what_stood_below_that() -> None:
    """Even where what is below stays, against the rules."""
    tree, first, other = PrefixTree(SIZE), row(LONG), row((99,) * SIZE + LONG[SIZE:])
    first.blocks = [0, 1, 2]
    assert [tree.enter(first, index) for index in range(3)] == [0, 1, 2]
    tree.forget(0)
    other.blocks = [0, 3, 4]
    assert tree.enter(other, 0) == 0
    assert tree.find(other, len(LONG)) == [0]
    assert tree.find(first, len(LONG)) == []
    assert dict(tree.claims())["no entry stays without the one above it"] is False


def test_what_two_computed_side_by_side_is_kept_once() -> None:
    blocks, first, second = pool(), row(LONG), row(LONG)
    assert blocks.admit(first)
    assert blocks.admit(second)
    assert counts(blocks) == (0, 0, 8)
    blocks.commit(first, 2 * SIZE)
    blocks.commit(second, 2 * SIZE + 1)
    assert first.blocks[:2] == second.blocks[:2]
    assert counts(blocks) == (2, 0, 6)


def test_nothing_is_taken_when_not_all_fits() -> None:
    blocks, first, second = pool(6), row(LONG), row((*LONG, *LONG))
    compute(blocks, first)
    assert not blocks.admit(second)
    assert second.blocks == []
    assert not blocks.grow(first, 3 * SIZE)
    assert counts(blocks) == (2, 0, 4)
    assert blocks.grow(first, 2 * SIZE)
    assert counts(blocks) == (0, 0, 6)


def test_cached_blocks_of_the_own_prefix_do_not_count_as_room() -> None:
    """All is cached and a prefix of what comes: it needs one block more, and there is none."""
    blocks, first = pool(3), row(LONG[:-1])
    compute(blocks, first)
    blocks.release(first)
    assert counts(blocks) == (0, 3, 0)
    assert not blocks.admit(row(LONG))
    assert counts(blocks) == (0, 3, 0)


def test_spare_blocks_are_left() -> None:
    blocks = pool(6)
    assert not blocks.admit(row(LONG), spare=3)
    assert blocks.admit(row(LONG), spare=2)


def test_a_fork_shares_full_blocks_and_copies_the_partial_one() -> None:
    blocks, parent = pool(), row(LONG)
    compute(blocks, parent)
    parent.output.append(1)
    child = row(LONG)
    child.output.append(2)
    assert blocks.fork(parent, child)
    assert child.blocks[:3] == parent.blocks[:3]
    assert child.computed == len(LONG)
    assert blocks.take_copies() == ((parent.blocks[3], child.blocks[3]),)
    assert blocks.take_copies() == ()
    assert counts(blocks) == (3, 0, 5)


def test_a_fork_without_tokens_of_its_own_runs_the_last_one_again() -> None:
    blocks, parent, child = pool(), row(LONG[:-1]), row(LONG[:-1])
    compute(blocks, parent)
    assert blocks.fork(parent, child)
    assert child.pending == 1
    assert blocks.take_copies() == ((parent.blocks[2], child.blocks[2]),)
    assert counts(blocks) == (4, 0, 4)


def test_a_fork_of_a_fork_copies_from_where_the_tokens_are() -> None:
    blocks, rows = pool(), [row(LONG) for _ in range(3)]
    compute(blocks, rows[0])
    for number, sequence in enumerate(rows):
        sequence.output.append(number)
    assert blocks.fork(rows[0], rows[1])
    assert blocks.fork(rows[1], rows[2])
    source = rows[0].blocks[3]
    assert blocks.take_copies() == ((source, rows[1].blocks[3]), (source, rows[2].blocks[3]))


def test_a_copy_to_a_block_that_was_given_back_is_not_made() -> None:
    blocks, parent, child = pool(), row(LONG), row(LONG)
    compute(blocks, parent)
    child.output.append(2)
    assert blocks.fork(parent, child)
    blocks.release(child)
    assert counts(blocks) == (4, 0, 4)
    assert blocks.take_copies() == ()


def test_a_fork_that_does_not_fit_changes_nothing() -> None:
    blocks, parent, child = pool(4), row(LONG), row(LONG)
    compute(blocks, parent)
    assert not blocks.fork(parent, child)
    assert (child.blocks, child.computed, counts(blocks)) == ([], 0, (0, 0, 4))


@pytest.mark.parametrize("child", [row((99, *LONG[1:])), row(LONG, namespace=b"b")])
def test_a_fork_of_something_else_is_an_error(child: Sequence) -> None:
    blocks, parent = pool(), row(LONG)
    compute(blocks, parent)
    with pytest.raises(ValueError, match="does not begin with"):
        blocks.fork(parent, child)
    assert counts(blocks) == (4, 0, 4)


def test_more_tokens_than_there_are_cannot_be_committed() -> None:
    blocks, sequence = pool(), row(LONG)
    assert blocks.admit(sequence)
    with pytest.raises(ValueError, match="14 tokens after 0 of 13"):
        blocks.commit(sequence, 14)
    assert sequence.computed == 0


def test_the_check_sees_what_is_wrong() -> None:
    def shared_tail(blocks: BlockManager, one: Sequence, other: Sequence) -> None:
        other.blocks[-1] = one.blocks[-1]

    def lost(blocks: BlockManager, one: Sequence, other: Sequence) -> None:
        blocks._free.pop()

    def foreign_prefix(blocks: BlockManager, one: Sequence, other: Sequence) -> None:
        one.blocks[0], other.blocks[0] = other.blocks[0], one.blocks[0]

    def orphan(blocks: BlockManager, one: Sequence, other: Sequence) -> None:
        blocks._prefixes.forget(one.blocks[0])

    for damage in (shared_tail, lost, foreign_prefix, orphan):
        blocks, one, other = pool(9), row(LONG), row(tuple(reversed(LONG)))
        compute(blocks, one)
        compute(blocks, other)
        damage(blocks, one, other)
        with pytest.raises(AssertionError):
            blocks.check_integrity()
