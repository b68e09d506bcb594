from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recommender.candidate import Architecture, Candidate
from recommender.conflicts import conflicts, relaxations
from recommender.constraints import Constraints, Stated
from recommender.fits import PLEASANT_TOKENS_PER_S
from recommender.hardware import Machine
from recommender.index import Index
from recommender.rank import SHORTLIST, WISH_POINTS, Quality, pareto, unknown_quality
from recommender.recommend import machine_for, recommend
from recommender.rules import Rule
from registry.errors import BadData

CARD = Machine("card", "cuda", memory_gb=8, bandwidth_gb_s=360, ram_gb=16, ram_gb_s=40)
LAPTOP = Machine("laptop", "cpu", memory_gb=16, bandwidth_gb_s=40, ram_gb=16, ram_gb_s=40)


def points(candidates: Sequence[Candidate], _: Constraints) -> Quality:
    """Popularity is the quality that the test gave; without it nothing is known."""
    mean = np.array([np.nan if one.popularity is None else one.popularity for one in candidates], dtype=np.float64)
    return Quality(mean, mean - 4, mean + 4, ["measured"] * len(candidates))


def model(name: str, billions: float | None = 1.0, points: int | None = 50, **facts: Any) -> Candidate:
    given: dict[str, Any] = {"license": "Apache-2.0", "commercial": True, "context_tokens": 8192} | facts
    return Candidate(name, "table", "generative", parameters_b=billions, popularity=points, **given)


def need(*, soft: Sequence[str] = (), **values: Any) -> Constraints:
    return Constraints(**{slot: Stated(value=value, hard=slot not in soft) for slot, value in values.items()})


def names(found: Any) -> list[str]:
    return [answer.candidate.id for answer in found.answers]


def ask(candidates: Sequence[Candidate], wanted: Constraints, machine: Machine = CARD, **more: Any) -> Any:
    return recommend(wanted, Index.of(candidates, points), machine, predict=points, **more)


def test_the_best_that_meets_every_rule_comes_first() -> None:
    shelf = [
        model("small", 1, 40),
        model("good", 4, 60),
        model("unfree", 4, 70, license="CC-BY-NC-4.0", commercial=False),
        model("nobody-knows", 4, 80, license=None, commercial=None),
        model("huge", 70, 90),
    ]
    found = ask(shelf, need(license="commercial"))
    assert names(found) == ["good", "small"]
    assert (found.considered, found.survivors) == (5, 2)
    cost = {one.rule: (one.models, one.alone, one.unknown) for one in found.left_out}
    assert cost["a licence that allows commercial use"] == (2, 2, 1)
    assert cost["fits this machine (8.0 GB)"] == (1, 1, 0)
    assert found.why[0].startswith("good: the most quality expected of 2")
    assert "20.0 points less" in found.why[1]


def test_wishes_decide_between_answers_and_never_over_rules() -> None:
    shelf = [model("free", 1, 50), model("better", 1, 52, license="MIT"), model("best", 1, 90, license="MIT")]
    wish = need(license="Apache-2.0", soft=["license"])
    assert names(ask(shelf, wish)) == ["best", "free", "better"]
    missed = ask(shelf, wish).answers[0].missed
    assert missed == ("licence Apache-2.0",)
    assert 2 < WISH_POINTS < 40


def test_what_is_not_known_is_said_and_meets_no_rule_of_size_or_licence() -> None:
    shelf = [model("a", None), model("b", context_tokens=None), model("c", license=None, commercial=None)]
    assert names(ask(shelf, need(max_parameters_b=7))) == ["b", "c"]
    assert names(ask(shelf, need(min_context_tokens=100))) == ["c"]
    assert names(ask(shelf, need(license="MIT"))) == []
    silent = ask(shelf, need(languages=("de",), domain="health")).answers[0]
    assert silent.unknown == ("its languages", "its domain")


def test_languages_and_domains_that_are_stated_bind() -> None:
    shelf = [
        model("german", languages=("de", "en")),
        model("english", languages=("en",)),
        model("bank", domains=("finance",)),
        model("all", domains=("general",)),
    ]
    assert names(ask(shelf, need(languages=("de",)))) == ["german", "bank", "all"]
    assert names(ask(shelf, need(domain="health"))) == ["german", "english", "all"]


