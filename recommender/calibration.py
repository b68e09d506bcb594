"""How wide intervals must be, measured: leave languages, tasks and models out, and see how far off predictions were."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from recommender.evidence import Floats, Mask
from recommender.kriging import covariance, posterior
from recommender.metadata import Metadata

if TYPE_CHECKING:
    from recommender.candidate import Candidate
    from recommender.quality import Predictor

COVERAGE: Final = 0.9
FEWEST_LEFT_OUT: Final = 50  # scores, below which a factor is not measured
FOLDS: Final = 8


def factors(quality: Predictor, facts: Sequence[Candidate], usual: float) -> Floats:
    """What the standard deviation of each of `quality.GRADES` is multiplied with, so that intervals cover 90 %."""
    benchmarks = quality.benchmarks
    plain = _plain(quality)
    other_language = _factor(_left_out(quality, plain, [one.languages for one in benchmarks]), usual)
    other_task = _factor(_left_out(quality, plain, [one.task for one in benchmarks]), other_language)
    measured = _factor(_left_out(quality, plain, [one.name for one in benchmarks], twins_only=True), other_language)
    return np.array([measured, measured, other_language, other_task, _factor(_strangers(quality, facts), usual)])


def _factor(groups: Sequence[Floats], otherwise: float) -> float:
    """The quantile of what was left out, each group counting once, however many scores it has."""
    groups = [ratios for ratios in groups if len(ratios)]
    if sum(map(len, groups)) < FEWEST_LEFT_OUT:
        return otherwise
    ratios = np.concatenate(groups)
    share = np.concatenate([np.full(len(group), 1 / len(group)) for group in groups])
    order = np.argsort(ratios)
    summed = np.cumsum(share[order])
    return float(ratios[order][np.searchsorted(summed, COVERAGE * summed[-1])])


def _plain(quality: Predictor) -> Floats:
    """Covariance between benchmarks as if none were a translation of another: a need does not name its benchmark."""
    texts = None if quality.texts is None else (quality.texts, quality.texts)
    return covariance(quality.benchmarks, quality.benchmarks, replace(quality.weights, family=0.0), texts)


def _left_out(
    quality: Predictor, plain: Floats, groups: Sequence[Hashable], *, twins_only: bool = False
) -> list[Floats]:
    """Error over expected deviation of scores on benchmarks that were predicted without their fold, group by group.

    `twins_only`: only those whose task and language another benchmark has too.
    """
    cells = [(one.task, one.languages) for one in quality.benchmarks]
    ratios: dict[Hashable, list[Floats]] = defaultdict(list)
    for fold in folds(groups):
        hold = fold
        if twins_only:
            others = {cell for cell, held in zip(cells, fold, strict=True) if not held}
            hold = fold & np.array([cell in others for cell in cells])
        if hold.all() or not hold.any():
            continue
        found = posterior(
            quality.scores[:, ~hold],
            quality.prior,
            quality.between[np.ix_(~hold, ~hold)],
            plain[np.ix_(~hold, hold)],
            np.diag(plain)[hold],
            quality.weights.noise,
        )
        for column, row in enumerate(np.flatnonzero(hold).tolist()):
            level, spread = quality.scale(plain[~hold, row], ~hold)
            points = quality.level[row] + quality.spread[row] * quality.scores[:, row]
            deviation = spread * np.sqrt(found.variance[:, column] + quality.weights.noise)
            ratio = np.abs(points - level - spread * found.mean[:, column]) / deviation
            ratios[groups[row]].append(ratio[~np.isnan(ratio) & (~np.isnan(quality.scores[:, ~hold])).any(1)])
    return [np.concatenate(parts) for parts in ratios.values()]


def folds(groups: Sequence[Hashable]) -> Iterator[Mask]:
    """What is held out, fold by fold; a group is never divided."""
    place = {group: row for row, group in enumerate(dict.fromkeys(groups))}
    fold = np.array([place[group] % FOLDS for group in groups])
    for number in range(min(FOLDS, len(place))):
        yield fold == number


def _strangers(quality: Predictor, facts: Sequence[Candidate]) -> list[Floats]:
    """Error over expected deviation of scores of models whose organisation was left out, fold by fold."""
    owners = [one.id.partition("/")[0] for one in facts]
    measured = ~np.isnan(quality.scores)
    average = np.array([np.nanmean(row) for row in quality.scores])
    trust = measured.sum(1) / (measured.sum(1) + 2)
    ratios = []
    for hold in folds(owners):
        if hold.all() or (~hold).sum() < FOLDS:
            continue
        known = [one for one, held in zip(facts, hold, strict=True) if not held]
        unknown = [one for one, held in zip(facts, hold, strict=True) if held]
        expected = Metadata.fit(known, average[~hold], trust[~hold]).predict(unknown)
        deviation = np.sqrt(np.diag(quality.between) + quality.weights.noise)
        errors = np.abs(quality.scores[hold] - expected[:, None]) / deviation
        ratios.append(errors[measured[hold]])
    return ratios
