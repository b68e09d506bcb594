"""EuroEval: pick a generative model for a language and a task, with the language, the task or the model left out.

The pool are open-weight generative entries with known size and at least eight scores, protocol variants included; the
caps are 2 to 80 billion parameters. Of what is asked nothing was seen: scores of the held-out language (or task) are
neither in the evidence nor in the choice of weights nor in the calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from recommender.answers import Recommendation
from recommender.candidate import Candidate
from recommender.constraints import Constraints, Stated
from recommender.evidence import Benchmark, Evidence
from recommender.expected import shipped_quality
from recommender.hardware import described_machine
from recommender.index import Index
from recommender.metadata import Metadata
from recommender.quality import GRADES, WEIGHTS, Predictor
from recommender.recommend import MOST_ANSWERS, recommend
from recommender.selection import chosen_weights
from recommender.snapshot.euroeval import base_of, euroeval, is_open
from recommender.snapshot.open_llm import open_llm
from tests.benchmarks.recommender.choices import Floats, Pool

CAPS_B = (2, 4, 9, 15, 35, 80)
FEWEST_SCORES = 8


class European:
    """The pool, and predictions for what was left out."""

    def __init__(self, folder: Path) -> None:
        self.candidates, everything = euroeval(folder)
        generative = everything.of_kind("generative")
        counts = np.bincount(generative.model, minlength=len(generative.models))
        opened = is_open(folder)
        wanted = np.array(
            [
                name in opened and counts[row] >= FEWEST_SCORES and self.candidates[name].parameters_b is not None
                for row, name in enumerate(generative.models)
            ]
        )
        self.evidence = generative.where(wanted[generative.model])
        self.facts = [self.candidates[name] for name in self.evidence.models]
        self.points = self.evidence.table()
        self.benchmarks = self.evidence.benchmarks
        self.languages = np.array([one.languages[0] for one in self.benchmarks])
        self.tasks = np.array([one.task for one in self.benchmarks])
        half = np.full(self.points.shape, np.nan)
        half[self.evidence.model, self.evidence.benchmark] = self.evidence.half_width
        sizes = np.array([one.parameters_b or np.inf for one in self.facts])
        self.pool = Pool(self.points, half, sizes, CAPS_B, (list(self.languages), list(self.tasks)))
        liked = open_llm(folder.parent / "open_llm_leaderboard")[0]
        self.likes = np.array([_likes(liked, one.id) for one in self.facts])
        with np.errstate(invalid="ignore"):
            self.standard = (self.points - np.nanmean(self.points, 0)) / np.nanstd(self.points, 0)

    def predicted(self, groups: Any) -> dict[str, dict[str, Floats]]:
        """Mean, low and high of every cell, each predicted without its group: with and without the benchmark's name."""
        needs: dict[str, Callable[[Benchmark], Benchmark]] = {
            "ours, need only": lambda one: Benchmark(one.task, one.languages),
            "ours, benchmark named": lambda one: one,
        }
        empty = np.full(self.points.shape, np.nan)
        found = {title: {name: empty.copy() for name in ("mean", "low", "high")} for title in needs}
        for group in sorted(set(groups)):
            held = groups == group
            quality = fitted(self.evidence.where(~held[self.evidence.benchmark]), self.candidates)
            for column in np.flatnonzero(held):
                for title, need in needs.items():
                    prediction = quality.predict(self.facts, need(self.benchmarks[column]))
                    for name, values in found[title].items():
                        values[:, column] = getattr(prediction, name)
        return found

    def baselines(self, groups: Any, seed: int = 0) -> dict[str, Floats]:
        """What simple rules would say, from the same scores."""
        count = len(self.benchmarks)
        largest = np.repeat(self.pool.sizes[:, None], count, axis=1)
        names: dict[str, Floats] = {
            "random": np.random.default_rng(seed).random(self.points.shape),
            "largest that fits": largest,
            "most liked": np.repeat(self.likes[:, None], count, axis=1),
            "global mean": np.zeros(self.points.shape),
            "nearest neighbour": np.zeros(self.points.shape),
            "oracle": np.nan_to_num(self.points, nan=-999),
        }
        for column in range(count):
            seen = groups != groups[column]
            overall = average(self.standard[:, seen], -9.0)
            names["global mean"][:, column] = overall
            names["nearest neighbour"][:, column] = average(
                self.standard[:, seen & (self.tasks == self.tasks[column])], overall
            )
        return names

    def violations(self) -> dict[str, int]:
        """How many of all answers break a hard rule, looked at without the recommender's masks."""
        machine = described_machine(device="cuda", memory_gb=80)
        index = Index.of(self.facts, shipped_quality())
        answers = broken = 0
        for column, cap, _ in self.pool.queries():
            need = Constraints(
                languages=Stated(value=self.benchmarks[column].languages),
                max_parameters_b=Stated(value=cap),
                memory_gb=Stated(value=2.0 * cap),
                local_only=Stated(value=True),
            )
            found = recommend(need, index, machine, predict=shipped_quality(), count=MOST_ANSWERS)
            answers += len(found.answers)
            broken += sum(_breaks(one, cap, need) for one in found.answers)
        return {"answers": answers, "violations": broken}

    def unseen_models(self) -> dict[str, float]:
        """Rank correlation of average scores with what metadata say, each organisation left out in one of ten folds."""
        mean = average(self.standard, 0.0)
        counts = (~np.isnan(self.standard)).sum(1)
        owners = [base_of(one.id).partition("/")[0] for one in self.facts]
        return {"models": len(self.facts), "spearman": unseen(self.facts, mean, counts / (counts + 2), owners)}


