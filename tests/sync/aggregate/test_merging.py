from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from registry.errors import BadData
from sync.aggregate.merging import Grams, dare, regmean, task_arithmetic, ties
from sync.delta import Delta, Factor
from tests.sync.aggregate.cohorts import SIZES, as_deltas, as_vector, cohorts, dense, random_delta

RNG = torch.Generator().manual_seed(8)


def uniform_weights(n: int) -> Tensor:
    return torch.full((n,), 1 / n, dtype=torch.float64)


def mean_of(cohort: list[Delta]) -> Tensor:
    return torch.stack([dense(delta) for delta in cohort]).mean(dim=0)


def inputs(tokens: int = 50, seed: int = 1) -> Grams:
    """Gram matrices of random inputs; every other one has a direction that is never used."""
    rng = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(tokens, n_in, generator=rng) for name, (_, n_in) in SIZES.items()}
    for x in drawn.values():
        x[:, seed % 3] = 0
    return {name: x.T @ x / tokens for name, x in drawn.items()}


def close(found: Tensor, meant: Tensor, within: float = 1e-5) -> bool:
    return float((found - meant).norm()) <= within * max(float(meant.norm()), 1e-3)


def test_the_sum_counts_everyone_whole() -> None:
    cohort = [random_delta(RNG, rank) for rank in (1, 3, 2)]
    assert close(dense(task_arithmetic(cohort).delta), 3 * mean_of(cohort))
    assert close(dense(task_arithmetic(cohort, 0.8).delta), 2.4 * mean_of(cohort))


# TIES


def test_ties_by_hand() -> None:
    """Half of the numbers stay: (4, 3), (5, -2), (-6, 1); signs +, +, +; means of those that agree."""
    cohort = as_deltas(torch.tensor([[4.0, 0.1, 3.0, 0.2], [5.0, 1.0, -2.0, 0.5], [-6.0, 0.0, 0.5, 1.0]]))
    found = as_vector(ties(cohort, uniform_weights(3), 1, density=0.5).delta)
    assert found.tolist() == pytest.approx([4.5, 0.0, 3.0, 1.0], abs=1e-6)


def test_ties_weighs_the_vote_and_the_mean() -> None:
    cohort = as_deltas(torch.tensor([[1.0, 2.0], [-1.0, 4.0]]))
    found = as_vector(ties(cohort, torch.tensor([0.75, 0.25]), 1, density=1.0).delta)
    assert found.tolist() == pytest.approx([1.0, 2.5])


@settings(max_examples=20, deadline=None)
@given(cohort=cohorts(), seed=st.integers(0, 9), by=st.sampled_from([0.25, 8.0]))
def test_ties_knows_neither_order_nor_size(cohort: list[Delta], seed: int, by: float) -> None:
    order = torch.randperm(len(cohort), generator=torch.Generator().manual_seed(seed)).tolist()
    louder = [{name: Factor(f.a, f.b * by) for name, f in cohort[i].items()} for i in order]
    one, other = (ties(c, uniform_weights(len(cohort)), 9).delta for c in (cohort, louder))
    assert close(dense(other), by * dense(one))


def test_clients_that_agree_keep_what_ties_leaves_of_one() -> None:
    delta = random_delta(RNG, 3)
    assert close(dense(ties([delta] * 3, uniform_weights(3), 9, density=1.0).delta), dense(delta))
    one, four = (dense(ties([delta] * n, uniform_weights(n), 9).delta) for n in (1, 4))
    assert close(one, four)
    assert 0.15 < float((one.abs() > 1e-6).double().mean()) < 0.3


# DARE


def test_dare_drops_by_the_seed_and_makes_up_for_it() -> None:
    cohort = [{"m": Factor(torch.ones(1, 60), torch.ones(50, 1))}]
    first, again, other = (dare(cohort, uniform_weights(1), 50, seed, density=0.25).delta["m"] for seed in (1, 1, 2))
    assert torch.equal(first.product(), again.product())
    assert not torch.allclose(first.product(), other.product())
    rounded = first.product().round(decimals=3)
    assert set(rounded.flatten().tolist()) == {0.0, 4.0}
    assert float(rounded.mean()) == pytest.approx(1.0, abs=0.1)


