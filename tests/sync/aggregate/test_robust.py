from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from registry.errors import BadData
from sync.aggregate.cohort import NotCovered
from sync.aggregate.geometry import gram, weighted
from sync.aggregate.robust import (
    centred_clipping,
    fltrust,
    geometric_median,
    krum_scores,
    mixed,
    multi_krum,
    nearest_neighbour_mixing,
    norm_clipping,
)
from sync.delta import Delta
from tests.sync.aggregate.cohorts import SEVEN, cohorts, dense, random_delta

Rule = Callable[[Tensor, int], Tensor]


def after_mixing(rule: Rule, products: Tensor, f: int) -> Tensor:
    """Weights of a rule on the mixed cohort, as weights of the cohort itself."""
    mixing = nearest_neighbour_mixing(products, f)
    return rule(mixed(products, mixing), f) @ mixing


PLAIN: dict[str, Rule] = {
    "norm clipping": lambda products, f: norm_clipping(products),
    "centred clipping": centred_clipping,
    "geometric median": geometric_median,
    "multi-krum": multi_krum,
    "krum": partial(multi_krum, chosen=1),
}
RULES = PLAIN | {f"mixing, then {name}": partial(after_mixing, rule) for name, rule in PLAIN.items()}
named = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)

GRAM = SEVEN @ SEVEN.T


def outcome(weights: Tensor) -> list[float]:
    return [float(value) for value in weights @ SEVEN]


@named
@settings(max_examples=12, deadline=None)
@given(cohort=cohorts(least=5), seed=st.integers(0, 99))
def test_the_order_of_the_deltas_does_not_matter(rule: Rule, cohort: list[Delta], seed: int) -> None:
    order = torch.randperm(len(cohort), generator=torch.Generator().manual_seed(seed))
    one = weighted(cohort, rule(gram(cohort), 0))
    other = weighted(shuffled := [cohort[i] for i in order], rule(gram(shuffled), 0))
    torch.testing.assert_close(dense(one), dense(other), rtol=1e-4, atol=1e-4 * size(cohort))


def size(cohort: list[Delta]) -> float:
    return max(1e-30, *(float(dense(delta).norm()) for delta in cohort), 0.0)


@named
@settings(max_examples=12, deadline=None)
@given(cohort=cohorts(least=5), by=st.sampled_from([1e-6, 3.0, 1e6]))
def test_a_cohort_of_other_size_gives_the_same_of_that_size(rule: Rule, cohort: list[Delta], by: float) -> None:
    products = gram(cohort)
    torch.testing.assert_close(rule(products * by**2, 0), rule(products, 0), rtol=1e-5, atol=1e-5)


@named
@pytest.mark.parametrize("n", [4, 7])
def test_clients_that_agree_get_what_they_agree_on(rule: Rule, n: int) -> None:
    delta = random_delta(torch.Generator().manual_seed(n), 3)
    weights = rule(gram([delta] * n), 0)
    assert float(weights.sum()) == pytest.approx(1.0)
    torch.testing.assert_close(dense(weighted([delta] * n, weights)), dense(delta), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rule", [PLAIN[n] for n in ("norm clipping", "centred clipping", "geometric median")])
def test_one_honest_client_alone_gets_its_own_delta(rule: Rule) -> None:
    assert rule(gram([random_delta(torch.Generator().manual_seed(3), 2)]), 0).tolist() == [1.0]


BOUND = {"norm clipping": 2, "centred clipping": 1, "geometric median": 5, "multi-krum": 4, "krum": 4}


@pytest.mark.parametrize("far", [1e2, 1e6, 1e100])
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("seed", [1, 2])
def test_liars_within_the_bound_move_the_outcome_no_further_than_the_honest_lie(
    name: str, far: float, seed: int
) -> None:
    """Eleven clients; as many as the rule bears agree on a point that goes away. The mean goes with them."""
    rng, f = torch.Generator().manual_seed(seed), BOUND[name.removeprefix("mixing, then ")]
    honest = torch.randn(11 - f, 6, generator=rng, dtype=torch.float64) + 3
    lie = far * torch.randn(6, generator=rng, dtype=torch.float64)
    cohort = torch.cat([honest[:2], lie.expand(f, 6), honest[2:]])
    middle = honest.mean(dim=0)
    weights = RULES[name](cohort @ cohort.T, f)
    reach = 8 if name.startswith("mixing") and name.endswith("clipping") else 4
    assert float((weights @ cohort - middle).norm()) <= reach * float((honest - middle).norm(dim=1).max())
    assert float((cohort.mean(dim=0) - middle).norm()) > far / 20


def test_the_geometric_median_on_a_line_is_the_median() -> None:
    line = torch.tensor([[1.0], [2.0], [4.0], [90.0], [-7.0]], dtype=torch.float64)
    assert float(geometric_median(line @ line.T, 2) @ line) == pytest.approx(2.0, abs=1e-4)
    shares = torch.tensor([1.0, 1.0, 4.0, 1.0, 1.0])
    assert float(geometric_median(line @ line.T, 2, shares) @ line) == pytest.approx(4.0, abs=1e-4)


def test_the_geometric_median_of_a_triangle_is_its_fermat_point() -> None:
    triangle = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]], dtype=torch.float64)
    found = geometric_median(triangle @ triangle.T, 1) @ triangle
    torch.testing.assert_close(found, triangle.mean(dim=0), atol=1e-6, rtol=0)