def _likes(liked: Mapping[str, Candidate], entry: str) -> float:
    """Likes on the Hub as the Open LLM Leaderboard lists them; less than none where it does not."""
    one = liked.get(base_of(entry).partition("#")[0])
    return float(one.popularity or 0) if one else -1.0


def _breaks(answer: Recommendation, cap: float, need: Constraints) -> bool:
    one = answer.candidate
    languages = need.languages.value if need.languages else ()
    return (
        one.parameters_b is None
        or one.parameters_b > cap
        or answer.memory_gb is None
        or answer.memory_gb > 2 * cap
        or one.weights != "local"
        or bool(one.languages and not {*languages} <= {*one.languages})
    )


def unseen(facts: list[Any], quality: Floats, trust: Floats, owners: list[str]) -> float:
    """Spearman's correlation of averages with predictions from metadata, owners held out in ten folds."""
    place = {owner: row for row, owner in enumerate(sorted(set(owners)))}
    folds = np.array([place[owner] % 10 for owner in owners])
    predicted = np.zeros(len(facts))
    for fold in range(10):
        held = folds == fold
        known = [one for one, out in zip(facts, held, strict=True) if not out]
        regression = Metadata.fit(known, quality[~held], trust[~held])
        predicted[held] = regression.predict([one for one, out in zip(facts, held, strict=True) if out])
    return round(float(spearmanr(predicted, quality)[0]), 4)


def fitted(evidence: Evidence, candidates: Any) -> Predictor:
    """A fit whose weights of relations were chosen on this evidence alone."""
    plain = Predictor.fit(evidence, candidates, "generative", factors_known=[1.0] * len(GRADES))
    weights = chosen_weights(plain.scores, plain.prior, plain.benchmarks, WEIGHTS["generative"])
    return Predictor.fit(evidence, candidates, "generative", weights=weights)


def average(scores: Floats, otherwise: Any) -> Floats:
    """Mean of each row of scores, `otherwise` where it has none."""
    seen = ~np.isnan(scores)
    total = np.where(seen, scores, 0).sum(1)
    return np.where(seen.any(1), total / np.maximum(1, seen.sum(1)), otherwise)


def covered(points: Floats, found: dict[str, Floats]) -> float:
    """Share of scores within the interval that was predicted for them."""
    seen = ~np.isnan(points)
    inside = (points >= found["low"]) & (points <= found["high"])
    return round(float(inside[seen].mean()), 4)


def measure(folder: Path) -> dict[str, Any]:
    """All figures of this part."""
    european = European(folder)
    result: dict[str, Any] = {"models": len(european.facts), "benchmarks": len(european.benchmarks)}
    for title, groups in (("language held out", european.languages), ("task held out", european.tasks)):
        part: dict[str, Any] = {
            name: european.pool.summary(predicted) for name, predicted in european.baselines(groups).items()
        }
        for name, found in european.predicted(groups).items():
            part[name] = european.pool.summary(found["mean"]) | {"coverage90": covered(european.points, found)}
        result[title] = part
    result["hard rules"] = european.violations()
    result["likes known"] = int((european.likes >= 0).sum())
    result["unseen models"] = european.unseen_models()
    return result
