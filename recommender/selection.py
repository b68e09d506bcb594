"""Which weights of relations fit the evidence: those that predict languages and tasks best that were left out of it.

`same_form` is not among them: of so few tasks it cannot be learned, and stays as it was set.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from recommender.calibration import folds
from recommender.evidence import Benchmark, Floats
from recommender.kriging import Weights, covariance, posterior

# Field of `Weights` -> values that are tried, one field after the other.
TRIED: Final[Mapping[str, tuple[float, ...]]] = {
    "noise": (0.4, 0.8, 1.2),
    "family": (0.0, 0.8),
    "task_language": (0.5, 1.0, 2.0),
}
TOP: Final = 0.7  # a score one standard deviation up counts e^0.7 times: only the best models are ever picked


def chosen_weights(scores: Floats, prior: Floats, benchmarks: Sequence[Benchmark], start: Weights) -> Weights:
    """Weights by coordinate search over `TRIED`: the least squared error on left-out languages plus left-out tasks.

    Args:
        scores: (models, benchmarks), standardised, nan where not measured.
        prior: (models,), what metadata expect.
        benchmarks: of the columns.
        start: where the search begins; fields that are not tried stay.
    """
    best, least = start, _loss(scores, prior, benchmarks, start)
    for name, values in TRIED.items():
        for value in values:
            if value == getattr(best, name):
                continue
            weights = replace(best, **{name: value})
            if (loss := _loss(scores, prior, benchmarks, weights)) < least:
                best, least = weights, loss
    return best


def _loss(scores: Floats, prior: Floats, benchmarks: Sequence[Benchmark], weights: Weights) -> float:
    between = covariance(benchmarks, benchmarks, weights)
    sides: list[list[Hashable]] = [[one.languages for one in benchmarks], [one.task for one in benchmarks]]
    return sum(_error(scores, prior, between, weights.noise, groups) for groups in sides)


def _error(scores: Floats, prior: Floats, between: Floats, noise: float, groups: Sequence[Hashable]) -> float:
    total = count = 0.0
    for hold in folds(groups):
        if hold.all():
            continue
        found = posterior(
            scores[:, ~hold],
            prior,
            between[np.ix_(~hold, ~hold)],
            between[np.ix_(~hold, hold)],
            np.diag(between)[hold],
            noise,
        )
        true = scores[:, hold]
        seen = ~np.isnan(true)
        weight = np.exp(TOP * true[seen])
        total += float(weight @ (true - found.mean)[seen] ** 2)
        count += float(weight.sum())
    return total / max(count, 1e-9)
