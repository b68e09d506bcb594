"""`Sequence`: one row of work, from its prompt to its last token."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Finish(StrEnum):
    """Why a sequence ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


class Status(StrEnum):
    """Where a sequence stands."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class Sequence:
    """Tokens that were given and made, and how far their keys and values are in the cache.

    The block manager alone writes `blocks` and `computed`, the scheduler `status`, `finish` and `cached`. A block table
    may change between two steps, also where it had been filled.
    """

    id: int
    prompt: tuple[int, ...]
    namespace: bytes  # whose prefixes it may share: digest of (base, adapter ids, tenant)
    adapters: tuple[str, ...]  # adapter ids of the path, top first
    max_new_tokens: int
    prompt_logits: bool = False  # logits after every token of the prompt are wanted, so none of it comes from the cache
    output: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)  # block table: block i holds tokens i * block_tokens and following
    computed: int = 0  # tokens whose keys and values are in the cache
    cached: int = 0  # tokens of the prompt that were there when it first ran
    status: Status = Status.WAITING
    finish: Finish | None = None

    @property
    def length(self) -> int:
        """Tokens of prompt and output."""
        return len(self.prompt) + len(self.output)

    @property
    def pending(self) -> int:
        """Tokens that steps have yet to run."""
        return self.length - self.computed

    @property
    def most_computed(self) -> int:
        """Tokens that it may come to have in the cache: the last one of the longest answer is never run."""
        return len(self.prompt) + max(0, self.max_new_tokens - 1)

    @property
    def tokens(self) -> tuple[int, ...]:
        """Prompt and output. Copies them; `between` is for parts."""
        return self.prompt + tuple(self.output)

    def between(self, start: int, stop: int) -> tuple[int, ...]:
        """Tokens `start` to `stop` (exclusive) of prompt and output."""
        given = len(self.prompt)
        if stop <= given:
            return self.prompt[start:stop]
        return self.prompt[start:] + tuple(self.output[max(0, start - given) : stop - given])
