"""One model that could be recommended: what is known of it before anybody asks how good it is.

None means that nobody said. Quality is evidence (`evidence`), not a fact of a candidate.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Final, Literal, get_args

from registry.errors import BadData

Source = Literal["tree", "table", "import"]  # a release of the tree, the shipped tables, or the user's own import
Kind = Literal["generative", "encoder", "embedding"]

MAX_ID_CHARS: Final = 300


@dataclass(frozen=True, slots=True)
class Architecture:
    """What the memory of a running model is computed from. `weight_bytes` is per parameter, as stored: 2 for bf16.

    `quantisation` is a GGUF name such as Q4_K_M where the weights are quantised.
    """

    layers: int | None = None
    hidden: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    vocabulary: int | None = None
    weight_bytes: float | None = None
    quantisation: str | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model and the facts that constraints are about. Parameters are in billions, memory in GB of 10^9 bytes.

    A generative model answers in text; an encoder is fine-tuned before it answers; an embedding model gives vectors.
    `active_b` differs from `parameters_b` in mixtures of experts. `license` is an SPDX expression, `commercial`
    whether its user may sell what it gives. Languages are ISO 639-1 codes (639-3 where there is none), none where
    unknown; tasks are those of `constraints.Task`. `memory_gb` is a published figure for inference. `weights` is
    "local" where they can be had, "api" where the model is only rented. Prices are USD per million tokens, the mean
    of what goes in and what comes out; popularity is likes or downloads, comparable within one source alone.
    """

    id: str
    source: Source
    kind: Kind
    parameters_b: float | None = None
    active_b: float | None = None
    context_tokens: int | None = None
    license: str | None = None
    commercial: bool | None = None
    languages: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    subdomains: tuple[str, ...] = ()
    weights: Literal["local", "api"] = "local"
    price_usd_per_mtok: float | None = None
    popularity: int | None = None
    released: date | None = None
    memory_gb: float | None = None
    family: str | None = None  # protocol variants and quantisations of one model share it
    architecture: Architecture = Architecture()

    def __post_init__(self) -> None:
        if not 0 < len(self.id) <= MAX_ID_CHARS:
            raise BadData(f"not the name of a model: {self.id!a:.100}", hint=f"1 to {MAX_ID_CHARS} characters")
        if self.source not in get_args(Source) or self.kind not in get_args(Kind):
            raise BadData(f"{self.id!a:.100} is of no known source or kind: {self.source!a:.40}, {self.kind!a:.40}")
        amounts = (self.parameters_b, self.active_b, self.price_usd_per_mtok, self.memory_gb, self.context_tokens)
        if any(amount is not None and not 0 <= amount < float("inf") for amount in amounts):
            raise BadData(f"a size or price of {self.id!a:.100} is negative or not a number")
