from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from registry.errors import BadData
from sync.aggregate import coordinates
from sync.aggregate.cohort import NotCovered
from sync.aggregate.coordinates import median, trimmed_mean
from sync.delta import Delta, Factor
from tests.sync.aggregate.cohorts import SEVEN, as_deltas, as_vector, cohorts, dense, random_delta

LINE = torch.tensor([[1.0, -5.0], [2.0, 7.0], [4.0, 0.0], [90.0, 1.0], [-7.0, 3.0]], dtype=torch.float64)


def full(cohort: list[Delta]) -> Tensor:
    return torch.stack([dense(delta) for delta in cohort])


def close(found: Tensor, meant: Tensor) -> bool:
    return float((found - meant).norm()) <= 1e-5 * max(float(meant.norm()), 1e-3)


@settings(max_examples=25, deadline=None)
@given(cohort=cohorts(), f=st.integers(0, 4), block=st.sampled_from([1, 40, 1 << 24]))
def test_every_number_is_the_trimmed_mean_or_the_median_of_its_values(cohort: list[Delta], f: int, block: int) -> None:
    """Against sorting whole matrices, also where a module is formed a row at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coordinates, "BLOCK", block)
        n, values = len(cohort), full(cohort).sort(dim=0).values
        if n > 2 * f:
            found = trimmed_mean(cohort, f, 9)
            assert close(dense(found.delta), values[f : n - f].mean(dim=0))
        middle = (values[(n - 1) // 2] + values[n // 2]) / 2
        assert close(dense(median(cohort, 0, 9).delta), middle)


@settings(max_examples=20, deadline=None)
@given(cohort=cohorts(least=3), rank=st.integers(1, 4))
def test_the_cut_keeps_to_the_rank_and_tells_its_error(cohort: list[Delta], rank: int) -> None:
    found, meant = median(cohort, 1, rank), full(cohort).sort(dim=0).values
    n = len(cohort)
    true = (meant[(n - 1) // 2] + meant[n // 2]) / 2
    assert max(factor.rank for factor in found.delta.values()) <= rank
    assert not found.exact
    if float(true.norm()) > 0:
        assert found.error == pytest.approx(float((dense(found.delta) - true).norm() / true.norm()), rel=1e-3, abs=1e-5)


def test_figures_by_hand() -> None:
    assert as_vector(median(as_deltas(LINE), 2, 1).delta).tolist() == pytest.approx([2.0, 1.0])
    assert as_vector(trimmed_mean(as_deltas(LINE), 1, 1).delta).tolist() == pytest.approx([7 / 3, 4 / 3], rel=1e-6)
    assert as_vector(median(as_deltas(LINE[:4]), 1, 1).delta).tolist() == pytest.approx([3.0, 0.5])


def test_figures_of_byzfl() -> None:
    """`TrMean(f=2)` and `Median()` of byzfl 0.0.11 on `SEVEN`."""
    trimmed = as_vector(trimmed_mean(as_deltas(SEVEN), 2, 1).delta)
    assert trimmed.tolist() == pytest.approx([3.833333333, 0.833333333, -1.666666667, 3.583333333], rel=1e-6)
    assert as_vector(median(as_deltas(SEVEN), 3, 1).delta).tolist() == pytest.approx([4.0, 1.0, -1.75, 4.25], rel=1e-6)


@pytest.mark.parametrize("rule", [trimmed_mean, median])
def test_clients_that_agree_get_what_they_agree_on_in_its_own_rank(rule: object) -> None:
    delta = random_delta(torch.Generator().manual_seed(1), 2)
    found = rule([delta] * 5, 2, 64)  # type: ignore[operator]
    assert close(dense(found.delta), dense(delta))
    assert {factor.rank for factor in found.delta.values()} == {2}
    assert found.error == pytest.approx(0.0, abs=1e-6)
    alone = rule([delta], 0, 64)  # type: ignore[operator]
    assert close(dense(alone.delta), dense(delta))


@pytest.mark.parametrize("rule", [trimmed_mean, median])
@pytest.mark.parametrize("far", [1e2, 1e6])
def test_liars_within_the_bound_stay_within_what_honest_clients_say(rule: object, far: float) -> None:
    honest = torch.randn(6, 8, generator=torch.Generator().manual_seed(2))
    lies = torch.full((5, 8), far)
    lies[:, ::2] *= -1
    found = as_vector(rule(as_deltas(torch.cat([lies, honest])), 5, 1).delta)  # type: ignore[operator]
    reach = 1e-5
    assert bool((found >= honest.min(dim=0).values - reach).all())
    assert bool((found <= honest.max(dim=0).values + reach).all())


def test_what_is_not_covered_is_refused() -> None:
    with pytest.raises(NotCovered, match="trimmed mean needs n > 2f: n = 5, f = 3"):
        trimmed_mean(as_deltas(LINE), 3, 1)
    with pytest.raises(NotCovered, match="median needs n > 2f: n = 0, f = 0"):
        median([], 0, 1)
    with pytest.raises(BadData, match="not finite"):
        median([{"m": Factor(torch.full((1, 2), torch.nan), torch.ones(2, 1))}], 0, 1)


def test_zero_deltas_come_to_zero_in_rank_one() -> None:
    found = median([{"m": Factor(torch.zeros(3, 4), torch.zeros(2, 3))}] * 3, 1, 8)
    assert torch.equal(found.delta["m"].product(), torch.zeros(2, 4))
    assert (found.delta["m"].rank, found.error) == (1, 0.0)
