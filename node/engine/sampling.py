"""What a caller may say about how tokens are chosen: one frozen value, checked when it is made.

The choosing itself is `sampler.py`'s; stop strings are `text.py`'s, the token limit and stop tokens the engine's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from node.engine.errors import RequestRefused

MAX_TOKENS: Final = 1 << 24
MAX_TEMPERATURE: Final = 100.0
MIN_REPETITION: Final = 0.01  # dividing by less would leave nothing of other tokens, and at last overflow
MAX_REPETITION: Final = 100.0
MAX_PENALTY: Final = 2.0  # presence and frequency, as in the OpenAI API
MAX_BIAS: Final = 100.0
MAX_BIASES: Final = 1024
MAX_STOPS: Final = 16
MAX_STOP_CHARACTERS: Final = 256
MAX_STOP_TOKENS: Final = 1024
MAX_LOGPROBS: Final = 20
SEED_BITS: Final = 64
GREEDY_BELOW: Final = 1e-5  # dividing by less would overflow


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the tokens of one request are chosen. Raises RequestRefused naming the field that is out of bounds.

    `temperature` 0 (below 1e-5) is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 are off. Penalties follow the OpenAI API
    (presence and frequency count generated tokens) and CTRL, https://arxiv.org/abs/1909.05858 (repetition counts the
    prompt as well). `seed` makes a request repeat itself whatever runs beside it. `logprobs` asks for that many
    alternatives beside the chosen token (0: the chosen one alone), `prompt_logprobs` for those of the prompt's tokens.
    """

    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: bool = False

    def __post_init__(self) -> None:
        _whole("max_tokens", self.max_tokens, 1, MAX_TOKENS)
        _real("temperature", self.temperature, 0.0, MAX_TEMPERATURE)
        _whole("top_k", self.top_k, 0, MAX_TOKENS)
        _real("top_p", self.top_p, 0.0, 1.0, above=True)
        _real("min_p", self.min_p, 0.0, 1.0)
        _real("repetition_penalty", self.repetition_penalty, MIN_REPETITION, MAX_REPETITION)
        _real("presence_penalty", self.presence_penalty, -MAX_PENALTY, MAX_PENALTY)
        _real("frequency_penalty", self.frequency_penalty, -MAX_PENALTY, MAX_PENALTY)
        if self.seed is not None:
            _whole("seed", self.seed, -(1 << (SEED_BITS - 1)), (1 << SEED_BITS) - 1)
        if self.logprobs is not None:
            _whole("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        self._check_collections()

    def _check_collections(self) -> None:
        _at_most("logit_bias", len(self.logit_bias), MAX_BIASES)
        for token, bias in self.logit_bias.items():
            _whole("logit_bias", token, 0, MAX_TOKENS)
            _real("logit_bias", bias, -MAX_BIAS, MAX_BIAS)
        _at_most("stop", len(self.stop), MAX_STOPS)
        for text in self.stop:
            if not 1 <= len(text) <= MAX_STOP_CHARACTERS:
                raise RequestRefused(
                    "stop", f"a stop string has 1 to {MAX_STOP_CHARACTERS} characters, this one {len(text)}"
                )
        _at_most("stop_token_ids", len(self.stop_token_ids), MAX_STOP_TOKENS)
        for token in self.stop_token_ids:
            _whole("stop_token_ids", token, 0, MAX_TOKENS)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken, without a draw."""
        return self.temperature < GREEDY_BELOW

    @property
    def penalised(self) -> bool:
        """Whether any penalty looks back at earlier tokens."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


def _whole(name: str, value: int, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise RequestRefused(name, f"{name} is a whole number from {least} to {most}, not {value!r:.40}")


def _real(name: str, value: float, least: float, most: float, *, above: bool = False) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not least <= value <= most or (above and value == least):
        start = "more than" if above else "at least"
        raise RequestRefused(name, f"{name} is a number of {start} {least:g} and at most {most:g}, not {value!r:.40}")


def _at_most(name: str, count: int, most: int) -> None:
    if count > most:
        raise RequestRefused(name, f"{name} has {count} entries, at most {most} are allowed")
