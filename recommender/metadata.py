"""What the facts of a model alone say of its quality: a ridge regression on size, age, kind of training and name.

Words of the name stand for family and organisation ("qwen3", "instruct"); only those that several models share count.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

import numpy as np

from recommender.candidate import Candidate
from recommender.evidence import Floats

MIN_MODELS: Final = 3  # that share a word
MAX_WORDS: Final = 600
BATCH: Final = 10_000  # models at once: 50 MB of features
PENALTIES: Final = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_EPOCH: Final = date(2024, 1, 1)
_WORD: Final = re.compile(r"[a-z]+[0-9.]*|[0-9.]+")


@dataclass(frozen=True, slots=True, eq=False)
class Metadata:
    """A fitted regression; `missing` are the values that stand in for unknown facts."""

    words: dict[str, int]
    missing: Floats
    mean: Floats
    scale: Floats
    weights: Floats
    level: float

    @classmethod
    def fit(cls, candidates: Sequence[Candidate], quality: Floats, trust: Floats) -> Metadata:
        """Fit to models (m) of known quality (m), each counted by `trust` (m, 0 to 1).

        The penalty is the one of `PENALTIES` with the least generalised cross-validation error.
        """
        counts = Counter(word for one in candidates for word in words_of(one))
        common = sorted((word for word in counts if counts[word] >= MIN_MODELS), key=lambda word: (-counts[word], word))
        words = {word: row for row, word in enumerate(common[:MAX_WORDS])}
        facts = _facts(candidates)
        seen = ~np.isnan(facts)
        missing = np.where(seen, facts, 0).sum(0) / np.maximum(1, seen.sum(0))
        features = _features(candidates, words, missing)
        mean, scale = features.mean(0), features.std(0)
        scale = np.where(scale > 1e-9, scale, 1.0)
        level = float(np.average(quality, weights=trust))
        root = np.sqrt(trust)
        weights = _ridge((features - mean) / scale * root[:, None], (quality - level) * root)
        return cls(words, missing, mean, scale, weights, level)

    @classmethod
    def of_data(cls, data: Mapping[str, Any]) -> Metadata:
        """What `as_data` gave."""
        words = {word: row for row, word in enumerate(data["words"])}
        arrays = {name: np.array(data[name], dtype=np.float64) for name in ("missing", "mean", "scale", "weights")}
        return cls(words=words, level=float(data["level"]), **arrays)

    def as_data(self) -> dict[str, Any]:
        """As plain values, exactly."""
        arrays = {name: getattr(self, name).tolist() for name in ("missing", "mean", "scale", "weights")}
        return {"words": list(self.words), "level": self.level, **arrays}

    def predict(self, candidates: Sequence[Candidate]) -> Floats:
        """Expected quality of models that may never have been measured, shape (n,)."""
        if not candidates:
            return np.zeros(0)
        parts = [candidates[start : start + BATCH] for start in range(0, len(candidates), BATCH)]
        return np.concatenate([self._batch(part) for part in parts])

    def _batch(self, candidates: Sequence[Candidate]) -> Floats:
        features = _features(candidates, self.words, self.missing)
        expected: Floats = (features - self.mean) / self.scale @ self.weights + self.level
        return expected


def words_of(candidate: Candidate) -> set[str]:
    """The words of a model's name, without those that only tell its size."""
    words = {word.rstrip(".") for word in _WORD.findall(candidate.id.lower())}
    return {word for word in words if not re.fullmatch(r"[0-9.]*[bmk]?", word)}


def _facts(candidates: Sequence[Candidate]) -> Floats:
    """Numbers of models, nan where unknown, shape (n, 7)."""
    rows = [
        (
            one.parameters_b,
            one.active_b or one.parameters_b,
            one.context_tokens,
            one.architecture.hidden,
            one.architecture.vocabulary,
            len(one.languages) or None,
            None if one.released is None else 10 ** ((one.released - _EPOCH).days / 365),
        )
        for one in candidates
    ]
    numbers = np.array(rows, dtype=np.float64).reshape(len(rows), 7)
    return np.log10(np.where(numbers > 0, numbers, np.nan))


def _features(candidates: Sequence[Candidate], words: dict[str, int], missing: Floats) -> Floats:
    facts = _facts(candidates)
    known = ~np.isnan(facts)
    filled = np.where(known, facts, missing)
    named = np.zeros((len(candidates), len(words)))
    for row, one in enumerate(candidates):
        named[row, [words[word] for word in words_of(one) & words.keys()]] = 1
    size = filled[:, :1]
    curves = np.hstack([filled, (filled - missing) ** 2, np.maximum(size - 0.5, 0), filled[:, 6:] * size])
    return np.hstack([4 * curves, known, named])


def _ridge(features: Floats, target: Floats) -> Floats:
    """Weights by the penalty with the least generalised cross-validation error, from one decomposition."""
    values, axes = np.linalg.eigh(features.T @ features)
    values, along = np.maximum(values, 0), axes.T @ (features.T @ target)
    best, least = np.zeros(features.shape[1]), np.inf
    for penalty in PENALTIES:
        weights = axes @ (along / (values + penalty))
        rest = target - features @ weights
        freedom = float((values / (values + penalty)).sum())
        error = float(rest @ rest) / max(1e-9, len(target) - freedom) ** 2
        if error < least:
            best, least = weights, error
    return best
