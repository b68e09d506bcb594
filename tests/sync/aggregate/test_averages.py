from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sync.aggregate.averages import fedex, fedit, flexlora, half_shared
from sync.aggregate.cohort import NotCovered
from sync.aggregate.geometry import weighted
from sync.delta import Delta, Factor
from tests.sync.aggregate.cohorts import SIZES, cohorts, dense, random_delta

RNG = torch.Generator().manual_seed(5)


def uniform_weights(n: int) -> Tensor:
    return torch.full((n,), 1 / n, dtype=torch.float64)


def close(found: Delta, meant: Tensor, within: float = 1e-6) -> bool:
    return float((dense(found) - meant).norm()) <= within * max(float(meant.norm()), 1e-3)


def mean_of(cohort: list[Delta], weights: Tensor) -> Tensor:
    return sum((w * dense(delta) for w, delta in zip(weights, cohort, strict=True)), torch.zeros(()))


@settings(max_examples=40, deadline=None)
@given(cohort=cohorts(), seed=st.integers(0, 99))
def test_fedex_is_the_average_whatever_the_ranks_and_modules(cohort: list[Delta], seed: int) -> None:
    weights = torch.rand(len(cohort), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weights = weights / weights.sum()
    found = fedex(cohort, weights)
    reach = max(float(dense(delta).norm()) for delta in cohort)
    assert float((dense(found.delta) - mean_of(cohort, weights)).norm()) <= 1e-6 * max(reach, 1e-3)
    assert (found.exact, found.error) == (True, 0.0)


@settings(max_examples=40, deadline=None)
@given(cohort=cohorts())
def test_fedit_tells_its_true_error_and_when_it_pads(cohort: list[Delta]) -> None:
    weights = uniform_weights(len(cohort))
    found, meant = fedit(cohort, weights), mean_of(cohort, weights)
    if float(meant.norm()) > 0:
        true = float((dense(found.delta) - meant).norm() / meant.norm())
        assert found.error == pytest.approx(true, rel=1e-3, abs=1e-5)
    ranks = {factor.rank for delta in cohort for factor in delta.values()}
    assert ("HetLoRA" in found.note) == (len(ranks) > 1)
    assert not found.exact


def test_fedit_by_hand_is_the_product_of_the_means() -> None:
    """(1·1 + 3·3)/2 = 5, but 2·2 = 4."""
    cohort = [{"m": Factor(torch.tensor([[x]]), torch.tensor([[x]]))} for x in (1.0, 3.0)]
    found = fedit(cohort, uniform_weights(2))
    assert float(found.delta["m"].product()) == 4.0
    assert found.error == pytest.approx(0.2)
    assert float(fedex(cohort, uniform_weights(2)).delta["m"].product()) == 5.0


@pytest.mark.parametrize("rule", [fedit, fedex, lambda c, w: flexlora(c, w, 3), lambda c, w: half_shared(c, w, "a")])
def test_clients_that_agree_lose_nothing(rule: object) -> None:
    delta = random_delta(RNG, 3)
    found = rule([delta] * 4, uniform_weights(4))  # type: ignore[operator]
    assert close(found.delta, dense(delta))
    assert found.error == pytest.approx(0.0, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(cohort=cohorts(), rank=st.integers(1, 8))
def test_flexlora_keeps_to_the_rank_and_tells_its_error(cohort: list[Delta], rank: int) -> None:
    weights = uniform_weights(len(cohort))
    found, meant = flexlora(cohort, weights, rank), mean_of(cohort, weights)
    assert max(factor.rank for factor in found.delta.values()) <= rank
    if float(meant.norm()) > 0:
        true = float((dense(found.delta) - meant).norm() / meant.norm())
        assert found.error == pytest.approx(true, rel=1e-3, abs=1e-5)


def half_cohort(shared: str, n: int = 4) -> list[Delta]:
    first = random_delta(RNG, 3)

    def client() -> Delta:
        own = random_delta(RNG, 3)
        return {m: Factor(first[m].a, own[m].b) if shared == "a" else Factor(own[m].a, first[m].b) for m in SIZES}

    return [client() for _ in range(n)]


@pytest.mark.parametrize("shared", ["a", "b"])
def test_with_one_half_in_common_the_other_averages_exactly_in_the_same_rank(shared: str) -> None:
    cohort, weights = half_cohort(shared), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    found = half_shared(cohort, weights, ("a", "b"))
    assert close(found.delta, mean_of(cohort, weights))
    assert {factor.rank for factor in found.delta.values()} == {3}
    assert close(weighted(cohort, weights), dense(found.delta))


def test_a_client_without_a_module_leaves_it_as_it_is() -> None:
    cohort = half_cohort("a", 2)
    cohort[1] = {"m": cohort[1]["m"]}
    assert close(half_shared(cohort, uniform_weights(2), "a").delta, mean_of(cohort, uniform_weights(2)))


@pytest.mark.parametrize(("shared", "allowed", "names"), [("b", ("a",), "A"), ("", ("a", "b"), "A or B")])
def test_averaging_a_half_that_is_not_shared_is_refused(shared: str, allowed: tuple[str, ...], names: str) -> None:
    cohort = half_cohort(shared) if shared else [random_delta(RNG, 3) for _ in range(2)]
    with pytest.raises(NotCovered, match=f"needs the same {names} of every client: m has different ones"):
        half_shared(cohort, uniform_weights(len(cohort)), allowed)  # type: ignore[arg-type]


def test_a_hidden_rescaling_is_not_taken_for_a_shared_half() -> None:
    first, second = half_cohort("a", 2)
    louder = {name: Factor(f.a * 2, f.b / 2) for name, f in second.items()}
    with pytest.raises(NotCovered, match="the same A"):
        half_shared([first, louder], uniform_weights(2), "a")
