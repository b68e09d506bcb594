"""What goes into the engine and what comes out: values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from node.engine.sampling import SamplingParams
from node.engine.sequence import Finish

Kind = Literal["json_schema", "json_object", "regex", "lark", "choice"]


@dataclass(frozen=True, slots=True)
class GrammarSpec:
    """A constraint as the caller gave it.

    `text` is a JSON schema, nothing (json_object), a regular expression, a Lark grammar in llguidance's form, or for
    `choice` a JSON list of strings. `field` is the caller's own name for it, which a refusal repeats.
    """

    kind: Kind
    text: str = ""
    field: str = "response_format"


@dataclass(frozen=True, slots=True)
class Generation:
    """A request: `n` continuations of a prompt of token ids by a model that the engine knows by name.

    `tenant` separates the cached prefixes of callers that must not learn of each other.
    """

    model: str
    prompt: tuple[int, ...]
    sampling: SamplingParams
    n: int = 1
    tenant: str = ""
    grammar: GrammarSpec | None = None


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token with the natural logarithm of its probability, and the likeliest tokens of its place.

    Probabilities are those of the model itself: before bias, penalties, temperature, cuts and grammar. `raw` are the
    token's bytes, `text` the same with U+FFFD for what is not UTF-8. `top` is ordered by falling probability.
    """

    token: int
    text: str
    raw: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a whole request: of its prompt (counted once), of those from the prefix cache, of all its choices."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of one choice, `index` saying which of the `n`.

    `text` may be empty while characters are incomplete or could still become a stop string; `tokens` and `logprobs`
    (one each, where asked for) come with the step that made them. `finish` is set on the last chunk of a choice;
    `stop_reason` is then the stop string or stop token that ended it, None for the model's own end. `usage` is set on
    the last chunk of the last choice. `prompt_logprobs` is set on the first chunk of a choice where asked for: entry i
    belongs to prompt token i + 1, since nothing predicts the first.
    """

    index: int
    text: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: Finish | None = None
    stop_reason: str | int | None = None
    usage: Usage | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
