"""Prediction of scores: what is related counts, what was measured counts most, and intervals are wide enough."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recommender.candidate import Candidate
from recommender.constraints import Constraints, Stated
from recommender.evidence import Benchmark, Evidence, Measurement
from recommender.expected import expected_quality, need_of
from recommender.kriging import Weights, covariance, posterior
from recommender.metadata import Metadata
from recommender.quality import GRADES, Predictor
from recommender.relatedness import languages_related, tasks_related
from recommender.selection import chosen_weights
from registry.errors import BadData

TASKS = ("sentiment-classification", "summarization", "knowledge")
LANGUAGES = ("da", "sv", "de", "it", "pl", "fi")


def world(models: int = 60, *, noise: float = 3.0, seed: int = 1) -> tuple[dict[str, Candidate], Evidence]:
    """Models whose score is size, a skill for each task, a skill for Scandinavian languages, and noise."""
    generator = np.random.default_rng(seed)
    candidates, cells = {}, []
    for number in range(models):
        size = float(generator.uniform(0.5, 30))
        name = f"maker{number % 12}/model-{number}-{size:.1f}b"
        candidates[name] = Candidate(name, "table", "generative", parameters_b=size)
        skill = dict(zip(TASKS, generator.normal(0, 8, 3), strict=True))
        north = generator.normal(0, 5)
        for language in LANGUAGES:
            for task in TASKS:
                level = 40 + 6 * np.log(size) + skill[task] + north * (language in ("da", "sv"))
                value = level + generator.normal(0, noise)
                place = Benchmark(task, (language,), name=f"{task}-{language}")
                cells.append(Measurement(name, place, float(np.clip(value, -100, 100))))
    return candidates, Evidence.of(cells)


def without(evidence: Evidence, language: str) -> Evidence:
    held = np.array([language in one.languages for one in evidence.benchmarks])
    return evidence.where(~held[evidence.benchmark])


def test_a_language_never_seen_is_predicted_from_its_relatives_within_the_stated_interval() -> None:
    candidates, evidence = world()
    fitted = Predictor.fit(without(evidence, "da"), candidates, "generative")
    truth = evidence.table()
    inside, errors, naive = [], [], []
    for column, benchmark in enumerate(evidence.benchmarks):
        if benchmark.languages != ("da",):
            continue
        found = fitted.predict([candidates[name] for name in evidence.models], Benchmark(benchmark.task, ("da",)))
        inside.append((truth[:, column] >= found.low) & (truth[:, column] <= found.high))
        errors.append(np.abs(truth[:, column] - found.mean))
        others = [one.task == benchmark.task and one.languages != ("da",) for one in evidence.benchmarks]
        naive.append(np.abs(truth[:, column] - truth[:, others].mean(1)))
        assert {GRADES[int(grade)] for grade in found.grade} == {"same task other language"}
    assert np.mean(errors) < np.mean(naive)
    assert 0.8 <= np.mean(inside) <= 1


def test_grades_say_where_a_figure_comes_from() -> None:
    candidates, evidence = world(20)
    first = evidence.models[0]
    mine = Evidence.of([Measurement(first, Benchmark("summarization", ("da",), name="mine"), 70.0, here=True)])
    fitted = Predictor.fit(Evidence.joined([evidence, mine]), candidates, "generative", factors_known=[1.64] * 5)
    stranger = Candidate("nobody/knows-7b", "import", "generative", parameters_b=7)

    def grades(need: Benchmark) -> list[str]:
        found = fitted.predict([candidates[first], candidates[evidence.models[1]], stranger], need)
        return [GRADES[int(grade)] for grade in found.grade]

    assert grades(Benchmark("summarization", ("da",))) == ["measured here", "measured elsewhere", "metadata only"]
    assert grades(Benchmark("summarization", ("fo",))) == ["same task other language"] * 2 + ["metadata only"]
    assert grades(Benchmark("translation", ("da",))) == ["predicted"] * 2 + ["metadata only"]


def test_less_evidence_means_a_wider_interval() -> None:
    candidates, evidence = world(30)
    fitted = Predictor.fit(without(evidence, "da"), candidates, "generative", factors_known=[1.64] * 5)
    some = [candidates[evidence.models[0]], Candidate("nobody/knows-7b", "import", "generative", parameters_b=7)]
    near = fitted.predict(some, Benchmark("summarization", ("sv",)))
    far = fitted.predict(some, Benchmark("translation", ("ja",)))
    assert near.high[0] - near.low[0] < far.high[0] - far.low[0]
    assert near.high[0] - near.low[0] < near.high[1] - near.low[1]


def test_metadata_know_that_larger_is_better() -> None:
    candidates, evidence = world()
    fitted = Predictor.fit(evidence, candidates, "generative", factors_known=[1.64] * 5)
    small, large = (Candidate(f"new/model-{size}b", "import", "generative", parameters_b=size) for size in (1, 25))
    found = fitted.predict([small, large], Benchmark("summarization", ("it",)))
    assert found.mean[1] > found.mean[0] + 5


def test_nothing_measured_leaves_the_prior() -> None:
    nothing = np.full((2, 3), np.nan)
    found = posterior(nothing, np.array([1.0, -1.0]), np.eye(3), np.ones((3, 1)), np.array([2.0]), 0.1)
    assert found.mean[:, 0].tolist() == [1, -1]
    assert found.variance[:, 0].tolist() == [2, 2]


def test_kriging_is_the_textbook_formula() -> None:
    between, across = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([[1.5], [0.5]])
    scores = np.array([[1.0, -2.0]])
    found = posterior(scores, np.zeros(1), between, across, np.array([2.0]), 0.5)
    inverse = np.linalg.inv(between + 0.5 * np.eye(2))
    assert found.mean[0, 0] == pytest.approx((across.T @ inverse @ scores[0])[0])
    assert found.variance[0, 0] == pytest.approx(2 - (across.T @ inverse @ across)[0, 0])


def test_relatedness_is_a_covariance_and_follows_the_families() -> None:
    sets = [("da",), ("no",), ("de",), ("fi",), ("it", "fr"), ("tlh",), ("fo", "is"), ()]
    related = languages_related(sets, sets)
    assert np.linalg.eigvalsh(related).min() > -1e-9
    assert related[0, 1] > related[0, 2] > related[0, 3]
    assert related[5].tolist() == [0, 0, 0, 0, 0, 1, 0, 0]
    assert related[7].max() == 0
    tasks = tasks_related(["knowledge"], ["knowledge", "common-sense-reasoning", "summarization", "juggling"])
    assert tasks.tolist() == [[1.0, 0.8, 0.0, 0.0]]


def test_a_translation_of_a_benchmark_counts_only_where_the_need_names_it() -> None:
    seen = [Benchmark("knowledge", ("de",), name="mmlu_de", family="mmlu")]
    named = covariance(seen, [Benchmark("knowledge", ("it",), family="mmlu")], Weights())
    plain = covariance(seen, [Benchmark("knowledge", ("it",))], Weights())
    assert named[0, 0] == pytest.approx(plain[0, 0] + Weights().family)


def test_weights_are_chosen_by_what_was_left_out() -> None:
    candidates, evidence = world(noise=25.0)
    fitted = Predictor.fit(evidence, candidates, "generative", factors_known=[1.64] * 5)
    chosen = chosen_weights(fitted.scores, fitted.prior, fitted.benchmarks, Weights(noise=0.4))
    assert chosen.noise == 1.2


def test_later_evidence_replaces_earlier_of_the_same_cell() -> None:
    cell = Benchmark("knowledge", ("de",), name="mmlu_de")
    old, new = (Evidence.of([Measurement("a/b", cell, value)]) for value in (10.0, 20.0))
    joined = Evidence.joined([old, new])
    assert (len(joined), joined.value.tolist()) == (1, [20.0])
    assert len(Evidence.of([])) == 0
    with pytest.raises(BadData, match="scale of 100"):
        replace(Measurement("a/b", cell, 1.0), value=float("nan"))


def test_a_need_in_words_of_constraints_becomes_expected_quality() -> None:
    candidates, evidence = world(20)
    predictor = Predictor.fit(evidence, candidates, "generative", factors_known=[1.64] * 5)
    predict = expected_quality({"generative": lambda: predictor})
    constraints = Constraints(task=Stated(value="summarization"), languages=Stated(value=("da",)))
    encoder = Candidate("an/encoder", "table", "encoder")
    found = predict([*candidates.values(), encoder], constraints)
    assert found.grade[0] == "measured elsewhere"
    assert np.isnan(found.mean[-1]) and found.grade[-1] == ""
    assert (found.low[:-1] <= found.mean[:-1]).all() and (found.mean[:-1] <= found.high[:-1]).all()
    assert need_of(Constraints(), "generative") == Benchmark("")


def test_an_unknown_fact_is_the_average() -> None:
    candidates, evidence = world()
    facts = [candidates[name] for name in evidence.models]
    fitted = Metadata.fit(facts, np.nanmean(evidence.table(), 1), np.ones(len(facts)))
    guess = fitted.predict([Candidate("someone/thing", "import", "generative")])
    assert np.isfinite(guess).all()
    assert fitted.predict([]).shape == (0,)
