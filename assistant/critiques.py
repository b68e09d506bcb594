"""Critiques of a recommended model, "smaller", "faster", "cheaper", "longer texts", as constraints relative to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from recommender.answers import Recommendation
from recommender.constraints import Constraints, Stated

LESS: Final = 0.9  # of what it has now: less of a change nobody would notice
MORE: Final = 1.2


def critiqued(critique: str, current: Recommendation) -> dict[str, Stated[Any]]:
    """The slots that a critique sets; none where the fact in question is not known of the model."""
    slot, value = _DELTAS[critique](current)
    found = None if value is None else Constraints.model_validate({slot: {"value": value}})
    return {} if found is None else dict(found.stated())


def _smaller(current: Recommendation) -> tuple[str, float | None]:
    return "max_parameters_b", _rounded(current.candidate.parameters_b, LESS)


def _faster(current: Recommendation) -> tuple[str, float | None]:
    return "min_tokens_per_s", _rounded(current.tokens_per_s, MORE)


def _cheaper(current: Recommendation) -> tuple[str, float | None]:
    """A rented model has a price; one that runs here costs the memory that it takes."""
    if current.candidate.weights == "api":
        return "max_usd_per_mtok", _rounded(current.candidate.price_usd_per_mtok, LESS)
    return "memory_gb", _rounded(current.memory_gb, LESS)


def _longer(current: Recommendation) -> tuple[str, int | None]:
    known = current.candidate.context_tokens
    return "min_context_tokens", None if known is None else known + 1


def _rounded(value: float | None, factor: float) -> float | None:
    return float(f"{value * factor:.2g}") if value else None


_DELTAS: Final[dict[str, Callable[[Recommendation], tuple[str, float | int | None]]]] = {
    "smaller": _smaller,
    "faster": _faster,
    "cheaper": _cheaper,
    "longer": _longer,
}
