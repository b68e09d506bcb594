"""Which of the models that meet every rule is the best answer, and which others give something for something.

The score of an answer is its expected quality in points, less `CAUTION` of what it may fall short of that, less
`WISH_POINTS` for every wish that it does not meet. Without caution the first of thousands would be one of which little
is known and too much was expected (the winner's curse, Thaler 1988). On
the Pareto front stand the models that no other beats in quality, memory, speed, licence and price at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from recommender.candidate import Candidate
from recommender.columns import Mask, Rows
from recommender.constraints import Constraints
from recommender.memory import Floats
from recommender.own_scores import OwnScore

# Points of quality, 0 to 100, that a wish is worth: about the half width of an interval without direct evidence.
WISH_POINTS: Final = 5.0
# Of the way from the expected quality down to the low end of its 90 % interval.
CAUTION: Final = 0.5
# Above so many survivors only the most promising are scored.
SHORTLIST: Final = 4_000
# Differences that nobody can feel do not put a model on the front.
STEPS: Final = {"quality": 0.5, "memory_gb": 0.1, "tokens_per_s": 1.0, "price": 0.01}


@dataclass(frozen=True, slots=True)
class Quality:
    """What is expected of models, an array each: points (0 to 100), a 90 % interval, the grade of the evidence.

    nan where nothing at all can be said. `own` are the scores on scales of their own behind some of them, by position,
    the one that counted first; `liked` is what users' voices add to the score of an answer, in points.
    """

    mean: Floats
    low: Floats
    high: Floats
    grade: Sequence[str]
    own: Mapping[int, Sequence[OwnScore]] = field(default_factory=dict)
    liked: Mapping[int, float] = field(default_factory=dict)


Predict = Callable[[Sequence[Candidate], Constraints], Quality]


def unknown_quality(candidates: Sequence[Candidate], _: Constraints) -> Quality:
    """For a catalogue of which no evidence exists: nothing can be said of anybody."""
    nothing = np.full(len(candidates), np.nan)
    return Quality(nothing, nothing, nothing, [""] * len(candidates))


def by_score(quality: Quality, unmet_wishes: Floats, vague: Floats, memory_gb: Floats) -> Rows:
    """Positions from the best answer to the worst; unknown quality is last.

    Of equals comes first what was made for the very need (the least `vague`), then the smaller, then the earlier.
    """
    safe = quality.mean - CAUTION * (quality.mean - quality.low)
    score = np.where(np.isnan(safe), -np.inf, safe) - WISH_POINTS * unmet_wishes
    for place, points in quality.liked.items():
        score[place] += points
    return np.lexsort((np.arange(len(score)), np.where(np.isnan(memory_gb), np.inf, memory_gb), vague, -score))


def pareto(columns: Sequence[Floats]) -> Mask:
    """Which rows no other row beats: at least as much in every column and more in one. More is better, nan is least.

    Of equal rows all stay. Time grows with the rows times those that stay.
    """
    points = np.nan_to_num(np.column_stack(columns), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    stays = np.ones(len(points), dtype=np.bool_)
    order = np.lexsort(tuple(-points[:, column] for column in reversed(range(points.shape[1]))))
    left = order
    while len(left):
        one, rest = points[left[0]], points[left]
        beaten = np.all(rest <= one, axis=1) & np.any(rest < one, axis=1)
        stays[left[beaten]] = False
        left = left[~beaten][1:]
    return stays


def in_steps(values: Floats, step: float) -> Floats:
    """Values rounded to what makes a difference."""
    rounded: Floats = np.round(values / step) * step
    return rounded


def most_promising(promise: Floats, survivors: Rows) -> Rows:
    """The survivors that are scored: all, or the `SHORTLIST` that promise most before they are looked at closely."""
    if len(survivors) <= SHORTLIST:
        return survivors
    best = np.argpartition(-promise, SHORTLIST)[:SHORTLIST]
    return survivors[np.sort(best)]
