from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from simulations.reproduction.ranks import chosen, importance
from sync.delta import Delta, Factor


def moved(delta: Delta, half: str, seed: int) -> Delta:
    noise = torch.Generator().manual_seed(seed)
    return {
        name: Factor(f.a + torch.randn(f.a.shape, generator=noise), f.b)
        if half == "a"
        else Factor(f.a, f.b + torch.randn(f.b.shape, generator=noise))
        for name, f in delta.items()
    }


def some(seed: int) -> Delta:
    noise = torch.Generator().manual_seed(seed)
    return {
        name: Factor(torch.randn(3, width, generator=noise), torch.randn(out, 3, generator=noise))
        for name, out, width in (("x", 5, 4), ("y", 2, 7))
    }


@given(st.integers(0, 1000), st.sampled_from("ab"))
def test_a_rank_is_worth_what_its_term_of_the_product_changed(seed: int, half: str) -> None:
    start = some(seed)
    after = moved(start, half, seed + 1)
    for name, scores in importance(start, after, half).items():
        for rank, score in enumerate(scores):
            terms = [f.b[:, rank, None] * f.a[rank] for f in (after[name], start[name])]
            torch.testing.assert_close(score, (terms[0] - terms[1]).norm(), rtol=1e-4, atol=1e-5)


@given(st.lists(st.lists(st.floats(0, 10), min_size=3, max_size=3), min_size=1, max_size=6), st.integers(1, 4))
def test_the_budget_goes_to_the_highest_of_the_whole_model(scores: list[list[float]], budget: int) -> None:
    found = chosen({str(m): torch.tensor(one) for m, one in enumerate(scores)}, budget)
    flat = torch.tensor(scores).flatten()
    kept = torch.cat([found[str(m)] for m in range(len(scores))])
    assert int(kept.sum()) == min(budget, 3) * len(scores)
    if not kept.all():
        assert flat[kept].min() >= flat[~kept].max()
