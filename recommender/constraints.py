"""What a user needs of a model: thirteen slots, each stated as a rule or a wish, with the place where it was said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Task = Literal[
    "text-generation",
    "text-classification",
    "token-classification",
    "question-answering",
    "summarization",
    "translation",
    "feature-extraction",
]
Device = Literal["cpu", "cuda", "mps"]

SUBDOMAINS: Final[dict[str, tuple[str, ...]]] = {
    "health": ("pediatrics", "oncology", "radiology", "pharmacy", "nutrition", "mental-health"),
    "finance": ("banking", "insurance", "accounting", "markets"),
    "law": ("contracts", "privacy", "employment"),
    "education": ("k12", "university"),
    "travel": ("flights", "hotels"),
    "retail": ("support", "catalog"),
    "software": ("code", "devops", "security"),
    "science": ("biology", "chemistry", "physics"),
    "public-sector": ("tax", "municipal"),
    "media": ("news", "social"),
    "energy": ("grid", "oil-gas"),
    "general": (),
}
"""The domains that are told apart, and what is told apart within each."""

UNITS: Final = {
    "memory_gb": "GB",
    "max_parameters_b": "billion parameters",
    "min_context_tokens": "tokens",
    "min_tokens_per_s": "tokens/s",
    "max_usd_per_mtok": "USD per million tokens",
}

T = TypeVar("T")


class Span(BaseModel):
    """Characters `start` to `end` of turn `turn` (from 0) of what the user said."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    turn: Annotated[int, Field(ge=0)]
    start: Annotated[int, Field(ge=0)]
    end: Annotated[int, Field(ge=0)]


class Stated(BaseModel, Generic[T]):
    """A value that the user gave: a rule that no answer may break (`hard`), or a wish that decides between answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: T
    hard: bool = True
    span: Span | None = None


Count = Annotated[int, Field(gt=0)]
Amount = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Constraints(BaseModel):
    """What is known of a need; None where nothing was said. Numbers are in the units of `UNITS`.

    `memory_gb` is what the model may take: of the GPU where one is used, else of main memory. `license` is an SPDX
    identifier, or "commercial" for any that lets its user sell. `domain` and `subdomain` are those of `SUBDOMAINS`,
    `languages` sorted ISO 639-1 codes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Stated[Task] | None = None
    languages: Stated[tuple[str, ...]] | None = None
    domain: Stated[str] | None = None
    subdomain: Stated[str] | None = None
    device: Stated[Device] | None = None
    memory_gb: Stated[Amount] | None = None
    max_parameters_b: Stated[Amount] | None = None
    min_context_tokens: Stated[Count] | None = None
    min_tokens_per_s: Stated[Amount] | None = None
    license: Stated[str] | None = None
    local_only: Stated[bool] | None = None
    finetune: Stated[bool] | None = None
    max_usd_per_mtok: Stated[Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = None

    def stated(self) -> Iterator[tuple[str, Stated[Any]]]:
        """The slots of which something was said, in their order."""
        for slot in type(self).model_fields:
            if (found := getattr(self, slot)) is not None:
                yield slot, found

    def rules(self) -> dict[str, Any]:
        """Every slot with its value where it is a rule, else None: the form of `node assistant extract --json`."""
        rules = {slot: found.value for slot, found in self.stated() if found.hard}
        return {slot: rules.get(slot) for slot in type(self).model_fields}
