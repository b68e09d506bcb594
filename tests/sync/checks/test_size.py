"""How large a change is: taken on ΔW, so that no way of writing it down hides it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from registry.documents import Adapter, CheckResult
from registry.errors import LocalFailure
from sync.checks.size import (
    COHORT_NEEDED,
    FEW_NEEDED,
    TERMS_LIMIT,
    check_size,
    check_terms,
    module_norms,
    robust_z,
    spread,
)
from sync.delta import Delta, Factor, norm, read_adapter, terms

State = dict[str, Tensor]
MakeAdapter = Callable[..., tuple[Path, Adapter]]

MODULES = [f"model.layers.{layer}.{part}" for layer in range(5) for part in ("q", "k", "v", "o", "gate", "up", "down")]
BASE = {name: 10.0 + i % 7 for i, name in enumerate(MODULES)}


def honest(seed: int, deviation: float = 0.2) -> dict[str, float]:
    """Norms of an update of an honest sender: of some size, with the pattern that its modules have in common."""
    random = np.random.default_rng(seed)
    size = math.exp(random.normal(0, deviation))
    noise = random.normal(0, 0.1, len(MODULES))
    pattern = [0.07 + 0.02 * (i % 5) for i in range(len(MODULES))]
    names = enumerate(MODULES)
    return {name: BASE[name] * pattern[i] * size * math.exp(noise[i]) for i, name in names}


def scaled(norms: dict[str, float], factor: float) -> dict[str, float]:
    return {name: norm * factor for name, norm in norms.items()}


def failed(results: list[CheckResult]) -> set[str]:
    assert [result.name for result in results] == ["size.relative", "size.cohort", "size.spread"]
    return {result.name.removeprefix("size.") for result in results if not result.passed}


COHORT = [honest(seed) for seed in range(20)]


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_norms_are_those_of_the_product(make_adapter: MakeAdapter, dtype: str) -> None:
    file, declared = make_adapter(rank=4, alpha=12.0, dtype=dtype)
    state = load_file(file)
    for module, size in module_norms(file, declared.shape).items():
        a = state[f"base_model.model.{module}.lora_A.weight"].double()
        b = state[f"base_model.model.{module}.lora_B.weight"].double()
        assert size == pytest.approx(float((3.0 * b @ a).norm()), rel=1e-6)
    assert len(module_norms(file, declared.shape)) == 14


def opposite(a: float, b: float) -> Delta:
    """Two terms of one module that add up to nothing."""
    return {"model.layers.0.q": Factor(torch.tensor([[a] * 8, [-a] * 8]), torch.full((8, 2), b))}


@pytest.mark.parametrize(("a", "b"), [(1e10, 1.0), (1e-20, 1e32), (3e38, 1e3), (3e38, 3e38)])
def test_terms_that_cancel_on_paper_are_seen(a: float, b: float) -> None:
    """C24: their norm is nothing; what a model makes of them is noise or NaN."""
    delta = opposite(a, b)
    assert norm(delta["model.layers.0.q"]) == 0.0
    found = check_terms(delta, {"model.layers.0.q": 10.0})
    assert (found.name, found.passed) == ("size.terms", False)
    assert "before they are added up" in found.reason


@pytest.mark.parametrize("by", [1.0, 1e4, 1e-4])
def test_terms_are_no_smaller_than_the_change_and_honest_ones_not_much_larger(
    make_adapter: MakeAdapter, toy_adapters: dict[str, Delta], by: float
) -> None:
    """C24: whatever way it is written, and after training."""
    file, declared = make_adapter(rank=8)
    for delta in (read_adapter(file, declared.shape), *toy_adapters.values()):
        for factor in delta.values():
            rescaled = Factor(factor.a / by, factor.b * by)
            size = norm(factor)
            assert size * 0.999 <= terms(rescaled) <= max(size, 1e-9) * 2 * factor.rank**0.5
    assert TERMS_LIMIT >= 2 * 256**0.5


@pytest.mark.parametrize("by", [1e4, 1e-4])
def test_rescaled_factors_hide_nothing(make_adapter: MakeAdapter, by: float) -> None:
    """(cB)(A/c) is the same change, whatever its factors look like."""

    def rescale(state: State) -> None:
        for name, tensor in state.items():
            tensor.mul_(by if ".lora_B." in name else 1 / by)

    plain, declared = make_adapter(seed=3)
    rescaled, _ = make_adapter(seed=3, change=rescale)
    expected = module_norms(plain, declared.shape)
    assert module_norms(rescaled, declared.shape) == pytest.approx(expected, rel=1e-5)


def test_inflated_alpha_is_seen_though_no_tensor_changes(make_adapter: MakeAdapter) -> None:
    plain, declared = make_adapter(rank=4, alpha=4.0)
    inflated, more = make_adapter(rank=4, alpha=16.0)
    assert plain.read_bytes() == inflated.read_bytes()
    expected = scaled(module_norms(plain, declared.shape), 4.0)
    assert module_norms(inflated, more.shape) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("factor", [10.0, 100.0])
@pytest.mark.parametrize("part", [".lora_A.", ".lora_B."])
def test_scaled_file_is_held_back_by_its_cohort(make_adapter: MakeAdapter, factor: float, part: str) -> None:
    """C19."""

    def scale(state: State) -> None:
        for name, tensor in state.items():
            if part in name:
                tensor.mul_(factor)

    cohort = [module_norms(file, adapter.shape) for file, adapter in (make_adapter(seed=seed) for seed in range(10))]
    base_norms = dict.fromkeys(cohort[0], 100.0)
    file, declared = make_adapter(seed=50)
    assert failed(check_size(module_norms(file, declared.shape), base_norms, cohort)) == set()
    file, declared = make_adapter(seed=50, change=scale)
    assert "cohort" in failed(check_size(module_norms(file, declared.shape), base_norms, cohort))


@pytest.mark.parametrize(("factor", "expected"), [(0.01, set()), (2.0, set()), (10.0, {"cohort", "relative"})])
def test_scaled_change_beside_a_cohort(factor: float, expected: set[str]) -> None:
    for seed in range(100, 120):
        norms = scaled(honest(seed), factor / honest(seed)[MODULES[0]] * COHORT[0][MODULES[0]])
        assert failed(check_size(norms, BASE, COHORT)) == expected


def test_one_module_out_of_proportion_is_seen() -> None:
    norms = honest(7)
    norms[MODULES[3]] *= 8
    results = check_size(norms, BASE, COHORT)
    assert "cohort" in failed(results)
    assert MODULES[3] in results[1].reason


def test_change_in_few_modules_is_seen_by_its_spread() -> None:
    """C20."""
    norms = {name: norm * (2.5 if i < 2 else 0.05) for i, (name, norm) in enumerate(honest(7).items())}
    assert failed(check_size(norms, BASE, COHORT)) == {"spread"}


@pytest.mark.parametrize("known", range(COHORT_NEEDED))
def test_small_cohort_is_said_and_the_base_bounds_the_change(known: int) -> None:
    results = check_size(honest(7), BASE, COHORT[:known])
    assert failed(results) == set()
    for result in results[1:]:
        assert f"cohort too small: {known} updates to compare with, 8 are needed" in result.reason
    assert (results[1].value is None, results[2].value) == (known < FEW_NEEDED, None)
    assert failed(check_size(scaled(honest(7), 10.0), BASE, COHORT[:known])) == {"relative"}


@pytest.mark.parametrize("known", range(FEW_NEEDED, COHORT_NEEDED))
def test_beside_few_the_whole_change_is_held_to_their_median(known: int) -> None:
    """C19: small changes, made a hundred times as large, which is still less than the base."""
    small = [scaled(norms, 0.01) for norms in COHORT[:known]]
    assert failed(check_size(scaled(honest(7), 0.08), BASE, small)) == set()
    (found,) = (one for one in check_size(honest(7), BASE, small) if not one.passed)
    assert found.name == "size.cohort"
    assert found.value == pytest.approx(100.0, rel=0.7)
    assert "times as large as their median; at most 20 may be" in found.reason


def test_a_liar_among_few_does_not_hold_an_honest_change_back() -> None:
    """C19: neither by a change that is next to nothing, nor by one that is."""
    for least in (0.0, 1e-9):
        assert failed(check_size(honest(7), BASE, [scaled(COHORT[0], least), COHORT[1]])) == set()


def test_bound_relative_to_the_base_holds_against_a_cohort_that_drifted() -> None:
    """C18: slow drift: each update a little larger than the last, until what was accepted is no measure any more."""
    drifted = [scaled(honest(seed), 1.25**seed) for seed in range(20)]
    assert failed(check_size(scaled(honest(20), 1.25**20), BASE, drifted)) == {"relative"}


def test_minority_of_poisoned_history_hides_nothing() -> None:
    history = COHORT[:14] + [scaled(norms, 10.0) for norms in COHORT[14:]]
    assert "cohort" in failed(check_size(scaled(honest(7), 10.0), BASE, history))
    assert failed(check_size(honest(7), BASE, history)) == set()


def test_limits_are_exact() -> None:
    at_limit = {name: 0.5 * norm for name, norm in BASE.items()}
    assert failed(check_size(at_limit, BASE, [], relative_limit=0.5)) == set()
    assert failed(check_size(scaled(at_limit, 1.0001), BASE, [], relative_limit=0.5)) == {"relative"}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_norm_that_is_no_number_never_passes(value: float) -> None:
    for history in ([], COHORT):
        results = check_size(honest(7) | {MODULES[0]: value}, BASE, history)
        assert "relative" in failed(results)
        assert results[0].value is None
        assert MODULES[0] in results[0].reason


def test_modules_left_alone_are_no_outliers() -> None:
    nothing = dict.fromkeys(MODULES, 0.0)
    assert failed(check_size(nothing, BASE, COHORT)) == set()
    assert failed(check_size(honest(7), BASE, [nothing] * 5 + COHORT)) == set()
    assert failed(check_size(nothing, dict.fromkeys(MODULES, 0.0), [])) == set()
    assert failed(check_size(honest(7), dict.fromkeys(MODULES, 0.0), [])) == {"relative"}


def test_history_of_other_modules_says_nothing() -> None:
    elsewhere = [{"model.layers.9.q": 1.0}] * 10
    results = check_size(honest(7), BASE, elsewhere)
    assert "relative" not in failed(results)
    assert "cohort" not in failed(results)


def test_module_without_a_base_norm_is_our_own_failure() -> None:
    with pytest.raises(LocalFailure, match=r"model\.layers\.0\.q in the base is not known"):
        check_size(honest(7), dict.fromkeys(MODULES[1:], 1.0), [])


def test_no_honest_update_is_held_back() -> None:
    for seed in range(1000, 1200):
        history = [honest(seed * 31 + i) for i in range(COHORT_NEEDED)]
        assert failed(check_size(honest(seed), BASE, history)) == set()


@given(
    st.lists(st.floats(-50, 50), min_size=1, max_size=20),
    st.floats(-50, 50),
    st.floats(-10, 10),
)
def test_robust_z_does_not_depend_on_units(reference: list[float], value: float, shift: float) -> None:
    """On log norms a change of units is a shift."""
    plain = robust_z(value, reference, 0.35)
    moved = robust_z(value + shift, [other + shift for other in reference], 0.35)
    assert moved == pytest.approx(plain, abs=1e-9, rel=1e-9)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=40), st.floats(1e-6, 1e6))
def test_spread_does_not_depend_on_the_size_of_the_change(values: list[float], by: float) -> None:
    norms = {str(i): value for i, value in enumerate(values)}
    base = dict.fromkeys(norms, 2.0)
    here = spread(norms, base)
    assert here == pytest.approx(spread(scaled(norms, by), base), rel=1e-6, abs=1e-9)
    assert 0 <= here <= math.sqrt(len(values))
    assert spread(dict.fromkeys(norms, 3.0), base) == pytest.approx(0, abs=1e-12)
