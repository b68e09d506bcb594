"""Where no word of ours is used, meaning may guess: a wish, never a rule, and nothing at all where nothing is near."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from assistant.extract import extract
from assistant.meaning import extract_near
from recommender.constraints import Constraints
from recommender.embed import Vectors, embed


def near(*turns: str) -> Constraints:
    """What is understood, with the real embedding model."""
    assert extract(turns).task is None, "its words are known: nothing is left to guess"
    return extract_near(turns, embed)


@pytest.mark.parametrize(
    ("turn", "task"),
    [
        ("I need something that notices when a caller is about to lose their temper.", "text-classification"),
        ("I want a model that makes lengthy documents short.", "summarization"),
    ],
)
def test_a_task_in_unknown_words_is_a_wish_with_its_sentence(turn: str, task: str) -> None:
    said = f"At most 3B. {turn}"
    found = near(said)
    assert found.task is not None
    assert (found.task.value, found.task.hard) == (task, False)
    assert found.task.span is not None
    assert said[found.task.span.start : found.task.span.end].strip() == turn.rstrip(".")
    assert found.rules() == extract([said]).rules()


def test_words_are_enough_where_they_are_known() -> None:
    def unexpected(texts: Sequence[str]) -> Vectors:
        raise AssertionError(texts)

    turns = ["Summarise letters about flowers"]
    assert extract_near(turns, unexpected) == extract(turns)


@pytest.mark.parametrize(
    "turn",
    [
        "I need a model.",
        "Can you recommend me something?",
        "I need a model that does not make long documents short.",  # denied
        "Documents are long.",  # nobody asks for a model
        "",
    ],
)
def test_nothing_is_guessed_of_who_says_nothing_of_it(turn: str) -> None:
    assert near(turn) == extract([turn])


def test_whoever_is_known_to_ask_need_not_say_so() -> None:
    turn = "makes lengthy documents short"
    assert near(turn).task is None
    asked = extract_near([turn], embed, asks=True).task
    assert asked is not None
    assert asked.value == "summarization"
