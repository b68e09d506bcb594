"""The rules by name: what each needs, the bound under which its theory holds, whether it is exact.

`aggregate` refuses with NotCovered what a rule's theory does not cover; what to do then is for the caller to decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from registry.errors import BadData
from sync.aggregate import averages, coordinates, merging
from sync.aggregate.cohort import ANY, HONEST, KRUM, MAJORITY, TENTH, Bound, NotCovered, check_cohort
from sync.aggregate.geometry import gram, weighted
from sync.aggregate.merging import Grams
from sync.aggregate.outcome import Aggregate, summed
from sync.aggregate.robust import (
    centred_clipping,
    fltrust,
    geometric_median,
    mixed,
    multi_krum,
    nearest_neighbour_mixing,
    norm_clipping,
)
from sync.delta import Delta


@dataclass(frozen=True, slots=True)
class Case:
    """What a rule is applied to: `weights` sum to 1, `f` of the deltas may lie, `rank` bounds what SVD cuts."""

    cohort: Sequence[Delta]
    weights: Tensor
    f: int
    rank: int
    root: Delta
    grams: Sequence[Grams]
    seed: int


@dataclass(frozen=True, slots=True)
class Rule:
    """One way from a cohort to a delta. `exact` rules lose nothing against their formula, others tell how much."""

    apply: Callable[[Case], Aggregate]
    bound: Bound
    exact: bool = True
    weighted: bool = False  # whether the deltas may count differently
    needs: Literal["", "root", "grams"] = ""  # where the cohort is not enough


OfGram = Callable[[Tensor, Case], Tensor]

OF_GRAM: Final[dict[str, tuple[OfGram, Bound]]] = {
    "norm-clipping": (lambda products, case: norm_clipping(products), ANY),
    "centred-clipping": (lambda products, case: centred_clipping(products, case.f), TENTH),
    "geometric-median": (lambda products, case: geometric_median(products, case.f), MAJORITY),
    "krum": (lambda products, case: multi_krum(products, case.f, chosen=1), KRUM),
    "multi-krum": (lambda products, case: multi_krum(products, case.f), KRUM),
}


def _of_gram(rule: OfGram) -> Callable[[Case], Aggregate]:
    return lambda case: summed(case.cohort, rule(gram(case.cohort), case))


def _of_mixed(rule: OfGram) -> Callable[[Case], Aggregate]:
    """The same after nearest-neighbour mixing; the weights are of the deltas themselves."""

    def apply(case: Case) -> Aggregate:
        products = gram(case.cohort)
        mixing = nearest_neighbour_mixing(products, case.f)
        return summed(case.cohort, rule(mixed(products, mixing), case) @ mixing)

    return apply


def _mixed(case: Case) -> list[Delta]:
    """The cohort after nearest-neighbour mixing, for rules that need more of it than its Gram matrix."""
    mixing = nearest_neighbour_mixing(gram(case.cohort), case.f)
    return [weighted(case.cohort, row) for row in mixing]


def _both(one: Bound, other: Bound) -> Bound:
    if one is other:
        return one
    return Bound(f"{one.inequality} and {other.inequality}", lambda n, f: one.holds(n, f) and other.holds(n, f))


def _fltrust(case: Case) -> Aggregate:
    weights = fltrust(gram([case.root, *case.cohort]))
    return summed(case.cohort, weights, "" if bool(weights.any()) else "no delta agrees with the root update")


def _half(*allowed: averages.Half) -> Callable[[Case], Aggregate]:
    return lambda case: averages.half_shared(case.cohort, case.weights, allowed)


RULES: Final[dict[str, Rule]] = {
    # Averages. The mean is FLoRA's stack: every delta whole, at the price of the sum of the ranks.
    "mean": Rule(lambda c: summed(c.cohort, c.weights), HONEST, weighted=True),
    "fedit": Rule(lambda c: averages.fedit(c.cohort, c.weights), HONEST, exact=False, weighted=True),
    "fedex": Rule(lambda c: averages.fedex(c.cohort, c.weights), HONEST, weighted=True),
    "flexlora": Rule(lambda c: averages.flexlora(c.cohort, c.weights, c.rank), HONEST, exact=False, weighted=True),
    "ffa-lora": Rule(_half("a"), HONEST, weighted=True),
    "rolora": Rule(_half("a", "b"), HONEST, weighted=True),
    "lora-a2": Rule(_half("a", "b"), HONEST, weighted=True),
    # Mergers of what was learned apart.
    "sum": Rule(lambda c: merging.task_arithmetic(c.cohort), HONEST),
    "ties": Rule(lambda c: merging.ties(c.cohort, c.weights, c.rank), HONEST, exact=False, weighted=True),
    "dare": Rule(lambda c: merging.dare(c.cohort, c.weights, c.rank, c.seed), HONEST, exact=False, weighted=True),
    "regmean": Rule(lambda c: merging.regmean(c.cohort, c.weights, c.grams), HONEST, weighted=True, needs="grams"),
    # Robust rules: weights from angles and lengths, alone and after mixing.
    **{name: Rule(_of_gram(rule), bound) for name, (rule, bound) in OF_GRAM.items()},
    **{f"nnm+{name}": Rule(_of_mixed(rule), _both(MAJORITY, bound)) for name, (rule, bound) in OF_GRAM.items()},
    "fltrust": Rule(_fltrust, ANY, needs="root"),
    # Robust rules number by number.
    "trimmed-mean": Rule(lambda c: coordinates.trimmed_mean(c.cohort, c.f, c.rank), MAJORITY, exact=False),
    "median": Rule(lambda c: coordinates.median(c.cohort, c.f, c.rank), MAJORITY, exact=False),
    "nnm+trimmed-mean": Rule(lambda c: coordinates.trimmed_mean(_mixed(c), c.f, c.rank), MAJORITY, exact=False),
    "nnm+median": Rule(lambda c: coordinates.median(_mixed(c), c.f, c.rank), MAJORITY, exact=False),
}


def aggregate(
    name: str,
    cohort: Sequence[Delta],
    *,
    f: int = 0,
    weights: Sequence[float] | None = None,
    rank: int = 64,
    root: Delta | None = None,
    grams: Sequence[Grams] = (),
    seed: int = 1,
) -> Aggregate:
    """Make one delta of a cohort by the rule of that name.

    `f` of the deltas may lie; rules that trust them all are covered for f = 0 alone. `weights` are by default uniform:
    give others only where you measured what they stand for, never from what an author claims of himself. `root` is
    your own update on rows that you trust, `grams` are the inputs' Gram matrices of each client; a rule that needs
    neither does not look at them. `rank` is what outcomes of full rank are cut to.

    Raises NotCovered, with the inequality or what is missing, where the rule's theory does not cover the cohort, or the
    outcome overflows;
    BadData for an empty, broken or mismatched cohort, weights that are none, and a rule that nobody knows.
    """
    rule = RULES.get(name)
    if rule is None:
        raise BadData(f"unknown rule of aggregation: {name!a:.60}", f"one of {', '.join(RULES)}")
    check_cohort(cohort)
    rule.bound.check(name, len(cohort), f)
    if weights is not None and not rule.weighted:
        raise BadData(f"{name} weighs the deltas itself", "give it no weights")
    case = Case(cohort, _normal(weights, len(cohort)), f, rank, root or {}, grams, seed)
    if rule.needs and not getattr(case, rule.needs):
        raise NotCovered(f"{name} needs {NEEDED[rule.needs]}", "give it that, or take another rule")
    found = rule.apply(case)
    if not all(bool(half.isfinite().all()) for factor in found.delta.values() for half in (factor.a, factor.b)):
        raise NotCovered(f"{name} leaves the range of float32 with these deltas", "leave out those out of all scale")
    return found


def needs_grams(name: str) -> bool:
    """Whether a rule asks for the Gram matrices of the clients' inputs, which cost a pass over rows."""
    return name in RULES and RULES[name].needs == "grams"


NEEDED: Final = {"root": "the node's own root update", "grams": "the Gram matrices of each client's inputs"}


def _normal(weights: Sequence[float] | None, n: int) -> Tensor:
    """Weights that sum to 1; raises BadData unless they are n numbers of at least 0, and one above it."""
    given = torch.ones(n, dtype=torch.float64) if weights is None else torch.tensor(weights, dtype=torch.float64)
    if given.shape != (n,) or not bool(given.isfinite().all()) or float(given.min()) < 0 or float(given.sum()) == 0:
        raise BadData(f"{n} deltas need as many weights of at least 0, not all 0", "leave them out to weigh all alike")
    return given / given.sum()
