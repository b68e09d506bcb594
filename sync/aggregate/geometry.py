"""Angles and lengths of deltas through their factors: ΔW is never formed.

Rules whose outcome is a linear combination Σ wᵢΔWᵢ need no more of a cohort than its Gram matrix of inner products:
n² small products tell them the weights, and the combination itself is exact, stacked along the rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from registry.errors import BadData
from sync.aggregate.cohort import check_cohort, modules_of
from sync.delta import Delta, Factor, zero


def inner(one: Delta, other: Delta) -> float:
    """⟨ΔW₁, ΔW₂⟩ of Frobenius over all modules, in float64: tr(A₁ᵀB₁ᵀ·B₂A₂) = Σ (B₁ᵀB₂ ∘ A₁A₂ᵀ)."""
    return float(gram([one, other])[0, 1])


def gram(deltas: Sequence[Delta]) -> Tensor:
    """The inner products of every two deltas, n x n in float64; one module in memory at a time.

    Raises BadData as `check_cohort` does.
    """
    check_cohort(deltas)
    products = torch.zeros(len(deltas), len(deltas), dtype=torch.float64)
    for name in modules_of(deltas):
        members = [
            (number, delta[name].a.double(), delta[name].b.double())
            for number, delta in enumerate(deltas)
            if name in delta
        ]
        for (i, a_i, b_i), (j, a_j, b_j) in combinations_with_replacement(members, 2):
            products[i, j] += ((b_i.T @ b_j) * (a_i @ a_j.T)).sum()
    return products + products.triu(1).T


def distances(gram: Tensor) -> Tensor:
    """Squared distances ‖ΔWᵢ − ΔWⱼ‖² of a Gram matrix, n x n; what rounding makes negative is 0."""
    squares = gram.diagonal()
    return (squares[:, None] + squares[None, :] - 2 * gram).clamp(min=0)


def weighted(deltas: Sequence[Delta], weights: Sequence[float] | Tensor) -> Delta:
    """Σ wᵢΔWᵢ exactly, stacked along the rank; a delta of weight 0 costs no rank.

    Every module that a delta names is in the sum, with a rank-one zero where nothing is left of it. Raises BadData as
    `check_cohort` does, and where the weights are not finite or not as many as the deltas.
    """
    check_cohort(deltas)
    chosen = torch.as_tensor(weights, dtype=torch.float64)
    if chosen.shape != (len(deltas),) or not bool(chosen.isfinite().all()):
        raise BadData(f"{len(deltas)} deltas need as many finite weights", "give one weight for each delta")
    parts = [(delta, weight) for delta, weight in zip(deltas, chosen.tolist(), strict=True) if weight]
    total: dict[str, Factor] = {}
    for name in modules_of(deltas):
        terms = [(delta[name], weight) for delta, weight in parts if name in delta]
        if terms:
            total[name] = Factor(
                torch.cat([factor.a for factor, _ in terms]),
                torch.cat([factor.b * weight for factor, weight in terms], dim=1),
            )
        else:
            left = next(delta[name] for delta in deltas if name in delta)
            total |= zero({name: (left.b.shape[0], left.a.shape[1])})
    return total
