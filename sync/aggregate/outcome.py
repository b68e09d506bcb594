"""`Aggregate`: the one delta that a rule makes of a cohort, and how far it is from what the rule means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from sync.aggregate.geometry import weighted
from sync.delta import Delta, norm, scaled, stack


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A delta; `error` is its relative Frobenius distance from what the rule's formula says, 0 where it is exact.

    `weights` are those of Σ wᵢΔWᵢ where the outcome is such a sum, `note` is for people.
    """

    delta: Delta
    exact: bool
    error: float = 0.0
    weights: Tensor | None = None
    note: str = ""


def summed(deltas: Sequence[Delta], weights: Tensor, note: str = "") -> Aggregate:
    """The exact sum Σ wᵢΔWᵢ."""
    return Aggregate(weighted(deltas, weights), exact=True, weights=weights, note=note)


def relative_distance(found: Delta, meant: Delta) -> float:
    """‖found − meant‖ / ‖meant‖ over all modules, through the factors; 0 where both are zero.

    Differences below 1e-8 are lost in rounding: two squares of the size of 1 are subtracted in float64.
    """
    difference = sum(norm(factor) ** 2 for factor in stack([found, scaled(meant, -1.0)]).values())
    whole = sum(norm(factor) ** 2 for factor in meant.values())
    return float((difference / whole) ** 0.5) if whole > 0 else float(difference > 0)
