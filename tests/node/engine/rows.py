"""Rows of work for tests of the scheduler, and a cache that remembers what was written where."""

from __future__ import annotations

from collections import Counter
from itertools import count

from node.engine.blocks import BlockManager
from node.engine.config import EngineConfig
from node.engine.scheduler import Scheduler, Step
from node.engine.sequence import Finish, Sequence

IDS = count(1)
SIZE = 4  # tokens of a block


def row(prompt: tuple[int, ...], new: int = 4, namespace: bytes = b"a", adapters: tuple[str, ...] = ()) -> Sequence:
    return Sequence(next(IDS), prompt, namespace, adapters, new)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Memory:
    """Stands for the tensors: every slot remembers the namespace and the tokens that it was computed from.

    Running a step checks that each sequence reads exactly its own beginning, and that no two write into one block.
    """

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.slots: dict[tuple[int, int], tuple[bytes, tuple[int, ...]]] = {}
        self.runs = 0  # tokens run

    def run(self, step: Step) -> None:
        size = self.block_tokens
        read = [(target, [self.slots.get((source, at)) for at in range(size)]) for source, target in step.copies]
        for target, values in read:
            for at, value in enumerate(values):
                if value is not None:
                    self.slots[target, at] = value
        writers: Counter[int] = Counter()
        for piece in step.pieces:
            sequence, tokens, end = piece.sequence, piece.sequence.tokens, piece.start + piece.count
            assert piece.count > 0
            assert piece.start == sequence.computed
            assert end <= len(tokens)
            for at in range(end):
                slot = sequence.blocks[at // size], at % size
                if at >= piece.start:
                    self.slots[slot] = sequence.namespace, tokens[: at + 1]
                assert self.slots.get(slot) == (sequence.namespace, tokens[: at + 1]), f"slot {slot} of {sequence.id}"
            writers.update({sequence.blocks[at // size] for at in range(piece.start, end)})
            self.runs += piece.count
        assert all(times == 1 for times in writers.values()), "a block is written by two"
        assert [piece.count > 1 for piece in step.pieces] == sorted(piece.count > 1 for piece in step.pieces)


class Bench:
    """A scheduler over a pool of so many blocks, driven step by step; 7 is the token that everybody answers."""

    def __init__(self, blocks: int, context: int = 10_000, **limits: int) -> None:
        self.clock = Clock()
        self.config = EngineConfig(block_tokens=SIZE, cache_tokens=blocks * SIZE, **limits)
        self.blocks = BlockManager(blocks, SIZE)
        self.scheduler = Scheduler(self.config, self.blocks, context, self.clock)
        self.memory = Memory(SIZE)

    def add(self, *sequences: Sequence) -> None:
        for sequence in sequences:
            self.scheduler.add(sequence)

    def step(self, tokens: tuple[int, ...] = (7,)) -> Step | None:
        """One whole step. Who has its last token is finished."""
        step = self.scheduler.schedule()
        self.blocks.check_integrity()
        if step is not None:
            self.memory.run(step)
            self.done(step, tokens)
        return step

    def done(self, step: Step, tokens: tuple[int, ...] = (7,)) -> None:
        answers = {}
        for piece in step.pieces:
            sequence = piece.sequence
            if piece.start + piece.count == sequence.length:
                answers[sequence] = tokens[: sequence.max_new_tokens - len(sequence.output)]
        self.scheduler.done(step, answers)
        self.blocks.check_integrity()
        for sequence in answers:
            if len(sequence.output) == sequence.max_new_tokens:
                self.scheduler.finish(sequence, Finish.LENGTH)
        self.blocks.check_integrity()

    def finish_all(self, limit: int) -> int:
        """Steps until nothing is left to do, which have to be no more than `limit`."""
        for steps in range(limit + 1):
            if self.step() is None:
                assert not self.scheduler.waiting
                assert not self.scheduler.running
                assert self.blocks.used == 0
                return steps
        raise AssertionError(f"still {len(self.scheduler.running)} running after {limit} steps")
