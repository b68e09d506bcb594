"""`PrefixTree`: which prefixes are in the cache, and in which blocks.

A full block's entry is found under (number of the entry above it, its tokens), at the top under (namespace, its
tokens). The tree is a dictionary, which compares the tokens themselves where hashes collide, and no number is given
twice: nothing answers for what stood in its place before. It does what nano-vllm does with a chain of hashes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from node.engine.sequence import Sequence

Key = tuple[int | bytes, tuple[int, ...]]  # number of the entry above, or the namespace; tokens of the block


@dataclass(frozen=True, slots=True)
class Entry:
    """What a full block holds."""

    number: int
    key: Key
    namespace: bytes


class PrefixTree:
    """Entries by their block, blocks by their key. Whoever forgets an entry has forgotten those below it before."""

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self._entries: dict[int, Entry] = {}
        self._blocks: dict[Key, int] = {}
        self._numbers = 0  # given so far

    def __contains__(self, block: object) -> bool:
        return block in self._entries

    def key(self, sequence: Sequence, table: list[int], index: int) -> Key:
        """Where the entry of a sequence's block `index` is found; `table` has the entered ones before it."""
        above = self._entries[table[index - 1]].number if index else sequence.namespace
        return above, sequence.between(index * self.block_tokens, (index + 1) * self.block_tokens)

    def find(self, sequence: Sequence, tokens: int) -> list[int]:
        """The blocks that hold its beginning, of at most so many tokens."""
        found: list[int] = []
        for index in range(tokens // self.block_tokens):
            block = self._blocks.get(self.key(sequence, found, index))
            if block is None:
                break
            found.append(block)
        return found

    def enter(self, sequence: Sequence, index: int) -> int:
        """A sequence's block `index` is full: the block that holds this prefix, its own or one that was first."""
        key = self.key(sequence, sequence.blocks, index)
        block = self._blocks.setdefault(key, sequence.blocks[index])
        if block not in self._entries:
            self._numbers += 1
            self._entries[block] = Entry(self._numbers, key, sequence.namespace)
        return block

    def forget(self, block: int) -> None:
        """What the block held is no longer there."""
        del self._blocks[self._entries.pop(block).key]

    def is_prefix(self, sequence: Sequence, blocks: list[int]) -> bool:
        """Whether these blocks hold the beginning of this sequence, entered below one another in its namespace."""
        entries = [entry for entry in map(self._entries.get, blocks) if entry is not None]
        return (
            len(entries) == len(blocks)
            and sum((entry.key[1] for entry in entries), ()) == sequence.between(0, len(blocks) * self.block_tokens)
            and all(entry.namespace == sequence.namespace for entry in entries)
            and all(entry.key[0] == sequence.namespace for entry in entries[:1])
            and all(below.key[0] == above.number for above, below in pairwise(entries))
        )

    def claims(self) -> Iterator[tuple[str, bool]]:
        """What has to hold at any time, and whether it does."""
        found = {entry.key: block for block, entry in self._entries.items()}
        yield "every entry is found under its key", found == self._blocks
        tops = {entry.namespace for entry in self._entries.values()}
        there = tops | {entry.number for entry in self._entries.values()}
        yield "no entry stays without the one above it", all(above in there for above, _ in self._blocks)
