"""Queries (a need and a cap on size), what was picked for each, and how good the picks were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass
class Pool:
    """Models (m) with a size each, and their scores (m, k) on what is asked for, with half widths of 95 % intervals."""

    scores: Floats
    half_widths: Floats
    sizes: Floats
    caps: Sequence[float]
    clusters: tuple[Sequence[str], Sequence[str]]  # of each column, in two ways (language and task)
    metrics: dict[str, list[float]] = field(default_factory=dict)

    def queries(self) -> list[tuple[int, float, NDArray[np.int64]]]:
        """(column, cap, models that fit and were measured), at least two models each."""
        found = []
        for column in range(self.scores.shape[1]):
            for cap in self.caps:
                rows = np.flatnonzero((self.sizes <= cap) & ~np.isnan(self.scores[:, column]))
                if len(rows) > 1:
                    found.append((column, cap, rows))
        return found

    def judge(self, predicted: Floats) -> dict[str, Floats]:
        """Regret of the first pick in points, whether it ties with the best, nDCG of the first five, a column each."""
        regret, tie, ndcg, column_of = [], [], [], []
        for column, _, rows in self.queries():
            scores, widths = self.scores[rows, column], self.half_widths[rows, column]
            order = np.argsort(-predicted[rows, column], kind="stable")
            first, best = order[0], int(scores.argmax())
            regret.append(scores[best] - scores[first])
            tie.append(scores[first] + widths[first] >= scores[best] - widths[best])
            ndcg.append(_ndcg(scores, order))
            column_of.append(column)
        return {
            "regret@1": np.array(regret),
            "tie": np.array(tie, dtype=np.float64),
            "ndcg@5": np.array(ndcg),
            "column": np.array(column_of),
        }

    def summary(self, predicted: Floats, *, ties: bool = True, seed: int = 0) -> dict[str, Any]:
        """Means of `judge` with 95 % intervals by a bootstrap over both kinds of clusters."""
        judged = self.judge(predicted)
        columns = judged["column"].astype(int)
        weights = self._resampled(columns, seed)
        names = ["regret@1", "tie", "ndcg@5"] if ties else ["regret@1", "ndcg@5"]
        result: dict[str, Any] = {"queries": len(columns)}
        for name in names:
            samples = weights @ judged[name] / weights.sum(1)
            low, high = np.quantile(samples, (0.025, 0.975))
            result[name] = {"mean": _short(judged[name].mean()), "ci95": [_short(low), _short(high)]}
        return result

    def _resampled(self, columns: NDArray[np.int64], seed: int, times: int = 1000) -> Floats:
        """How often each query is drawn when clusters are drawn with replacement, in both ways at once."""
        generator = np.random.default_rng(seed)
        weights = np.ones((times, len(columns)))
        for groups in self.clusters:
            _, place = np.unique(np.array(groups), return_inverse=True)
            drawn = generator.multinomial(place.max() + 1, np.full(place.max() + 1, 1 / (place.max() + 1)), size=times)
            weights *= drawn[:, place[columns]]
        return weights[weights.sum(1) > 0]


def _ndcg(scores: Floats, order: NDArray[np.int64]) -> float:
    """Gain: 0 at the median of the models that fit, 1 at the best."""
    middle = np.median(scores)
    gain = np.clip((scores - middle) / max(1e-9, scores.max() - middle), 0, 1)
    count = min(5, len(scores))
    discount = 1 / np.log2(np.arange(2, 2 + count))
    return float(gain[order[:count]] @ discount / max(1e-9, np.sort(gain)[::-1][:count] @ discount))


def _short(value: float) -> float:
    return round(float(value), 4)
