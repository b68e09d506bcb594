"""From a need to expected quality: which benchmark a need is like, and what each kind of model would score on it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Final

import numpy as np

from recommender.candidate import Candidate, Kind
from recommender.constraints import Constraints
from recommender.evidence import Benchmark
from recommender.own_scores import Estimate, OwnScore, estimate
from recommender.quality import GRADES, Grade, Predictor
from recommender.rank import Predict, Quality

# Task of a need -> the task of the benchmarks that stand for it; "" where no benchmark does and all count alike.
LIKE: Final[Mapping[str, str]] = {
    "text-generation": "text-generation",
    "text-classification": "sentiment-classification",
    "token-classification": "named-entity-recognition",
    "question-answering": "reading-comprehension",
    "summarization": "summarization",
    "translation": "translation",
    "feature-extraction": "Retrieval",
}


def expected_quality(predictor_of: Mapping[Kind, Callable[[], Predictor]]) -> Predict:
    """The function that ranking asks; a model of a kind that has no predictor is of unknown quality.

    A predictor is asked for when a model of its kind is: to fit one takes most of a second.
    """

    def predict(candidates: Sequence[Candidate], constraints: Constraints) -> Quality:
        mean, low, high = (np.full(len(candidates), np.nan) for _ in range(3))
        grades = [""] * len(candidates)
        for kind, predictor in predictor_of.items():
            rows = [row for row, one in enumerate(candidates) if one.kind == kind]
            if not rows:
                continue
            found = predictor().predict([candidates[row] for row in rows], need_of(constraints, kind))
            mean[rows], low[rows], high[rows] = found.mean, found.low, found.high
            for row, grade in zip(rows, found.grade, strict=True):
                grades[row] = GRADES[int(grade)]
        return Quality(mean, low, high, grades)

    return predict


def with_own(predict: Predict, scores: Iterable[OwnScore], liked: Mapping[str, float] | None = None) -> Predict:
    """The same, where what models scored on rows of their own says more; see `own_scores`.

    `liked` is what users' voices are worth, in points by model.
    """
    of_model: dict[str, list[OwnScore]] = defaultdict(list)
    for score in scores:
        of_model[score.model].append(score)
    voices = liked or {}

    def predict_with_own(candidates: Sequence[Candidate], constraints: Constraints) -> Quality:
        found = predict(candidates, constraints)
        mean, low, high, grades = found.mean.copy(), found.low.copy(), found.high.copy(), list(found.grade)
        own: dict[int, Sequence[OwnScore]] = {}
        for row, one in enumerate(candidates):
            told = _told(of_model.get(one.id, ()), constraints, (mean[row], low[row], high[row]))
            if told is None:
                continue
            best, own[row] = told
            mean[row], low[row], high[row] = best.mean, best.low, best.high
            grades[row] = _grade(best, own[row][0])
        raised = {row: voices[one.id] for row, one in enumerate(candidates) if one.id in voices}
        return Quality(mean, low, high, grades, own, raised)

    return predict_with_own


def _told(
    scores: Sequence[OwnScore], constraints: Constraints, otherwise: tuple[float, float, float]
) -> tuple[Estimate, list[OwnScore]] | None:
    """What the scores of a model say of a need: the nearest one counts, of those the own, the surest, the newest."""
    near = [(found, score) for score in scores if (found := estimate(score, constraints, *otherwise)) is not None]
    if not near:
        return None
    near.sort(key=lambda pair: pair[1].measured, reverse=True)
    near.sort(key=lambda pair: (-pair[0].near, not pair[1].here, pair[0].high - pair[0].low))
    return near[0][0], [score for _, score in near]


def _grade(best: Estimate, score: OwnScore) -> Grade:
    if best.near == 1.0:
        return "measured here" if score.here else "measured elsewhere"
    return "same task other language" if best.same_task else "predicted"


@cache
def shipped_quality() -> Predict:
    """Expected quality by the snapshot alone."""
    from recommender.snapshot.files import read  # pyarrow

    snapshot = read()
    kinds: tuple[Kind, ...] = ("generative", "encoder", "embedding")
    return expected_quality({kind: cache(partial(snapshot.quality, kind)) for kind in kinds})


def need_of(constraints: Constraints, kind: Kind) -> Benchmark:
    """The benchmark that nobody ran, of which the need speaks: its task, its languages, its domain."""
    task = constraints.task.value if constraints.task else ""
    domains = [slot.value for slot in (constraints.domain, constraints.subdomain) if slot]
    languages = constraints.languages.value if constraints.languages else ()
    return Benchmark(LIKE.get(task, ""), languages, tuple(domains), kind)
