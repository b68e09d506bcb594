from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant.dialogue import step
from assistant.extract import extract
from assistant.hearing import hear
from assistant.next_question import MOST_QUESTIONS, next_question, worths
from assistant.questions import Question, question, questions
from assistant.state import Action, Reply, State
from recommender.advisor import CHANGE_POINTS, Advisor
from recommender.answers import Recommendation
from recommender.candidate import Candidate
from recommender.constraints import Constraints, Stated
from recommender.hardware import Machine
from recommender.index import Index
from recommender.rank import Quality
from registry.errors import BadData

LAPTOP = Machine("laptop", "cpu", memory_gb=16, bandwidth_gb_s=40, ram_gb=16, ram_gb_s=40)


def points(candidates: Sequence[Candidate], _: Constraints) -> Quality:
    """Popularity is the quality that the test gave."""
    mean = np.array([np.nan if one.popularity is None else one.popularity for one in candidates], dtype=np.float64)
    return Quality(mean, mean - 4, mean + 4, ["measured elsewhere"] * len(candidates))


def model(name: str, billions: float, quality: int, **facts: Any) -> Candidate:
    known: dict[str, Any] = {"license": "Apache-2.0", "commercial": True, "context_tokens": 32768} | facts
    return Candidate(name, "table", "generative", parameters_b=billions, popularity=quality, **known)


SHELF = (
    model("large", 14, 80),
    model("middle", 4, 70),
    model("small", 1, 60),
    model("tiny", 0.3, 40),
    model("unfree", 7, 75, license="CC-BY-NC-4.0", commercial=False),
)

HERE = tuple(replace(one, source="tree") for one in SHELF)  # so that something can be done with them


def advisor(*shelf: Candidate) -> Advisor:
    return Advisor(Index.of(shelf, points), LAPTOP, points)


def talk(*texts: str, shelf: Sequence[Candidate] = SHELF, state: State | None = None) -> tuple[State, Reply]:
    adviser, state, reply = advisor(*shelf), state or State(), Reply("")
    for text in texts:
        state, reply = step(state, text, adviser, extract)
    return state, reply


def need(**values: Any) -> Constraints:
    return Constraints(**{slot: Stated(value=value) for slot, value in values.items()})


TOLD = ("Summarise letters on an NVIDIA card with 80 GB of VRAM", "none", "English", "no preference")


def recommended(shelf: Sequence[Candidate] = SHELF) -> State:
    state, reply = talk(*TOLD, shelf=shelf)
    while reply.question:
        state, reply = talk("I don't know", shelf=shelf, state=state)
    assert state.current
    return state


# which question


def test_the_question_that_changes_the_answer_comes_first_and_one_that_cannot_is_never_asked() -> None:
    """Only the memory tells these models apart: all have one licence, one context, one kind of text."""
    alike = [model("large", 14, 80), model("small", 1, 60)]
    found = worths(need(task="summarization"), advisor(*alike), ["conditions"])
    assert found[0].question.name == "machine"
    assert {one.question.name: one.points for one in found}["subject"] == 0
    only = next_question(need(task="summarization", device="cuda", memory_gb=80.0), advisor(alike[1]), [])
    assert only is None


def test_what_a_question_is_worth_is_the_regret_it_saves() -> None:
    """A licence question is worth the points lost when a model that may not be used comes first."""
    adviser = advisor(model("free", 1, 60), model("unfree", 1, 75, license="CC-BY-NC-4.0", commercial=False))
    unfree = adviser.standing(Constraints()).best
    assert adviser.regret(unfree, need(license="commercial")) == 60  # of no use at all there
    assert adviser.regret(unfree, Constraints()) == 0
    assert adviser.regret(0, Constraints()) == 15
    twins = advisor(model("a", 1, 60), model("b", 1, 60))
    assert twins.regret(1, Constraints()) == CHANGE_POINTS


def test_no_question_where_nothing_meets_the_need() -> None:
    state, reply = talk("Summarise letters, at most 0.1B parameters")
    assert not state.pending
    assert reply.found is not None
    assert not reply.found.answers
    assert "met by none: at most 0.1 billion parameters" in reply.text
    assert "What would help" in reply.text


@given(st.sampled_from(questions()), st.sampled_from([Constraints(), need(device="cuda"), need(memory_gb=8.0)]))
def test_outcomes_keep_what_is_known_and_are_probabilities(one: Question, known: Constraints) -> None:
    outcomes = one.outcomes(known)
    assert 0 < sum(share for share, _ in outcomes) <= 1 + 1e-9
    for share, then in outcomes:
        assert share > 0
        assert dict(known.stated()).items() <= dict(then.stated()).items()


# answers


