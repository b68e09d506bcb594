"""The direction of a change beside those of other issuers at the same place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from registry.documents import CheckResult
from sync.checks.siblings import check_siblings

SIZE = 200


def cohort(others: int, seed: int = 0, shared: float = 0.6) -> Tensor:
    """Vectors with something in common, n x SIZE; the first is the update."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(SIZE, generator=generator, dtype=torch.float64)
    own = torch.randn(others + 1, SIZE, generator=generator, dtype=torch.float64)
    return shared * common + own


def failed(vectors: Tensor) -> dict[str, CheckResult]:
    results = check_siblings(vectors @ vectors.T, max_z=6.0, max_cosine=0.999)
    assert [result.name for result in results] == ["siblings.copies", "siblings.distance", "siblings.direction"]
    return {result.name.removeprefix("siblings."): result for result in results if not result.passed}


@pytest.mark.parametrize("others", [4, 9, 19])
@pytest.mark.parametrize("seed", range(5))
def test_an_honest_change_stands_among_its_siblings_whatever_its_length(others: int, seed: int) -> None:
    vectors = cohort(others, seed)
    vectors[0] *= 50.0
    vectors[1] *= 0.02
    assert failed(vectors) == {}


@pytest.mark.parametrize("others", [4, 9, 19])
def test_a_change_in_the_opposite_direction_is_seen(others: int) -> None:
    """C27."""
    vectors = cohort(others)
    vectors[0] *= -1
    found = failed(vectors)
    assert "direction" in found
    assert "at most 6 may be" in found["direction"].reason


@pytest.mark.parametrize("others", [9, 19])
def test_a_fifth_of_liars_hides_none_of_them(others: int) -> None:
    """C27."""
    vectors = cohort(others, shared=1.0)
    vectors[: (others + 1) // 5] *= -1
    assert "direction" in failed(vectors)
    assert failed(vectors.flip(0)) == {}, "an honest one beside them"


def test_a_copy_of_what_another_issuer_sent_is_seen() -> None:
    """C26: also with a little noise and another length, and where nothing else can be said."""
    for others in (1, 9):
        vectors = cohort(others)
        vectors[0] = 3.0 * vectors[1] + 0.02 * cohort(others, seed=9)[0]
        found = failed(vectors)
        assert set(found) == {"copies"}
        assert "at most 0.999 may be" in found["copies"].reason


@pytest.mark.parametrize("others", range(4))
def test_a_small_cohort_is_said(others: int) -> None:
    vectors = cohort(others)
    vectors[0] *= -1
    results = check_siblings(vectors @ vectors.T, max_z=6.0, max_cosine=0.999)
    assert all(result.passed for result in results)
    for result in results[1:]:
        assert result.value is None
        assert f"cohort too small: updates of {others} other issuers at this place, 4 are needed" in result.reason


def test_a_change_of_nothing_and_siblings_of_nothing_are_no_lies() -> None:
    vectors = cohort(9)
    vectors[3] = 0
    assert failed(vectors) == {}
    vectors[0] = 0
    assert failed(vectors) == {}
    assert failed(torch.zeros(1, SIZE, dtype=torch.float64)) == {}