def test_dare_that_drops_nothing_is_the_mean() -> None:
    cohort = [random_delta(RNG, rank) for rank in (1, 2)]
    assert close(dense(dare(cohort, uniform_weights(2), 9, 1, density=1.0).delta), mean_of(cohort))


@pytest.mark.parametrize("density", [0.0, 1.1, -0.5])
def test_a_density_is_a_part(density: float) -> None:
    cohort = as_deltas(torch.ones(1, 2))
    with pytest.raises(BadData, match="density"):
        ties(cohort, uniform_weights(1), 1, density)
    with pytest.raises(BadData, match="density"):
        dare(cohort, uniform_weights(1), 1, 1, density)


# RegMean


@settings(max_examples=20, deadline=None)
@given(cohort=cohorts(), seed=st.integers(0, 9))
def test_regmean_is_the_published_formula(cohort: list[Delta], seed: int) -> None:
    grams = [inputs(seed=seed + i) for i in range(len(cohort))]
    found = regmean(cohort, uniform_weights(len(cohort)), grams)
    for name, factor in found.delta.items():
        n_out, n_in = SIZES[name]
        kept = [_shrunk(gram[name].double()) for gram in grams]
        products = [
            delta[name].b.double() @ delta[name].a.double() if name in delta else torch.zeros(n_out, n_in).double()
            for delta in cohort
        ]
        right = sum((g @ w.T for g, w in zip(kept, products, strict=True)), torch.zeros(()))
        meant = torch.linalg.solve(sum(kept, torch.zeros(())), right).T
        scale = max(float(product.norm()) for product in products)
        assert float((factor.b.double() @ factor.a.double() - meant).norm()) <= 1e-4 * max(scale, 1e-3)
    assert found.exact


def _shrunk(gram: Tensor) -> Tensor:
    """What the formula stands on: 0.9 of what is beside the diagonal, and a millionth of its mean added to it."""
    diagonal = torch.diag(gram.diagonal())
    return 0.9 * gram + 0.1 * diagonal + 1e-6 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)


def test_regmean_of_alike_inputs_is_the_mean_and_of_those_that_agree_their_own() -> None:
    cohort, same = [random_delta(RNG, rank) for rank in (1, 3)], inputs()
    assert close(dense(regmean(cohort, uniform_weights(2), [same, same]).delta), mean_of(cohort))
    agreed = regmean([cohort[1]] * 3, uniform_weights(3), [inputs(seed=seed) for seed in range(3)])
    assert close(dense(agreed.delta), dense(cohort[1]))
    alone = regmean(cohort[:1], uniform_weights(1), [same])
    assert close(dense(alone.delta), dense(cohort[0]))


def test_regmean_leaves_each_client_the_inputs_that_are_its_alone() -> None:
    """Two clients that see different inputs: the merged map answers each as that client does."""
    first, second = ({"m": Factor(torch.randn(2, 6, generator=RNG), torch.randn(6, 2, generator=RNG))} for _ in "ab")
    low, high = torch.diag(torch.tensor([1.0] * 3 + [0.0] * 3)), torch.diag(torch.tensor([0.0] * 3 + [1.0] * 3))
    found = regmean([first, second], uniform_weights(2), [{"m": low}, {"m": high}]).delta["m"].product()
    torch.testing.assert_close(found[:, :3], first["m"].product()[:, :3], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[:, 3:], second["m"].product()[:, 3:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "broken", [{}, {"m": torch.eye(5)}, {"m": torch.full((6, 6), torch.nan)}], ids=["missing", "size", "nan"]
)
def test_regmean_refuses_matrices_that_do_not_fit(broken: Grams) -> None:
    cohort = [random_delta(RNG, 1, ["m"])]
    with pytest.raises(BadData, match="finite Gram matrix of 6 x 6 for m"):
        regmean(cohort, uniform_weights(1), [broken])
    with pytest.raises(BadData, match="matrices of 1 clients, not 0"):
        regmean(cohort, uniform_weights(1), [])


def test_regmean_of_modules_that_saw_nothing_is_the_mean() -> None:
    cohort = [random_delta(RNG, 1, ["m"]) for _ in range(2)]
    found = regmean(cohort, uniform_weights(2), [{"m": torch.zeros(6, 6)}] * 2)
    assert close(dense(found.delta), mean_of(cohort))