@pytest.mark.parametrize(
    ("name", "text", "slots"),
    [
        ("machine", "1", {"device": "cpu"}),
        ("machine", "a laptop", {"device": "cpu"}),
        ("machine", "a laptop with 8 GB of RAM", {"device": "cpu", "memory_gb": 8}),
        ("machine", "a laptop without a graphics card", {"device": "cpu"}),
        ("machine", "it has an NVIDIA T4", {"device": "cuda", "memory_gb": 16}),
        ("machine", "MacBook with 32 GB", {"device": "mps", "memory_gb": 32}),
        ("machine", "don't know", {}),
        ("memory", "12", {"memory_gb": 12}),
        ("memory", "15 GB of memory", {"memory_gb": 15}),
        ("memory", "about 512 MB", {"memory_gb": 0.5}),
        ("conditions", "none", {}),
        ("conditions", "1 and 3", {"license": "commercial", "finetune": True}),
        ("conditions", "we will sell it, and somebody waits", {"license": "commercial", "min_tokens_per_s": 15}),
        ("conditions", "it must be MIT", {"license": "MIT"}),
        ("languages", "German and French", {"languages": ("de", "fr")}),
        ("task", "2", {"task": "text-classification"}),
    ],
)
def test_an_answer_fills_what_was_asked(name: str, text: str, slots: dict[str, Any]) -> None:
    before = State(turns=("We need a model",), asked=(name,), pending=name)
    if name == "memory":
        before = before.model_copy(update={"chosen": need(device="cuda")})
        slots = {"device": "cuda", **slots}
    heard = hear(before, text, extract)
    assert heard.answered
    assert {slot: stated.value for slot, stated in heard.state.need.stated()} == slots
    assert not heard.state.pending


@pytest.mark.parametrize("text", ["9", "0", "1 2", "what?", "bananas"])
def test_what_is_no_answer_is_asked_again(text: str) -> None:
    before = State(asked=("machine",), pending="machine")
    state, reply = step(before, text, advisor(*SHELF), extract)
    assert (state.pending, reply.question) == ("machine", "machine")
    assert question("machine").ask in reply.text
    assert state.need == Constraints()


def test_a_later_word_corrects_an_answer_that_was_picked_from_the_list() -> None:
    before = State(asked=("machine",), pending="machine")
    picked = hear(before, "1", extract).state
    corrected = hear(picked, "Sorry, it has an NVIDIA T4", extract).state
    assert corrected.need.device == Stated(value="cuda", span=corrected.said.device.span)  # type: ignore[union-attr]
    dropped = hear(hear(State(pending="conditions"), "1", extract).state, "forget the licence", extract).state
    assert dropped.need.license is None


def test_a_question_that_was_passed_over_comes_again() -> None:
    before = State(asked=("conditions",), pending="conditions")
    state, reply = step(before, "it must run on 16 GB of RAM without a GPU", advisor(*SHELF), extract)
    assert reply.question == "conditions"
    assert state.need.memory_gb is not None


def test_questions_come_to_an_end_and_none_is_asked_twice() -> None:
    state, reply = talk("We need a model")
    seen = []
    while reply.question:
        seen.append(reply.question)
        state, reply = talk("I don't know", state=state)
    assert len(seen) == len({*seen}) <= MOST_QUESTIONS
    assert reply.found is not None
    assert state.current == reply.found.answers[0].candidate.id


# after a recommendation


def test_a_recommendation_says_what_it_rests_on() -> None:
    _, reply = talk("why?", state=recommended())
    assert "80.0 points of 100 expected, between 76 and 84 nine times in ten (measured elsewhere)" in reply.text
    assert "over unfree: " in reply.text


@pytest.mark.parametrize(
    ("said", "then", "head", "gain"),
    [
        ("smaller", "unfree", "Smaller than large:", lambda one: -one.candidate.parameters_b),
        ("kleiner, bitte", "unfree", "Smaller than large:", lambda one: -one.candidate.parameters_b),
        ("too slow", "large", "The same model, in another form:", lambda one: one.tokens_per_s),
        ("cheaper please", "large", "The same model, in another form:", lambda one: -one.memory_gb),
    ],
)
def test_a_critique_is_a_step_from_the_current_model(
    said: str, then: str, head: str, gain: Callable[[Recommendation], float]
) -> None:
    before = recommended()
    now = advisor(*SHELF).recommend(before.need).answers[0]
    state, reply = talk(said, state=before)
    assert (before.current, state.current) == ("large", then)
    assert reply.text.startswith(head)
    assert reply.found is not None
    assert gain(reply.found.answers[0]) > gain(now)


def test_critiques_go_on_until_nothing_is_left_and_then_nothing_is_lost() -> None:
    state = recommended()
    for expected in ("unfree", "middle", "small", "tiny"):
        state, _ = talk("smaller", state=state)
        assert state.current == expected
    last, reply = talk("smaller", state=state)
    assert last == state
    assert "I stay with tiny" in reply.text


