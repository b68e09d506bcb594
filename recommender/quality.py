"""How good a model is at what is needed: points from 0 to 100 with a 90 % interval and the grade of the evidence.

A score is a benchmark's level and spread plus what the model has of it: what its metadata say (`metadata`), corrected
by its scores on related benchmarks (`kriging`). How wide an interval must be is measured (`calibration`): languages,
tasks and models are left out, and the intervals of a grade are scaled until they cover 90 % of what was left out
(split conformal prediction; Lei et al., 2018, arXiv 1604.04173).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np

from recommender.calibration import factors
from recommender.candidate import Candidate, Kind
from recommender.evidence import Benchmark, Evidence, Floats, Mask
from recommender.kriging import Weights, covariance, posterior
from recommender.metadata import Metadata
from registry.errors import BadData

Grade = Literal["measured here", "measured elsewhere", "same task other language", "predicted", "metadata only"]

GRADES: Final[tuple[Grade, ...]] = (
    "measured here",
    "measured elsewhere",
    "same task other language",
    "predicted",
    "metadata only",
)
USUAL: Final = 1.64  # standard deviations to either side hold 90 % of a normal distribution
NEAR_TEXT: Final = 0.1  # cosine distance of descriptions at which a vote on the task has fallen to 1/e
NEAREST: Final = 4.0  # how much more the benchmarks nearest to a need count for its level and spread
WEIGHTS: Final[dict[Kind, Weights]] = {
    "generative": Weights(),
    "encoder": Weights(),
    "embedding": Weights(noise=0.5, language=0.5, family=0.0, domain=0.0, text=1.0, text_scale=0.2),
}
MAX_NEEDS: Final = 64  # whose answers are kept


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """Points (n), the ends of their 90 % interval (n), and a grade, as a position in `GRADES` (n).

    Scores that are corrected for chance can fall below 0.
    """

    mean: Floats
    low: Floats
    high: Floats
    grade: Floats


@dataclass(slots=True, eq=False)
class Predictor:
    """All that is known of one kind of model. Make it with `fit`.

    `scores` (models, benchmarks) are standardised: `level` and `spread` (benchmarks) turn them into points.
    """

    kind: Kind
    models: dict[str, int]
    benchmarks: tuple[Benchmark, ...]
    scores: Floats
    here: Floats  # (models, benchmarks), whether this node measured
    level: Floats
    spread: Floats
    prior: Floats
    metadata: Metadata
    weights: Weights
    texts: Floats | None
    between: Floats
    factors: Floats = field(default_factory=lambda: np.full(len(GRADES), USUAL))
    _needs: dict[tuple[Benchmark, bytes], tuple[Floats, Floats, Floats]] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        evidence: Evidence,
        candidates: Mapping[str, Candidate],
        kind: Kind,
        *,
        weights: Weights | None = None,
        texts: Mapping[str, Floats] | None = None,
        factors_known: Sequence[float] | None = None,
    ) -> Predictor:
        """Learn from evidence; raises BadData where none is of this kind.

        Args:
            evidence: scores; those of other kinds of model are left aside.
            candidates: facts of the models, by id; others count by their name alone.
            kind: of model.
            weights: of the relations; None for those of `WEIGHTS`.
            texts: unit vectors of descriptions, by the name of the benchmark.
            factors_known: how wide intervals must be, where that was measured before on this evidence.
        """
        own = _of_kind(evidence, kind)
        points, facts = own.table(), _facts(own, candidates, kind)
        level, spread = np.nanmean(points, axis=0), _spread(points)
        scores = (points - level) / spread
        counts = (~np.isnan(scores)).sum(1)
        trust = counts / (counts + 2)
        metadata = Metadata.fit(facts, np.nanmean(scores, axis=1), trust)
        scores, level = _aligned(scores, level, spread, metadata.predict(facts))
        metadata = Metadata.fit(facts, np.nanmean(scores, axis=1), trust)
        fitted = cls._over(own, facts, kind, level, metadata, weights or WEIGHTS[kind], texts)
        fitted.factors = factors(fitted, facts, USUAL) if factors_known is None else np.array(factors_known)
        return fitted

    @classmethod
    def restored(
        cls,
        evidence: Evidence,
        candidates: Mapping[str, Candidate],
        kind: Kind,
        learned: Mapping[str, Any],
        texts: Mapping[str, Floats] | None = None,
    ) -> Predictor:
        """What `fit` made of the same evidence, from `learned`; nothing is fitted again."""
        own = _of_kind(evidence, kind)
        level, metadata = np.array(learned["level"]), Metadata.of_data(learned["metadata"])
        weights = Weights(**learned["weights"])
        found = cls._over(own, _facts(own, candidates, kind), kind, level, metadata, weights, texts)
        found.factors = np.array(learned["factors"])
        return found

    def learned(self) -> dict[str, Any]:
        """All that `fit` found, as plain values."""
        return {
            "weights": asdict(self.weights),
            "factors": [round(float(one), 4) for one in self.factors],
            "level": self.level.tolist(),
            "metadata": self.metadata.as_data(),
        }

    @classmethod
    def _over(
        cls,
        own: Evidence,
        facts: Sequence[Candidate],
        kind: Kind,
        level: Floats,
        metadata: Metadata,
        weights: Weights,
        texts: Mapping[str, Floats] | None,
    ) -> Predictor:
        points = own.table()
        spread = _spread(points)
        here = np.zeros(points.shape)
        here[own.model, own.benchmark] = own.here
        vectors = None if texts is None else _vectors(own.benchmarks, texts)
        both = None if vectors is None else (vectors, vectors)
        return cls(
            kind=kind,
            models={name: row for row, name in enumerate(own.models)},
            benchmarks=own.benchmarks,
            scores=(points - level) / spread,
            here=here,
            level=level,
            spread=spread,
            prior=metadata.predict(facts),
            metadata=metadata,
            weights=weights,
            texts=vectors,
            between=covariance(own.benchmarks, own.benchmarks, weights, both),
        )

    def predict(self, candidates: Sequence[Candidate], need: Benchmark, text: Floats | None = None) -> Prediction:
        """Expected points of candidates for a need.

        `text` is the unit vector of its description; it also tells the task where the need does not name one.

        Evidence about a need is worked out once; after that a prediction is a look-up per candidate.
        """
        if text is not None and self.texts is not None and not need.task:
            need = replace(need, task=likely_task(text, self.benchmarks, self.texts))
        mean, deviation, grade = self._known(need, text)
        rows = np.array([self.models.get(one.id, -1) for one in candidates], dtype=np.int64)
        strangers = [one for one, row in zip(candidates, rows, strict=True) if row < 0]
        level, spread = self.scale(self._across(need, text)[:, 0])
        standard = np.where(rows >= 0, mean[rows], 0.0)
        width = np.where(rows >= 0, deviation[rows], self._unseen(need, text))
        grades = np.where(rows >= 0, grade[rows], len(GRADES) - 1)
        standard[rows < 0] = self.metadata.predict(strangers)
        half = self.factors[grades.astype(np.int64)] * width * spread
        points = level + spread * standard
        return Prediction(points, np.maximum(points - half, 0.0), np.minimum(points + half, 100.0), grades)

    def scale(self, across: Floats, of: Mask | slice = slice(None)) -> tuple[float, float]:
        """Level and spread, in points, of a benchmark with this covariance (d) with those that `of` picks."""
        share = np.exp(NEAREST * (across - across.max()))
        return float(share @ self.level[of] / share.sum()), float(share @ self.spread[of] / share.sum())

    def _across(self, need: Benchmark, text: Floats | None) -> Floats:
        texts = None
        if self.texts is not None:
            texts = (self.texts, np.zeros((1, self.texts.shape[1])) if text is None else text[None])
        return covariance(self.benchmarks, [need], self.weights, texts)

    def _own(self, need: Benchmark, text: Floats | None) -> Floats:
        """Variance of a need that nothing is known of, shape (1,)."""
        texts = None if self.texts is None or text is None else (text[None], text[None])
        variance: Floats = covariance([need], [need], self.weights, texts)[0]
        return variance

    def _unseen(self, need: Benchmark, text: Floats | None) -> float:
        """Standard deviation of a score of a model that nobody measured."""
        return float(np.sqrt(self._own(need, text)[0] + self.weights.noise))

    def _known(self, need: Benchmark, text: Floats | None) -> tuple[Floats, Floats, Floats]:
        """Standardised mean, standard deviation and grade (models) for a need."""
        key = (need, b"" if text is None else text.tobytes())
        if key not in self._needs:
            across = self._across(need, text)
            found = posterior(self.scores, self.prior, self.between, across, self._own(need, text), self.weights.noise)
            if len(self._needs) >= MAX_NEEDS:
                self._needs.pop(next(iter(self._needs)))
            deviation = np.sqrt(found.variance[:, 0] + self.weights.noise)
            self._needs[key] = (found.mean[:, 0], deviation, self._grades(need))
        return self._needs[key]

    def _grades(self, need: Benchmark) -> Floats:
        measured = ~np.isnan(self.scores)
        task = np.array([one.task == need.task for one in self.benchmarks])
        cell = task & np.array(
            [{*need.languages} <= {*one.languages} and {*need.domains} <= {*one.domains} for one in self.benchmarks]
        )
        grade = np.full(len(self.scores), GRADES.index("metadata only"), dtype=np.float64)
        grade[measured.any(1)] = GRADES.index("predicted")
        grade[measured[:, task].any(1)] = GRADES.index("same task other language")
        grade[measured[:, cell].any(1)] = GRADES.index("measured elsewhere")
        grade[(self.here[:, cell] > 0).any(1)] = GRADES.index("measured here")
        return grade


def _of_kind(evidence: Evidence, kind: Kind) -> Evidence:
    own = evidence.of_kind(kind)
    if not len(own):
        raise BadData(f"nothing was measured of {kind} models", hint="import evidence, or use the shipped snapshot")
    return own


def _facts(own: Evidence, candidates: Mapping[str, Candidate], kind: Kind) -> list[Candidate]:
    return [candidates.get(name) or Candidate(name, "table", kind) for name in own.models]


def _spread(points: Floats) -> Floats:
    """Of the scores of each benchmark, one point at least."""
    spread: Floats = np.maximum(np.nanstd(points, axis=0), 1.0)
    return spread


def likely_task(text: Floats, benchmarks: Sequence[Benchmark], texts: Floats) -> str:
    """The task of a description: what the benchmarks say whose descriptions (n, d) are nearest to it (d)."""
    votes: dict[str, float] = defaultdict(float)
    for one, near in zip(benchmarks, np.exp((texts @ text - 1) / NEAR_TEXT), strict=True):
        votes[one.task] += float(near)
    return max(votes, key=lambda task: votes[task])


def _aligned(scores: Floats, level: Floats, spread: Floats, expected: Floats) -> tuple[Floats, Floats]:
    """Scores and levels as if all models had been measured on all benchmarks.

    Benchmarks were run on different models: a score that is average among strong models is a good one. How strong the
    models of a benchmark are is what their metadata expect.
    """
    measured = ~np.isnan(scores)
    strength = np.where(measured, expected[:, None], 0).sum(0) / measured.sum(0)
    return scores + strength, level - strength * spread


def _vectors(benchmarks: Sequence[Benchmark], texts: Mapping[str, Floats]) -> Floats:
    size = len(next(iter(texts.values())))
    return np.array([texts.get(one.name, np.zeros(size)) for one in benchmarks], dtype=np.float64)
