"""The form of a change: five numbers per module, compared with those of others."""

from __future__ import annotations

import math

import pytest
import torch

from registry.documents import CheckResult
from sync.checks.spectrum import LEAST_SCALES, check_spectrum, form_of, spectrum_of
from sync.delta import Delta, Factor, scaled, stack

NAMES = [f"spectrum.{name}" for name in LEAST_SCALES]


def drawn(seed: int, modules: int = 6, rank: int = 8, peak: float = 1.0) -> Delta:
    """A change as training leaves it; `peak` makes its first singular value so many times as large."""
    generator = torch.Generator().manual_seed(seed)
    delta = {}
    for number in range(modules):
        a = torch.linalg.qr(torch.randn(48, rank, generator=generator))[0].T
        b = torch.linalg.qr(torch.randn(32, rank, generator=generator))[0]
        values = 0.7 ** torch.arange(rank) * torch.exp(0.1 * torch.randn(rank, generator=generator))
        values[0] *= peak
        delta[f"model.layers.{number}.q_proj"] = Factor(a, b * values)
    return delta


OTHERS = [spectrum_of(drawn(seed)) for seed in range(12)]


def failed(results: list[CheckResult]) -> set[str]:
    assert [result.name for result in results] == NAMES
    return {result.name.removeprefix("spectrum.") for result in results if not result.passed}


def test_statistics_of_known_products() -> None:
    """Equal singular values on unit vectors of the axes, and one singular value on flat vectors."""
    axes = form_of(Factor(torch.eye(4, 10), torch.eye(6, 4)))
    expected = (1, 1, 1, math.log(6), math.log(10))
    assert axes == pytest.approx(expected, abs=1e-6)
    signs = torch.tensor([[1.0] * 8, [1.0] * 4 + [-1.0] * 4])
    assert form_of(Factor(signs, torch.diag(torch.tensor([2.0, 1.0])))) == pytest.approx(
        (-math.log(0.8) / math.log(2), math.log(3 / 5**0.5) / math.log(2**0.5), 0.7219281, math.log(2), 0), abs=1e-6
    )
    assert form_of(Factor(torch.ones(1, 10), torch.ones(6, 1))) is None, "one direction has no form"


def test_they_are_those_of_the_product_however_it_is_written() -> None:
    factor = drawn(1)["model.layers.0.q_proj"]
    form = form_of(factor)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))[0]
    for other in (
        Factor(factor.a * 1e3, factor.b / 1e5),
        Factor(turn @ factor.a, factor.b @ turn.T),
        stack([{"m": factor}, {"m": factor}])["m"],
    ):
        assert form_of(other) == pytest.approx(form, rel=1e-4, abs=1e-4)
    u, s, vt = torch.linalg.svd(factor.product().double(), full_matrices=False)
    assert form is not None
    assert form[0] == pytest.approx(-float((s[0] ** 2 / (s**2).sum()).log()) / math.log(8), abs=1e-4)
    assert form[3] == pytest.approx(float((32 * u[:, 0].pow(4).sum()).log()), abs=1e-4)
    assert form[4] == pytest.approx(float((48 * vt[0].pow(4).sum()).log()), abs=1e-4)


def test_a_module_left_alone_has_no_form() -> None:
    nothing = {"model.layers.0.q_proj": Factor(torch.zeros(2, 10), torch.zeros(6, 2))}
    assert spectrum_of(nothing) == {}
    assert failed(check_spectrum({}, OTHERS, max_z=6.0)) == set()


@pytest.mark.parametrize("seed", range(50, 60))
def test_an_honest_change_lies_among_the_others_whatever_its_size(seed: int) -> None:
    assert failed(check_spectrum(spectrum_of(scaled(drawn(seed), 100.0)), OTHERS, max_z=6.0)) == set()


def test_one_direction_that_carries_everything_is_seen() -> None:
    """C25."""
    found = check_spectrum(spectrum_of(drawn(50, peak=40.0)), OTHERS, max_z=2.0)
    assert {"leading", "entropy"} <= failed(found)
    assert all("at most 2 may be" in result.reason for result in found)


def test_a_direction_of_few_entries_is_seen() -> None:
    """C25: in one module of six, and on one side alone."""
    delta = drawn(50)
    name = "model.layers.3.q_proj"
    a = delta[name].a.clone()
    a[0] = torch.nn.functional.one_hot(torch.tensor(7), 48)
    found = check_spectrum(spectrum_of({**delta, name: Factor(a, delta[name].b)}), OTHERS, max_z=2.0)
    assert "right" in failed(found)
    assert name in next(result.reason for result in found if result.name == "spectrum.right")


@pytest.mark.parametrize("known", [0, 7])
def test_a_small_cohort_is_said(known: int) -> None:
    found = check_spectrum(spectrum_of(drawn(50, peak=40.0)), OTHERS[:known], max_z=6.0)
    assert failed(found) == set()
    assert all(f"cohort too small: {known} updates to compare with, 8 are needed" in one.reason for one in found)


def test_a_minority_of_lies_hides_nothing() -> None:
    others = [*OTHERS[:8], *(spectrum_of(drawn(seed, peak=40.0)) for seed in range(80, 84))]
    assert "leading" in failed(check_spectrum(spectrum_of(drawn(50, peak=40.0)), others, max_z=2.0))
    assert failed(check_spectrum(spectrum_of(drawn(50)), others, max_z=6.0)) == set()
