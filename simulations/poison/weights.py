"""Attacks on adapters: what attackers send who see the honest updates x₁ … xₙ of a cohort, μ their mean.

Everything is taken on ΔW. What is a linear combination of given deltas stays exact, stacked along the rank; the rest
says what it loses. The formula of each attack stands above it. What a mean makes of them is `sync.aggregate`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import torch
from torch import Tensor

from registry.errors import BadData
from sync.aggregate.geometry import distances, gram, weighted
from sync.delta import Delta, Factor, norm, recompress, scaled

MAX_RANK = 64  # what a parent takes (max_adapter_rank)


def sign_flipped(own: Delta, by: float = 1.0) -> Delta:
    """−by·x: the opposite of what was learned."""
    return scaled(own, -by)


def noise_like(own: Delta, seed: int) -> Delta:
    """N(0, 1) factors, in every module at the norm of x: what looks as large as an honest update and knows nothing."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {
        name: Factor(torch.randn(factor.a.shape, generator=generator), torch.randn(factor.b.shape, generator=generator))
        for name, factor in sorted(own.items())
    }
    return {
        name: Factor(factor.a, factor.b * (norm(own[name]) / max(norm(factor), 1e-30)))
        for name, factor in drawn.items()
    }


def replacement(harmful: Delta, of: int, attackers: int = 1) -> Delta:
    """(of/attackers)·x: after a mean of `of` updates the attackers' own is what is left of them (arXiv 1807.00459)."""
    return scaled(harmful, of / attackers)


def little_is_enough(honest: Sequence[Delta], of: int, attackers: int) -> Delta:
    """μ − z·σ, coordinate by coordinate, z = Φ⁻¹((n − m − s) / (n − m)), s = ⌊n/2 + 1⌋ − m (ALIE, arXiv 1902.06156).

    n is `of`, m `attackers`. σ has full rank: the result is the best of rank MAX_RANK.
    """
    supporters = of // 2 + 1 - attackers
    share = (of - attackers - supporters) / (of - attackers)
    z = NormalDist().inv_cdf(min(max(share, 0.5), 0.9999))
    names = sorted({name for delta in honest for name in delta})
    return {name: _low_rank(_shifted([delta[name] for delta in honest if name in delta], -z)) for name in names}


def _shifted(factors: Sequence[Factor], by: float) -> Tensor:
    """Mean + by·deviation of products, in full; one module in memory at a time."""
    products = torch.stack([factor.product() for factor in factors])
    return products.mean(dim=0) + by * products.std(dim=0, unbiased=False)


def _low_rank(product: Tensor) -> Factor:
    u, s, vt = torch.linalg.svd(product, full_matrices=False)
    rank = min(MAX_RANK, len(s))
    return Factor(vt[:rank].clone(), u[:, :rank] * s[:rank])


def inner_product(honest: Sequence[Delta], epsilon: float) -> Delta:
    """−ε·μ: after the mean the step points backwards, for ε large enough (IPM, arXiv 1903.03936)."""
    return weighted(honest, [-epsilon / len(honest)] * len(honest))


def mimic(honest: Sequence[Delta]) -> Delta:
    """The xᵢ that lies farthest along the direction in which the cohort spreads most: argmax |⟨z, xᵢ − μ⟩|.

    Everybody who sends it too makes one honest child count many times (arXiv 2006.09365). z is found through the Gram
    matrix of the xᵢ − μ: its leading eigenvector holds these products.
    """
    n = len(honest)
    centre = torch.eye(n, dtype=torch.float64) - 1 / n
    _, vectors = torch.linalg.eigh(centre @ gram(honest) @ centre)
    return honest[int(vectors[:, -1].abs().argmax())]


def min_max(honest: Sequence[Delta]) -> Delta:
    """μ − γ·μ/‖μ‖ with the largest γ for which maxᵢ ‖m − xᵢ‖ ≤ maxᵢⱼ ‖xᵢ − xⱼ‖ (Shejwalkar, NDSS 2021)."""
    products = gram(honest)
    length, along, away = _from_mean(products)
    limit = float(distances(products).max())
    # ‖μ − γu − xᵢ‖² = awayᵢ − 2γ·⟨u, μ − xᵢ⟩ + γ²
    gammas = [_larger_root(-2 * a, float(d) - limit) for a, d in zip(along.tolist(), away, strict=True)]
    return _shortened(honest, length, min(gammas))


