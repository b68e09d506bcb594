"""Rules that look at every number of ΔW by itself: formed a module and a block of rows at a time, then cut by SVD.

Such an outcome is no combination of the deltas, so its rank is full and the cut to a rank budget loses something; how
much is in the outcome. The formed block of all deltas has at most `BLOCK` numbers, whatever the base's size; a module's
outcome alone is formed in full.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sync.aggregate.cohort import MAJORITY, check_cohort, modules_of
from sync.aggregate.outcome import Aggregate
from sync.delta import Delta, Factor

BLOCK = 1 << 24  # numbers, 128 MiB in float64
NOISE = 1e-7  # singular values below this part of the largest are rounding of float32

Block = Callable[[Tensor], Tensor]  # deltas x rows x columns -> rows x columns
OfModule = Callable[[Sequence[Factor]], Block]  # what a rule does with a module, after a look at its factors


def trimmed_mean(deltas: Sequence[Delta], f: int, rank: int) -> Aggregate:
    """The mean of every number without its f largest and f smallest values (arXiv 1803.01498). Covered for n > 2f."""
    MAJORITY.check("trimmed mean", len(deltas), f)
    return by_numbers(deltas, lambda factors: lambda block: _middle(block, f), rank)


def median(deltas: Sequence[Delta], f: int, rank: int) -> Aggregate:
    """The median of every number (arXiv 1803.01498), the mean of the middle two for an even n. Covered for n > 2f."""
    MAJORITY.check("median", len(deltas), f)
    return by_numbers(deltas, lambda factors: lambda block: _middle(block, (len(deltas) - 1) // 2), rank)


def by_numbers(deltas: Sequence[Delta], rule: OfModule, rank: int) -> Aggregate:
    """Apply a rule to the numbers of each module and cut the outcome to `rank`; its error is that of the cut."""
    check_cohort(deltas)
    found: dict[str, Factor] = {}
    lost = whole = 0.0
    for name in modules_of(deltas):
        factors = _of_all(deltas, name)
        n_out, n_in = factors[0].b.shape[0], factors[0].a.shape[1]
        outcome = torch.empty(n_out, n_in, dtype=torch.float64)
        of_block, rows = rule(factors), max(1, BLOCK // (len(factors) * n_in))
        for start in range(0, n_out, rows):
            block = torch.stack([f.b[start : start + rows].double() @ f.a.double() for f in factors])
            outcome[start : start + rows] = of_block(block)
        u, s, vt = torch.linalg.svd(outcome, full_matrices=False)
        kept = max(1, min(rank, int((s > NOISE * s[0]).sum())))
        root = s[:kept].sqrt()
        found[name] = Factor((root[:, None] * vt[:kept]).float(), (u[:, :kept] * root).float())
        lost += float((s[kept:] ** 2).sum())
        whole += float((s**2).sum())
    return Aggregate(found, exact=False, error=(lost / whole) ** 0.5 if whole > 0 else 0.0)


def _of_all(deltas: Sequence[Delta], name: str) -> list[Factor]:
    """A module's factors of every delta; one that does not change it has a zero of rank one."""
    like = next(delta[name] for delta in deltas if name in delta)
    nothing = Factor(torch.zeros(1, like.a.shape[1]), torch.zeros(like.b.shape[0], 1))
    return [delta.get(name, nothing) for delta in deltas]


def _middle(block: Tensor, f: int) -> Tensor:
    return block.sort(dim=0).values[f : len(block) - f].mean(dim=0)
