"""MTEB: pick an embedding model for a task that was never run, from its description and its languages.

The pool are models with known memory and at least twenty scores on tasks over text, and tasks that at least forty of
them ran; the caps are 150 MB to 16 GB. A task is predicted from all others. "ours, text" knows its description and
languages and guesses its type from them, "ours, text and type" is told it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from recommender.candidate import Candidate
from recommender.embed import embed
from recommender.evidence import Benchmark, Evidence, Floats
from recommender.kriging import covariance
from recommender.metadata import Metadata
from recommender.quality import GRADES, WEIGHTS, Predictor, likely_task
from recommender.relatedness import overlap
from recommender.snapshot.mteb import mteb
from tests.benchmarks.recommender.choices import Pool
from tests.benchmarks.recommender.european import average, unseen

CAPS_GB = (0.15, 0.5, 1.2, 2.5, 5.0, 16.0)
FEWEST_SCORES, FEWEST_MODELS = 20, 40


def measure(folder: Path) -> dict[str, Any]:
    """All figures of this part."""
    candidates, evidence = mteb(folder)
    opened = np.array(
        [candidates[name].weights == "local" and candidates[name].memory_gb is not None for name in evidence.models]
    )
    evidence = evidence.where(opened[evidence.model])
    evidence = evidence.where(np.bincount(evidence.model)[evidence.model] >= FEWEST_SCORES)
    evidence = evidence.where(np.bincount(evidence.benchmark)[evidence.benchmark] >= FEWEST_MODELS)
    facts = [candidates[name] for name in evidence.models]
    points, benchmarks = evidence.table(), evidence.benchmarks
    sizes = np.array([one.memory_gb or np.inf for one in facts])
    languages = [one.languages[0] if len(one.languages) == 1 else "several" for one in benchmarks]
    pool = Pool(points, np.zeros(points.shape), sizes, CAPS_GB, (languages, [one.task for one in benchmarks]))
    vectors = embed([one.text for one in benchmarks]).astype(np.float64)
    texts = dict(zip([one.name for one in benchmarks], vectors, strict=True))
    result: dict[str, Any] = {"models": len(facts), "benchmarks": len(benchmarks)}
    found = predictions(evidence, candidates, texts)
    for name, predicted in (baselines(points, sizes, benchmarks) | found).items():
        result[name] = pool.summary(predicted, ties=False)
    result["ours, text and type"]["coverage90"] = coverage(evidence, candidates, texts)
    standard = (points - np.nanmean(points, 0)) / np.nanstd(points, 0)
    counts = (~np.isnan(points)).sum(1)
    owners = [one.id.partition("/")[0] for one in facts]
    mean = average(standard, 0.0)
    result["unseen models"] = {
        "models": len(facts),
        "spearman": unseen(facts, mean, counts / (counts + 2), owners),
        "spearman by size alone": unseen([bare(one) for one in facts], mean, counts / (counts + 2), owners),
    }
    return result


def bare(one: Candidate) -> Candidate:
    """A candidate of which its size alone is known."""
    return Candidate("x", one.source, one.kind, parameters_b=one.parameters_b)


def baselines(points: Floats, sizes: Floats, benchmarks: Sequence[Benchmark], seed: int = 0) -> dict[str, Floats]:
    """What simple rules say of a task from the scores on all others."""
    standard = (points - np.nanmean(points, 0)) / np.nanstd(points, 0)
    count = points.shape[1]
    anything = np.ones((count, count))
    types = np.array([[left.task == right.task for right in benchmarks] for left in benchmarks])
    shared = overlap([one.languages for one in benchmarks], [one.languages for one in benchmarks]) > 0
    fields = overlap([one.domains for one in benchmarks], [one.domains for one in benchmarks]) > 0
    rules = {
        "global mean": anything,
        "same type": types,
        "same domain": fields,
        "same type and language": types & shared,
    }
    found = {name: average_of(standard, alike) for name, alike in rules.items()}
    return {
        "random": np.random.default_rng(seed).random(points.shape),
        "largest that fits": np.repeat(sizes[:, None], count, axis=1),
        **found,
        "average of four": sum(found.values(), np.zeros(points.shape)),
        "oracle": np.nan_to_num(points, nan=-999),
    }


def average_of(standard: Floats, alike: Any) -> Floats:
    """Mean over other tasks that are alike; over all others where a model ran none of those."""
    found = np.zeros(standard.shape)
    for column in range(standard.shape[1]):
        others = np.arange(standard.shape[1]) != column
        found[:, column] = average(standard[:, others & (alike[column] > 0)], average(standard[:, others], 0.0))
    return found


def predictions(evidence: Evidence, candidates: Any, texts: dict[str, Floats]) -> dict[str, Floats]:
    """Every task from the scores on all others; metadata are fitted without the task's tenth of all tasks."""
    weights = WEIGHTS["embedding"]
    usual = [1.0] * len(GRADES)
    fitted = Predictor.fit(evidence, candidates, "embedding", weights=weights, texts=texts, factors_known=usual)
    facts = [candidates[name] for name in fitted.models]
    fold = np.arange(len(fitted.benchmarks)) % 10
    priors = np.zeros(fitted.scores.shape)
    for number in range(10):
        rest = fitted.scores[:, fold != number]
        counts = (~np.isnan(rest)).sum(1)
        learned = Metadata.fit(facts, average(rest, 0.0), counts / (counts + 2))
        priors[:, fold == number] = learned.predict(facts)[:, None]
    vectors = np.array([texts[one.name] for one in fitted.benchmarks])
    found = {}
    for title, typed in (("ours, text", False), ("ours, text and type", True)):
        asked = [
            one if typed else replace(one, task=guessed(row, fitted.benchmarks, vectors))
            for row, one in enumerate(fitted.benchmarks)
        ]
        across = covariance(fitted.benchmarks, asked, weights, (vectors, vectors))
        np.fill_diagonal(across, 0)
        found[title] = left_one_out(fitted.scores, priors, fitted.between, across, weights.noise)
    return found