def min_sum(honest: Sequence[Delta]) -> Delta:
    """The same with Σᵢ ‖m − xᵢ‖² ≤ maxᵢ Σⱼ ‖xᵢ − xⱼ‖²."""
    products = gram(honest)
    length, along, away = _from_mean(products)
    limit = float(distances(products).sum(dim=1).max())
    n = len(honest)
    return _shortened(honest, length, _larger_root(-2 * float(along.sum()) / n, (float(away.sum()) - limit) / n))


def _from_mean(products: Tensor) -> tuple[float, Tensor, Tensor]:
    """‖μ‖, ⟨μ/‖μ‖, μ − xᵢ⟩ and ‖μ − xᵢ‖² of a Gram matrix."""
    towards = products.mean(dim=1)
    square = float(towards.mean())
    length = max(square, 0.0) ** 0.5
    along = (square - towards) / max(length, 1e-30)
    return length, along, (square - 2 * towards + products.diagonal()).clamp(min=0)


def _larger_root(p: float, q: float) -> float:
    """Of γ² + p·γ + q = 0, never below 0: where there is none, nothing is allowed."""
    return max(0.0, -p / 2 + math.sqrt(max(0.0, p * p / 4 - q)))


def _shortened(honest: Sequence[Delta], length: float, gamma: float) -> Delta:
    share = (1 - gamma / max(length, 1e-30)) / len(honest)
    return weighted(honest, [share] * len(honest))


def colluding_pair(clean: Delta, harmful: Delta, boost: float = 1.0) -> tuple[Delta, Delta]:
    """Two halves of h: boost·h in every other module and c in the rest, and the reverse (cf. arXiv 2603.12681).

    Each alone lacks half of what it takes; their sum is c + boost·h.
    """
    even = {name for at, name in enumerate(sorted(clean)) if at % 2 == 0}
    louder = scaled(harmful, boost)
    return (
        {name: louder[name] if name in even else clean[name] for name in clean},
        {name: clean[name] if name in even else louder[name] for name in clean},
    )


def sybils(own: Delta, count: int, apart: float, seed: int) -> list[Delta]:
    """X + apart·‖x‖·noise, `count` times: one update under many names; their cosines are 1 / (1 + apart²)."""
    return [_pruned(weighted([own, noise_like(own, seed + at)], [1.0, apart])) for at in range(count)]


def drifted(honest: Delta, harmful: Delta, step: int, steps: int) -> Delta:
    """(1 − t/T)·x + (t/T)·h: every round a little farther than what was accepted in the round before."""
    share = step / steps
    return _pruned(weighted([honest, harmful], [1 - share, share]))


def malicious_release(release: Delta, harmful: Delta, by: float = 1.0) -> Delta:
    """W + by·h: what a parent sends down that adds something of its own to the adapter it serves."""
    return _pruned(weighted([release, harmful], [1.0, by]))


def adaptive(
    clean: Delta, harmful: Delta, passes: Callable[[Delta], bool], most: float = 10.0, steps: int = 12
) -> tuple[Delta, float]:
    """C + α·(h − c) with the largest α ≤ `most` that `passes` lets through, and that α; the clean delta for none.

    `passes` is the attacker's own copy of the checks, with all thresholds. What passes need not be an interval, so α
    comes down from the top in equal ratios to 0.1.
    """
    if steps < 2 or most <= 0.1:
        raise BadData(f"no steps from {most:g} down to 0.1 in {steps}", "allow more than 0.1, in 2 steps or more")
    for at in range(steps):
        alpha = most * (0.1 / most) ** (at / (steps - 1))
        mixed = _pruned(weighted([clean, harmful], [1 - alpha, alpha]))
        if passes(mixed):
            return mixed, alpha
    return clean, 0.0


def _pruned(delta: Delta) -> Delta:
    """The best delta of a rank that a parent takes."""
    return recompress(delta, MAX_RANK)[0]