def test_licences_with_alternatives() -> None:
    shelf = [
        model("or", license="MIT OR Apache-2.0"),
        model("and", license="MIT AND Apache-2.0"),
        model("case", license="apache-2.0"),
    ]
    assert names(ask(shelf, need(license="Apache-2.0"))) == ["or", "case"]


def test_rented_models_are_offered_where_money_was_named_and_not_where_memory_was() -> None:
    shelf = [model("here", 1, 40), model("far", None, 90, weights="api", price_usd_per_mtok=0.5)]
    assert names(ask(shelf, need())) == ["here"]
    assert names(ask(shelf, need(max_usd_per_mtok=1.0))) == ["far", "here"]
    assert names(ask(shelf, need(max_usd_per_mtok=0.1))) == ["here"]
    assert names(ask(shelf, need(max_usd_per_mtok=0.0))) == ["here"]
    assert names(ask(shelf, need(max_usd_per_mtok=1.0, local_only=True))) == ["here"]
    assert names(ask(shelf, need(max_usd_per_mtok=1.0, memory_gb=8.0))) == ["here"]
    assert ask(shelf, need(local_only=False)).answers[0].form == "rented"


def test_a_model_comes_in_the_most_precise_form_that_fits_and_is_fast_enough() -> None:
    shelf = [model("tiny", 0.5), model("three", 3), model("seven", 7), model("large", 30)]
    forms = {one.candidate.id: one.form for one in ask(shelf, need()).answers}
    assert forms == {"tiny": "BF16", "three": "Q8_0", "seven": "Q4_K_M"}
    slow = ask([model("three", 3)], need(), LAPTOP).answers[0]
    assert slow.form == "Q4_K_M"
    assert slow.tokens_per_s is not None
    assert slow.tokens_per_s > PLEASANT_TOKENS_PER_S
    stored = Architecture(weight_bytes=4.0, layers=4, hidden=256, heads=4, kv_heads=4, vocabulary=8192)
    ours = Candidate("en/health", "tree", "generative", parameters_b=0.006, architecture=stored, popularity=1)
    assert ask([ours], need()).answers[0].form == "as stored"


def test_kinds_of_models_are_asked_for_what_they_can() -> None:
    shelf = [
        Candidate("chat", "table", "generative", parameters_b=1, popularity=1),
        Candidate("bert", "table", "encoder", parameters_b=0.1, popularity=2),
        Candidate("minilm", "table", "embedding", parameters_b=0.02, popularity=3),
    ]
    assert names(ask(shelf, need(task="summarization"))) == ["chat"]
    assert names(ask(shelf, need(task="feature-extraction"))) == ["minilm"]
    assert names(ask(shelf, need(task="text-classification"))) == ["chat"]
    assert names(ask(shelf, need(task="text-classification", finetune=True), LAPTOP)) == ["bert", "chat"]


def test_the_machine_is_the_one_that_was_named() -> None:
    assert machine_for(need(memory_gb=6.0), CARD).memory_gb == 6
    assert machine_for(need(memory_gb=6.0, soft=["memory_gb"]), CARD).memory_gb == 8
    other = machine_for(need(device="cpu"), CARD)
    assert (other.device, other.memory_gb, other.bandwidth_gb_s) == ("cpu", 16, 40)
    assert machine_for(need(device="cuda", memory_gb=24.0), LAPTOP).memory_gb == 24


def test_no_answer_names_the_conflict_and_what_would_help() -> None:
    shelf = [
        model("a", 4, 60, context_tokens=4096),
        model("b", 30, 80, context_tokens=131_072),
        model("c", 4, 70, context_tokens=131_072, license="CC-BY-NC-4.0", commercial=False),
    ]
    found = ask(shelf, need(memory_gb=10.0, min_context_tokens=32_768, license="commercial"))
    assert names(found) == []
    assert len(found.conflicts) == 1  # each of the three alone would be enough
    assert set(found.conflicts[0]) == {
        "at most 10 GB of memory",
        "at least 32,768 tokens of context",
        "a licence that allows commercial use",
    }
    ways = {way.slots: way for way in found.ways_out}
    assert set(ways) == {("memory_gb",), ("min_context_tokens",), ("license",)}
    assert ways["memory_gb",].best == "b"
    assert ways["min_context_tokens",].takes == ("4,096 tokens of context (asked: 32,768 tokens of context)",)
    assert ways["license",].takes == ("without: a licence that allows commercial use",)
    assert ways["license",].best_quality == 70


