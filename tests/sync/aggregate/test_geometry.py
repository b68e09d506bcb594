from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import BadData
from sync.aggregate.cohort import check_cohort
from sync.aggregate.geometry import distances, gram, inner, weighted
from sync.delta import Delta, Factor
from tests.sync.aggregate.cohorts import SIZES, as_deltas, as_vector, cohorts, dense, random_delta

ONE: Delta = {"m": Factor(torch.ones(1, 3), torch.ones(2, 1))}


@settings(max_examples=40, deadline=None)
@given(cohort=cohorts())
def test_the_gram_matrix_is_that_of_the_products(cohort: list[Delta]) -> None:
    full = torch.stack([dense(delta) for delta in cohort])
    true = full @ full.T
    torch.testing.assert_close(gram(cohort), true, rtol=1e-9, atol=1e-9 * float(true.abs().max()))
    apart = torch.cdist(full, full, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    torch.testing.assert_close(distances(gram(cohort)), apart, rtol=1e-9, atol=1e-9 * float(true.abs().max()))
    assert inner(cohort[0], cohort[-1]) == pytest.approx(float(true[0, -1]), rel=1e-9, abs=1e-9 * float(true.max()))


@settings(max_examples=30, deadline=None)
@given(cohort=cohorts(), by=st.sampled_from([2.0**-20, 3.0, 2.0**20]))
def test_how_factors_are_scaled_does_not_show(cohort: list[Delta], by: float) -> None:
    hidden = [{name: Factor(f.a / by, f.b * by) for name, f in delta.items()} for delta in cohort]
    torch.testing.assert_close(gram(hidden), gram(cohort), rtol=1e-5, atol=1e-5 * float(gram(cohort).max()))


@settings(max_examples=40, deadline=None)
@given(cohort=cohorts(), seed=st.integers(0, 99))
def test_a_weighted_sum_is_exact_and_pays_rank_for_what_counts(cohort: list[Delta], seed: int) -> None:
    weights = torch.randn(len(cohort), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weights[0] = 0.0
    total = weighted(cohort, weights)
    true = sum((w * dense(delta) for w, delta in zip(weights, cohort, strict=True)), torch.zeros(()))
    torch.testing.assert_close(dense(total), true, rtol=1e-6, atol=1e-6 * max(1.0, float(dense(total).abs().max())))
    assert total.keys() == {name for delta in cohort for name in delta}
    for name, factor in total.items():
        assert factor.rank == max(1, sum(delta[name].rank for delta in cohort[1:] if name in delta))


def test_the_inner_product_of_far_ends_of_the_scale_is_finite() -> None:
    large: Delta = {"m": Factor(torch.full((1, 3), 3e38), torch.full((2, 1), 3e38))}
    assert inner(large, ONE) == pytest.approx(6 * 9e76, rel=1e-6)
    assert inner(large, {"other": ONE["m"]}) == 0.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("half", ["a", "b"])
def test_what_is_not_finite_is_named(value: float, half: str) -> None:
    rng = torch.Generator().manual_seed(1)
    broken = dict(random_delta(rng, 2))
    getattr(broken["m"], half)[1 if half == "a" else 0, 1] = value
    for refuse in (gram, check_cohort, lambda deltas: weighted(deltas, [1.0, 1.0])):
        with pytest.raises(BadData, match="delta 2 of 2 is not finite in m"):
            refuse([random_delta(rng, 1), broken])


def test_cohorts_that_are_none_are_refused() -> None:
    with pytest.raises(BadData, match="no deltas"):
        gram([])
    with pytest.raises(BadData, match="changes m as 3 x 2, another as 2 x 3"):
        gram([ONE, {"m": Factor(torch.ones(1, 2), torch.ones(3, 1))}])
    for weights in ([1.0], [1.0, float("nan")]):
        with pytest.raises(BadData, match="2 deltas need as many finite weights"):
            weighted([ONE, ONE], weights)


def test_vectors_are_what_the_tests_take_them_for() -> None:
    rows = torch.tensor([[1.0, 2.0], [3.0, -4.0]], dtype=torch.float64)
    assert torch.equal(gram(as_deltas(rows)), rows @ rows.T)
    assert torch.equal(as_vector(weighted(as_deltas(rows), [0.5, 1.0])), 0.5 * rows[0] + rows[1])
    assert list(SIZES) != sorted(SIZES)  # the order of modules is nobody's to rely on
