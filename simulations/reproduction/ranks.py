"""Adaptive rank selection of LoRA-A² (arXiv 2410.22815, section Adaptive Rank Selection, equations 2 and 3).

Each client scores the rank-one terms of all modules by what they changed in ΔW,

    S[m, i] = ‖ΔB[:, i]·A[i, :]‖_F   where B is trained,   ‖B[:, i]·ΔA[i, :]‖_F   where A is,

keeps the (rank budget x modules) highest of the whole model, and sends the change of those alone. To average what was
sent is left to `sync.aggregate`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sync.delta import Delta

Chosen = Mapping[str, Tensor]  # module -> which of its ranks, as booleans


def importance(start: Delta, trained: Delta, half: str) -> dict[str, Tensor]:
    """S of every module and rank; the norm of an outer product is the product of the norms."""
    if half == "b":
        return {m: (trained[m].b - start[m].b).norm(dim=0) * start[m].a.norm(dim=1) for m in start}
    return {m: start[m].b.norm(dim=0) * (trained[m].a - start[m].a).norm(dim=1) for m in start}


def chosen(scores: Mapping[str, Tensor], budget: int) -> dict[str, Tensor]:
    """The `budget` x modules highest scores of the whole model; of equal ones those that come first."""
    flat = torch.cat(list(scores.values()))
    kept = torch.zeros(len(flat), dtype=torch.bool)
    kept[flat.argsort(descending=True, stable=True)[: budget * len(scores)]] = True
    return dict(zip(scores, kept.split_with_sizes([len(one) for one in scores.values()]), strict=True))
