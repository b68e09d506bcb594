"""An adapter as two vectors, all A and all B: one cast and one step of the optimiser instead of hundreds.

Modules stand in the order of the classifier, a layer's three projections side by side, so that a piece of a vector is
also what the three need together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from simulations.reproduction.ranks import Chosen
from sync.delta import Delta, Factor


@dataclass(frozen=True, slots=True)
class Layout:
    """(out, in) of each module, in order; groups of them that are computed together; the rank of all."""

    shapes: Mapping[str, tuple[int, int]]
    groups: Sequence[Sequence[str]]
    rank: int

    def first(self, seed: int) -> Delta:
        """The adapter before the first round: A as PEFT draws it (uniform, ±1/√in), B zero."""
        generator = torch.Generator().manual_seed(seed)
        drawn = {m: torch.rand(self.rank, n, generator=generator) for m, (_, n) in self.shapes.items()}
        return {
            m: Factor((2 * drawn[m] - 1) / math.sqrt(n), torch.zeros(out, self.rank))
            for m, (out, n) in self.shapes.items()
        }

    def vectors(self, delta: Delta) -> tuple[Tensor, Tensor]:
        """All A and all B of an adapter, which may have a lower rank."""
        missing = {m: self.rank - delta[m].rank for m in self.shapes}
        a = [pad(delta[m].a, (0, 0, 0, missing[m])).flatten() for m in self.shapes]
        b = [pad(delta[m].b, (0, missing[m])).flatten() for m in self.shapes]
        return torch.cat(a), torch.cat(b)

    def delta(self, a: Tensor, b: Tensor) -> Delta:
        """The adapter of two vectors."""
        sizes = list(self.shapes.values())
        parts_a = a.split_with_sizes([self.rank * n for _, n in sizes])
        parts_b = b.split_with_sizes([self.rank * out for out, _ in sizes])
        return {
            m: Factor(part_a.view(self.rank, n), part_b.view(out, self.rank))
            for (m, (out, n)), part_a, part_b in zip(self.shapes.items(), parts_a, parts_b, strict=True)
        }

    def pieces(self, a: Tensor, b: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each group of n modules of equal shape its A, stacked (n·rank x in), and its B (n x out x rank)."""
        forms = [(len(group), *self.shapes[group[0]]) for group in self.groups]
        parts_a = a.split_with_sizes([n * self.rank * width for n, _, width in forms])
        parts_b = b.split_with_sizes([n * self.rank * out for n, out, _ in forms])
        return [
            (part_a.view(-1, width), part_b.view(n, out, -1))
            for (n, out, width), part_a, part_b in zip(forms, parts_a, parts_b, strict=True)
        ]

    def masks(self, which: Chosen) -> tuple[Tensor, Tensor]:
        """1 at the numbers of the chosen ranks, in the order of `vectors`."""
        a = [which[m][:, None].expand(-1, n).flatten() for m, (_, n) in self.shapes.items()]
        b = [which[m].expand(out, -1).flatten() for m, (out, _) in self.shapes.items()]
        return torch.cat(a).float(), torch.cat(b).float()