def test_an_empty_catalogue_has_neither_answers_nor_ways_out() -> None:
    found = recommend(need(license="MIT"), Index.of([], points), CARD, predict=points)
    assert (found.answers, found.conflicts, found.ways_out, found.considered) == ((), (), (), 0)


def test_without_evidence_the_smallest_comes_first_and_nothing_is_claimed() -> None:
    shelf = [model("b", 3), model("a", 1)]
    found = recommend(need(), Index.of(shelf, unknown_quality), CARD, predict=unknown_quality)
    assert names(found) == ["a", "b"]
    assert (found.answers[0].quality, found.answers[0].low) == (None, None)
    assert "nothing is known" in found.why[0]


def test_bounds_are_judged_to_the_last_digit() -> None:
    shelf = [model("one", 1, context_tokens=4_096, architecture=Architecture(quantisation="Q8_0"))]  # has one form
    answer = ask(shelf, need()).answers[0]
    for slot, value, less, more in (
        ("min_tokens_per_s", answer.tokens_per_s, 0.99, 1.01),
        ("min_context_tokens", 4_096, 1, 4_097 / 4_096),
        ("max_parameters_b", 1.0, 1, 0.999),
        ("memory_gb", answer.memory_gb, 1.01, 0.99),
    ):
        kind = int if slot == "min_context_tokens" else float
        assert names(ask(shelf, need(**{slot: kind(value * less)}))) == ["one"]
        assert names(ask(shelf, need(**{slot: kind(value * more)}))) == []


@pytest.mark.parametrize("value", [5e-324, 1e-30, 1e30, 1.7e308])
def test_numbers_without_end_are_judged_like_others(value: float) -> None:
    shelf = [model("one", 1), model("two", 100), model("far", None, weights="api", price_usd_per_mtok=1.0)]
    for slot in ("memory_gb", "max_parameters_b", "min_tokens_per_s", "max_usd_per_mtok"):
        found = ask(shelf, need(**{slot: value}))
        enough = (value > 1) != (slot == "min_tokens_per_s")
        assert ("one" in names(found)) is (enough or slot == "max_usd_per_mtok")
    assert names(ask(shelf, need(min_context_tokens=10**400))) == []


@pytest.mark.parametrize("count", [0, 101])
def test_a_number_of_answers_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(BadData, match="cannot be given"):
        ask([], need(), count=count)


def test_above_the_shortlist_the_best_are_still_found() -> None:
    shelf = [model(f"m{index}", 1, index % 100) for index in range(SHORTLIST + 1_000)]
    shelf[17] = model("gem", 1, 1_000)
    assert names(ask(shelf, need()))[0] == "gem"


maybe = st.none() | st.floats(0.01, 100)
candidates = st.builds(
    Candidate,
    id=st.uuids().map(str),
    source=st.sampled_from(["tree", "table", "import"]),
    kind=st.sampled_from(["generative", "encoder", "embedding"]),
    parameters_b=maybe,
    context_tokens=st.none() | st.integers(1, 200_000),
    license=st.sampled_from([None, "MIT", "Apache-2.0", "CC-BY-NC-4.0", "MIT OR Apache-2.0"]),
    commercial=st.sampled_from([None, True, False]),
    languages=st.lists(st.sampled_from(["de", "en", "fr"]), max_size=3, unique=True).map(tuple),
    weights=st.sampled_from(["local", "api"]),
    price_usd_per_mtok=st.none() | st.floats(0, 20),
    popularity=st.none() | st.integers(0, 100),
)
needs = st.fixed_dictionaries(
    {},
    optional={
        "task": st.sampled_from(["summarization", "feature-extraction", "text-classification"]),
        "languages": st.lists(st.sampled_from(["de", "en"]), min_size=1, max_size=2, unique=True).map(tuple),
        "memory_gb": st.floats(0.1, 100),
        "max_parameters_b": st.floats(0.1, 100),
        "min_context_tokens": st.integers(1, 200_000),
        "min_tokens_per_s": st.floats(0.1, 200),
        "license": st.sampled_from(["commercial", "MIT", "Apache-2.0"]),
        "local_only": st.booleans(),
        "finetune": st.booleans(),
        "max_usd_per_mtok": st.floats(0, 20),
    },
)


