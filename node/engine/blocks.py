"""`BlockManager`: the pages of the key-value cache, who holds them, and which prefixes are in them.

A block holds the keys and values of `block_tokens` tokens. It is *used* while sequences hold it, *cached* while nobody
does but its content is known, and else *free*; the three make up the pool.

Full blocks whose prefix is known are shared (`PrefixTree`). Who holds one holds all those above it, and tables are let
go from their end: what is forgotten first, the least recently used, has nothing below it. After nano-vllm's block
manager.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator

from node.engine.prefixes import Key, PrefixTree
from node.engine.sequence import Sequence


class BlockManager:
    """Gives the blocks of a pool to sequences, shares equal prefixes, forgets cached ones when it has to.

    Blocks are numbered from 0. A sequence writes only into those after its full computed ones, and nobody else holds
    these.
    """

    def __init__(self, blocks: int, block_tokens: int) -> None:
        self.total = blocks
        self.block_tokens = block_tokens
        self._free = deque(range(blocks))
        self._idle: OrderedDict[int, None] = OrderedDict()  # cached blocks, least recently used first
        self._holders: dict[int, int] = {}  # used block -> how many sequences hold it
        self._prefixes = PrefixTree(block_tokens)  # what full blocks hold
        self._tables: set[Sequence] = set()  # sequences with blocks
        self._copies: dict[int, int] = {}  # target -> source, until a step takes them along

    @property
    def free(self) -> int:
        """Blocks with nothing in them."""
        return len(self._free)

    @property
    def cached(self) -> int:
        """Blocks that nobody holds and whose content can be used again."""
        return len(self._idle)

    @property
    def used(self) -> int:
        """Blocks that sequences hold."""
        return len(self._holders)

    def blocks_for(self, tokens: int) -> int:
        """Blocks that so many tokens take."""
        return -(-tokens // self.block_tokens)

    def match(self, sequence: Sequence) -> int:
        """Tokens at its beginning that it would find in the cache. Never all: the last one has to be run."""
        return len(self._find(sequence)) * self.block_tokens

    def next_key(self, sequence: Sequence) -> Key | None:
        """The entry that it would make or want next; None where it has no further full block.

        Two sequences with the same next key have equal tokens up to the end of that block.
        """
        if sequence in self._tables:
            table, index, limit = sequence.blocks, sequence.computed // self.block_tokens, sequence.length
        else:
            table = self._find(sequence)
            index, limit = len(table), self._shareable(sequence)
        return self._prefixes.key(sequence, table, index) if (index + 1) * self.block_tokens <= limit else None

    def admit(self, sequence: Sequence, spare: int = 0) -> bool:
        """Give a sequence its cached prefix, and blocks for the rest of its tokens.

        All of them at once: a prompt let in by parts would take pages that it loses again before it used them. False,
        and nothing has changed, when fewer than `spare` blocks would be left to others.
        """
        found = self._find(sequence)
        missing = self.blocks_for(sequence.length) - len(found)
        if missing + spare > self.free + self.cached - sum(block in self._idle for block in found):
            return False
        for block in found:
            self._hold(block)
        sequence.blocks = found + [self._take() for _ in range(missing)]
        sequence.computed = len(found) * self.block_tokens
        self._tables.add(sequence)
        return True

    def grow(self, sequence: Sequence, tokens: int) -> bool:
        """See that there are blocks for `tokens` more than those computed. False, and nothing has changed, if not."""
        missing = self.blocks_for(sequence.computed + tokens) - len(sequence.blocks)
        if missing > self.free + self.cached:
            return False
        sequence.blocks += [self._take() for _ in range(missing)]
        return True

    def commit(self, sequence: Sequence, tokens: int) -> None:
        """`tokens` more are computed; blocks that are full now become shareable.

        What was computed twice, by sequences that ran side by side, is kept once: the later one gets the earlier block.
        Raises ValueError for more tokens than it has or has blocks for.
        """
        room = len(sequence.blocks) * self.block_tokens
        if not 0 <= tokens <= min(sequence.length, room) - sequence.computed:
            raise ValueError(f"{tokens} tokens after {sequence.computed} of {sequence.length}, with blocks for {room}")
        first = sequence.computed // self.block_tokens
        sequence.computed += tokens
        for index in range(first, sequence.computed // self.block_tokens):
            own, kept = sequence.blocks[index], self._prefixes.enter(sequence, index)
            if kept != own:
                self._hold(kept)
                sequence.blocks[index] = kept
                self._let_go(own)

    def fork(self, parent: Sequence, child: Sequence) -> bool:
        """Give a child what its parent has computed: full blocks shared, the last partial one copied, the rest new.

        All of it, except that at least one token is left for the child to run. The copy is among those that
        `take_copies` returns next. False, and nothing has changed, when blocks are missing. Raises ValueError when the
        child does not begin with what was computed.
        """
        shared = min(parent.computed, child.length - 1)
        if child.namespace != parent.namespace or child.between(0, shared) != parent.between(0, shared):
            raise ValueError(f"sequence {child.id} does not begin with what sequence {parent.id} has computed")
        full, partial = divmod(shared, self.block_tokens)
        missing = self.blocks_for(child.length) - full
        if missing > self.free + self.cached:
            return False
        for block in parent.blocks[:full]:
            self._hold(block)
        child.blocks = parent.blocks[:full] + [self._take() for _ in range(missing)]
        child.computed = shared
        self._tables.add(child)
        if partial:
            # A parent that is itself still to be copied has its tokens where they come from.
            source = parent.blocks[full]
            self._copies[child.blocks[full]] = self._copies.get(source, source)
        return True

    def take_copies(self) -> tuple[tuple[int, int], ...]:
        """(source, target) of the copies that are due before anything else is written, each returned once.

        All sources have to be read before any target is written: a block may be both.
        """
        copies = tuple((source, target) for target, source in self._copies.items())
        self._copies.clear()
        return copies

    def release(self, sequence: Sequence) -> None:
        """Take back all blocks of a sequence; what is known stays cached. Nothing happens to one without blocks."""
        for block in reversed(sequence.blocks):
            self._let_go(block)
        sequence.blocks = []
        sequence.computed = 0
        self._tables.discard(sequence)

    def check_integrity(self) -> None:
        """Raise AssertionError, with all that is wrong, when the books do not agree with the sequences' tables."""
        if wrong := [what for what, right in self._claims() if not right]:
            raise AssertionError("; ".join(wrong))

    def _claims(self) -> Iterator[tuple[str, bool]]:
        """What has to hold at any time, and whether it does."""
        owned = [*self._free, *self._idle, *self._holders]
        yield "free + cached + used = total, each block once", sorted(owned) == list(range(self.total))
        held = Counter(block for sequence in self._tables for block in sequence.blocks)
        yield "as many hold a block as have it in their tables", held == self._holders
        yield "cached blocks are known", all(block in self._prefixes for block in self._idle)
        yield "free blocks are not known", not any(block in self._prefixes for block in self._free)
        yield "copies go to used blocks", self._copies.keys() <= held.keys()
        yield "copies go to blocks that are not shared", not any(block in self._prefixes for block in self._copies)
        yield from self._prefixes.claims()
        for sequence in self._tables:
            full, room = sequence.computed // self.block_tokens, len(sequence.blocks) * self.block_tokens
            ahead = sequence.blocks[full:]
            yield f"sequence {sequence.id} has room for what it computed", room >= sequence.computed
            yield (
                f"sequence {sequence.id} alone writes its blocks",
                all(held[block] == 1 and block not in self._prefixes for block in ahead),
            )
            yield (
                f"sequence {sequence.id} has its own prefix",
                self._prefixes.is_prefix(sequence, sequence.blocks[:full]),
            )

    def _shareable(self, sequence: Sequence) -> int:
        """Tokens that it may take from the cache."""
        return 0 if sequence.prompt_logits and not sequence.output else sequence.length - 1

    def _find(self, sequence: Sequence) -> list[int]:
        """Blocks that hold its prefix, as far as it may take them from the cache."""
        return self._prefixes.find(sequence, self._shareable(sequence))

    def _hold(self, block: int) -> None:
        self._idle.pop(block, None)
        self._holders[block] = self._holders.get(block, 0) + 1

    def _take(self) -> int:
        """A block for one sequence alone: a free one, else the least recently used cached one."""
        if self._free:
            block = self._free.popleft()
        else:
            block, _ = self._idle.popitem(last=False)
            self._prefixes.forget(block)
        self._holders[block] = 1
        return block

    def _let_go(self, block: int) -> None:
        self._holders[block] -= 1
        if self._holders[block]:
            return
        del self._holders[block]
        self._copies.pop(block, None)
        if block in self._prefixes:
            self._idle[block] = None
        else:
            self._free.append(block)
