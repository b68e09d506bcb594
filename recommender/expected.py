"""From a need to expected quality: which benchmark a need is like, and what each kind of model would score on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Final

import numpy as np

from recommender.candidate import Candidate, Kind
from recommender.constraints import Constraints
from recommender.evidence import Benchmark
from recommender.quality import GRADES, Predictor
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
