from __future__ import annotations

from typing import get_args

import pytest
import torch

from node.settings import Settings
from registry.errors import BadData
from sync.aggregate.cohort import NotCovered
from sync.aggregate.geometry import gram, weighted
from sync.aggregate.robust import nearest_neighbour_mixing
from sync.aggregate.rules import RULES, aggregate
from sync.delta import Delta, Factor
from tests.sync.aggregate.cohorts import SIZES, dense, random_delta

RNG = torch.Generator().manual_seed(4)
FIVE = [random_delta(RNG, rank) for rank in (1, 2, 3, 4, 2)]
GRAMS = [{name: torch.eye(n_in) for name, (_, n_in) in SIZES.items()}] * 5
SHARED_HALF = {"ffa-lora", "rolora", "lora-a2"}
NOT_IDENTITY = {"ties", "dare", "sum"}


def run(name: str, cohort: list[Delta], f: int = 0) -> Delta:
    return aggregate(name, cohort, f=f, root=cohort[0] if cohort else None, grams=GRAMS[: len(cohort)]).delta


@pytest.mark.parametrize("name", RULES)
def test_every_rule_says_whether_it_is_exact_and_what_it_lost(name: str) -> None:
    cohort = (
        FIVE if name not in SHARED_HALF else [{m: Factor(FIVE[0][m].a, f.b[:, :1]) for m, f in d.items()} for d in FIVE]
    )
    found = aggregate(name, cohort, rank=2, root=FIVE[0], grams=GRAMS)
    assert found.exact == RULES[name].exact
    assert (found.error == 0) == found.exact
    assert found.delta.keys() == set(SIZES)


@pytest.mark.parametrize("name", sorted(RULES.keys() - NOT_IDENTITY))
@pytest.mark.parametrize("n", [1, 5])
def test_clients_that_agree_get_what_they_agree_on(name: str, n: int) -> None:
    cohort = [FIVE[1]] * n
    if RULES[name].bound.holds(n, 0):
        torch.testing.assert_close(dense(run(name, cohort)), dense(FIVE[1]), rtol=1e-4, atol=1e-5)
    else:
        with pytest.raises(NotCovered, match=rf"needs n > 2f \+ 2.*: n = {n}, f = 0|needs n > 2f and .*n = {n}, f = 0"):
            run(name, cohort)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_broken_client_is_refused_by_every_rule(name: str, value: float) -> None:
    broken = {"m": Factor(torch.full((1, 6), value), torch.ones(6, 1))}
    with pytest.raises(BadData, match="delta 3 of 5 is not finite"):
        run(name, [*FIVE[:2], broken, *FIVE[3:]])
    with pytest.raises(BadData, match="no deltas"):
        run(name, [])


@pytest.mark.parametrize("name", [name.removeprefix("nnm+") for name in RULES if name.startswith("nnm+")])
def test_after_mixing_a_rule_sees_the_averages_of_neighbours(name: str) -> None:
    f = 1 if RULES[name].bound.holds(5, 1) else 0
    mixing = nearest_neighbour_mixing(gram(FIVE), f)
    meant = aggregate(name, [weighted(FIVE, row) for row in mixing], f=f).delta
    torch.testing.assert_close(dense(aggregate(f"nnm+{name}", FIVE, f=f).delta), dense(meant), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "n", "f", "inequality"),
    [
        ("multi-krum", 3, 1, r"multi-krum needs n > 2f \+ 2: n = 3, f = 1"),
        ("krum", 2, 0, r"krum needs n > 2f \+ 2: n = 2, f = 0"),
        ("nnm+multi-krum", 4, 1, r"nnm\+multi-krum needs n > 2f and n > 2f \+ 2: n = 4, f = 1"),
        ("geometric-median", 2, 1, "geometric-median needs n > 2f: n = 2, f = 1"),
        ("trimmed-mean", 4, 2, "trimmed-mean needs n > 2f: n = 4, f = 2"),
        ("centred-clipping", 5, 1, "centred-clipping needs n >= 10f: n = 5, f = 1"),
        ("mean", 5, 1, "mean needs f = 0: n = 5, f = 1"),
        ("regmean", 5, 2, "regmean needs f = 0: n = 5, f = 2"),
    ],
)
def test_a_cohort_that_is_not_covered_is_refused_with_the_inequality(
    name: str, n: int, f: int, inequality: str
) -> None:
    with pytest.raises(NotCovered, match=f"^{inequality}$"):
        run(name, FIVE[:n], f)


def test_what_a_rule_needs_is_named() -> None:
    with pytest.raises(NotCovered, match="fltrust needs the node's own root update"):
        aggregate("fltrust", FIVE)
    with pytest.raises(NotCovered, match="regmean needs the Gram matrices of each client's inputs"):
        aggregate("regmean", FIVE)
    with pytest.raises(BadData, match="unknown rule of aggregation: 'maen'"):
        aggregate("maen", FIVE)


@pytest.mark.parametrize("weights", [[1.0], [1, 1, 1, 1, -1], [0.0] * 5, [1, 1, 1, 1, float("nan")]])
def test_weights_are_numbers_of_at_least_zero(weights: list[float]) -> None:
    with pytest.raises(BadData, match="5 deltas need as many weights of at least 0"):
        aggregate("mean", FIVE, weights=weights)


@pytest.mark.parametrize("name", RULES)
def test_weights_count_or_are_refused(name: str) -> None:
    if not RULES[name].weighted:
        with pytest.raises(BadData, match=f"{name.replace('+', '.')} weighs the deltas itself"):
            aggregate(name, FIVE, weights=[1.0] * 5, root=FIVE[0], grams=GRAMS)
    elif name not in SHARED_HALF | NOT_IDENTITY:
        found = aggregate(name, FIVE, weights=[0, 0, 3, 0, 0], grams=GRAMS).delta
        torch.testing.assert_close(dense(found), dense(FIVE[2]), rtol=1e-4, atol=1e-4)


def test_factors_out_of_scale_do_not_make_an_infinite_outcome() -> None:
    """A small delta whose B is almost as large as float32 can be, which FLTrust would lengthen to the root's."""
    louder = [{"m": Factor(torch.full((1, 6), 1e-44), torch.full((6, 1), 1e38))}]
    root = {"m": Factor(torch.ones(1, 6), torch.ones(6, 1))}
    assert bool(aggregate("mean", louder).delta["m"].b.isfinite().all())
    with pytest.raises(NotCovered, match="fltrust leaves the range of float32"):
        aggregate("fltrust", louder, root=root)


def test_fltrust_says_when_nobody_agrees() -> None:
    against = [{name: Factor(f.a, -f.b) for name, f in FIVE[0].items()}] * 2
    found = aggregate("fltrust", against, root=FIVE[0])
    assert float(dense(found.delta).norm()) == 0
    assert found.note == "no delta agrees with the root update"


def test_the_setting_names_rules_that_need_nothing_more_than_a_promotion_has() -> None:
    named = set(get_args(Settings.model_fields["aggregation"].annotation))
    assert named <= RULES.keys()
    assert RULES.keys() - named == SHARED_HALF | {"fltrust", "fedex"}
