"""`Job`: a prompt and how many tokens to answer it with; and where prompts come from."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerFast

PROMPT_TOKENS = 64
MIN_LETTERS = 3


@dataclass(frozen=True, slots=True)
class Job:
    """`text` has the ids `prompt`; `new` tokens are to follow. `adapter` is a number, None for the base alone.

    Jobs of different `tenant` share nothing.
    """

    text: str
    prompt: tuple[int, ...]
    new: int
    adapter: int | None = None
    tenant: str = ""


class Prompts:
    """Random prompts of an exact length, made of words that are one token each, so that text and ids say the same."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        pieces = (tokenizer.convert_ids_to_tokens(token) for token in range(len(tokenizer)))
        words = sorted({piece[1:] for piece in pieces if piece.startswith("Ġ") and piece[1:].isascii()})
        self._words = [word for word in words if word.isalpha() and word.islower() and len(word) >= MIN_LETTERS]

    def text(self, source: random.Random, tokens: int) -> str:
        """Words that are as many tokens together."""
        return "".join(f" {word}" for word in source.choices(self._words, k=tokens))

    def job(self, text: str, new: int) -> Job:
        """A job about a text."""
        return Job(text, tuple(self._tokenizer(text)["input_ids"]), new)

    def jobs(self, seed: int, lengths: Sequence[int], tokens: int = PROMPT_TOKENS) -> list[Job]:
        """One job for each length of answer. Another seed gives other prompts, which no cache has seen."""
        source = random.Random(seed)
        found = [self.job(self.text(source, tokens), new) for new in lengths]
        if any(len(job.prompt) != tokens for job in found):
            raise RuntimeError("the tokenizer cuts text otherwise than its vocabulary says")
        return found


def with_adapters(jobs: Sequence[Job], adapters: Sequence[int | None]) -> list[Job]:
    """The jobs, each for its adapter."""
    return [replace(job, adapter=adapter) for job, adapter in zip(jobs, adapters, strict=True)]


def zipf(seed: int, kinds: int, count: int, exponent: float = 1.0) -> list[int]:
    """`count` numbers below `kinds`, the k-th in proportion to 1 / (k + 1) ** exponent."""
    weights = [1 / (kind + 1) ** exponent for kind in range(kinds)]
    return random.Random(seed).choices(range(kinds), weights, k=count)