def guessed(row: int, benchmarks: Sequence[Benchmark], vectors: Floats) -> str:
    """The type of a task by the descriptions of all others."""
    others = [other for other in range(len(benchmarks)) if other != row]
    return likely_task(vectors[row], [benchmarks[other] for other in others], vectors[others])


def left_one_out(scores: Floats, priors: Floats, between: Floats, across: Floats, noise: float) -> Floats:
    """Kriging of each score from the model's others: the inverse covariance of all gives that of all but one."""
    found = np.full(scores.shape, -9.0)
    for row, seen in enumerate(~np.isnan(scores)):
        own = np.flatnonzero(seen)
        inverse = np.linalg.inv(between[np.ix_(own, own)] + noise * np.eye(len(own)))
        to = across[np.ix_(own, own)]
        for prior in np.unique(priors[row, own]):
            gains = inverse @ (scores[row, own] - prior)
            mean = prior + to.T @ gains - np.einsum("ij,ij->j", to, inverse) * gains / np.diag(inverse)
            here = priors[row, own] == prior
            found[row, own[here]] = mean[here]
    return found


def coverage(evidence: Evidence, candidates: Any, texts: dict[str, Floats]) -> float:
    """Share of scores within their 90 % interval, on every fourth task, fitted and calibrated on the others."""
    held = np.arange(len(evidence.benchmarks)) % 4 == 0
    fitted = Predictor.fit(evidence.where(~held[evidence.benchmark]), candidates, "embedding", texts=texts)
    facts, points = [candidates[name] for name in evidence.models], evidence.table()
    inside = total = 0
    for column in np.flatnonzero(held):
        one = evidence.benchmarks[column]
        found = fitted.predict(facts, Benchmark(one.task, one.languages, kind="embedding"), texts[one.name])
        seen = ~np.isnan(points[:, column])
        inside += int(((points[:, column] >= found.low) & (points[:, column] <= found.high))[seen].sum())
        total += int(seen.sum())
    return round(inside / total, 4)
