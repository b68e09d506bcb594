"""Robust rules on the Gram matrix of a cohort: each gives weights w, and its outcome is the exact sum Σ wᵢΔWᵢ.

Of n deltas at most f lie, in any way and together. Every rule holds for the n and f of its own theory only, and refuses
others with NotCovered. None of them sees an attack that stays within the spread of the honest deltas: behaviour does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from registry.errors import BadData
from sync.aggregate.cohort import KRUM, MAJORITY, TENTH, NotCovered, size_of
from sync.aggregate.geometry import distances

MEDIAN_ROUNDS = 1000
MEDIAN_SETTLED = 1e-12  # largest change of a weight after which the geometric median is found


def norm_clipping(gram: Tensor, limit: float | None = None) -> Tensor:
    """The mean of the deltas, those longer than `limit` (the median of their norms) shortened to it. For every n.

    It takes from an attack its length and nothing else.
    """
    n, norms = size_of(gram), _norms(gram)
    return _shrunk(norms, _limit(norms, limit)) / n


def centred_clipping(
    gram: Tensor, f: int, radius: float | None = None, start: Tensor | None = None, rounds: int = 3
) -> Tensor:
    """Steps from a reference: v ← v + mean of (ΔWᵢ − v), each shortened to `radius` (arXiv 2012.10333, algorithm 2).

    `start` gives the reference as weights, v = Σ startᵢΔWᵢ; by default it is zero, the model as it was. `radius` is by
    default the median distance from the reference, anew in each round. Covered for n >= 10f (theorem III: δ <= 0.1).
    """
    n = size_of(gram)
    TENTH.check("centred clipping", n, f)
    weights = gram.new_zeros(n) if start is None else start.to(gram)
    for _ in range(rounds):
        away = _distances_from(gram, weights)
        kept = _shrunk(away, _limit(away, radius)) / n
        weights = weights * (1 - kept.sum()) + kept
    return weights


def geometric_median(gram: Tensor, f: int, shares: Tensor | None = None, smoothing: float = 1e-6) -> Tensor:
    """The point with the least sum of distances, by smoothed Weiszfeld (RFA, arXiv 1912.13445). Covered for n > 2f.

    `shares` are the deltas' own weights (uniform by default); the receiver must have measured what they stand for.
    Distances below `smoothing` times the median norm count as that. It starts in the middle of the majority that lies
    closest together, so that a far lie costs no rounds.
    """
    n = size_of(gram)
    MAJORITY.check("geometric median", n, f)
    own = gram.new_ones(n) / n if shares is None else shares.to(gram)
    apart, norms = distances(gram).sqrt(), _norms(gram)
    least = smoothing * float(norms.median() if norms.median() > 0 else norms.max())
    if least == 0:
        return own / own.sum()
    middle = apart[(apart * own).sum(dim=1).argmin()]
    nearest = middle.argsort(stable=True)[: n // 2 + 1]
    weights = gram.new_zeros(n)
    weights[nearest] = own[nearest] / own[nearest].sum()
    for _ in range(MEDIAN_ROUNDS):
        pull = own / _distances_from(gram, weights).clamp(min=least)
        moved = pull / pull.sum()
        settled = bool((moved - weights).abs().max() < MEDIAN_SETTLED)
        weights = moved
        if settled:
            break
    return weights


def krum_scores(gram: Tensor, f: int) -> Tensor:
    """Sum of the squared distances of each delta to its n − f − 2 nearest others (Krum, NIPS 2017); n > 2f + 2."""
    n = size_of(gram)
    KRUM.check("multi-krum", n, f)
    others = distances(gram).fill_diagonal_(torch.inf)
    return others.sort(dim=1).values[:, : n - f - 2].sum(dim=1)


def multi_krum(gram: Tensor, f: int, chosen: int | None = None) -> Tensor:
    """The mean of the `chosen` deltas of the lowest scores; n − f − 2 of them (arXiv 1905.04374), 1 for Krum itself."""
    scores = krum_scores(gram, f)
    n = len(scores)
    count = n - f - 2 if chosen is None else chosen
    if not 1 <= count <= n - f:
        raise BadData(f"multi-krum chooses 1 to n - f = {n - f} deltas, not {count}", "choose fewer")
    weights = torch.zeros_like(scores)
    weights[scores.argsort(stable=True)[:count]] = 1 / count
    return weights


def nearest_neighbour_mixing(gram: Tensor, f: int) -> Tensor:
    """NNM (arXiv 2302.01772): the matrix M, n x n, whose row i averages delta i and its n − f − 1 nearest; n > 2f.

    `mixed(gram, M)` is the Gram matrix of the mixed cohort, so any rule can follow; its weights w come back to the
    cohort itself as w @ M.
    """
    n = size_of(gram)
    MAJORITY.check("nearest-neighbour mixing", n, f)
    near = distances(gram).fill_diagonal_(-1.0).argsort(dim=1, stable=True)[:, : n - f]
    return torch.zeros_like(gram).scatter_(1, near, 1 / (n - f))


def mixed(gram: Tensor, mixing: Tensor) -> Tensor:
    """The Gram matrix M·G·Mᵀ of the mixed cohort."""
    return mixing @ gram @ mixing.T


def fltrust(gram: Tensor) -> Tensor:
    """FLTrust (arXiv 2012.13995): trust by the angle to the node's own root update, at the root update's length.

    Row 0 of `gram` is the root update, so n + 1 rows give n weights: ReLU(cos(ΔWᵢ, root))·‖root‖/‖ΔWᵢ‖ over the sum of
    all ReLU(cos). They are all 0 where nobody agrees with the root. Any f is covered; raises NotCovered where the root
    update is zero or there is nobody else.
    """
    n, norms = size_of(gram) - 1, _norms(gram)
    if n < 1 or norms[0] == 0:
        raise NotCovered(
            f"FLTrust needs ||root update|| > 0 and n > 0: {float(norms[0]):g}, n = {n}", "train one on root rows"
        )
    lengths = norms[1:]
    trust = torch.where(lengths > 0, gram[0, 1:] / (norms[0] * lengths), 0.0).clamp(min=0, max=1)
    rescaled = torch.where(lengths > 0, trust * norms[0] / lengths, 0.0)
    return rescaled / trust.sum() if trust.sum() > 0 else torch.zeros_like(trust)


def _norms(gram: Tensor) -> Tensor:
    return gram.diagonal().clamp(min=0).sqrt()


def _distances_from(gram: Tensor, weights: Tensor) -> Tensor:
    """‖ΔWᵢ − Σ wⱼΔWⱼ‖ for each i."""
    inner = gram @ weights
    return (gram.diagonal() - 2 * inner + weights @ inner).clamp(min=0).sqrt()


def _limit(lengths: Tensor, limit: float | None) -> float:
    return float(lengths.median()) if limit is None else limit


def _shrunk(lengths: Tensor, limit: float) -> Tensor:
    """The factors that shorten lengths to a limit; 1 where they keep to it."""
    return torch.where(lengths > limit, limit / lengths, 1.0)
