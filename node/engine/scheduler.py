"""`Scheduler`: which tokens of which sequences the next step runs.

Every running sequence that has its prompt behind it gets one token of a step; prompts share what is left of
`chunk_tokens`. So a long prompt does not hold up who is decoding, nor, since short ones go first, who has a short one.

Whatever `add` lets in ends after a bounded number of steps: the pool has room for it, the sequence that has run
longest is never preempted and moves in every step, and the queue keeps its order. Only a *follower* is passed by: one
whose next block a running sequence is about to compute waits until that is done, or will not be.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile

from node.engine.blocks import BlockManager
from node.engine.config import EngineConfig
from node.engine.errors import Overloaded, RequestRefused
from node.engine.prefixes import Key
from node.engine.sequence import Finish, Sequence, Status


@dataclass(frozen=True, slots=True)
class Piece:
    """Run tokens `start` to `start + count` (exclusive) of a sequence; its block table has room for them."""

    sequence: Sequence
    start: int
    count: int

    @property
    def logits(self) -> int:
        """Tokens at the end of the piece after which logits are wanted: 0, 1, or all with `prompt_logits`."""
        if self.sequence.prompt_logits and not self.sequence.output:
            return self.count
        return int(self.start + self.count == self.sequence.length)


@dataclass(frozen=True, slots=True)
class Step:
    """What runs together: first the block copies, then the pieces, those of one token first.

    A copy is (source, target). All sources are read before any target is written: a block may be both.
    """

    pieces: tuple[Piece, ...]
    copies: tuple[tuple[int, int], ...]


class Scheduler:
    """A queue, the running sequences, and the rule between them. Used from one thread.

    `context`: most tokens of a sequence. `clock`: seconds, for how long a sequence has waited.
    """

    def __init__(self, config: EngineConfig, blocks: BlockManager, context: int, clock: Callable[[], float]) -> None:
        self.config = config
        self.blocks = blocks
        self.context = context
        self.clock = clock
        self.waiting: OrderedDict[Sequence, float] = OrderedDict()  # -> since when; endless once it has run
        self.running: list[Sequence] = []  # in the order of their admission
        self.preemptions = 0
        self._followers: dict[Sequence, tuple[Sequence, int]] = {}  # -> whom it waits for, to compute how many tokens

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence. Raises RequestRefused when it could never run, Overloaded when the queue is full."""
        self._refuse_impossible(sequence)
        if len(self.waiting) >= self.config.max_waiting:
            raise Overloaded(f"{len(self.waiting)} requests wait already", "try again in a while")
        self.waiting[sequence] = self.clock()

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Run a new sequence that begins with what a running one has computed, without computing it again.

        Without room it is next in the queue instead, however full that is. Raises RequestRefused as `add` does,
        and ValueError when it begins otherwise or in another namespace.
        """
        self._refuse_impossible(child)
        has_room = parent.status is Status.RUNNING and len(self.running) < self.config.max_running
        if has_room and self.blocks.fork(parent, child):
            child.status = Status.RUNNING
            self.running.append(child)
        else:
            self._queue_first(child)

    def finish(self, sequence: Sequence, why: Finish) -> None:
        """End a sequence, whatever it is doing, and free its pages. Nothing happens to one that has ended."""
        if sequence.status is Status.FINISHED:
            return
        if sequence.status is Status.RUNNING:
            self.running.remove(sequence)
            self.blocks.release(sequence)
        self.waiting.pop(sequence, None)
        self._followers.pop(sequence, None)
        sequence.status, sequence.finish = Status.FINISHED, why

    def expired(self, now: float) -> list[Sequence]:
        """Those that have waited for their first turn longer than `max_wait_s`; the caller finishes them."""
        return [sequence for sequence, since in self.waiting.items() if now - since > self.config.max_wait_s]

    def schedule(self) -> Step | None:
        """The next step, or None when there is nothing to do.

        A sequence with all its `max_new_tokens` has to be finished before. Copies are not given out again: when a step
        failed, every running sequence has to be finished.
        """
        self._secure_pages()
        self._admit()
        counts = self._divide()
        if not counts:
            return None
        pieces = [Piece(sequence, sequence.computed, count) for sequence, count in counts.items()]
        return Step(tuple(sorted(pieces, key=lambda piece: piece.count > 1)), self.blocks.take_copies())

    def done(self, step: Step, new_tokens: Mapping[Sequence, Iterable[int]]) -> None:
        """A step has run; these tokens follow. Several where a grammar leaves no choice.

        Sequences that ended meanwhile are left out, their tokens dropped. Raises ValueError for tokens of a sequence
        that has others to run first, or more than its `max_new_tokens`.
        """
        pieces = [piece for piece in step.pieces if piece.sequence.status is Status.RUNNING]
        added = [list(new_tokens.get(piece.sequence, ())) for piece in pieces]
        for piece, new in zip(pieces, added, strict=True):
            at_end = piece.start + piece.count == piece.sequence.length
            room = piece.sequence.max_new_tokens - len(piece.sequence.output) if at_end else 0
            if len(new) > room:
                raise ValueError(f"{len(new)} new tokens for sequence {piece.sequence.id}, which takes {room} now")
        for piece, new in zip(pieces, added, strict=True):
            self.blocks.commit(piece.sequence, piece.count)
            piece.sequence.output += new

    def _refuse_impossible(self, sequence: Sequence) -> None:
        given, wanted = len(sequence.prompt), sequence.max_new_tokens
        if not given:
            raise RequestRefused("prompt", "the prompt has no tokens", "send at least one token")
        if given + wanted > self.context:
            raise RequestRefused(
                "prompt" if given >= self.context else "max_tokens",
                f"{given} tokens of prompt and up to {wanted} of answer are more than the context of {self.context}",
                "shorten the prompt or lower max_tokens",
            )
        needed, total = self.blocks.blocks_for(sequence.most_computed), self.blocks.total
        if needed > total:
            raise RequestRefused(
                "max_tokens",
                f"{given} tokens of prompt and up to {wanted} of answer take {needed} pages of "
                f"{self.blocks.block_tokens} tokens; the cache has {total}",
                "shorten the prompt, lower max_tokens, or give the engine a larger cache",
            )
        if (adapters := len(set(sequence.adapters))) > self.config.adapter_slots:
            raise RequestRefused(
                "model",
                f"the path has {adapters} adapters; the engine holds {self.config.adapter_slots}",
                "raise adapter_slots",
            )

    def _queue_first(self, sequence: Sequence) -> None:
        sequence.status = Status.WAITING
        self.waiting[sequence] = math.inf  # it has had a turn: nobody gives up on it
        self.waiting.move_to_end(sequence, last=False)

    def _secure_pages(self) -> None:
        """Give every running sequence a page for its next token; for it the youngest lose theirs and start again."""
        index = 0
        while index < len(self.running):
            sequence = self.running[index]
            if not sequence.pending or self.blocks.grow(sequence, 1):
                index += 1
                continue
            youngest = self.running.pop()
            self.blocks.release(youngest)
            self._queue_first(youngest)
            self.preemptions += 1

    def _admit(self) -> None:
        """Take from the queue, in its order, who fits; leave every running sequence a spare page to grow into."""
        if not self.waiting:
            return
        coming = {key: sequence for sequence in self.running if (key := self.blocks.next_key(sequence))}
        adapters = {adapter for sequence in self.running for adapter in sequence.adapters}
        for sequence in list(self.waiting):
            if len(self.running) == self.config.max_running:
                return
            if self._is_follower(sequence, coming):
                continue
            together = adapters | set(sequence.adapters)
            spare = len(self.running)
            if len(together) > self.config.adapter_slots or not self.blocks.admit(sequence, spare):
                return
            adapters = together
            if not math.isinf(self.waiting.pop(sequence)):
                sequence.cached = sequence.computed
            sequence.status = Status.RUNNING
            self.running.append(sequence)
            if key := self.blocks.next_key(sequence):
                coming.setdefault(key, sequence)

    def _is_follower(self, sequence: Sequence, coming: Mapping[Key, Sequence]) -> bool:
        """Whether a running sequence is about to compute its next block; `coming` has the next blocks of those."""
        if sequence in self._followers:
            leader, until = self._followers[sequence]
            if leader.status is Status.RUNNING and leader.computed < until <= leader.length:
                return True
            del self._followers[sequence]
        key = self.blocks.next_key(sequence)
        if key is None or key not in coming:
            return False
        self._followers[sequence] = coming[key], self._common(sequence, coming[key])
        return True

    def _common(self, follower: Sequence, leader: Sequence) -> int:
        """Tokens that both begin with and that the follower may take from the cache, in whole blocks."""
        size = self.blocks.block_tokens
        starts = range(0, min(leader.length, follower.length - 1) - size + 1, size)
        same = (follower.between(start, start + size) == leader.between(start, start + size) for start in starts)
        return size * sum(1 for _ in takewhile(bool, same))

    def _divide(self) -> dict[Sequence, int]:
        """How many tokens each sequence runs: one for who decodes, then half of the rest for the oldest of the others.

        What remains goes to the shortest first, so that a short prompt does not wait for a long one to end.
        """
        decoding = [s for s in self.running if s.pending and s.computed >= len(s.prompt)]
        counts = dict.fromkeys(decoding, 1)
        left = self.config.chunk_tokens - len(decoding)
        others = [s for s in self.running if s.pending > counts.get(s, 0)]
        shares = [(s, -(-left // 2)) for s in others[:1]] + [(s, left) for s in sorted(others, key=lambda s: s.pending)]
        for sequence, share in shares:
            before = counts.get(sequence, 0)
            extra = min(sequence.pending - before, share, left)
            if extra and not self.blocks.grow(sequence, before + extra):
                extra = 1 - before  # its next token has a page
            if extra:
                counts[sequence] = before + extra
                left -= extra
        return counts