# Figures of byzfl 0.0.11 (github.com/LPD-EPFL/byzfl) on the same seven vectors. Its Krum sums the n - f - 1 nearest
# and its Multi-Krum takes n - f, so that its f is ours plus one.


def test_figures_of_the_geometric_median() -> None:
    """`GeometricMedian(nu=1e-9, T=20000)`."""
    found = outcome(geometric_median(GRAM, 3, smoothing=1e-10))
    assert found == pytest.approx([3.719713370478, 0.837589195138, -1.706796292767, 3.846936551284], abs=1e-6)


def test_figures_of_krum() -> None:
    """The sums in `Krum(f=2)`; `Krum(f=3)`, `MultiKrum(f=3)`, `MultiKrum(f=2)`."""
    scores = [130.9375, 72.0, 80.375, 105.1875, 99.4375, 11497.6875, 103.5625]
    assert krum_scores(GRAM, 1).tolist() == pytest.approx(scores, abs=1e-9)
    assert outcome(multi_krum(GRAM, 2, chosen=1)) == [2.0, 0.0, -1.75, 5.0]
    assert outcome(multi_krum(GRAM, 2, chosen=4)) == pytest.approx([2.25, 1.8125, -2.75, 3.375], abs=1e-9)
    assert outcome(multi_krum(GRAM, 1, chosen=5)) == pytest.approx([2.9, 1.25, -2.6, 3.9], abs=1e-9)


def test_figures_of_centred_clipping() -> None:
    """`CenteredClipping(L=3, tau=2.5)` and `(L=2, tau=4)`, from zero."""
    three = [3.102879421150, 0.866734094192, -1.359487470743, 3.002279710478]
    assert outcome(centred_clipping(GRAM, 0, radius=2.5)) == pytest.approx(three, abs=1e-9)
    two = [3.383855338893, 0.862887097891, -1.395366932871, 3.206550255367]
    assert outcome(centred_clipping(GRAM, 0, radius=4.0, rounds=2)) == pytest.approx(two, abs=1e-9)


def test_figures_of_norm_clipping() -> None:
    """`Average()(Clipping(c=5)(X))`."""
    assert outcome(norm_clipping(GRAM, 5.0)) == pytest.approx(
        [2.667210219317, 0.606499871366, -1.008550140963, 2.393875687995], abs=1e-9
    )


def test_figures_of_nearest_neighbour_mixing() -> None:
    """`NNM(f=2)`, then `MultiKrum(f=3)` and `GeometricMedian(nu=1e-9, T=20000)` on what it gives."""
    mixing = nearest_neighbour_mixing(GRAM, 2)
    rows = (mixing @ SEVEN).tolist()
    assert rows[0] == pytest.approx([3.9, 1.35, -1.2, 3.85])
    assert rows[5] == pytest.approx([11.5, -5.45, 3.05, 1.45])
    assert rows[6] == pytest.approx([3.0, 1.75, -1.8, 3.55])
    krum = multi_krum(mixed(GRAM, mixing), 2, chosen=4) @ mixing
    assert outcome(krum) == pytest.approx([2.925, 1.375, -2.4, 3.8125], abs=1e-9)
    median = geometric_median(mixed(GRAM, mixing), 2, smoothing=1e-10) @ mixing
    assert outcome(median) == pytest.approx([3.063896044940, 1.222336398944, -2.385874987403, 3.885814167510], abs=1e-6)


