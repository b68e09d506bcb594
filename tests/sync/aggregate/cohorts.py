"""Cohorts of deltas for the tests of aggregation: random ones, and vectors written as deltas."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor

from sync.aggregate.cohort import modules_of
from sync.delta import Delta, Factor

SIZES = {"model.layers.0.self_attn.q_proj": (7, 5), "model.layers.0.mlp.up_proj": (4, 9), "m": (6, 6)}
# Seven vectors of four numbers, the sixth a liar: figures of other libraries are of these.
SEVEN = torch.tensor(
    [
        [6, 1.5, 2, 4.25],
        [2, 0, -1.75, 5],
        [4, 2.25, -3, 2],
        [5.5, -1, -2, 6],
        [1, 1, -5, 4.5],
        [40, -30, 20, -10],
        [2, 4, -1.25, 2],
    ],
    dtype=torch.float64,
)


def random_delta(rng: torch.Generator, rank: int, names: Sequence[str] = tuple(SIZES)) -> Delta:
    """Normal factors of one rank for some modules."""
    return {
        name: Factor(torch.randn(rank, SIZES[name][1], generator=rng), torch.randn(SIZES[name][0], rank, generator=rng))
        for name in names
    }


@st.composite
def cohorts(draw: st.DrawFn, least: int = 1, most: int = 9) -> list[Delta]:
    """Deltas of mixed ranks, 1 to 128, and modules of their own choice; some of them zero."""
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def delta() -> Delta:
        names = draw(st.lists(st.sampled_from(sorted(SIZES)), min_size=1, unique=True))
        made = random_delta(rng, draw(st.sampled_from([1, 2, 3, 8, 128])), names)
        silent = draw(st.integers(0, 9)) == 0
        return {name: Factor(f.a, f.b * (0.0 if silent else 1.0)) for name, f in made.items()}

    return [delta() for _ in range(draw(st.integers(least, most)))]


def dense(delta: Delta, names: Sequence[str] = tuple(SIZES)) -> Tensor:
    """ΔW of all modules as one float64 vector; zeros for modules that the delta lacks."""
    return torch.cat(
        [
            (delta[name].b.double() @ delta[name].a.double()).flatten()
            if name in delta
            else torch.zeros(SIZES[name][0] * SIZES[name][1], dtype=torch.float64)
            for name in sorted(names)
        ]
    )


def as_deltas(vectors: Tensor) -> list[Delta]:
    """Each row as the delta of one module with one row, in rank one."""
    return [{"v": Factor(vector[None].float(), torch.ones(1, 1))} for vector in vectors]


def as_vector(delta: Delta) -> Tensor:
    """The row of such a delta."""
    assert modules_of([delta]) == ["v"]
    return (delta["v"].b.double() @ delta["v"].a.double())[0]
