"""Averages of deltas, as federated LoRA makes them: which are exact, and what the others lose.

All approximate Σ wᵢΔWᵢ; `geometry.weighted` is that itself, FLoRA's stack (arXiv 2409.05976). Weights are given by the
receiver, sum to 1, and are uniform unless it measured something: what an author claims of his own data is no weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from sync.aggregate.cohort import NotCovered, modules_of
from sync.aggregate.geometry import weighted
from sync.aggregate.outcome import Aggregate, relative_distance
from sync.delta import Delta, Factor, recompress

Half = Literal["a", "b"]
OTHER: dict[Half, Half] = {"a": "b", "b": "a"}


def fedit(deltas: Sequence[Delta], weights: Tensor) -> Aggregate:
    """FedIT (arXiv 2305.05644): A and B averaged apart, which is not the average of their products.

    Factors of different ranks are padded by zeros, as HetLoRA does (arXiv 2401.06432), and the note says so.
    """
    averaged: dict[str, Factor] = {}
    for name in modules_of(deltas):
        average, _ = _centred(deltas, weights, name)
        averaged[name] = average
    ranks = {factor.rank for delta in deltas for factor in delta.values()}
    note = f"ranks {min(ranks)} to {max(ranks)} padded by zeros as in HetLoRA" if len(ranks) > 1 else ""
    return Aggregate(averaged, exact=False, error=relative_distance(averaged, weighted(deltas, weights)), note=note)


def fedex(deltas: Sequence[Delta], weights: Tensor) -> Aggregate:
    """FedEx-LoRA (arXiv 2410.09432): FedIT's average, and what it lacks kept as further rank: exact.

    Σ wᵢBᵢAᵢ − B̄Ā = Σ wᵢ(Bᵢ − B̄)(Aᵢ − Ā), so the residual is a stack of centred factors and nothing cancels.
    """
    total: dict[str, Factor] = {}
    for name in modules_of(deltas):
        average, rest = _centred(deltas, weights, name)
        total[name] = Factor(
            torch.cat([average.a, *(factor.a for factor in rest)]),
            torch.cat([average.b, *(factor.b for factor in rest)], dim=1),
        )
    return Aggregate(total, exact=True, weights=weights)


def flexlora(deltas: Sequence[Delta], weights: Tensor, rank: int) -> Aggregate:
    """FlexLoRA (arXiv 2402.11505): the exact average, cut to `rank` by SVD; the error is that of the cut."""
    delta, error = recompress(weighted(deltas, weights), rank)
    return Aggregate(delta, exact=False, error=error)


def half_shared(deltas: Sequence[Delta], weights: Tensor, allowed: Sequence[Half]) -> Aggregate:
    """The average where all clients have one half of the factors in common: the other half averages exactly.

    So in FFA-LoRA (arXiv 2403.12313, A is frozen), and in each round of RoLoRA (2502.01755) and LoRA-A² (2410.22815),
    which train A and B in turn. Raises NotCovered, with the module, where no allowed half is the same everywhere.
    """
    total: dict[str, Factor] = {}
    for name in modules_of(deltas):
        members = [(w, delta[name]) for w, delta in zip(weights.tolist(), deltas, strict=True) if name in delta]
        first = members[0][1]
        shared: list[Half] = [half for half in allowed if all(_same(factor, first, half) for _, factor in members)]
        if not shared:
            halves = " or ".join(half.upper() for half in allowed)
            raise NotCovered(
                f"averaging one half needs the same {halves} of every client: {name} has different ones",
                "let the clients train from one adapter with that half frozen",
            )
        moving = OTHER[shared[0]]
        average = sum((getattr(factor, moving).double() * w for w, factor in members), torch.zeros(()))
        total[name] = Factor(first.a, average.float()) if moving == "b" else Factor(average.float(), first.b)
    return Aggregate(total, exact=True, weights=weights)


def _same(factor: Factor, other: Factor, half: Half) -> bool:
    return torch.equal(getattr(factor, half), getattr(other, half))


def _centred(deltas: Sequence[Delta], weights: Tensor, name: str) -> tuple[Factor, list[Factor]]:
    """FedIT's average of a module, and each client's wᵢ(Bᵢ − B̄)(Aᵢ − Ā); a client without the module has zeros."""
    present = [delta[name] for delta in deltas if name in delta]
    rank = max(factor.rank for factor in present)
    nothing = Factor(torch.zeros(rank, present[0].a.shape[1]), torch.zeros(present[0].b.shape[0], rank))
    padded = [_padded(delta.get(name, nothing), rank) for delta in deltas]
    shares = weights.tolist()
    a = sum((factor.a.double() * w for w, factor in zip(shares, padded, strict=True)), torch.zeros(()))
    b = sum((factor.b.double() * w for w, factor in zip(shares, padded, strict=True)), torch.zeros(()))
    average = Factor(a.float(), b.float())
    rest = [
        Factor((factor.a - a).float(), ((factor.b - b) * w).float()) for w, factor in zip(shares, padded, strict=True)
    ]
    return average, rest


def _padded(factor: Factor, rank: int) -> Factor:
    return Factor(pad(factor.a, (0, 0, 0, rank - factor.rank)), pad(factor.b, (0, rank - factor.rank)))