# FLTrust


def test_fltrust_is_the_published_formula() -> None:
    """Angles of 0, 60 and 120 degrees with a root of length 2: trusts 1, 1/2 and 0."""
    root, half = torch.tensor([[2.0, 0.0]]), 3**0.5 / 2
    cohort = torch.cat([root, torch.tensor([[10.0, 0.0], [0.5, half], [-5.0, 10 * half]])]).double()
    weights = fltrust(cohort @ cohort.T)
    assert weights.tolist() == pytest.approx([0.2 / 1.5, 1.0 / 1.5, 0.0], abs=1e-7)
    assert (weights @ cohort[1:]).tolist() == pytest.approx([(2 + 0.5) / 1.5, half / 1.5], abs=1e-7)


@settings(max_examples=20, deadline=None)
@given(cohort=cohorts(least=2), by=st.sampled_from([1e-3, 1e3]))
def test_how_long_the_others_are_does_not_matter_to_fltrust(cohort: list[Delta], by: float) -> None:
    first = weighted(cohort[1:], fltrust(gram(cohort))) if size(cohort[:1]) > 1e-20 else {}
    louder = torch.tensor([1.0] + [by] * (len(cohort) - 1), dtype=torch.float64)
    if first:
        again = fltrust(gram(cohort) * louder[:, None] * louder[None, :]) * by
        torch.testing.assert_close(dense(weighted(cohort[1:], again)), dense(first), rtol=1e-4, atol=1e-4)
        assert float(dense(first).norm()) <= float(dense(cohort[0]).norm()) * (1 + 1e-6)


def test_fltrust_trusts_nobody_who_disagrees_and_needs_a_root() -> None:
    against = torch.tensor([[1.0, 0.0], [-1.0, 3.0], [0.0, 0.0]], dtype=torch.float64)
    assert fltrust(against @ against.T).tolist() == [0.0, 0.0]
    with pytest.raises(NotCovered, match=r"root update\|\| > 0 and n > 0: 0, n = 2"):
        fltrust(torch.zeros(3, 3, dtype=torch.float64))
    with pytest.raises(NotCovered, match="n = 0"):
        fltrust(torch.ones(1, 1, dtype=torch.float64))


# Bounds


@pytest.mark.parametrize(
    ("rule", "n", "f", "inequality"),
    [
        (multi_krum, 3, 1, r"multi-krum needs n > 2f \+ 2: n = 3, f = 1"),
        (multi_krum, 1, 0, r"multi-krum needs n > 2f \+ 2: n = 1, f = 0"),
        (krum_scores, 6, 2, r"n > 2f \+ 2: n = 6, f = 2"),
        (geometric_median, 4, 2, "geometric median needs n > 2f: n = 4, f = 2"),
        (nearest_neighbour_mixing, 2, 1, "n > 2f: n = 2, f = 1"),
        (centred_clipping, 9, 1, "centred clipping needs n >= 10f: n = 9, f = 1"),
        (geometric_median, 4, -1, "f >= 0: n = 4, f = -1"),
    ],
)
def test_what_the_theory_does_not_cover_is_refused_with_the_inequality(
    rule: Rule, n: int, f: int, inequality: str
) -> None:
    with pytest.raises(NotCovered, match=inequality):
        rule(torch.eye(n, dtype=torch.float64), f)


@pytest.mark.parametrize("broken", [torch.zeros(0, 0), torch.ones(2, 3), torch.full((2, 2), torch.nan)])
def test_what_is_no_gram_matrix_is_refused(broken: Tensor) -> None:
    for rule in (norm_clipping, fltrust, partial(geometric_median, f=0), partial(multi_krum, f=0)):
        with pytest.raises(BadData, match="not a Gram matrix"):
            rule(broken)  # type: ignore[operator]


@pytest.mark.parametrize("chosen", [0, 5])
def test_multi_krum_chooses_no_more_than_are_honest(chosen: int) -> None:
    with pytest.raises(BadData, match="chooses 1 to n - f = 4"):
        multi_krum(torch.eye(5, dtype=torch.float64), 1, chosen)


@named
def test_zero_deltas_come_to_zero(rule: Rule) -> None:
    weights = rule(torch.zeros(5, 5, dtype=torch.float64), 0)
    assert bool(weights.isfinite().all())
