"""A recommender for one catalogue and one machine, and how much worse one answer is than the best of a need.

Who asks questions wants to know what an answer would change: that is `regret`. Needs that were looked at are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from recommender.answers import Recommendations
from recommender.columns import Rows
from recommender.constraints import Constraints
from recommender.hardware import Machine
from recommender.index import Index
from recommender.memory import Floats
from recommender.question import Question
from recommender.rank import WISH_POINTS, Predict, most_promising
from recommender.recommend import machine_for, recommend
from recommender.rules import met_by_all

CHANGE_POINTS: Final = 1.0  # another first answer matters so much at least, also where no quality tells the two apart
UNKNOWN_POINTS: Final = 30.0  # of a model that meets every rule and of whose quality nothing is known
MOST_NEEDS: Final = 4_096  # that are kept


@dataclass(frozen=True, slots=True)
class Standing:
    """The models that meet a need's rules (rows of the catalogue, ascending), and the best of them; -1 for none.

    `points` is the expected quality less what its missed wishes cost, `survivors` how many meet the rules in all.
    """

    rows: Rows
    points: Floats
    best: int
    survivors: int

    def points_of(self, row: int) -> float:
        """What a model is worth here: nothing where it breaks a rule."""
        place = int(np.searchsorted(self.rows, row))
        return float(self.points[place]) if place < len(self.rows) and self.rows[place] == row else 0.0


class Advisor:
    """Answers for needs over one catalogue. `factor`: how much faster than estimated the machine was when measured."""

    def __init__(self, index: Index, machine: Machine, predict: Predict, *, factor: float = 1.0) -> None:
        self.index = index
        self.machine = machine
        self._predict = predict
        self._factor = factor
        self.standing = lru_cache(maxsize=MOST_NEEDS)(self._standing)

    def recommend(self, need: Constraints, count: int = 5) -> Recommendations:
        """The models that meet a need, best first (see `recommend.recommend`)."""
        return recommend(need, self.index, self.machine, predict=self._predict, count=count, factor=self._factor)

    def regret(self, row: int, need: Constraints) -> float:
        """Points by which a model is worse than the best for a need; 0 for the best, and where nothing meets it."""
        standing = self.standing(need)
        if standing.best in (row, -1):
            return 0.0
        return max(standing.points_of(standing.best) - standing.points_of(row), CHANGE_POINTS)

    def _standing(self, need: Constraints) -> Standing:
        asked = Question.of(need, self.index, machine_for(need, self.machine), self._factor)
        survivors = np.flatnonzero(met_by_all(asked.rules, len(self.index.columns)))
        if not len(survivors):
            return Standing(survivors, np.zeros(0), -1, 0)
        rows = most_promising(self.index.prior[survivors] - WISH_POINTS * asked.unmet[survivors], survivors)
        quality = self._predict([self.index.columns.candidates[row] for row in rows], need)
        order = asked.order(rows, quality)
        points = np.where(np.isnan(quality.mean), UNKNOWN_POINTS, quality.mean) - WISH_POINTS * asked.unmet[rows]
        return Standing(rows, points, int(rows[order[0]]), len(survivors))
