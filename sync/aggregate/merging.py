"""Mergers of models that learned different things: sum, TIES, DARE, RegMean. None defends against a lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from registry.errors import BadData
from sync.aggregate.cohort import check_cohort, modules_of
from sync.aggregate.coordinates import Block, by_numbers
from sync.aggregate.outcome import Aggregate, summed
from sync.delta import Delta, Factor

Grams = Mapping[str, Tensor]  # module -> mean of x·xᵀ over the inputs x that the module saw, in x in

TIES_DENSITY = 0.2  # of the paper
DARE_DENSITY = 0.5
OFF_DIAGONAL = 0.9  # what RegMean's paper keeps of it; less wants fewer rows
LEAST_DIAGONAL = 1e-6  # of the mean of the diagonal: inputs that never came keep the matrix invertible


def task_arithmetic(deltas: Sequence[Delta], scale: float = 1.0) -> Aggregate:
    """scale·Σ ΔWᵢ (arXiv 2212.04089): exact; what the deltas share counts as often as there are deltas."""
    return summed(deltas, torch.full((len(deltas),), scale, dtype=torch.float64))


def ties(deltas: Sequence[Delta], weights: Tensor, rank: int, density: float = TIES_DENSITY) -> Aggregate:
    """TIES (arXiv 2306.01708), module by module, cut to `rank` by SVD.

    Of each delta the largest numbers stay, a `density` of them; each number's sign is that of the weighted sum; the
    weighted mean is taken over those that have this sign.
    """
    _need_density(density)

    def of_module(factors: Sequence[Factor]) -> Block:
        least = torch.stack([_threshold(factor, density) for factor in factors])[:, None, None]
        shares = weights.to(torch.float64)[:, None, None]

        def rule(block: Tensor) -> Tensor:
            trimmed = torch.where(block.abs() >= least, block, 0.0)
            elected = (trimmed * shares).sum(dim=0).sign()
            agree = (trimmed.sign() == elected) & (trimmed != 0)
            total = (trimmed * shares * agree).sum(dim=0)
            return torch.nan_to_num(total / (shares * agree).sum(dim=0))

        return rule

    return by_numbers(deltas, of_module, rank)


def dare(deltas: Sequence[Delta], weights: Tensor, rank: int, seed: int, density: float = DARE_DENSITY) -> Aggregate:
    """DARE (arXiv 2311.03099): of each delta a random `density` of the numbers, over the density; the weighted mean.

    Cut to `rank` by SVD. What is dropped follows from the seed and a delta's place in the cohort.
    """
    _need_density(density)
    rng = torch.Generator().manual_seed(seed)
    shares = weights.to(torch.float64)[:, None, None]

    def rule(block: Tensor) -> Tensor:
        kept = torch.rand(block.shape, generator=rng) < density
        return (block * kept * shares).sum(dim=0) / density

    return by_numbers(deltas, lambda factors: rule, rank)


def regmean(deltas: Sequence[Delta], weights: Tensor, grams: Sequence[Grams]) -> Aggregate:
    """RegMean (arXiv 2212.09849): the linear map that differs least from each client's on that client's inputs.

    With Gram matrices Gᵢ of inputs, ΔWᵀ = (Σ wᵢGᵢ)⁻¹ Σ wᵢGᵢΔWᵢᵀ. In factors that is exact: B stays, and A becomes
    A·wᵢGᵢ(ΣwⱼGⱼ)⁻¹. A client that leaves a module as it is counts with its inputs. Raises BadData where a Gram matrix
    is missing, not finite or of another size.
    """
    check_cohort(deltas)
    if len(grams) != len(deltas):
        raise BadData(f"RegMean needs the Gram matrices of {len(deltas)} clients, not {len(grams)}", "collect them all")
    total: dict[str, Factor] = {}
    for name in modules_of(deltas):
        width = next(delta[name].a.shape[1] for delta in deltas if name in delta)
        shrunk = [w * _shrunk(_checked(one, name, width)) for w, one in zip(weights.tolist(), grams, strict=True)]
        whole = torch.linalg.cholesky(sum(shrunk, torch.zeros((), dtype=torch.float64)))
        members = [(delta[name], gram) for delta, gram in zip(deltas, shrunk, strict=True) if name in delta]
        total[name] = Factor(
            torch.cat([torch.cholesky_solve(gram @ f.a.double().T, whole).T.float() for f, gram in members]),
            torch.cat([f.b for f, _ in members], dim=1),
        )
    return Aggregate(total, exact=True)


def _need_density(density: float) -> None:
    if not 0 < density <= 1:
        raise BadData(f"a density of {density:g} is not above 0 and at most 1", "0.2 keeps a fifth of the numbers")


def _threshold(factor: Factor, density: float) -> Tensor:
    """The size that a `density` of the numbers of ΔW have at least."""
    sizes = (factor.b.double() @ factor.a.double()).abs().flatten()
    kept = max(1, round(density * sizes.numel()))
    return sizes.kthvalue(sizes.numel() - kept + 1).values


def _checked(grams: Grams, name: str, width: int) -> Tensor:
    gram = grams.get(name)
    if gram is None or gram.shape != (width, width) or not bool(gram.isfinite().all()):
        raise BadData(f"RegMean needs a finite Gram matrix of {width} x {width} for {name}", "collect them anew")
    return gram.double()


def _shrunk(gram: Tensor) -> Tensor:
    """The Gram matrix with less beside its diagonal, and a least diagonal: positive definite."""
    diagonal = gram.diagonal()
    mean = float(diagonal.mean()) or 1.0  # a module that saw zeros alone: all clients alike
    return gram * OFF_DIAGONAL + torch.diag(diagonal * (1 - OFF_DIAGONAL) + LEAST_DIAGONAL * mean)