def test_but_with_another_licence_is_a_rule_on_top() -> None:
    state, _ = talk("but the licence must be MIT", state=recommended((*SHELF, model("mit", 2, 50, license="MIT"))))
    assert state.need.license is not None
    shelf = (*SHELF, model("mit", 2, 50, license="MIT"))
    state, _ = talk("but the licence must be MIT", shelf=shelf, state=recommended(shelf))
    assert state.current == "mit"


# acting


@pytest.mark.parametrize(
    ("said", "action"),
    [
        ("clone it", Action(kind="clone", model="large")),
        ("fine-tune it on my_rows.jsonl", Action(kind="finetune", model="large", data="my_rows.jsonl")),
        ("evaluate it with 'held out.csv', please", Action(kind="evaluate", model="large", data="held out.csv")),
    ],
)
def test_nothing_is_started_without_a_plain_yes(said: str, action: Action) -> None:
    state, reply = talk(said, state=recommended(), shelf=HERE)
    assert reply.action is None
    assert "yes / no" in reply.text
    agreed, started = talk("yes", state=state)
    assert started.action == action
    assert agreed.offer is None
    assert talk("yes", state=agreed)[1].action is None  # once
    for other in ("no", "ok thanks", "smaller", "yes but is it good?", "what is the weather?", "yesterday"):
        after, reply = talk(other, state=state)
        assert reply.action is None
        assert after.offer is None


@pytest.mark.parametrize("kind", ["finetune", "evaluate"])
def test_what_needs_rows_asks_for_their_file_first(kind: str) -> None:
    wish = {"finetune": "fine-tune it", "evaluate": "evaluate it"}[kind]
    state, reply = talk(wish, state=recommended(), shelf=HERE)
    assert "Which file" in reply.text
    assert talk("yes", state=state)[1].action is None  # to nothing that could be done
    asked, reply = talk("they are in data/rows.JSONL.", state=state, shelf=HERE)
    assert "data/rows.JSONL" in reply.text
    assert talk("yes", state=asked)[1].action == Action(kind=kind, model="large", data="data/rows.JSONL")  # type: ignore[arg-type]
    assert "Nothing was started" in talk("no", state=state)[1].text


def test_a_model_of_the_tables_has_to_come_in_first() -> None:
    state, reply = talk("clone it", state=recommended())
    assert "node import large --path PATH" in reply.text
    assert state.offer is None


@pytest.mark.parametrize(
    ("text", "job"), [("how far is it?", 0), ("How far is job 12?", 12), ("wie weit ist es?", 0), ("进度怎么样", 0)]
)
def test_who_asks_after_a_job_is_answered_by_who_knows_the_jobs(text: str, job: int) -> None:
    before = recommended()
    state, reply = talk(text, state=before)
    assert (reply.status, reply.action, state.current) == (job, None, before.current)
    sort = "classify the status of our orders, in English"
    assert talk(sort)[1].status is None


def test_a_yes_that_nobody_asked_for_starts_nothing() -> None:
    assert talk("yes", state=recommended())[1].action is None
    assert talk("yes")[1].action is None
    assert talk("clone it")[1].action is None


def test_talk_about_other_things_gets_a_short_answer_and_is_not_remembered() -> None:
    state, reply = talk("What is the capital of France?")
    assert reply.text.startswith("I only help to find a model")
    assert state.need == Constraints()
    before = recommended()
    after, reply = talk("tell me a joke about bananas", state=before)
    assert "I only help to find a model" in reply.text
    assert after == before


def test_a_request_without_a_need_is_answered_with_a_question_alone() -> None:
    _, reply = talk("I need a model")
    assert reply.question
    assert reply.text == question(reply.question).text()


def test_a_node_without_models_says_so() -> None:
    _, reply = talk("Summarise letters", shelf=())
    assert "knows no model yet" in reply.text


def test_a_conversation_goes_on_from_its_json() -> None:
    state, _ = talk("clone it", state=recommended(), shelf=HERE)
    again = State.model_validate_json(state.model_dump_json())
    assert again == state
    assert talk("yes", state=again)[1].action == Action(kind="clone", model="large")


def test_a_conversation_that_is_too_long_is_refused() -> None:
    with pytest.raises(BadData, match="too long"):
        talk("x" * 30_000)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(max_size=40) | st.sampled_from(["yes", "1", "smaller", "none", "why", "clone"]), max_size=6))
def test_whatever_is_said_there_is_an_answer(texts: list[str]) -> None:
    state, reply = talk(*texts)
    assert not texts or reply.text
    assert len(state.asked) <= MOST_QUESTIONS