def breaks(answer: Any, hard: dict[str, Any], machine: Machine) -> list[str]:
    """Rules that an answer breaks, judged one by one from its own facts and figures."""
    one: Candidate = answer.candidate
    local = one.weights == "local"
    price = np.inf if one.price_usd_per_mtok is None else one.price_usd_per_mtok
    checks = {
        "languages": lambda value: not one.languages or set(value) <= set(one.languages),
        "memory_gb": lambda value: local and answer.memory_gb is not None and answer.memory_gb <= np.float32(value),
        "max_parameters_b": lambda value: one.parameters_b is not None and one.parameters_b <= value,
        "min_context_tokens": lambda value: one.context_tokens is not None and one.context_tokens >= value,
        "min_tokens_per_s": lambda value: answer.tokens_per_s is not None and answer.tokens_per_s >= np.float32(value),
        "license": lambda value: one.commercial is True if value == "commercial" else value in (one.license or ""),
        "local_only": lambda value: local or not value,
        "finetune": lambda value: not value or (local and answer.training_gb <= machine.memory_gb),
        "max_usd_per_mtok": lambda value: local or price <= value,
    }
    broken = [slot for slot, value in hard.items() if slot in checks and not checks[slot](value)]
    if local and not (answer.memory_gb is not None and answer.memory_gb <= machine.memory_gb):
        broken.append("machine")
    return broken


@settings(max_examples=100, deadline=None)
@given(shelf=st.lists(candidates, max_size=12, unique_by=lambda one: one.id), wanted=needs, data=st.data())
def test_no_rule_is_ever_broken_and_no_model_is_left_out_without_a_reason(
    shelf: list[Candidate], wanted: dict[str, Any], data: st.DataObject
) -> None:
    soft = data.draw(st.lists(st.sampled_from(sorted(wanted)), unique=True) if wanted else st.just([]))
    asked = need(soft=soft, **wanted)
    machine = machine_for(asked, CARD)
    found = ask(shelf, asked, count=100)
    hard = {slot: value for slot, value in wanted.items() if slot not in soft}
    for answer in found.answers:
        assert breaks(answer, hard, machine) == []
    scores = [(a.quality if a.quality is not None else -np.inf) - WISH_POINTS * len(a.missed) for a in found.answers]
    assert scores == sorted(scores, reverse=True)
    assert len(found.answers) == found.survivors
    if shelf and not found.answers:
        assert found.ways_out
        assert found.conflicts


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=8))
def test_conflicts_and_ways_out_are_those_of_a_search_through_all_sets(rows: list[list[bool]]) -> None:
    met = np.array(rows).T
    rules = [Rule(name, 1, column, ~column) for name, column in zip("abcde", met, strict=True)]
    slots = [frozenset(one) for size in range(6) for one in combinations("abcde", size)]

    def possible(kept: frozenset[str]) -> bool:
        columns = [column for name, column in zip("abcde", met, strict=True) if name in kept]
        return bool(np.all(columns, axis=0).any()) if columns else True

    everything = frozenset("abcde")
    ways = [one for one in slots if possible(everything - one)]
    least_ways = {one for one in ways if not any(other < one for other in ways)} - {frozenset()}
    clashes = [one for one in slots if not possible(one)]
    least_clashes = {one for one in clashes if not any(other < one for other in clashes)}
    found = relaxations(rules, len(rows))
    assert {way.slots for way in found} == least_ways
    assert set(conflicts(found)) == least_clashes


@settings(max_examples=100, deadline=None)
@given(table=st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12))
def test_the_front_is_that_of_comparing_everybody_with_everybody(table: list[tuple[int, ...]]) -> None:
    found = pareto([np.array(column, dtype=np.float64) for column in zip(*table, strict=True)])
    beaten = [any(all(x >= y for x, y in zip(a, b, strict=True)) and a != b for a in table) for b in table]
    assert found.tolist() == [not one for one in beaten]
